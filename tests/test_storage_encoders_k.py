"""K-quants: less error than ggml's and than plain rounding's, exact where that is possible, and planted mistakes."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import FORMATS, decode, encode
from lepton_ref.storage.encoders import WEIGHTED, k_affine, k_quants, k_symmetric, search

Floats = NDArray[np.float32]
AFFINE = {"Q2_K": (16, 3, 15), "Q4_K": (32, 15, 63), "Q5_K": (32, 31, 63)}
"""Format → numbers in a group, the largest code, the largest scale and minimum."""
SYMMETRIC = {"Q3_K": (16, 4, 32), "Q6_K": (16, 32, 128)}
"""Format → numbers in a group, minus the least code, minus the least scale."""
FORMATS_K = (*AFFINE, *SYMMETRIC)
each_k = pytest.mark.parametrize("name", FORMATS_K)
Encode = Callable[[Floats, Floats | None], NDArray[np.uint8]]


def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "storage_encoders" / "encoders.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def error(name: str, x: Floats, raw: NDArray[np.uint8], weights: NDArray[Any] | float = 1.0) -> float:
    """Σw(decoded − x)², in float64."""
    return float((weights * np.square(decode(name, raw).astype(np.float64) - x)).sum())


def library(name: str) -> Encode:
    """The encoder as everybody calls it."""
    return lambda x, weights: encode(name, x, weights=weights)


# --- how good ---------------------------------------------------------------------------------------------------------


def ggml_weights(name: str, x: Floats) -> Floats:
    """What ggml weighs squares of errors by where it is given no importance."""
    if name in SYMMETRIC:
        return x * x
    groups = x.reshape(len(x), -1, AFFINE[name][0])
    level = 0 if name == "Q2_K" else np.sqrt(np.square(groups).mean(axis=2, keepdims=True))
    return (level + np.abs(groups)).reshape(x.shape).astype(np.float32)


def check_against_ggml(name: str, encoder: Encode) -> None:
    """For each kind of row, and in each measure: all alike, ggml's own, an importance, ggml's use of it."""
    g = golden()
    x: Floats = g["w"]
    importance = np.broadcast_to(g["imatrix"], x.shape)
    own = ggml_weights(name, x)
    twice = 2 if name in ("Q3_K", "Q4_K", "Q5_K") else 1
    blocks = x.reshape(len(x), -1, 256)
    spread = np.sqrt(twice * np.square(blocks).mean(axis=2, keepdims=True) + np.square(blocks)).reshape(x.shape)
    used = importance if name == "Q6_K" else (importance * spread).astype(np.float32)
    cases: list[tuple[str, Floats | None]] = [
        ("plain", None),
        ("plain", own),
        ("weighted", importance),
        ("weighted", used),
    ]
    for which, weights in cases:
        measure = np.ones_like(x) if weights is None else weights
        ours, theirs = encoder(x, weights), g[f"{name}_{which}"]
        for rows in (slice(0, 3), slice(3, 5), slice(0, 6)):
            assert error(name, x[rows], ours[rows], measure[rows]) <= error(name, x[rows], theirs[rows], measure[rows])


@each_k
def test_no_more_error_than_ggml_in_any_measure(name: str) -> None:
    check_against_ggml(name, library(name))


def nearest(name: str, x: Floats) -> NDArray[np.float64]:
    """`(N, 256)` what plain rounding to nearest decodes to."""
    if name in AFFINE:
        length, nmax, kmax = AFFINE[name]
        apart = search.groups(x, length)
        at = k_affine.nearest(apart, nmax=nmax, kmax=kmax)
        scale, minimum = at.d * at.sc, at.dmin * at.mn
        value = scale * search.codes(apart + minimum, scale, 0, nmax) - minimum
    else:
        length, half, kmax = SYMMETRIC[name]
        apart = search.groups(x, length)
        d, sc = k_symmetric.nearest(apart, half=half, kmax=kmax)
        scale = d * sc
        value = scale * search.codes(apart, scale, -half, half - 1)
    return value.transpose(2, 1, 0).reshape(x.shape).astype(np.float64)


def check_against_nearest(name: str, encoder: Encode, x: Floats) -> None:
    """The search starts there and goes downhill in float32 sums of squares, whose roundings are bounded.

    A term is rounded in the difference, twice as that is squared, in the product with its weight, and in the eight
    additions above it: γ = 12u/(1 − 12u). Squares below float32's least normal number lose less than that each.
    """
    ours = np.square(decode(name, encoder(x, None)).astype(np.float64) - x).sum(axis=1)
    plain = np.square(nearest(name, x) - x).sum(axis=1)
    gamma = 12 * 2.0**-24 / (1 - 12 * 2.0**-24)
    assert (ours <= plain * (1 + gamma) / (1 - gamma) + 512 * 2.0**-126).all()


@each_k
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 2.0, 8.0]),
    level=st.floats(-3, 3, width=16),
    exponent=st.integers(-20, 12),
)
def test_no_more_error_than_plain_rounding(name: str, seed: int, spread: float, level: float, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 256)) * np.exp2(rng.uniform(-spread, spread, (3, 256))) + level
    x[1, rng.integers(0, 256, 3)] *= 1000  # a few that stand out
    check_against_nearest(name, library(name), np.ldexp(x, exponent).astype(np.float32))


# --- exact where that is possible -------------------------------------------------------------------------------------


def representable(name: str, seed: int) -> Floats:
    """`(2, 256)` numbers that plain rounding's scales hold exactly: every group has its extremes, one group the largest."""
    rng = np.random.default_rng(seed)
    if name in AFFINE:
        length, nmax, kmax = AFFINE[name]
        q = rng.integers(0, nmax + 1, (2, 256 // length, length))
        q[:, :, 0], q[:, :, 1] = 0, nmax
        sc, mn = rng.integers(1, kmax + 1, (2, 2, 256 // length, 1))
        sc[:, 3], mn[:, 2] = kmax, kmax
        x = sc * q * 0.25 - mn * 0.5
        return np.asarray(x.reshape(2, 256), dtype=np.float32)
    length, half, kmax = SYMMETRIC[name]
    q = rng.integers(-half, half, (2, 256 // length, length))
    q[:, :, 0] = -half
    sc = rng.integers(-kmax, kmax, (2, 256 // length, 1))
    sc[:, 5] = -kmax
    return np.asarray((0.25 * sc * q).reshape(2, 256), dtype=np.float32)


def check_exact(name: str, encoder: Encode, seed: int) -> None:
    x = representable(name, seed)
    assert np.array_equal(decode(name, encoder(x, None)), x)


@each_k
@given(seed=st.integers(0, 2**32 - 1))
def test_what_plain_rounding_holds_exactly_is_exact(name: str, seed: int) -> None:
    check_exact(name, library(name), seed)


def test_a_literal_block() -> None:
    """Groups of 0, 1 … 15 twice, times their scale, less their minimum: d = 1, dmin = 1."""
    sc, mn = [63, 1, 2, 3, 17, 32, 48, 62], [0, 63, 2, 3, 16, 33, 47, 1]
    x = np.array([s * (e % 16) - m for s, m in zip(sc, mn, strict=True) for e in range(32)], dtype=np.float32)
    packed = bytes([63 | 1 << 6, 1 | 2 << 6, 2 | 3 << 6, 3 | 3 << 6, 0 | 1 << 6, 63 | 2 << 6, 2 | 2 << 6, 3 | 0 << 6])
    packed += bytes(
        [17 & 15 | (16 & 15) << 4, 32 & 15 | (33 & 15) << 4, 48 & 15 | (47 & 15) << 4, 62 & 15 | (1 & 15) << 4]
    )
    codes = bytes([17 * (e % 16) for e in range(32)]) * 4
    assert encode("Q4_K", x).tobytes() == b"\x00\x3c\x00\x3c" + packed + codes


@each_k
def test_zeros_are_zero_bytes_as_in_ggml(name: str) -> None:
    x = np.zeros((2, 256), dtype=np.float32)
    x[1, ::3] = -0.0
    assert not encode(name, x).any()


CODES = {
    "Q2_K": [(16, 80)],
    "Q3_K": [(0, 32), (32, 96)],
    "Q4_K": [(16, 144)],
    "Q5_K": [(16, 48), (48, 176)],
    "Q6_K": [(0, 128), (128, 192)],
}
"""Format → where a block's codes stand."""


def with_codes(name: str, raw: NDArray[np.uint8], q: int) -> NDArray[np.uint8]:
    """The blocks with this code for every element."""
    out, pair, nib = raw.copy(), 0x55 * (q & 3), 0x11 * (q & 15)
    fields = {
        "Q2_K": [pair], "Q3_K": [255 * (q >> 2), pair], "Q4_K": [nib], "Q5_K": [255 * (q >> 4), nib], "Q6_K": [nib, 0x55 * (q >> 4)],
    }[name]  # fmt: skip
    for (start, stop), value in zip(CODES[name], fields, strict=True):
        out[:, start:stop] = value
    return out


def check_codes_are_nearest(name: str, encoder: Encode, x: Floats, weights: Floats | None = None) -> None:
    """No other code is nearer to x with the units that are stored.

    The quotient that is rounded, x + minimum over a scale, has three roundings: 3u of at most codes + 1. Its choice is
    wrong by twice that at most, in steps; and the values that are compared are rounded too.
    """
    raw = encoder(x, weights)
    count = {"Q2_K": 4, "Q3_K": 8, "Q4_K": 16, "Q5_K": 32, "Q6_K": 64}[name]
    values = np.stack([decode(name, with_codes(name, raw, q)).astype(np.float64) for q in range(count)])
    away = np.abs(values - x)
    step, u = np.abs(values[-1] - values[0]) / (count - 1), 2.0**-24
    allowed = 6 * u * (count + 1) * step + 2 * u * np.abs(values).max(axis=0)
    assert (np.abs(decode(name, raw) - x.astype(np.float64)) <= away.min(axis=0) + allowed).all()


@each_k
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-24, 16))
def test_codes_are_the_nearest(name: str, seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal((4, 256)), exponent).astype(np.float32)
    check_codes_are_nearest(name, library(name), x)
    check_codes_are_nearest(name, library(name), x, np.exp(rng.standard_normal((4, 256))).astype(np.float32))


# --- what must hold ---------------------------------------------------------------------------------------------------


def sample(seed: int = 4, rows: int = 5) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, 256)).astype(np.float32)


def check_alone(name: str, encoder: Encode) -> None:
    x = sample(rows=20)
    weights = np.exp(sample(6, 20)) * np.exp2(np.arange(0, 60, 3, dtype=np.float32))[:, np.newaxis]
    raw, weighted = encoder(x, None), encoder(x, weights)
    for i in range(20):
        assert np.array_equal(encoder(x[i : i + 1], None)[0], raw[i])
        assert np.array_equal(encoder(x[i : i + 1], weights[i : i + 1])[0], weighted[i])


@each_k
def test_a_block_does_not_depend_on_the_others(name: str) -> None:
    check_alone(name, library(name))


@each_k
@pytest.mark.parametrize("each", [1.0, 0.3, 7e20, 1e-30])
def test_equal_weights_are_no_weights(name: str, each: float) -> None:
    x = sample()
    expected = encode(name, x)
    assert np.array_equal(encode(name, x, weights=np.full(256, each, dtype=np.float32)), expected)
    assert np.array_equal(encode(name, x, weights=np.zeros(256, dtype=np.float32)), expected)


@each_k
def test_weights_of_rows_are_those_of_columns_repeated(name: str) -> None:
    x, columns = sample(), np.exp(sample(5, 1))[0]
    raw = encode(name, x, weights=columns)
    assert np.array_equal(raw, encode(name, x, weights=np.tile(columns, (5, 1))))
    assert error(name, x, raw, columns) < error(name, x, encode(name, x), columns)


@each_k
@given(exponent=st.integers(0, 8))
def test_powers_of_two_scale_the_units_alone(name: str, exponent: int) -> None:
    """As long as the units are normal fp16 numbers: every float32 operation scales exactly."""
    x = sample()
    raw, larger = encode(name, x), encode(name, np.ldexp(x, exponent))
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[name]
    for start in at:
        unit, scaled = (np.ascontiguousarray(part[:, start : start + 2]).view("<f2") for part in (raw, larger))
        assert np.array_equal(np.ldexp(unit, exponent), scaled)
        raw[:, start : start + 2] = larger[:, start : start + 2]
    assert np.array_equal(raw, larger)


@each_k
@given(exponent=st.integers(-149, 127), seed=st.integers(0, 2**32 - 1))
def test_any_size_gives_finite_numbers(name: str, exponent: int, seed: int) -> None:
    """Scales beyond fp16 are its largest, those below it its least or zero."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", under="ignore"):
        x = np.ldexp(rng.uniform(-1, 1, (2, 256)), exponent).astype(np.float32)
    x[1, 7] = 3.4e38
    value = decode(name, encode(name, x))
    assert np.isfinite(value).all()
    assert value[1].max() > 1e6
    if exponent < -26:
        assert not value[0].any()


@each_k
def test_numbers_that_weigh_nothing_are_stored_all_the_same(name: str) -> None:
    x = sample()
    weights = np.ones(256, dtype=np.float32)
    weights[:64] = 0
    value = decode(name, encode(name, x, weights=weights))
    alone = np.corrcoef(value[:, :64].ravel(), x[:, :64].ravel())[0, 1]
    assert alone > 0.9, "two bits give 0.96 of normal numbers"


# --- bad input --------------------------------------------------------------------------------------------------------


@each_k
def test_bad_weights_are_refused(name: str) -> None:
    x = sample()
    weights = np.ones(256, dtype=np.float32)
    weights[3] = -2
    with pytest.raises(ValueError, match="weights must not be negative, got -2"):
        encode(name, x, weights=weights)
    weights[3] = np.nan
    with pytest.raises(ValueError, match=r"weights has nan at \(3,\)"):
        encode(name, x, weights=weights)
    with pytest.raises(ValueError, match=r"weights of \(255,\) are neither one a column nor of the shape \(5, 256\)"):
        encode(name, x, weights=np.ones(255, dtype=np.float32))


def test_the_formats_that_weigh_are_these() -> None:
    assert set(FORMATS_K) <= WEIGHTED <= set(FORMATS)


# --- planted bugs -----------------------------------------------------------------------------------------------------


PLANTED: dict[str, tuple[str, ModuleType, str, str]] = {
    "scale codes off by one": ("Q4_K", k_quants, "_pairs_of_six(sc, mn), _nibbles(_flat(codes))], axis=1)", "_pairs_of_six(sc + np.uint8(1), mn), _nibbles(_flat(codes))], axis=1)"),
    "the worst start": ("Q4_K", k_affine, "better = its < error", "better = its > error"),
    "the worse neighbour": ("Q6_K", k_symmetric, "better = other < error", "better = other > error"),
    "codes truncated": ("Q4_K", search, "np.rint(q, out=q)", "np.trunc(q, out=q)"),
    "a code too many": ("Q4_K", k_quants, "nmax=15, kmax=63", "nmax=16, kmax=63"),
    "a scale too many": ("Q5_K", k_quants, "nmax=31, kmax=63", "nmax=31, kmax=64"),
    "weights ignored": ("Q4_K", search, "    if weights is None:\n", "    if weights is not None or weights is None:\n"),
    "weights squared": ("Q2_K", search, "np.maximum(part, LEAST_WEIGHT)", "np.maximum(part * part, LEAST_WEIGHT)"),
    "the minimum's sign": ("Q4_K", k_affine, "    error -= minimum\n", "    error += minimum\n"),
    "units rounded after the codes": ("Q2_K", search, "near = np.clip(d, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)", "near = np.clip(d, -LARGEST_HALF, LARGEST_HALF)"),
    "upper bits of scales lost": ("Q4_K", k_quants, "first = sc[:, :4] | ((sc[:, 4:] >> np.uint8(4)) << np.uint8(6))", "first = sc[:, :4]"),
    "nibbles of neighbours": ("Q4_K", k_quants, "apart = q.reshape(-1, 4, 2, 32)", "apart = q.reshape(-1, 4, 32, 2).transpose(0, 1, 3, 2)"),
    "fifth bits reversed": ("Q5_K", k_quants, "(q >> np.uint8(4)).reshape(-1, 8, 32)", "(q >> np.uint8(4)).reshape(-1, 8, 32)[:, ::-1]"),
    "scales and minima swapped": ("Q2_K", k_quants, "sc | (mn << np.uint8(4))", "mn | (sc << np.uint8(4))"),
    "scales without their offset": ("Q3_K", k_quants, "(scales.T + np.float32(32))", "(scales.T + np.float32(31))"),
    "one sign of scales": ("Q3_K", k_symmetric, "    for sign in (-1, 1):\n", "    for sign in (1,):\n"),
    "codes as far up as down": ("Q6_K", k_symmetric, "q = codes(x, scale, -half, half - 1)", "q = codes(x, scale, -half, half)"),
    "zeros are not zero bytes": ("Q6_K", k_quants, "    out = np.concatenate([packed, _quarters(q >> np.uint8(4)), sc, _half(d)], axis=1)\n    out[~x.any(axis=1)] = 0\n", "    out = np.concatenate([packed, _quarters(q >> np.uint8(4)), sc, _half(d)], axis=1)\n"),
    "weights over the largest of all blocks": ("Q4_K", search, "most = weights.max(axis=1, keepdims=True)", "most = weights.max(keepdims=True)"),
}  # fmt: skip


def planted(name: str, module: ModuleType, text: str, bug: str, patch: pytest.MonkeyPatch) -> Encode:
    """The encoder that uses the mutated module's functions instead of the module's."""
    wrong = mutated(module, text, bug)
    for user in (k_affine, k_symmetric, k_quants, *([module] if module is not search else [])):
        for key, value in list(vars(user).items()):
            if getattr(value, "__module__", None) == module.__name__ and vars(module).get(key) is value:
                patch.setattr(user, key, vars(wrong)[key])
    encoder = getattr(k_quants, f"encode_{name.lower()}")

    def encode_rows(x: Floats, weights: Floats | None) -> NDArray[np.uint8]:
        many = None if weights is None else np.ascontiguousarray(weights).reshape(-1, 256)
        with np.errstate(all="ignore"):
            raw: NDArray[np.uint8] = encoder(x.reshape(-1, 256), many)
        return raw.reshape(len(x), -1)

    return encode_rows


def check(name: str, encoder: Encode) -> None:
    check_against_ggml(name, encoder)
    for seed in range(5):
        check_exact(name, encoder, seed)
        check_against_nearest(name, encoder, sample(seed) * np.float32(1.5) + np.float32(seed))
    check_alone(name, encoder)
    check_codes_are_nearest(name, encoder, sample(7, 100))
    assert not encoder(np.zeros((1, 256), dtype=np.float32), None).any()


@each_k
def test_the_check_passes_for_what_is_right(name: str) -> None:
    check(name, library(name))


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module, text, wrong = PLANTED[bug]
    with pytest.raises(AssertionError):
        check(name, planted(name, module, text, wrong, monkeypatch))
