"""Where the bits of an element lie: `read`, `fields` and `formula` of every block format against what it decodes."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

import re
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from block_cases import (
    UNUSED,
    Blocks,
    all_flipped,
    bits,
    check_values,
    each_format,
    finite,
    halves,
    moderate,
    random_blocks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import (
    FORMATS,
    BlockFormat,
    mxfp4,
    nvfp4,
    q1_0,
    q2_0,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
    q8_1,
    q8_k,
    tq1_0,
    tq2_0,
)  # fmt: skip
from lepton_ref.storage.bits import to_float32
from lepton_ref.storage.layout import Part

# --- what holds of every format ---------------------------------------------------------------------------------------


def parts(format: BlockFormat, block: bytes, e: int) -> tuple[Part, ...]:
    assert format.read is not None
    return format.read(block, e)


def named(format: BlockFormat, block: bytes) -> NDArray[np.bool_]:
    """`(8·bytes, elements)` whether `read` of this element names this bit."""
    out = np.zeros((8 * format.nbytes, format.length), dtype=bool)
    for e in range(format.length):
        for part in parts(format, block, e):
            for where in part.where:
                assert 0 <= where.low < where.low + where.width <= 8
                out[8 * where.byte + where.low : 8 * where.byte + where.low + where.width, e] = True
    return out


def check_bits(format: BlockFormat, base: NDArray[np.uint8]) -> None:
    """A bit that `read` does not name for an element does not change it; each bit that is of use has its element."""
    by = named(format, base.tobytes())
    changed = bits(format.values(all_flipped(base))) != bits(format.values(base[np.newaxis]))
    assert not (changed & ~by).any()
    unused = [bit for bit in range(8 * format.nbytes) if bit // 8 in UNUSED.get(format.name, ())]
    assert np.flatnonzero(~by.any(axis=1)).tolist() == unused


def python(formula: str) -> str:
    """The formula as Python reads it. A part q stands for what its code means, such as K[q] or G[q]."""
    text = re.sub(r"[A-Z]\[q\]", "q", formula).replace("·", "*").replace("−", "-")
    return re.sub(r"(\d)([a-z])", r"\1*\2", text)


def check_formula(format: BlockFormat, base: NDArray[np.uint8]) -> None:
    """The formula of the parts' values, float64 and exact, rounds to the element."""
    block = base.tobytes()
    code = compile(python(format.formula), format.name, "eval")
    for e in range(format.length):
        found = parts(format, block, e)
        values = {part.name: part.value for part in found}
        assert len(values) == len(found)
        value, want = to_float32(eval(code, {}, values)), format.decode_element(block, e)
        assert bits(np.array([value], dtype=np.float32)) == bits(np.array([want], dtype=np.float32)), (e, found)
        for part in found:
            joined = "".join(f"{where.of(block):0{where.width}b}" for where in reversed(part.where))
            assert int(joined, 2) == part.code


def check_read(format: BlockFormat) -> None:
    for seed in range(3):
        base = random_blocks(format, 1, seed)
        for block in (base[0], moderate(format, base)[0]):
            check_bits(format, block)
            check_formula(format, block)


def check_rounded_once(format: BlockFormat, blocks: Blocks) -> None:
    """The formula in fractions is the unrounded value, and the value where the format says that decoding is exact."""
    code = compile(python(format.formula), format.name, "eval")
    exact = format.values(blocks, rounded=False)
    for block, row in zip(blocks, exact, strict=True):
        for e in np.random.default_rng(0).integers(0, format.length, 40):
            values = {part.name: Fraction(part.value) for part in parts(format, block.tobytes(), int(e))}
            assert Fraction(float(row[e])) == eval(code, {}, values)


@each_format
@pytest.mark.parametrize("number", [65504.0, 2.0**-24, -(2.0**-14) * (1 + 2.0**-10), None], ids=str)
def test_the_closed_form_is_exact_at_the_largest_and_the_smallest_scales(
    format: BlockFormat, number: float | None
) -> None:
    blocks = finite(format, random_blocks(format, 6, 8))
    blocks[-1] = 0xFF  # the largest codes
    blocks = finite(format, blocks if number is None else moderate(format, blocks, number))
    check_rounded_once(format, blocks)
    mixed = moderate(format, blocks, 65504.0)
    for at in halves(format)[-1:]:
        mixed[:, at : at + 2] = (1, 0)  # the largest scale beside the smallest minimum
    check_rounded_once(format, mixed)


@each_format
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1), number=st.sampled_from([-1.5, 2.0**-24, 65504.0, float("nan"), float("inf"), 0.0])
)
def test_what_read_names_is_what_the_element_is_made_of(format: BlockFormat, seed: int, number: float) -> None:
    base = random_blocks(format, 1, seed)
    for block in (base[0], moderate(format, base, number)[0]):
        check_bits(format, block)
        check_formula(format, block)


