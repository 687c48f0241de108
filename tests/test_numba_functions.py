"""The Numba backend's elementary functions within their stated errors, and double-double arithmetic on vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from kernel_cases import mutant, seeds
from numba import njit
from numpy.typing import NDArray

from lepton_ref.backends import numba_double, numba_functions
from lepton_ref.backends.numba_rounding import FORMATS
from lepton_ref.backends.numba_vectors import F32X16, F64X16, loader, storer
from lepton_ref.numerics import double_functions
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.formats import round_array
from lepton_ref.plain.functions import log
from lepton_ref.plain.interval import Interval

Reals = NDArray[np.float64]
load, store, store_floats = loader(F64X16), storer(F64X16), storer(F32X16)
COUNT = 4096


def of_one(function: Any) -> Callable[[Reals], Reals]:
    """A function of one vector, over an array."""

    @njit(nogil=True)
    def run(x: Any, out: Any) -> None:
        for i in range(0, x.size, 16):
            store(out, i, function(load(x, i)))

    def call(x: Reals) -> Reals:
        out = np.empty_like(x)
        run(x, out)
        return out

    return call


def of_pairs(function: Any) -> Callable[[Pair, Pair], Pair]:
    """A function of two pairs, over arrays."""

    @njit(nogil=True)
    def run(a: Any, b: Any, c: Any, d: Any, high: Any, low: Any) -> None:
        for i in range(0, a.size, 16):
            pair = function((load(a, i), load(b, i)), (load(c, i), load(d, i)))
            store(high, i, pair[0])
            store(low, i, pair[1])

    def call(x: Pair, y: Pair) -> Pair:
        out = Pair(np.empty_like(x.high), np.empty_like(x.high))
        run(x.high, x.low, y.high, y.low, out.high, out.low)
        return out

    return call


def sigmoid_of(module: Any) -> Any:
    logistic, splat = module.logistic, numba_double.splat_f64

    @njit
    def sigmoid(x: Any) -> Any:
        return logistic(x, splat(1.0))

    return sigmoid


RANGES = {"exp": (-708, 709), "expm1": (0, 700), "tanh": (-50, 50), "sigmoid": (-600, 600), "erfc": (-26, 26)}


def check(module: Any, name: str, seed: int) -> None:
    """All sizes of arguments, against double-double."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[name]
    near = rng.normal(size=COUNT) * 2.0 ** rng.integers(-60, 6, COUNT)
    x = np.clip(np.concatenate([rng.uniform(low, high, COUNT), near, rng.uniform(-2, 2, COUNT)]), low, high)
    function = sigmoid_of(module) if name == "sigmoid" else getattr(module, name)
    found, exact = of_one(function)(x), getattr(double_functions, name)(Pair.of(x))
    safe = (np.abs(exact.high) > 2.0**-900) & (np.abs(exact.high) < 2.0**900)
    error = np.abs((found - exact.high) - exact.low)[safe] / np.abs(exact.high[safe]) * 2.0**53
    assert error.max() <= getattr(numba_functions, name.upper())


@pytest.mark.parametrize("name", RANGES)
def test_errors_are_within_what_is_stated(name: str) -> None:
    for seed in range(5):
        check(numba_functions, name, seed)


@pytest.mark.parametrize(
    ("name", "text", "bug"),
    [
        ("exp", "fma(minus, splat_f64(LN_2_REST), fma(minus, splat_f64(LN_2_HIGH), x))",
         "fma(minus, splat_f64(LN_2_REST + LN_2_HIGH), x)"),
        ("exp", "2.08767569878681e-09", "2.0e-09"),
        ("expm1", "fma(s, r * q, s - splat_f64(1.0))", "fma(s, r * q, s) - splat_f64(1.0)"),
        ("tanh", "m / (m + splat_f64(2.0))", "splat_f64(1.0) - splat_f64(2.0) / (m + splat_f64(2.0))"),
        ("erfc", "z * splat_f64(SPLIT) - (z * splat_f64(SPLIT) - z)", "z"),
    ],
)  # fmt: skip
def test_planted_bugs_are_seen(name: str, text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(numba_functions, text, bug), name, 0)


def test_ends_are_those_of_the_range() -> None:
    x, ends = np.zeros(16), np.zeros(16)
    x[:4], ends[:4] = [-1e300, 1e300, -math.inf, math.inf], [-708, 709, -708, 709]
    assert of_one(numba_functions.exp)(x).tolist() == of_one(numba_functions.exp)(ends).tolist()
    assert of_one(numba_functions.tanh)(x)[:4].tolist() == [-1, 1, -1, 1]


def test_constants_are_the_logarithm_of_2() -> None:
    exact = Fraction(log(Interval.of(2, 60)).low)
    parts = [numba_double.LN_2_HIGH, numba_double.LN_2_MIDDLE, numba_double.LN_2_LOW]
    assert abs(sum(map(Fraction, parts)) - exact) < Fraction(2) ** -138
    assert parts[0] * 2.0**42 == int(parts[0] * 2.0**42)
    assert parts[1] * 2.0**84 == int(parts[1] * 2.0**84)
    assert float(exact - Fraction(parts[0])) == numba_functions.LN_2_REST
    assert float(1 / exact) == numba_double.INVERSE_LN_2


