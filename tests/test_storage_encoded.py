"""Weights as a linear layer multiplies them: encoded against the specification, unrounded against closed forms."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from block_cases import finite
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from strategies import Fill, any_numbers

from lepton_ref import registry
from lepton_ref.plain import quantise
from lepton_ref.runtime.memory import keep
from lepton_ref.storage import FORMATS, BlockFormat, BlockQuantised, Dense, RowView, Weight
from lepton_ref.storage import encoded as module
from lepton_ref.storage.encoded import Encoded, Unrounded, as_operand
from lepton_ref.storage.encoders import legacy

NUMPY = registry.get("numpy")
OPERANDS = {"w8a8": "Q8_0", "w4a8": "Q4_0", "fp8": "fp8"}
WIDTHS = (1, 2, 31, 32, 33, 64, 70)
each_format = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)


AMAX, QUOTIENT = 1.0409735441207886, 0.274587482213974
"""Float32 numbers x and d = AMAX/127 for which x·(1/d) and x/d round to two integers."""


def rows(seed: int, width: int) -> NDArray[np.float32]:
    """Rows whose blocks are ordinary, on ties, zeros, subnormal, too small or too large for fp16's scales."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, width)) * np.exp2(rng.integers(-12, 12, (9, 1)))
    x[1] = 0.0 * rng.choice([-1, 1], width)
    x[2], x[2, 0] = rng.integers(-254, 255, width) / 2, 127.0  # ties of Q8_0, the scale being 1
    x[3], x[3, -1] = rng.integers(-15, 16, width) / 2, -8.0  # ties of Q4_0, the scale being 1
    x[4], x[4, 0] = rng.integers(-15, 16, width) / 2, 8.0  # of a scale of −1, which makes q = 16
    x[5] = rng.standard_normal(width) * 1e-7  # fp16's scale is zero or subnormal
    x[6] = rng.standard_normal(width) * 1e-42  # 1/d overflows
    x[7] = rng.standard_normal(width) * 1e8  # fp16's scale overflows
    x[8] = QUOTIENT
    x[8, 0] = AMAX
    return x.astype(np.float32)


def same(got: NDArray[np.float64], want: NDArray[np.float64]) -> bool:
    """Equal bits, all NaN being one."""
    assert got.dtype == np.float64
    nan = np.isnan(got)
    return np.array_equal(nan, np.isnan(want)) and np.array_equal(got[~nan].view(np.uint64), want[~nan].view(np.uint64))


def assert_as_specified(m: ModuleType, x: NDArray[np.float32]) -> None:
    for operands, encoding in OPERANDS.items():
        weight = m.Encoded(Dense(x, format="F32"), encoding=encoding)
        want = np.array([quantise.weights(row, operands) for row in x.astype(np.float64).tolist()])
        assert same(weight.operand(np.arange(len(x))), want), encoding


def check(m: ModuleType) -> None:
    with np.errstate(all="ignore"):
        for seed, width in enumerate(WIDTHS):
            assert_as_specified(m, rows(seed, width))


def test_blocks_of_every_kind_are_encoded_as_specified() -> None:
    check(module)


@given(any_numbers(), st.sampled_from(WIDTHS))
def test_any_row_is_encoded_as_specified(fill: Fill, width: int) -> None:
    assert_as_specified(module, fill((3, width)))


PLANTED: dict[str, tuple[str, str]] = {
    "the scale is not stored as fp16": ("d.astype(np.float16).astype(np.float64)", "d.astype(np.float64)"),
    "codes of a scale of zero": ("coded = healthy & (scale != 0.0)", "coded = healthy"),
    "a scale of minus zero": (".astype(np.float64) + 0.0, np.nan)", ".astype(np.float64), np.nan)"),
    "the codes of Q4_0 as they are": ("q - np.float32(8)", "q"),
    "the rest shares the last block's scale": ("whole = width // BLOCK * BLOCK", "whole = width // BLOCK * BLOCK if width % BLOCK == 0 else 0"),
    "E4M3 overflows": ('"e4m3fn", saturate=True', '"e4m3fn", mode="zero"'),
    "one scale for the whole matrix": ("amax = np.max(np.abs(x), axis=-1, keepdims=True).astype(np.float64)", "amax = np.max(np.abs(x), keepdims=True).astype(np.float64)"),
    "the scale keeps all its bits": ("np.rint(scale / step) * step", "scale"),
}  # fmt: skip

