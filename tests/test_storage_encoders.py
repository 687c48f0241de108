"""ggml's reference encoders: the library's own bytes, a slow twin on any numbers, literals, and planted mistakes."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

from types import ModuleType
from typing import Any

import encoder_loops
import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from strategies import FEW_BITS, FINITE_SPECIAL, TIES, Fill, filled

from lepton_ref.plain import quantise
from lepton_ref.storage import DENSE_FORMATS, FORMATS, decode, encode
from lepton_ref.storage.encoders import ENCODERS, WEIGHTED, fp4, legacy, ternary

EXACT = tuple(encoder_loops.ENCODERS)
MODULES: dict[str, ModuleType] = {"TQ1_0": ternary, "TQ2_0": ternary, "MXFP4": fp4, "NVFP4": fp4}
each_exact = pytest.mark.parametrize("name", EXACT)
OURS = (*EXACT, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
each_encoder = pytest.mark.parametrize("name", OURS)

finite = st.builds(
    filled,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 3.0, 12.0, 120.0]),
    st.sampled_from([FINITE_SPECIAL, FEW_BITS, TIES]),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)
"""Any finite float32 numbers."""


def golden(name: str) -> NDArray[Any]:
    with np.load(GOLDEN / "storage_encoders" / "encoders.npz", allow_pickle=False) as arrays:
        found: NDArray[Any] = arrays[name]
        return found


def kinds() -> NDArray[np.float32]:
    """`(R, 256)` the golden's numbers, and what it leaves out: scales whose reciprocal overflows."""
    x = golden("x")
    tiny = np.random.default_rng(1).standard_normal((1, 256)) * np.exp2(np.repeat(np.arange(-148, -116, 4.0), 32))
    one = np.zeros((1, 256))
    one[0, [3, 40]] = [3.4e38, -1e-45]
    return np.concatenate([x, tiny.astype(np.float32), one.astype(np.float32), golden("w")[-2:, :256]])