def pairs(rng: Any, count: int) -> Pair:
    high = rng.normal(size=count) * 2.0 ** rng.integers(-40, 40, count)
    return Pair(high, high * rng.uniform(-1, 1, count) * 2.0**-54)


EXACT: dict[str, tuple[Callable[[Fraction, Fraction], Fraction], float]] = {
    "add": (lambda a, b: a + b, 3.1 * 2.0**-106),
    "product": (lambda a, b: a * b, 5 * 2.0**-106),
    "quotient": (lambda a, b: a / b, 15.1 * 2.0**-106),
}


def check_pairs(module: Any, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = pairs(rng, 256), pairs(rng, 256)
    b.high[:16], b.low[:16] = -a.high[:16], a.low[:16]  # sums that cancel
    b.high[16:64] = -np.nextafter(a.high[16:64], np.inf)
    b.low[16:64] = a.low[16:64] * rng.uniform(0.1, 0.9, 48)
    found = of_pairs(getattr(module, name))(a, b)
    exactly, error = EXACT[name]
    parts = zip(a.high, a.low, b.high, b.low, found.high, found.low, strict=True)
    for x, x_low, y, y_low, high, low in parts:
        exact = exactly(Fraction(x) + Fraction(x_low), Fraction(y) + Fraction(y_low))
        assert abs(Fraction(high) + Fraction(low) - exact) <= abs(exact) * Fraction(error)


@pytest.mark.parametrize("name", EXACT)
def test_pairs_are_within_what_is_stated(name: str) -> None:
    check_pairs(numba_double, name, 0)
    check_pairs(numba_double, name, 1)


@pytest.mark.parametrize(
    ("name", "text", "bug"),
    [
        ("add", "    s, e = fast_two_sum(s, e + t)\n", "    e = e + t\n"),
        ("product", "e + fma(a[0], b[1], a[1] * b[0])", "e + a[1] * b[0]"),
        ("quotient", "+ (a[1] - p[1])) / b[0]", ") / b[0]"),
    ],
)  # fmt: skip
def test_planted_bugs_of_pairs_are_seen(name: str, text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check_pairs(mutant(numba_double, text, bug), name, 0)


def check_exp(module: Any) -> None:
    function = module.exp

    @njit
    def exp(x: Any, _: Any) -> Any:
        return function(x[0], x[1])

    rng = np.random.default_rng(0)
    high = np.concatenate([rng.uniform(-600, 600, COUNT), rng.uniform(-1, 1, COUNT), np.zeros(16)])
    x = Pair(high, high * rng.uniform(-1, 1, high.size) * 2.0**-54)
    found, exact = of_pairs(exp)(x, x), double_functions.exp(x)
    assert np.max(np.abs((found - exact).high / exact.high)) <= numba_double.EXP_ERROR


def test_exp_of_pairs() -> None:
    check_exp(numba_double)


@pytest.mark.parametrize(
    ("text", "bug"),
    [("splat_f64(9.25185853854297e-18)", "splat_f64(0.0)"), ("minus * splat_f64(LN_2_LOW)", "minus * splat_f64(0.0)")],
)
def test_planted_bugs_of_exp_are_seen(text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check_exp(mutant(numba_double, text, bug))


def check_rounding(module: Any, seed: int) -> None:
    """Near the midpoints of each format, from below and above, by parts of a pair that float64 cannot tell."""
    round_pair, splat = module.round_pair, numba_double.splat_f64

    @njit(nogil=True)
    def run(high: Any, low: Any, error: Any, form: Any, out: Any) -> int:
        found = 0
        for i in range(0, high.size, 16):
            near, open_ = round_pair(load(high, i), load(low, i), splat(error), form)
            store_floats(out, i, near)
            found |= open_
        return int(found)

    rng = np.random.default_rng(seed)
    size = 2.0 ** rng.integers(-20, 12, 512) * rng.choice([-1, 1], 512)
    for form, number in FORMATS.items():
        bits = {"fp32": 24, "bf16": 8, "fp16": 11}[form]
        middle = size * (1 + (2 * rng.integers(0, 2 ** (bits - 1), 512) + 1) * 2.0**-bits)
        low = middle * rng.choice([0.0, 2.0**-60, -(2.0**-60)], 512)
        out = np.zeros(512, dtype=np.float32)
        assert run(middle, low, 0.0, number, out) == 0
        expected = round_array(middle, form, low=low).astype(np.float32)
        np.testing.assert_array_equal(out.view(np.int32), expected.view(np.int32))
        assert run(middle, low, 2.0**-30, number, out) == 0xFFFF  # all sizes of these are left open somewhere


@settings(max_examples=10)
@given(seed=seeds)
def test_pairs_are_rounded_once(seed: int) -> None:
    check_rounding(numba_double, seed)


def test_a_pair_rounded_twice_is_seen() -> None:
    with pytest.raises(AssertionError):
        check_rounding(mutant(numba_double, "as_f64(select((bits & one) == one, bits, moved))", "high"), 0)
