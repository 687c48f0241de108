"""Q4_0, Q4_1, Q5_0 and Q5_1 with weights: less error than ggml's and than the reference encoders'; planted mistakes."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import FORMATS, decode, encode
from lepton_ref.storage.encoders import legacy, legacy_weighted

Floats = NDArray[np.float32]
Encode = Callable[[Floats, Floats], NDArray[np.uint8]]
NAMES = {"Q4_0": 16, "Q4_1": 16, "Q5_0": 32, "Q5_1": 32}
"""Format → how many codes."""
each = pytest.mark.parametrize("name", NAMES)
U = 2.0**-24


def library(name: str) -> Encode:
    return lambda x, weights: encode(name, x, weights=weights)


def away(name: str, x: Floats, raw: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Decoded less x, in float64."""
    return decode(name, raw).astype(np.float64) - x


def check_against_ggml(name: str, encoder: Encode) -> None:
    """In the measure that is given, and in what ggml makes of it, a row's Σx² over its length being a part of it."""
    with np.load(GOLDEN / "storage_encoders" / "encoders.npz", allow_pickle=False) as golden:
        x, importance, theirs = golden["w"], golden["imatrix"], golden[f"{name}_weighted"]
    given_ = np.broadcast_to(importance, x.shape)
    used = (importance * np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.square(x))).astype(np.float32)
    for weights in (given_, used):
        ours = np.square(away(name, x, encoder(x, weights)))
        other = np.square(away(name, x, theirs))
        for rows in (slice(0, 3), slice(3, 5), slice(0, 6)):
            assert (weights * ours)[rows].sum() <= (weights * other)[rows].sum()


@each
def test_no_more_error_than_ggml(name: str) -> None:
    check_against_ggml(name, library(name))