def slow(name: str, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`(R, I) -> (R, bytes)` by the loops."""
    length = FORMATS[name].length
    with np.errstate(all="ignore"):
        blocks = [encoder_loops.ENCODERS[name](list(block)) for block in x.reshape(-1, length)]
    return np.frombuffer(b"".join(blocks), dtype=np.uint8).reshape(len(x), -1)


# --- the bytes --------------------------------------------------------------------------------------------------------


@each_exact
def test_the_bytes_are_those_of_ggml(name: str) -> None:
    assert np.array_equal(encode(name, golden("x")), golden(name))


@each_exact
def test_the_slow_twin_gives_the_bytes_of_ggml(name: str) -> None:
    assert np.array_equal(slow(name, golden("x")), golden(name))


@each_exact
@given(fill=finite)
def test_any_numbers_become_the_bytes_of_the_slow_twin(name: str, fill: Fill) -> None:
    x = fill((2, 256))
    assert np.array_equal(encode(name, x), slow(name, x))


@pytest.mark.parametrize(("name", "operands"), [("Q8_0", "w8a8"), ("Q4_0", "w4a8")])
@given(fill=finite)
def test_values_are_those_of_the_specification(name: str, operands: str, fill: Fill) -> None:
    x = fill((2, 64))
    with np.errstate(all="ignore"):
        scale = np.abs(x).max() / 127 < 65504  # beyond, the specification says NaN and infinity as arithmetic does
        got, want = decode(name, encode(name, x)), [quantise.weights(row, operands) for row in x.astype(float).tolist()]
    if scale:
        assert np.array_equal(got, np.array(want))  # zeros may differ in sign


def test_literal_blocks() -> None:
    x = np.zeros(32, dtype=np.float32)
    x[:4] = [-8.0, 7.0, 0.5, -0.5]
    assert encode("Q4_0", x).tobytes().hex() == "003c" + "808f8988" + "88" * 12
    x[:4] = [-16.0, 15.0, 15.5, 0.5]
    assert encode("Q5_0", x).tobytes().hex() == "003c" + "feffffff" + "000f0f01" + "00" * 12
    x[:4] = [0.0, 15.0, 0.5, 1.5]
    assert encode("Q4_1", x).tobytes().hex() == "003c" + "0000" + "000f0102" + "00" * 12
    x[:4] = [127.0, -0.5, 0.5, 2.5]
    assert encode("Q8_0", x).tobytes().hex() == "003c" + "7fff0103" + "00" * 28
    assert encode("Q8_1", x).tobytes().hex() == "003c" + "1058" + "7fff0103" + "00" * 28  # 130
    x[:4] = [8.0, 5.0, -5.0, 0.25]  # 2³, so the unit is 2: ties go to the smaller code
    assert encode("MXFP4", x).tobytes().hex() == "80" + "06040c00" + "00" * 12


def test_literal_zeros() -> None:
    zeros = np.zeros(256, dtype=np.float32)
    expected = {
        "Q1_0": "0000" + "ff" * 16,
        "Q4_0": "0080" + "88" * 16,
        "Q5_0": "0080" + "ffffffff" + "00" * 16,
        "TQ1_0": "80" * 32,
        "IQ4_NL": "0000" + "88" * 16,
        "IQ4_XS": "0000" + "aaaa" + "00000000" + "88" * 128,
    }
    for name in OURS:
        start = expected.get(name, "00" * FORMATS[name].nbytes)
        if name not in ("Q2_0", "TQ1_0", "TQ2_0"):
            assert encode(name, zeros).tobytes().hex().startswith(start), name
        assert not decode(name, encode(name, zeros)).any(), name
    assert encode("Q2_0", zeros[:64]).tobytes() == b"\0\0" + b"\x55" * 16
    assert encode("TQ2_0", zeros).tobytes() == b"\x55" * 64 + b"\0\0"
    assert set(encode("TQ1_0", zeros)[:48]) == {128}  # ⌈121·256/243⌉: five digits of one


# --- what must hold ---------------------------------------------------------------------------------------------------


@each_encoder
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_blocks_are_encoded_each_alone(name: str, lead: tuple[int, ...]) -> None:
    block = FORMATS[name]
    x = np.random.default_rng(2).standard_normal((*lead, 2 * block.length)).astype(np.float32)
    raw = encode(name, x)
    assert raw.shape == (*lead, 2 * block.nbytes)
    assert raw.dtype == np.uint8
    alone = [encode(name, one).reshape(-1) for one in x.reshape(-1, block.length)]
    assert np.array_equal(raw.reshape(-1), np.concatenate(alone))
    assert encode(name, x[..., :0]).shape == (*lead, 0)


@each_encoder
def test_more_blocks_than_are_encoded_at_a_time(name: str) -> None:
    x = np.random.default_rng(3).standard_normal(3 << 15).astype(np.float32)
    raw = encode(name, x)
    assert np.array_equal(raw[-3 * FORMATS[name].nbytes :], encode(name, x[-3 * FORMATS[name].length :]))


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4"])
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-8, 8))
def test_what_was_decoded_is_encoded_as_it_was(name: str, seed: int, exponent: int) -> None:
    """The largest number has the largest code, and amax/127 of d·127 is d. The others' scales may move by a rounding."""
    x = np.ldexp(np.random.default_rng(seed).standard_normal((2, 256)), exponent).astype(np.float32)
    value = decode(name, encode(name, x))
    assert np.array_equal(decode(name, encode(name, value)), value)


@each_encoder
def test_numbers_of_other_types_are_their_float32(name: str) -> None:
    whole = np.arange(-128, 128, dtype=np.int16)
    assert np.array_equal(encode(name, whole), encode(name, whole.astype(np.float32)))
    assert np.array_equal(encode(name, whole.astype(np.float64)), encode(name, whole.astype(np.float32)))


# --- bad input --------------------------------------------------------------------------------------------------------


@each_encoder
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    x = np.zeros((2, 256), dtype=np.float32)
    x[1, 5] = bad
    with pytest.raises(ValueError, match=rf"the array has {bad} at \(1, 5\); blocks hold finite float32"):
        encode(name, x)


def test_numbers_that_float32_does_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers that float32 does not hold; round them"):
        encode("Q8_0", np.full(32, 0.1))
    with pytest.raises(ValueError, match=r"the array has 1e\+300 at \(0,\)"):
        encode("Q8_0", np.full(32, 1e300))
    with pytest.raises(ValueError, match="must be numbers, got complex64"):
        encode("Q8_0", np.zeros(32, dtype=np.complex64))


@each_encoder
def test_rows_that_are_not_whole_blocks_are_refused(name: str) -> None:
    length = FORMATS[name].length
    for shape in ((length - 1,), (2, length + 1), ()):
        with pytest.raises(ValueError, match=f"{name} stores blocks of {length} along the last axis"):
            encode(name, np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("name", [name for name in EXACT if name not in WEIGHTED])
def test_weights_are_refused_where_there_is_nothing_to_weigh(name: str) -> None:
    x = np.zeros(256, dtype=np.float32)
    with pytest.raises(ValueError, match=f"{name} has one encoding and takes no weights; those that do: "):
        encode(name, x, weights=np.ones(256, dtype=np.float32))


def test_a_format_without_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no encoder of 'Q9_9'; known: F64"):
        encode("Q9_9", np.zeros(32, dtype=np.float32))
    assert set(EXACT) | WEIGHTED <= set(ENCODERS) <= set(FORMATS)
    assert set(EXACT) & WEIGHTED == {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}
    assert not set(ENCODERS) & set(DENSE_FORMATS)


# --- planted bugs -----------------------------------------------------------------------------------------------------


PLANTED: dict[str, tuple[str, str, str]] = {
    "Q8_0 half to even": ("Q8_0", "np.floor(np.abs(x.astype(np.float64)) + 0.5)", "np.rint(np.abs(x.astype(np.float64)))"),
    "Q8_0 half away in float32": ("Q8_0", "np.floor(np.abs(x.astype(np.float64)) + 0.5)", "np.floor(np.abs(x) + np.float32(0.5))"),
    "Q8_0 truncates": ("Q8_0", "np.floor(np.abs(x.astype(np.float64)) + 0.5)", "np.floor(np.abs(x.astype(np.float64)))"),
    "Q8_0 divides": ("Q8_0", "return d, half_away(x * inverse(d))", "return d, half_away(x / np.where(d == 0, np.float32(1), d))"),
    "Q8_0 by the stored scale": ("Q8_0", "return d, half_away(x * inverse(d))", "return d, half_away(x * inverse(d.astype(np.float16).astype(np.float32)))"),
    "Q4_0 by the stored scale": ("Q4_0", "return d, truncated(x * inverse(d)", "return d, truncated(x * inverse(d.astype(np.float16).astype(np.float32))"),
    "Q4_0 adds 8": ("Q4_0", "np.float32(half + 0.5)", "np.float32(half)"),
    "Q4_0 up to 16": ("Q4_0", "2 * half - 1)", "2 * half)"),
    "Q4_0 unsigned": ("Q4_0", "d = largest(x) /", "d = np.abs(largest(x)) /"),
    "Q4_0 the last of the largest": ("Q4_0", "at = np.argmax(np.abs(x), axis=-1)", "at = x.shape[-1] - 1 - np.argmax(np.abs(x[..., ::-1]), axis=-1)"),
    "Q4_0 a zero with its sign": ("Q4_0", "axis=-1) + np.float32(0)\n", "axis=-1)\n"),
    "Q5_0 fifth bits reversed": ("Q5_0", 'np.packbits(q >> np.uint8(4), axis=-1, bitorder="little")', "np.packbits(q >> np.uint8(4), axis=-1)"),
    "Q4_1 nibbles swapped": ("Q4_1", "(q[:, :16] & np.uint8(15)) | (q[:, 16:] << np.uint8(4))", "(q[:, 16:] & np.uint8(15)) | (q[:, :16] << np.uint8(4))"),
    "Q4_1 truncates": ("Q4_1", "+ np.float32(0.5), most)", ", most)"),
    "Q5_1 in 32 steps": ("Q5_1", "affine(x, 31)", "affine(x, 32)"),
    "Q8_1 the sum of the stored scale": ("Q8_1", "_half(total * d)", "_half(total * d.astype(np.float16).astype(np.float32))"),
    "Q8_K half away": ("Q8_K", "q = np.rint(x * scale)", "q = half_away(x * scale)"),
    "Q8_K −128": ("Q8_K", "np.float32(-127) / m", "np.float32(-128) / m"),
    "Q1_0 zero is negative": ("Q1_0", "np.packbits(x >= 0,", "np.packbits(x > 0,"),
    "Q1_0 in pairs": ("Q1_0", "np.add.accumulate(np.abs(x), axis=1)[:, -1:]", "np.abs(x).sum(axis=1, keepdims=True)"),
    "Q2_0 one too many": ("Q2_0", "+ np.float32(1)).astype(np.uint8).reshape(-1, 16, 4)", "+ np.float32(2)).astype(np.uint8).reshape(-1, 16, 4)"),
    "TQ1_0 without ceiling": ("TQ1_0", "np.uint16(242)", "np.uint16(0)"),
    "TQ2_0 digits reversed": ("TQ2_0", "np.array([0, 2, 4, 6]", "np.array([6, 4, 2, 0]"),
    "MXFP4 the exact logarithm": ("MXFP4", ".astype(np.float64)).astype(np.float32)\n", ".astype(np.float64))\n"),
    "MXFP4 ties away": ("MXFP4", "where=other < error", "where=other <= error"),
    "MXFP4 ceiling": ("MXFP4", "np.floor(logarithm)", "np.ceil(logarithm)"),
    "MXFP4 one below": ("MXFP4", "np.float32(125)", "np.float32(124)"),
    "NVFP4 the largest is 4": ("NVFP4", "/ np.float32(6)", "/ np.float32(4)"),
    "NVFP4 truncates the scale": ("NVFP4", " + ((bits >> np.uint32(19)) & np.uint32(1))", ""),
    "NVFP4 scales beyond 248": ("NVFP4", "np.where(normal >= 120, 126,", "np.where(normal > 126, 126,"),
    "NVFP4 groups of 8 beside": ("NVFP4", "code[:, :, :8] | (code[:, :, 8:] << np.uint8(4))", "code[:, :, ::2] | (code[:, :, 1::2] << np.uint8(4))"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_the_bytes_show_the_planted_bug(bug: str) -> None:
    name, text, wrong = PLANTED[bug]
    module = mutated(MODULES.get(name, legacy), text, wrong)
    x = np.concatenate([kinds(), rounding_traps()])
    with np.errstate(all="ignore"):
        raw = getattr(module, f"encode_{name.lower()}")(x.reshape(-1, FORMATS[name].length), None)
    assert not np.array_equal(raw, slow(name, x).reshape(raw.shape))


def rounding_traps() -> NDArray[np.float32]:
    """`(3, 256)`: x·(1/d) and x/d that round to two integers; the float32 below a half, and scales of FP4; a sum in
    order that is a midpoint of fp16, where another order is not."""
    x = np.zeros((3, 256))
    x[0] = 0.274587482213974
    x[0, ::32] = 1.0409735441207886
    x[1] = np.nextafter(np.float32(0.5), np.float32(0))
    x[1, ::32] = 127.0
    x[1, ::64] = 6 * 300.0
    x[2] = 2.0**-17
    x[2, ::128] = 128 + 2.0**-4
    return x.astype(np.float32)
