"""The IQ formats: their tables, their values to the bit, and which bits an element is made of."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import (
    BlockFormat,
    BlockQuantised,
    iq1_m,
    iq1_s,
    iq2_s,
    iq2_xs,
    iq2_xxs,
    iq3_s,
    iq3_xxs,
    iq4_nl,
    iq4_xs,
    iq_grids,
    iq_parts,
)

Blocks = NDArray[np.uint8]
MODULES = {
    "IQ1_S": iq1_s, "IQ1_M": iq1_m, "IQ2_XXS": iq2_xxs, "IQ2_XS": iq2_xs, "IQ2_S": iq2_s,
    "IQ3_XXS": iq3_xxs, "IQ3_S": iq3_s, "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs,
}  # fmt: skip
FORMATS: dict[str, BlockFormat] = {name: getattr(module, name) for name, module in MODULES.items()}
SCALE = 0x2CAB
"""The bits of an fp16 number near 0.07, whose flips are finite numbers or NaN."""

each_format = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)
each_table = pytest.mark.parametrize("table", iq_grids.TABLES)


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bits, every NaN made the same one."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def random_blocks(format: BlockFormat, count: int, seed: int) -> Blocks:
    return np.random.default_rng(seed).integers(0, 256, size=(count, format.nbytes), dtype=np.uint8)


def with_scales(format: BlockFormat, blocks: Blocks, scales: NDArray[np.uint16]) -> Blocks:
    """The blocks with these fp16 bits as their d."""
    out = blocks.copy()
    if format.name == "IQ1_M":
        for i in range(4):
            out[:, 49 + 2 * i] = (out[:, 49 + 2 * i] & 15) | (((scales >> (4 * i)) & 15) << 4)
    else:
        out[:, :2] = scales.astype("<u2").view(np.uint8).reshape(-1, 2)
    return out


def twin(format: BlockFormat, blocks: Blocks) -> NDArray[np.float32]:
    return np.array(
        [[format.decode_element(block.tobytes(), e) for e in range(format.length)] for block in blocks],
        dtype=np.float32,
    )


# --- the same value from everybody ---------------------------------------------------------------------------------


def off_golden(format: BlockFormat) -> int:
    """How many values of both forms are not those of the reference package."""
    with np.load(GOLDEN / "storage_iq" / "blocks.npz", allow_pickle=False) as golden:
        raw, value = golden[f"{format.name}_raw"], golden[f"{format.name}_value"]
    assert raw.shape[0] == value.shape[0] >= 16
    assert value.shape[1] == format.length
    fast = bits(format.values(raw)) != bits(value)
    return int(fast.sum() + (bits(twin(format, raw)) != bits(value)).sum())


def disagreements(format: BlockFormat) -> int:
    """How many values of random blocks the two forms disagree on."""
    blocks = with_scales(format, random_blocks(format, 64, 4), np.full(64, SCALE, dtype=np.uint16))
    return int((bits(format.values(blocks)) != bits(twin(format, blocks))).sum())


@each_format
def test_values_are_those_of_the_reference_package(format: BlockFormat) -> None:
    assert off_golden(format) == 0


@each_format
@given(seed=st.integers(0, 2**32 - 1))
def test_both_forms_agree_on_random_bytes(format: BlockFormat, seed: int) -> None:
    blocks = random_blocks(format, 1, seed)
    np.testing.assert_array_equal(bits(format.values(blocks)), bits(twin(format, blocks)))


@each_format
def test_both_forms_agree_on_every_scale(format: BlockFormat) -> None:
    scales = np.arange(1 << 16).astype(np.uint16)  # inf, NaN, subnormal, ±0
    blocks = with_scales(format, random_blocks(format, 1 << 16, 2), scales)
    element = np.random.default_rng(1).integers(0, format.length, size=1 << 16)
    fast = format.values(blocks)[np.arange(1 << 16), element]
    slow = [format.decode_element(block.tobytes(), int(e)) for block, e in zip(blocks, element, strict=True)]
    np.testing.assert_array_equal(bits(fast), bits(np.array(slow, dtype=np.float32)))


@each_format
def test_both_forms_agree_on_every_byte(format: BlockFormat) -> None:
    blocks = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], format.nbytes, axis=1)
    blocks = with_scales(format, blocks, np.full(256, SCALE, dtype=np.uint16))
    np.testing.assert_array_equal(bits(format.values(blocks)), bits(twin(format, blocks)))


@each_format
def test_float32_holds_every_value(format: BlockFormat) -> None:
    """The proof of exactness in each file at the scale with the most bits: integers throughout."""
    blocks = random_blocks(format, 4096, 3)
    for scale in (1.0009765625, 65504.0 / 2**15, 2.0**-24 * 1023, 2.0**-24):
        code = np.array(scale, dtype=np.float16).view(np.uint16)
        unit = np.array(1.0, dtype=np.float16).view(np.uint16)
        scaled = format.values(with_scales(format, blocks, np.full(4096, code, dtype=np.uint16)))
        plain = format.values(with_scales(format, blocks, np.full(4096, unit, dtype=np.uint16)))
        np.testing.assert_array_equal(scaled.astype(np.float64), plain.astype(np.float64) * float(np.float16(scale)))


# --- the tables -----------------------------------------------------------------------------------------------------


@each_table
def test_a_table_is_that_of_the_reference_package(table: str) -> None:
    with np.load(GOLDEN / "storage_iq" / "blocks.npz", allow_pickle=False) as golden:
        np.testing.assert_array_equal(iq_grids.points(table), golden[f"{table}_points"])
    np.testing.assert_array_equal(np.array(iq_grids.listed(table)), iq_grids.points(table))
    known = iq_grids.TABLES[table]
    assert iq_grids.points(table).shape == (known.count, known.width)
    with pytest.raises(ValueError, match="read-only"):
        iq_grids.points(table)[0, 0] = 0


def test_sign_codes_are_those_of_the_reference_package() -> None:
    with np.load(GOLDEN / "storage_iq" / "blocks.npz", allow_pickle=False) as golden:
        np.testing.assert_array_equal(iq_grids.even_signs(), iq_grids.signs()[golden["sign_codes"]])
    table = iq_grids.even_signs().view(np.int8).reshape(128, 8)
    assert table.tolist() == [[iq_grids.even_sign(code, e) for e in range(8)] for code in range(128)]
    assert (np.prod(table, axis=1) == 1).all()


def positions(table: str) -> NDArray[np.int64]:
    """`(points, coordinates)` the position of each coordinate among its levels."""
    return np.searchsorted(iq_grids.TABLES[table].levels, iq_grids.points(table))


@each_table
def test_a_table_has_the_structure_that_its_page_says(table: str) -> None:
    k, levels = positions(table), len(iq_grids.TABLES[table].levels)
    assert (np.diff(k @ levels ** np.arange(k.shape[1])) > 0).all()
    assert (k.sum(axis=1) % 2 == 0).all() == (table not in ("IQ1_S", "IQ3_S"))


def test_points_with_coded_signs_lie_on_e8() -> None:
    signs = iq_grids.even_signs().view(np.int8).reshape(128, 8).astype(np.int64)
    fours = 2 * positions("IQ3_XXS") + 1
    eights = np.concatenate([2 * positions(table) + 1 for table in ("IQ2_XXS", "IQ2_XS")])
    for twice in (eights, np.hstack([fours, fours[::-1]]), np.hstack([fours, np.roll(fours, 7, axis=0)])):
        assert ((twice @ signs.T) % 4 == 0).all()  # half-integers of even sum


def test_no_table_of_a_family_contains_another() -> None:
    sets = {table: set(iq_grids.listed(table)) for table in iq_grids.TABLES}
    for family in (("IQ2_XXS", "IQ2_XS", "IQ2_S"), ("IQ3_XXS", "IQ3_S")):
        assert not any(sets[a] <= sets[b] for a in family for b in family if a != b)


def test_an_unknown_table_is_refused() -> None:
    for read in (iq_grids.points, iq_grids.listed, iq_grids.packed):
        with pytest.raises(ValueError, match="unknown table 'IQ5_S'; known: IQ2_XXS"):
            read("IQ5_S")


# --- which bits an element is made of --------------------------------------------------------------------------------


def named(format: BlockFormat, block: bytes, *, but: str = "") -> NDArray[np.bool_]:
    """`(bits of a block, elements)` the bits that `read` names for each element, in all parts but one."""
    assert format.read is not None
    out = np.zeros((8 * format.nbytes, format.length), dtype=bool)
    for e in range(format.length):
        for where in (where for part in format.read(block, e) if part.name != but for where in part.where):
            out[8 * where.byte + where.low + np.arange(where.width), e] = True
    return out


def that_matter(format: BlockFormat, base: Blocks) -> NDArray[np.bool_]:
    """`(bits of a block, elements)` whether flipping the bit changes the element, in any of the base blocks."""
    flips = np.packbits(np.eye(8 * format.nbytes, dtype=np.uint8), axis=1, bitorder="little")
    out = np.zeros((8 * format.nbytes, format.length), dtype=bool)
    for block in base:
        out |= bits(format.values(block ^ flips)) != bits(format.values(block))
    return out


def misread(format: BlockFormat) -> int:
    """How many pairs of a bit and an element `read` is wrong about.

    It must name every bit that matters, and none that does not; but a bit of a point's code may leave one coordinate as
    it is at all points: neighbours in the table have their last coordinates in common.
    """
    base = with_scales(format, random_blocks(format, 40, 5), np.full(40, SCALE, dtype=np.uint16))
    block, matters = base[0].tobytes(), that_matter(format, base)
    return int((matters & ~named(format, block)).sum() + (named(format, block, but="q") & ~matters).sum())


@each_format
def test_read_names_the_bits_that_matter_and_no_others(format: BlockFormat) -> None:
    assert misread(format) == 0
    assert named(format, random_blocks(format, 1, 6)[0].tobytes()).any(axis=1).all()  # no bit is idle


def misvalued(format: BlockFormat) -> int:
    """How many elements the formula, worked out with the values that `read` gives, is wrong about."""
    assert format.read is not None
    formula = format.formula.replace("G[q]", "q").replace("K[q]", "q").replace("2s", "2·s")
    code = compile(formula.replace("·", "*").replace("−", "-"), format.name, "eval")
    wrong = 0
    for block in with_scales(format, random_blocks(format, 24, 7), np.full(24, SCALE, dtype=np.uint16)):
        raw = block.tobytes()
        for e in range(0, format.length, 3):
            value = eval(code, {}, {part.name: part.value for part in format.read(raw, e)})
            wrong += np.float32(value) != np.float32(format.decode_element(raw, e))
    return wrong


@each_format
def test_the_formula_of_the_parts_is_the_value(format: BlockFormat) -> None:
    assert misvalued(format) == 0


@each_format
def test_the_code_of_a_part_is_what_its_bits_make(format: BlockFormat) -> None:
    assert format.read is not None
    raw = random_blocks(format, 1, 8)[0].tobytes()
    for part in format.read(raw, format.length - 1):
        written = "".join(f"{where.of(raw):0{where.width}b}" for where in reversed(part.where))
        assert part.code == int(written, 2)
        assert str(part).startswith(f"{part.name} = {written} = ")


@each_format
def test_the_fields_fill_the_block(format: BlockFormat) -> None:
    assert [field.at for field in format.fields] == [
        sum(before.nbytes for before in format.fields[:i]) for i in range(len(format.fields))
    ]
    assert sum(field.nbytes for field in format.fields) == format.nbytes


def test_bits_that_run_over_bytes() -> None:
    block = bytes(range(17, 200, 13))
    number = int.from_bytes(block[2:10], "little")
    for low in range(40):
        for width in range(1, 20):
            pieces = iq_parts.span(2, low, width)
            assert iq_parts.part(block, "x", pieces).code == (number >> low) & ((1 << width) - 1)


# --- by hand --------------------------------------------------------------------------------------------------------


def values(name: str, *pieces: bytes) -> list[float]:
    return list(FORMATS[name].values(np.frombuffer(b"".join(pieces), dtype=np.uint8)).tolist())


def test_literal_blocks() -> None:
    half = struct.pack("<e", 0.5)
    assert values("IQ4_NL", half, bytes([0xF0, 0x87]), bytes(14))[:2] == [-63.5, -5.0]
    assert values("IQ4_NL", half, bytes([0xF0, 0x87]), bytes(14))[16:18] == [56.5, 0.5]
    iq4_xs = values("IQ4_XS", half, b"\x01\x00", b"\x01" + bytes(3), bytes(128))  # group 0 has s = 17, the others 0
    assert iq4_xs[0] == 0.5 * (17 - 32) * -127
    assert iq4_xs[32] == 0.5 * -32 * -127
    word = struct.pack("<I", 3 << 28 | 0b1000001)  # s = 3; elements 0 and 6 are minus, an even number
    assert values("IQ2_XXS", half, b"\x01\x00\x00\x00", word, bytes(56))[:9] == [
        0.5 * 7 / 8 * g for g in (-43, 8, 8, 8, 8, 8, -8, 8, 8)
    ]
    odd = struct.pack("<I", 0b111)  # three are minus, so that the last is
    assert values("IQ3_XXS", half, bytes(64), odd, bytes(28))[:8] == [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5, -0.5]
    iq1_s = values("IQ1_S", half, b"\x01" + bytes(31), struct.pack("<H", 0x8000 | 2 << 12), bytes(14))
    assert iq1_s[:2] == [0.5 * 5 * 0.875, 0.5 * 5 * -1.125]
    assert iq1_s[32] == 0.5 * -0.875


def test_a_weight_in_an_iq_format_has_rows() -> None:
    raw = random_blocks(FORMATS["IQ2_S"], 6, 9).reshape(3, -1)
    weight = BlockQuantised(raw, format=FORMATS["IQ2_S"])
    assert weight.shape == (3, 512)
    np.testing.assert_array_equal(bits(weight.rows(1, 2)), bits(weight.decode()[1:2]))
    with pytest.raises(ValueError, match=r"IQ2_S takes uint8 rows of whole 82-byte blocks, got uint8 \(3, 163\)"):
        BlockQuantised(raw[:, :-1], format=FORMATS["IQ2_S"])


# --- each check is shown to fail ------------------------------------------------------------------------------------

DECODERS = [
    ("wrong bit of the point's code", iq2_xs, "word & 511)", "(word & 255) | (word >> 1 & 256))"),
    ("high bits of the next point", iq2_s, "(0, 8, 2, dtype=np.uint8)", "(6, -2, -2).astype(np.uint8)"),
    ("high bit of the code lost", iq3_s, "| high.astype(np.uint16) << 8\n", "| (high & 0).astype(np.uint16)\n"),
    ("parity of the signs ignored", iq3_xxs, "even_sign, even_signs,", "even_sign, signs as even_signs,"),
    ("sign of δ", iq1_s, "| (word >> 15) << 3", "| (~word >> 15) << 3"),
    ("δ of the next eight", iq1_m, "32:48, np.newaxis])", "32:48, np.newaxis])[:, :, ::-1]"),
    ("pieces of d reversed", iq1_m, "high[:, ::2] | high[:, 1::2] << 4", "high[:, ::-2] | high[:, -2::-2] << 4"),
    ("the scale's half forgotten", iq2_xxs, "* 2 + 1).astype", "* 2).astype"),
    ("the scale's half forgotten", iq2_s, "(s * 2 + 1)", "(s * 2)"),
    ("swapped nibbles", iq4_nl, "nibbles(blocks[:, 2:])", "nibbles(blocks[:, 2:])[:, ::-1]"),
    ("swapped nibbles of the scales", iq4_xs, "4:8, np.newaxis])", "4:8, np.newaxis])[:, :, ::-1]"),
    ("scales without their offset", iq4_xs, " - np.float32(32)", ""),
]  # fmt: skip
TWINS = [
    ("sign of the last of eight", iq2_xs, "even_sign(word >> 9, e)", "even_sign(word >> 9, e % 7)"),
    ("δ of the other sign", iq1_m, "-0.125 if high & 8 else 0.125", "0.125 if high & 8 else -0.125"),
    ("the scale's half forgotten", iq3_s, "(2 * s + 1)", "(2 * s)"),
]
READERS = [
    ("the group's other scale", iq3_s, "4 * (e // 32 % 2), 4)", "4 * (e // 64 % 2), 4)"),
    ("a bit of the code missing", iq2_s, "Bits(66 + k // 4, 2 * (k % 4), 2)", "Bits(66 + k // 4, 2 * (k % 4), 1)"),
]
VALUES = [("d read from one word", iq1_m, 'part(block, "d", pieces, _scale(block))', 'part(block, "d", pieces)')]
PARTS = [
    ("the last sign is one bit", "span(at, low, 7) if i == 7 else ", "", misread, iq2_xxs, "coded_sign"),
    ("δ of the other sign", "-0.125 if where", "0.125 if where", misvalued, iq1_s, "shift"),
    ("the coordinate of another element", "chosen[e % len(chosen)]", "chosen[0]", misvalued, iq3_s, "point"),
]
PLANTED = [
    *((*bug, check) for bug in DECODERS for check in (off_golden, disagreements)),
    *((*bug, check) for bug in TWINS for check in (off_golden, disagreements)),
    *((*bug, misread) for bug in READERS),
    *((*bug, misvalued) for bug in VALUES),
]


@pytest.mark.parametrize(("what", "module", "text", "bug", "check"), PLANTED)
def test_a_planted_bug_is_caught(
    what: str, module: ModuleType, text: str, bug: str, check: Callable[[BlockFormat], int]
) -> None:
    changed = mutated(module, text, bug)
    name = next(name for name, original in MODULES.items() if original is module)
    assert check(FORMATS[name]) == 0
    assert check(getattr(changed, name)) > 0, what


@pytest.mark.parametrize(("what", "text", "bug", "check", "user", "name"), PARTS)
def test_a_bug_planted_in_what_readers_share_is_caught(
    what: str,
    text: str,
    bug: str,
    check: Callable[[BlockFormat], int],
    user: ModuleType,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user, name, getattr(mutated(iq_parts, text, bug), name))
    format_name = next(format_name for format_name, module in MODULES.items() if module is user)
    assert check(FORMATS[format_name]) > 0, what


def test_a_wrong_table_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    points = iq_grids.packed("IQ2_S").copy()
    points[[700, 701]] = points[[701, 700]]  # two of 1024 points exchanged
    monkeypatch.setattr(iq2_s, "packed", lambda name: points)
    assert disagreements(FORMATS["IQ2_S"]) > 0