@each_format
def test_fields_are_the_block_in_order(format: BlockFormat) -> None:
    ends = [field.at + field.nbytes for field in format.fields]
    assert [field.at for field in format.fields] == [0, *ends[:-1]]
    assert ends[-1] == format.nbytes
    assert all(field.what for field in format.fields)
    assert len({field.name for field in format.fields}) == len(format.fields)


@each_format
def test_each_part_lies_within_one_field_or_follows_their_order(format: BlockFormat) -> None:
    """Every bit range of a part lies in a field, and the formula uses every part."""
    block = random_blocks(format, 1, 1)[0].tobytes()
    for e in (0, format.length // 2 - 1, format.length - 1):
        for part in parts(format, block, e):
            assert re.search(rf"(?<![a-zA-Z]){part.name}(?![a-zA-Z])", python(format.formula)), part.name
            for where in part.where:
                assert any(field.at <= where.byte < field.at + field.nbytes for field in format.fields)


def test_parts_print_their_bits_and_value() -> None:
    block = bytes([0x00, 0x3C]) + bytes([0xA5]) * 16
    assert [str(each) for each in parts(FORMATS["Q4_0"], block, 20)] == ["d = 0011110000000000 = 1", "q = 1010 = 10"]


# --- literal blocks ---------------------------------------------------------------------------------------------------

ONE, HALF = b"\x00\x3c", b"\x00\x38"
"""fp16 numbers."""


def group(scale: int, minimum: int = 0) -> bytes:
    return bytes([scale | minimum << 4])


LITERALS: dict[str, tuple[bytes, dict[int, float]]] = {
    "Q5_1": (ONE + HALF + b"\x01\x00\x00\x80" + b"\x21" + bytes(14) + b"\x43", {0: 17.5, 16: 2.5, 15: 3.5, 31: 20.5}),
    "Q8_1": (HALF + b"\xff\xff" + b"\x80\x03" + bytes(30), {0: -64.0, 1: 1.5}),
    "Q8_K": (b"\x00\x00\x80\xbf" + b"\x80\x03" + bytes(254) + b"\xff" * 32, {0: 128.0, 1: -3.0, 2: -0.0}),
    "Q2_K": (
        group(3, 1) + bytes(14) + group(2) + b"\xe4" + bytes(62) + b"\x80" + ONE + HALF,
        {0: -0.5, 16: 0.0, 32: 0.0, 255: 4.0, 1: -0.5},
    ),
    "Q3_K": (  # scale 0 is 33 (low nibble 1, upper bits 2): 33 − 32
        b"\x01" + bytes(31) + b"\x02" + bytes(63) + b"\x01" + bytes(7) + b"\x02" + bytes(3) + ONE,
        {0: 2.0, 1: -4.0, 16: 128.0, 128: 128.0},
    ),
    "Q5_K": (
        ONE + HALF + b"\x03\x01\x00\x00\x02\x00\x00\x00" + bytes(4) + b"\x03" + bytes(31) + b"\x21" + bytes(127),
        {0: 3 * 17 - 1.0, 1: -1.0, 32: 18.0, 33: 0.0},
    ),
    "TQ1_0": (b"\x80" + bytes(51) + ONE, {0: 0.0, 32: 0.0, 64: 0.0, 128: 0.0, 1: -1.0, 255: -1.0}),
    "TQ2_0": (b"\xe4" + bytes(63) + ONE, {0: -1.0, 32: 0.0, 64: 1.0, 96: 2.0}),
    "Q1_0": (HALF + b"\x05" + bytes(14) + b"\x80", {0: 0.5, 1: -0.5, 2: 0.5, 127: 0.5, 126: -0.5}),
    "Q2_0": (HALF + b"\xe4" + bytes(15), {0: -0.5, 1: 0.0, 2: 0.5, 3: 1.0, 4: -0.5}),
    "MXFP4": (b"\x80" + b"\xf7" + bytes(15), {0: 12.0, 16: -12.0, 1: 0.0}),
    "NVFP4": (  # 1 = 0x38; E4M3's NaN; the one above; the least subnormal number
        b"\x38\x7f\xff\x01" + b"\xa1" + bytes(7) + b"\x22" + bytes(7) + b"\x22" + bytes(7) + b"\x22" + bytes(7),
        {0: 0.5, 8: -1.0, 16: 0.0, 24: 0.0, 32: 480.0, 40: 480.0, 48: 2.0**-9},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LITERALS)
def test_literal_blocks(name: str) -> None:
    raw, want = LITERALS[name]
    values = FORMATS[name].values(np.frombuffer(raw, dtype=np.uint8))
    got = {e: float(values[e]) for e in want}
    assert (got, [np.signbit(x) for x in got.values()]) == (want, [np.signbit(x) for x in want.values()])


def test_mxfp4_scales_reach_beyond_float32_on_both_sides() -> None:
    """The proof of mxfp4.py at its ends: subnormal scales are exact, and e = 253 is the first that overflows."""
    codes = bytes([0x1F] + [0x57] * 15)  # −12, 12 first; 1, 6 above
    for e, first in ((0, -12 * 2.0**-128), (1, -12 * 2.0**-127), (252, -12 * 2.0**124), (253, -np.inf), (255, -np.inf)):
        raw = np.frombuffer(bytes([e]) + codes, dtype=np.uint8)
        values = FORMATS["MXFP4"].values(raw)
        assert (values[0], values[16]) == (first, 2.0 ** (e - 128))
        assert FORMATS["MXFP4"].values(raw, rounded=False)[0] == -12 * 2.0 ** (e - 128)


def test_q8_k_products_round_once_where_they_are_subnormal_or_overflow() -> None:
    for d, q, want in (
        (5 * 2.0**-149, -7, -35 * 2.0**-149),
        (1 + 2.0**-23, 3, 3 + 2.0**-21),  # 3 + 3·2⁻²³, halfway from 3 + 2⁻²²: to even
        (2.0**-126 + 2.0**-149, 3, 3 * 2.0**-126 + 2.0**-147),  # the same with the smallest step
        (2.0**127, 2, np.inf),
        (2.0**121, -128, -np.inf),
        (2.0**121, 127, 127 * 2.0**121),
    ):
        raw = np.frombuffer(np.float32(d).tobytes() + bytes([q % 256]) + bytes(287), dtype=np.uint8)
        assert FORMATS["Q8_K"].values(raw)[0] == want
        assert FORMATS["Q8_K"].values(raw, rounded=False)[0] == d * q


# --- planted bugs -----------------------------------------------------------------------------------------------------

DECODERS: dict[str, tuple[ModuleType, str, str]] = {
    "Q5_0 without −16": (q5_0, "q -= np.float32(16)", "q -= np.float32(0)"),
    "Q5_1 the fifth bits from above": (q5_1, 'axis=1, bitorder="little"', 'axis=1, bitorder="big"'),
    "Q2_K scale and minimum swapped": (q2_k, "(s & np.uint8(15))", "(s >> np.uint8(4))"),
    "Q2_K halves not told apart": (q2_k, "reshape(-1, 2, 32)).reshape(-1, 16, 16)", "reshape(-1, 1, 64)).reshape(-1, 16, 16)"),
    "Q3_K the mask adds": (q3_k, "q -= np.float32(4)", "q -= np.float32(0)"),
    "Q3_K scale without −32": (q3_k, "scale.view(np.int8) - np.int8(32)", "scale.view(np.int8)"),
    "Q3_K upper scale bits of another group": (q3_k, "pairs(blocks[:, 104:108])", "pairs(blocks[:, 107:103:-1])"),
    "Q4_K minimum added": (q4_k, "q -= (halves", "q += (halves"),
    "Q5_K high bit as 8": (q5_k, "code <<= np.uint8(4)", "code <<= np.uint8(3)"),
    "Q6_K upper bits from the wrong pair": (q6_k, "[[0], [2], [4], [6]]", "[[6], [4], [2], [0]]"),
    "TQ1_0 digits backwards": (tq1_0, "[[1], [3], [9], [27], [81]]", "[[81], [27], [9], [3], [1]]"),
    "TQ1_0 digits of the quotient by 243": (tq1_0, "np.uint8(171)", "np.uint8(162)"),
    "TQ2_0 codes as they are": (tq2_0, "q -= np.float32(1)", "q -= np.float32(0)"),
    "Q1_0 bits from above": (q1_0, 'bitorder="little"', 'bitorder="big"'),
    "Q1_0 as 0 and 1": (q1_0, "q *= np.float32(2)\n    q -= np.float32(1)\n", "q *= np.float32(1)\n"),
    "Q2_0 pairs from above": (q2_0, "[0, 2, 4, 6]", "[6, 4, 2, 0]"),
    "Q8_1 codes where Q8_0 has them": (q8_1, "q = blocks[:, 4:].view", "q = blocks[:, 2:34].view"),
    "Q8_K scale as fp16": (q8_k, 'with np.errstate(over="ignore"):  # infinite, as the exact product rounds\n        q *= blocks[:, :4].view("<f4")', 'q *= blocks[:, 2:4].view("<f2")'),
    "MXFP4 scale not halved": (mxfp4, "np.arange(256) - 128", "np.minimum(np.arange(256) - 127, 127)"),
    "MXFP4 255 is NaN": (mxfp4, "np.arange(256) - 128)", "np.arange(256) - 128) * np.where(np.arange(256) == 255, np.nan, 1)"),
    "MXFP4 zero keeps its sign": (mxfp4, "12, 0, -1, -2", "12, -0.0, -1, -2"),
    "NVFP4 one scale for two groups": (nvfp4, "_SCALES.take(blocks[:, :4])", "_SCALES.take(blocks[:, [0, 0, 2, 2]])"),
    "NVFP4 0xFF is a NaN too": (nvfp4, "if byte == 0x7F:", "if byte & 0x7F == 0x7F:"),
    "NVFP4 nibbles of sixteen": (nvfp4, "reshape(-1, 4, 8))", "reshape(-1, 2, 16))"),
}  # fmt: skip

READERS: dict[str, tuple[ModuleType, str, str]] = {
    "Q4_0 nibbles swapped": (q4_0, "Bits(2 + e % 16, 4 * (e // 16), 4)", "Bits(2 + e % 16, 4 - 4 * (e // 16), 4)"),
    "Q4_0 formula without −8": (q4_0, 'formula="d·(q − 8)"', 'formula="d·q"'),
    "Q4_1 minimum subtracted": (q4_1, 'formula="d·q + m"', 'formula="d·q − m"'),
    "Q5_0 fifth bit left out": (q5_0, "(Bits(6 + e % 16, 4 * (e // 16), 4), Bits(2 + e // 8, e % 8, 1))", "(Bits(6 + e % 16, 4 * (e // 16), 4),)"),
    "Q5_1 fifth bit from the other end": (q5_1, "Bits(4 + e // 8, e % 8, 1)", "Bits(7 - e // 8, 7 - e % 8, 1)"),
    "Q8_0 codes without their sign": (q8_0, 'number(block, "q", 2 + e, "b")', 'number(block, "q", 2 + e, "B")'),
    "Q8_1 the sum for the scale": (q8_1, 'number(block, "d", 0, "e")', 'number(block, "d", 2, "e")'),
    "Q8_K half of the scale": (q8_k, 'number(block, "d", 0, "f")', 'number(block, "d", 2, "e")'),
    "Q2_K the minimum's nibble": (q2_k, 'part(block, "sc", (Bits(e // 16, 0, 4),))', 'part(block, "sc", (Bits(e // 16, 4, 4),))'),
    "Q3_K high bit misplaced": (q3_k, "Bits(place, e // 32, 1)", "Bits(place, 7 - e // 32, 1)"),
    "Q3_K scale bits in the wrong order": (q3_k, "(Bits(96 + j % 8, 4 * (j // 8), 4), Bits(104 + j % 4, 2 * (j // 4), 2))", "(Bits(104 + j % 4, 2 * (j // 4), 2), Bits(96 + j % 8, 4 * (j // 8), 4))"),
    "Q4_K the next group's scale": (q4_k, "where_scale_and_minimum(4, e // 32)", "where_scale_and_minimum(4, (e // 32 + 1) % 8)"),
    "Q5_K high bit of the byte": (q5_k, "Bits(16 + e % 32, e // 32, 1)", "Bits(16 + e % 32, e % 8, 1)"),
    "Q6_K scales of 32": (q6_k, '"sc", 192 + e // 16, "b"', '"sc", 192 + e // 32, "b"'),
    "TQ1_0 without the lowest bit": (tq1_0, "(Bits(byte, 0, 8),)", "(Bits(byte, 1, 7),)"),
    "TQ2_0 the next pair": (tq2_0, "Bits(32 * h + place, 2 * k, 2)", "Bits(32 * h + place, 6 - 2 * k, 2)"),
    "Q1_0 bits from above": (q1_0, "Bits(2 + e // 8, e % 8, 1)", "Bits(2 + e // 8, 7 - e % 8, 1)"),
    "Q2_0 formula of four levels about zero": (q2_0, 'formula="d·(q − 1)"', 'formula="d·(2q − 3)"'),
    "MXFP4 the scale not halved": (mxfp4, "math.ldexp(1.0, block[0] - 128)", "math.ldexp(1.0, block[0] - 127)"),
    "NVFP4 seven bits of the scale": (nvfp4, "(Bits(j, 0, 8),)", "(Bits(j, 0, 7),)"),
}  # fmt: skip


def made(bug: tuple[ModuleType, str, str]) -> BlockFormat:
    wrong = mutated(*bug)
    (found,) = (each for each in vars(wrong).values() if isinstance(each, BlockFormat))
    return found


@pytest.mark.parametrize("bug", DECODERS)
def test_a_wrong_decoder_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        check_values(made(DECODERS[bug]))


@pytest.mark.parametrize("bug", READERS)
def test_a_wrong_read_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        check_read(made(READERS[bug]))


@each_format
def test_the_right_one_passes(format: BlockFormat) -> None:
    check_read(format)