def values_of_codes(name: str, raw: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(codes, …)` what every element were with each code."""
    start = 2 if name.endswith("0") else 4
    blocks = raw.reshape(-1, FORMATS[name].nbytes)
    found = []
    for q in range(NAMES[name]):
        out = blocks.copy()
        if NAMES[name] == 32:
            out[:, start : start + 4] = 255 * (q >> 4)
        out[:, -16:] = 17 * (q & 15)
        found.append(decode(name, out.reshape(raw.shape)).astype(np.float64))
    return np.stack(found)


def allowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much farther than the nearest code's the chosen code's value may be: see `test_storage_encoders_k`."""
    step = np.abs(values[-1] - values[0]) / (len(values) - 1)
    return 6 * U * (len(values) + 1) * step + 2 * U * np.abs(values).max(axis=0)


def check_codes_are_nearest(name: str, encoder: Encode, x: Floats, weights: Floats) -> None:
    raw = encoder(x, weights)
    values = values_of_codes(name, raw)
    nearest = np.abs(values - x).min(axis=0)
    assert (np.abs(away(name, x, raw)) <= nearest + allowed(values)).all()


def check_against_reference(name: str, encoder: Encode, x: Floats, weights: Floats) -> None:
    """The search starts with the reference's scales, with codes as near as its, and goes down in float32 sums.

    A term has three roundings, the product with its weight and five additions: γ = 9u/(1 − 9u), and of weights the
    ratio to the block's largest is rounded: 2u more.
    """
    raw, reference = encoder(x, weights), encode(name, x)
    slack = allowed(values_of_codes(name, reference))
    blocks = (weights.reshape(-1, 32), away(name, x, raw).reshape(-1, 32), away(name, x, reference).reshape(-1, 32))
    w, ours, theirs = (part.astype(np.float64) for part in blocks)
    w = np.maximum(w, U * w.max(axis=1, keepdims=True))
    gamma = 11 * U / (1 - 11 * U)
    bar = (w * np.square(np.abs(theirs) + slack.reshape(-1, 32))).sum(axis=1) * (1 + gamma) / (1 - gamma)
    assert ((w * np.square(ours)).sum(axis=1) <= bar + 64 * 2.0**-126).all()


@each
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-18, 10), spread=st.sampled_from([0.0, 1.0, 8.0]))
def test_no_more_error_than_the_reference_and_no_nearer_code(
    name: str, seed: int, exponent: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal((3, 64)) + rng.choice([0, 2, -5], (3, 1)), exponent).astype(np.float32)
    weights = np.exp2(rng.uniform(-spread, spread, (3, 64))).astype(np.float32)
    check_against_reference(name, library(name), x, weights)
    check_codes_are_nearest(name, library(name), x, weights)


@each
def test_zeros_and_constants(name: str) -> None:
    ones = np.ones(32, dtype=np.float32)
    assert not decode(name, encode(name, 0 * ones, weights=ones)).any()
    for value in (0.5, -0.75, 3.0):
        assert np.array_equal(decode(name, encode(name, value * ones, weights=ones)), value * ones)


@each
@pytest.mark.parametrize("scale", [1.0, 0.3, 7e20, 1e-30])
def test_only_the_ratios_of_weights_count(name: str, scale: float) -> None:
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    ones = encode(name, x, weights=np.ones(64, dtype=np.float32))
    assert np.array_equal(encode(name, x, weights=np.full(64, scale, dtype=np.float32)), ones)
    assert np.array_equal(encode(name, x, weights=np.zeros(64, dtype=np.float32)), ones)
    assert np.square(away(name, x, ones)).sum() < np.square(away(name, x, encode(name, x))).sum()


@each
@given(exponent=st.integers(-149, 127), seed=st.integers(0, 2**32 - 1))
def test_any_size_gives_finite_numbers(name: str, exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", under="ignore"):
        x = np.ldexp(rng.uniform(-1, 1, (2, 32)), exponent).astype(np.float32)
    x[1, 7] = 3.4e38
    value = decode(name, encode(name, x, weights=np.ones(32, dtype=np.float32)))
    assert np.isfinite(value).all()
    assert value[1].max() > 3e5


@each
def test_a_block_does_not_depend_on_the_others(name: str) -> None:
    rng = np.random.default_rng(2)
    x, weights = rng.standard_normal((2, 20, 32)).astype(np.float32)
    weights = np.exp(weights) * np.exp2(np.arange(0, 60, 3, dtype=np.float32))[:, np.newaxis]
    raw = encode(name, x, weights=weights)
    assert all(np.array_equal(encode(name, x[i], weights=weights[i]), raw[i]) for i in range(20))


def check(name: str, encoder: Encode) -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 64)) + rng.choice([0, 2, 6], (40, 1))).astype(np.float32)
    weights = np.exp(rng.standard_normal((40, 64))).astype(np.float32)
    check_against_ggml(name, encoder)
    check_against_reference(name, encoder, x, weights)
    check_codes_are_nearest(name, encoder, x, weights)


@each
def test_the_check_passes_for_what_is_right(name: str) -> None:
    check(name, library(name))


PLANTED: dict[str, tuple[str, str, str]] = {
    "weights ignored": ("Q4_0", "y, w = groups(x, 32), relative(weights, 32)\n    amax", "y, w = groups(x, 32), None\n    amax"),
    "weights ignored with minima": ("Q5_1", "y, w = groups(x, 32), relative(weights, 32)\n    low", "y, w = groups(x, 32), None\n    low"),
    "the scale is not rounded before the codes": ("Q5_0", "d_new = fp16(ratio(of.qx, of.qq))", "d_new = ratio(of.qx, of.qq)"),
    "the minimum is not rounded before the codes": ("Q4_1", "astype(np.float16).astype(np.float32)\n", "astype(np.float32)\n"),
    "one sign": ("Q4_0", "for sign in (-1, 1)", "for sign in (1, 1)"),
    "a code too many": ("Q4_1", "q = codes(y - m, d, 0, most)", "q = codes(y - m, d, 0, most + 1)"),
    "a code below": ("Q5_0", "q = codes(y, d, -half, half - 1)", "q = codes(y, d, -half - 1, half - 1)"),
    "the minimum never positive": ("Q4_1", "low = y.min(axis=0)", "low = np.minimum(y.min(axis=0), 0)"),
    "nothing is tried": ("Q4_0", "for start in [*starts, *[None] * FITS]:", "for start in []:"),
    "the worse is kept": ("Q5_1", "        better = other < error\n        d, m, q", "        better = other > error\n        d, m, q"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_the_checks_see_the_planted_bug(bug: str) -> None:
    name, text, wrong = PLANTED[bug]
    copy = mutated(legacy, "import legacy_weighted\n", "import legacy_weighted\n")
    vars(copy)["legacy_weighted"] = mutated(legacy_weighted, text, wrong)

    def encoder(x: Floats, weights: Floats) -> NDArray[np.uint8]:
        raw = getattr(copy, f"encode_{name.lower()}")(x.reshape(-1, 32), np.ascontiguousarray(weights).reshape(-1, 32))
        return np.asarray(raw.reshape(len(x), -1))

    with pytest.raises(AssertionError):
        check(name, encoder)