PLANTED_IN_ENCODERS: dict[str, tuple[str, str]] = {
    "Q8_0 half to even": ("np.floor(np.abs(x.astype(np.float64)) + 0.5)", "np.rint(np.abs(x.astype(np.float64)))"),
    "Q8_0 divides by d": ("return d, half_away(x * inverse(d))", "return d, half_away(x / np.where(d == 0, np.float32(1), d))"),
    "Q8_0 up to 128": ("keepdims=True) / np.float32(127)", "keepdims=True) / np.float32(128)"),
    "Q4_0 lets q be 16": ("2 * half - 1)", "2 * half)"),
    "Q4_0 half down": ("np.float32(half + 0.5)", "np.float32(half + 0.499)"),
    "Q4_0 without the sign of the largest": ("d = largest(x) /", "d = np.abs(largest(x)) /"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    wrong = mutated(module, *PLANTED[bug])
    with pytest.raises((AssertionError, ValueError)):
        check(wrong)


@pytest.mark.parametrize("bug", PLANTED_IN_ENCODERS)
def test_the_check_sees_the_bug_planted_in_the_encoders(bug: str) -> None:
    wrong = mutated(legacy, *PLANTED_IN_ENCODERS[bug])
    using = mutated(module, "q8_0(x))", "q8_0(x))")  # the same again, to be given the wrong encoders
    using.__dict__.update(q8_0=wrong.q8_0, symmetric=wrong.symmetric)
    with pytest.raises(AssertionError):
        check(using)


# --- closed forms -----------------------------------------------------------------------------------------------------


def random_blocks(format: BlockFormat, rows: int, seed: int) -> NDArray[np.uint8]:
    """Any bytes, two blocks a row, but scales that are numbers."""
    raw = np.random.default_rng(seed).integers(0, 256, (2 * rows, format.nbytes), dtype=np.uint8)
    return finite(format, raw).reshape(rows, -1)


def half(block: NDArray[np.uint8], at: int) -> Fraction:
    return Fraction(float(block[at : at + 2].copy().view(np.float16)[0]))


def q4_1(block: NDArray[np.uint8], e: int) -> Fraction:
    """d·q + m."""
    return half(block, 0) * (int(block[4 + e % 16]) >> 4 * (e // 16) & 15) + half(block, 2)


def q4_k(block: NDArray[np.uint8], e: int) -> Fraction:
    """d·scale·q − dmin·minimum, scales and minima of 6 bits."""
    s, j = block[4:16].astype(int), e // 32
    scale = s[j] & 63 if j < 4 else (s[j + 4] & 15) | (s[j - 4] >> 6) << 4
    minimum = s[j + 4] & 63 if j < 4 else s[j + 4] >> 4 | (s[j] >> 6) << 4
    q = int(block[16 + 32 * (e // 64) + e % 32]) >> 4 * (e // 32 % 2) & 15
    return half(block, 0) * int(scale) * q - half(block, 2) * int(minimum)


@pytest.mark.parametrize(("name", "form"), [("Q4_1", q4_1), ("Q4_K", q4_k)])
def test_what_is_not_rounded_is_the_closed_form(name: str, form: Callable[[NDArray[np.uint8], int], Fraction]) -> None:
    block = FORMATS[name]
    raw = random_blocks(block, 30, 1)
    weight = BlockQuantised(raw, format=block)
    got = weight.unrounded(np.arange(30)).reshape(-1, block.length)
    blocks = raw.reshape(-1, block.nbytes)
    assert all(Fraction(float(got[b, e])) == form(blocks[b], e) for b, e in np.ndindex(got.shape))
    assert (got != weight.decode().reshape(got.shape)).mean() > 0.1, "decoding rounds many of these"


@each_format
def test_decoding_is_the_closed_form_rounded_once(format: BlockFormat) -> None:
    weight = BlockQuantised(random_blocks(format, 5, 2), format=format)
    exact, decoded = weight.unrounded(np.arange(5)), weight.decode()
    assert (exact.dtype, decoded.dtype) == (np.float64, np.float32)
    with np.errstate(over="ignore"):  # MXFP4 and Q8_K reach beyond float32
        assert np.array_equal(exact.astype(np.float32).view(np.uint32), decoded.view(np.uint32))
    assert (format.unrounded is None) == np.array_equal(exact, decoded)


@each_format
def test_views_and_kept_weights_show_the_closed_form_of_their_rows(format: BlockFormat) -> None:
    weight = BlockQuantised(random_blocks(format, 5, 3), format=format)
    whole, index = weight.unrounded(np.arange(5)), np.array([3, 0, 3])
    assert np.array_equal(RowView(weight, index).unrounded(np.array([1, 2])), whole[[0, 3]])
    (kept,) = keep({"w": weight}, True, backend=NUMPY).values()
    assert np.array_equal(kept.unrounded(index), whole[index])
    (held,) = keep({"w": Unrounded(weight)}, True, backend=NUMPY).values()
    for one in (held, Unrounded(weight)):
        assert np.array_equal(one.operand(index), whole[index])
        assert np.array_equal(np.concatenate([panel.rows for panel in one.panels(backend=NUMPY)]), whole)
        assert np.array_equal(one.take(index), weight.take(index)), "rows that are looked up stay rounded"


def test_a_vectors_closed_form_is_cut_inside_its_blocks() -> None:
    raw = random_blocks(FORMATS["Q4_1"], 1, 4).reshape(-1)
    weight = BlockQuantised(raw, format=FORMATS["Q4_1"])
    assert np.array_equal(weight.unrounded(np.array([40, 1])), weight.unrounded(np.arange(64))[[40, 1]])


# --- which weight is multiplied as what -------------------------------------------------------------------------------


def dense(rows: int = 4, width: int = 40) -> Dense:
    values = np.random.default_rng(5).standard_normal((rows, width))
    return Dense(values.astype(np.float32), format="F32")


def test_dense_weights_are_encoded_and_quantised_ones_unrounded() -> None:
    quantised = BlockQuantised(random_blocks(FORMATS["Q4_K"], 2, 6), format=FORMATS["Q4_K"])
    for weight in (dense(), quantised):
        assert as_operand(weight, "stored") is weight
    for operands, encoding in OPERANDS.items():
        found = as_operand(dense(), operands)
        assert isinstance(found, Encoded)
        assert found.encoding == encoding
        every = as_operand(quantised, operands, encode_all=True)
        assert isinstance(every, Encoded)
        assert every.operand(np.arange(2)).tobytes() != quantised.unrounded(np.arange(2)).tobytes()
    assert isinstance(as_operand(quantised, "w8a8"), Unrounded)
    assert isinstance(as_operand(quantised, "w4a8"), Unrounded)
    assert as_operand(quantised, "fp8") is quantised


@pytest.mark.parametrize("encoding", OPERANDS.values())
def test_an_encoded_weight_looks_like_its_base_and_is_multiplied_as_its_code(encoding: str) -> None:
    base = dense()
    weight = Encoded(base, encoding=encoding)
    assert (weight.shape, weight.nbytes, weight.format) == (base.shape, base.nbytes, base.format)
    assert np.array_equal(weight.rows(1, 3), base.rows(1, 3))
    assert np.array_equal(weight.decode(), base.decode())
    whole = weight.operand(np.arange(4))
    assert not np.array_equal(whole, base.decode())
    assert np.array_equal(weight.operand(np.array([2, 0])), whole[[2, 0]]), "a row does not depend on the others"
    assert np.array_equal(np.concatenate([panel.rows for panel in weight.panels(backend=NUMPY)]), whole)
    q, scale = weight.scaled(np.arange(4))
    assert np.array_equal(q * scale, whole)
    (kept,) = keep({"w": weight}, True, backend=NUMPY).values()
    assert np.array_equal(kept.operand(np.arange(4)), whole)


def test_another_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown encoding 'Q5_0'; known: Q8_0, Q4_0, fp8"):
        Encoded(dense(), encoding="Q5_0")


@pytest.mark.parametrize("wrap", [Unrounded, lambda base: Encoded(base, encoding="Q8_0")])
def test_values_that_are_no_numbers_warn_nobody(wrap: Callable[[Weight], Any]) -> None:
    values = np.array([[np.inf, 1.0, np.nan], [1e38, -1e38, 0.0]], dtype=np.float32)
    got = wrap(Dense(values, format="F32")).operand(np.arange(2))
    assert np.isnan(got[0]).any()
