"""Double-double arithmetic and functions: fractions and decimals of 90 digits attack every stated bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from types import ModuleType
from typing import Any

import exact
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.numerics import double_double, double_functions, double_tables
from lepton_ref.numerics.double_double import Pair, concatenate, where

Reals = NDArray[np.float64]
Function = Callable[[Decimal], Decimal]
LEAST = Decimal(2) ** -900
"""The bounds on relative errors hold for results of this size and more."""
MANY = 40
"""How many times as many points the slow search has."""


def fractions(pair: Any) -> list[Fraction]:
    return [Fraction(float(h)) + Fraction(float(low)) for h, low in zip(pair.high.flat, pair.low.flat, strict=True)]


def decimals(pair: Any) -> list[Decimal]:
    with localcontext(Context(prec=700)):
        return [Decimal(float(h)) + Decimal(float(low)) for h, low in zip(pair.high.flat, pair.low.flat, strict=True)]


def with_lows(high: Any, seed: int = 0) -> Pair:
    """Low parts of every size up to half an ulp, either sign, and none."""
    rng = np.random.default_rng(seed)
    high = np.asarray(high, dtype=np.float64)
    size = rng.choice([0.0, 1.0, 1.0, 2.0**-20], high.shape) * rng.uniform(-1, 1, high.shape)
    low = np.spacing(np.abs(high)) / 2 * size * (np.abs(high) > 2.0**-900)
    high, low = double_double.fast_two_sum(high, low * (1 - 2.0**-10))
    return Pair(high, low)


def assert_normal(pair: Any) -> None:
    assert pair.high.dtype == pair.low.dtype == np.float64
    finite = np.isfinite(pair.high)
    assert (pair.high + pair.low == pair.high)[finite].all()
    assert np.isfinite(pair.low[finite]).all()


OPERATIONS: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "+": (lambda a, b: a + b, double_double.ADD_ERROR),
    "-": (lambda a, b: a - b, double_double.ADD_ERROR),
    "×": (lambda a, b: a * b, double_double.MULTIPLY_ERROR),
    "÷": (lambda a, b: a / b, double_double.DIVIDE_ERROR),
}


def operands(count: int, seed: int) -> tuple[Pair, Pair]:
    """Of all relative sizes; half of the second ones cancel the first ones in part; hard fractions near 1 and 2."""
    rng = np.random.default_rng(seed)
    a, b = np.ldexp(rng.uniform(0.5, 1, (2, count)), rng.integers(-60, 60, (2, count)))
    a[::3] = 1 + np.ldexp(rng.integers(0, 9, a[::3].shape), -52)
    b[::5] = 2 - np.ldexp(rng.integers(1, 9, b[::5].shape), -52)
    near = rng.random(count) < 0.5
    b = np.where(near, a * (1 + np.exp2(-rng.uniform(0, 60, count))), b) * rng.choice([-1, 1], count)
    return with_lows(a, seed + 1), with_lows(b, seed + 2)


def check_operations(module: ModuleType, count: int = 400, seed: int = 1) -> None:
    a, b = (module.Pair(p.high, p.low) for p in operands(count, seed))
    for operation, error in OPERATIONS.values():
        got = operation(a, b)
        assert_normal(got)
        for x, y, z in zip(fractions(a), fractions(b), fractions(got), strict=True):
            want = operation(x, y)
            assert abs(z - want) <= Fraction(error) * abs(want)
    root = abs(a).sqrt()
    assert_normal(root)
    for x, y in zip(fractions(a), fractions(root), strict=True):
        assert abs(y * y - abs(x)) <= 2 * Fraction(double_double.SQRT_ERROR) * abs(x)


def test_operations_keep_their_bounds() -> None:
    check_operations(double_double)


@given(
    st.tuples(*[st.floats(2.0**-300, 2.0**300) for _ in "ab"]),
    st.tuples(*[st.floats(-1, 1) for _ in "ab"]),
    st.sampled_from([1.0, -1.0]),
)
def test_operations_on_any_two_pairs(highs: tuple[float, float], lows: tuple[float, float], sign: float) -> None:
    a, b = (
        Pair.of(np.array([high])) + np.array([high * low * 2.0**-53]) for high, low in zip(highs, lows, strict=True)
    )
    b = b * sign
    for operation, error in OPERATIONS.values():
        got, want = fractions(operation(a, b))[0], operation(fractions(a)[0], fractions(b)[0])
        assert abs(got - want) <= Fraction(error) * abs(want)


PAIR_BUGS = {
    "× drops a low part": ("self.high * other.low + self.low * other.high", "self.low * other.high"),
    "× without renormalisation": (
        "Pair(*fast_two_sum(product, rest + cross))",
        "Pair(product, rest + cross)",
    ),
    "+ without its last renormalisation": (
        "Pair(*fast_two_sum(total, low_rest + rest))",
        "Pair(total, low_rest + rest)",
    ),
    "+ drops the low parts' error": ("low_rest + rest", "rest"),
    "+ of the high parts alone": ("rest + low_total)", "rest)"),
    "÷ with the rest of the low parts dropped": (" + (self.low - rest)", ""),
    "√ without the low part": ("- rest) + near.low", "- rest)"),
    "√ with a whole step": ("left / (2 * root)", "left / root"),
}


@pytest.mark.parametrize("bug", PAIR_BUGS)
def test_planted_mistakes_in_operations_are_caught(bug: str) -> None:
    text, wrong = PAIR_BUGS[bug]
    broken = mutated(double_double, text, wrong)
    with pytest.raises(AssertionError):
        check_operations(broken)


def test_operands_of_other_kinds() -> None:
    third, array = Pair.rational(Fraction(1, 3)), np.array([1.0, 2.0])
    for got, want in (
        (array - third, [Fraction(2, 3), Fraction(5, 3)]),
        (3 * third + array, [2, 3]),
        (1 / (third * array), [3, Fraction(3, 2)]),
        (2 - third, [Fraction(5, 3)]),
    ):
        assert all(abs(f - w) <= Fraction(1, 2**100) for f, w in zip(fractions(got), want, strict=True))
    large = np.array([2**53 + 1, -(2**61) - 1, 7])
    assert fractions(Pair.of(large)) == large.tolist()
    assert fractions(Pair.of(np.float32(0.1))) == [Fraction(float(np.float32(0.1)))]
    assert Pair.of(third) is third


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.array([2**62]), "below 2\\^62"), (np.ones(2, dtype=np.complex128), "complex128"), (np.array(["1"]), "<U1")],
)
def test_what_is_no_pair(value: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pair.of(value)


def test_order_signs_and_parts() -> None:
    one = Pair(np.ones(4), np.array([0.0, 2.0**-60, -(2.0**-60), np.nan]))
    assert one[:3].compare(1.0).tolist() == [0, 1, -1]
    assert one[:3].compare(Pair(np.ones(3), np.full(3, 2.0**-60))).tolist() == [-1, 0, -1]
    assert Pair.of(np.array([2.0, np.inf, -np.inf, np.nan])).compare(3.0).tolist() == [-1, 1, -1, 0]
    assert Pair.of(np.array([-2.0, 0.0, -0.0, np.nan, np.inf])).sign().tolist() == [-1, 0, 0, 0, 1]
    assert fractions(abs(-one[1:3])) == fractions(one[1:3])
    assert fractions(concatenate([one[:1], one[1:2]])) == fractions(one[:2])
    assert fractions(where(np.array([True, False, True]), one[:3], -one[:3])) == [
        f * s for f, s in zip(fractions(one[:3]), (1, -1, 1), strict=True)
    ]
    assert one.shape == (4,)
    assert one.reshape(2, 2).shape == (2, 2)


def test_roots_and_scales_at_the_ends() -> None:
    x = Pair.of(np.array([0.0, 5e-324, 1e-300, 1.7e308, 4.0, -1.0]))
    root = x.sqrt()
    assert root.high[0] == 0
    assert root.high[4] == 2
    assert np.isnan(root.high[5])
    for exact_x, got in zip(fractions(x[1:4]), fractions(root[1:4]), strict=True):
        assert abs(got * got - exact_x) <= 2 * Fraction(double_double.SQRT_ERROR) * exact_x
    over = Pair(np.array([1.5]), np.array([2.0**-60])).scaled(1100)
    assert (over.high[0], over.low[0]) == (math.inf, 0.0)
    assert fractions(Pair(np.array([1.5]), np.array([2.0**-60])).scaled(-3)) == [Fraction(3, 16) + Fraction(1, 2**63)]


def expm1_of(x: Decimal) -> Decimal:
    """By the series near 0, where exp(x) − 1 cancels."""
    if abs(x) > Decimal("1e-3"):
        return x.exp() - 1
    term = total = x
    for n in range(2, 40):
        term = term * x / n
        total += term
    return total


def steps(rng: np.random.Generator, count: int) -> Reals:
    """Near the ends of exp's steps, where the argument left over is largest or changes its sign."""
    return (rng.integers(-30000, 30000, count) / 2 + rng.uniform(-1e-6, 1e-6, count)) * math.log(2) / 32


def spread(rng: np.random.Generator, count: int, low: int = -300, high: int = 3) -> Reals:
    """Either sign, from 2^low to 2^high."""
    return np.ldexp(rng.uniform(-1, 1, count), rng.integers(low, high, count))


def points(kind: str, count: int, seed: int = 3) -> Pair:
    rng = np.random.default_rng(seed)
    special = [0.0, 1.0, -1.0, 0.5, 1 + 2.0**-52, 1 - 2.0**-53, 2.0**-200, 0.7071067811865475, 0.7071067811865477]
    if kind == "log":
        neighbours = 1 + spread(rng, count, -52, -1)
        high = [np.exp(rng.uniform(-600, 600, count)), rng.uniform(0.5, 2, count), neighbours, np.abs(special[1:])]
    elif kind == "erfc":
        cuts = rng.integers(-40, 200, count) / 8 + rng.choice([0, 1e-13, -1e-13], count)
        high = [
            rng.uniform(-7, 24.9, count),
            cuts,
            spread(rng, count // 4),
            rng.uniform(9.9, 10.1, count // 4),
            special,
        ]
    elif kind == "turn":
        high = [rng.uniform(-0.785, 0.785, count), spread(rng, count // 2, high=-1), special[:1], special[3:4]]
    else:
        high = [
            rng.uniform(-1, 1, count),
            rng.uniform(-620, 620, count),
            spread(rng, count),
            steps(rng, count),
            special,
        ]
    return with_lows(np.concatenate([np.asarray(part, dtype=np.float64) for part in high]), seed + 1)


FUNCTIONS: dict[str, tuple[str, Function, float]] = {
    "exp": ("line", lambda x: x.exp(), double_functions.EXP_ERROR),
    "expm1": ("line", expm1_of, double_functions.EXPM1_ERROR),
    "log": ("log", lambda x: x.ln(), double_functions.LOG_ERROR),
    "tanh": ("line", exact.tanh_of, double_functions.TANH_ERROR),
    "sigmoid": ("line", exact.sigmoid_of, double_functions.SIGMOID_ERROR),
    "erfc": ("erfc", exact.erfc_of, double_functions.ERFC_ERROR),
    "cos": ("turn", lambda x: exact.cos_and_sin_of(x)[0], double_functions.COS_SIN_ERROR),
    "sin": ("turn", lambda x: exact.cos_and_sin_of(x)[1], double_functions.COS_SIN_ERROR),
}


def evaluate(module: ModuleType, name: str, x: Pair) -> Pair:
    if name in ("cos", "sin"):
        return module.cos_sin(x)[name == "sin"]
    return getattr(module, name)(x)


def check_function(module: ModuleType, name: str, count: int = 60, seed: int = 3) -> None:
    kind, function, bound = FUNCTIONS[name]
    x = points(kind, count, seed)
    got = evaluate(module, name, x)
    assert_normal(got)
    with localcontext(Context(prec=exact.DIGITS, Emax=10**9, Emin=-(10**9))):
        for value, result in zip(decimals(x), decimals(got), strict=True):
            want = function(value)
            if abs(want) >= LEAST or not want:
                assert abs(result - want) <= Decimal(bound) * abs(want), value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_bounds(name: str) -> None:
    check_function(double_functions, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_bounds_at_many_points(name: str) -> None:
    check_function(double_functions, name, count=60 * MANY, seed=99)
    check_operations(double_double, 400 * MANY, seed=98)


@given(st.floats(-30, 30), st.floats(-1, 1))
def test_functions_anywhere(high: float, low: float) -> None:
    x = Pair.of(np.array([high])) + np.array([high * low * 2.0**-53])
    value = decimals(x)[0]
    with localcontext(Context(prec=exact.DIGITS)):
        for name in ("exp", "expm1", "tanh", "sigmoid", "erfc"):
            if name == "erfc" and high > 24.9:
                continue
            want = FUNCTIONS[name][1](value)
            error = abs(decimals(evaluate(double_functions, name, x))[0] - want)
            assert error <= Decimal(FUNCTIONS[name][2]) * abs(want) + Decimal(2) ** -1070, name


def test_angles_of_many_turns() -> None:
    rng = np.random.default_rng(4)
    quarters = np.round(np.arange(-40, 41) * (math.pi / 4), 3)
    x = with_lows(np.concatenate([rng.uniform(-(2.0**20), 2.0**20, 60), quarters, [2.0**20, -(2.0**20)]]))
    cos, sin = double_functions.cos_sin(x)
    assert_normal(cos)
    assert_normal(sin)
    for value, c, s in zip(decimals(x), decimals(cos), decimals(sin), strict=True):
        want_c, want_s = exact.cos_and_sin_of(value)
        assert max(abs(c - want_c), abs(s - want_s)) <= Decimal(double_functions.COS_SIN_ERROR)


@pytest.mark.parametrize("angle", [2.0**20 + 1, math.inf, math.nan])
def test_angles_that_are_refused(angle: float) -> None:
    with pytest.raises(ValueError, match="whole turns"):
        double_functions.cos_sin(Pair.of(np.array([0.0, angle])))


def test_limits_and_nan() -> None:
    x = Pair.of(np.array([math.inf, -math.inf, math.nan, 1e300, -1e300, 0.0, -0.0]))
    nan = math.nan
    for name, want in {
        "exp": [math.inf, 0.0, nan, math.inf, 0.0, 1.0, 1.0],
        "expm1": [math.inf, -1.0, nan, math.inf, -1.0, 0.0, 0.0],
        "tanh": [1.0, -1.0, nan, 1.0, -1.0, 0.0, 0.0],
        "sigmoid": [1.0, 0.0, nan, 1.0, 0.0, 0.5, 0.5],
        "erfc": [0.0, 2.0, nan, 0.0, 2.0, 1.0, 1.0],
        "log": [math.inf, nan, nan, 690.7755278982137, nan, -math.inf, -math.inf],
    }.items():
        got = getattr(double_functions, name)(x)
        np.testing.assert_array_equal(got.high, want, err_msg=name)
        assert np.isfinite(got.low[~np.isnan(got.high)]).all(), name
    negative = np.signbit(double_functions.tanh(x).high[~np.isnan(x.high)])
    assert negative.tolist() == [False, True, False, True, False, True]


def test_what_underflows_stays_close() -> None:
    x = Pair.of(np.linspace(-800, -600, 201))
    tiny = Decimal(2) ** -1070
    with localcontext(Context(prec=90, Emax=10**9, Emin=-(10**9))):
        for value, e, s in zip(*map(decimals, (x, double_functions.exp(x), double_functions.sigmoid(x))), strict=True):
            assert abs(e - value.exp()) <= Decimal(double_functions.EXP_ERROR) * value.exp() + tiny
            assert abs(s - exact.sigmoid_of(value)) <= Decimal(double_functions.SIGMOID_ERROR) * value.exp() + tiny
    least = Pair.of(np.array([5e-324, 1e-310, -(2.0**-1000)]))
    for name in ("tanh", "expm1"):
        got = getattr(double_functions, name)(least)
        assert got.high.tolist() == least.high.tolist()


def test_shapes_and_blocks() -> None:
    x = Pair.of(np.linspace(-3, 3, 3 * double_functions.BLOCK).reshape(3, -1))
    whole = double_functions.erfc(x)
    assert whole.shape == x.shape
    assert whole.low[2].tobytes() == double_functions.erfc(x[2]).low.tobytes()
    assert double_functions.tanh(Pair.rational(Fraction(1, 3))).shape == ()
    assert double_functions.exp(Pair.of(np.zeros((0, 4)))).shape == (0, 4)


def test_constants_against_another_arithmetic() -> None:
    with localcontext(Context(prec=90)):
        parts = double_tables.log_2_parts()
        assert abs(sum(map(Decimal, parts)) - Decimal(2).ln() / 32) < Decimal(2) ** -132
        assert all(part * 2**place % 1 == 0 for part, place in zip(parts, (42, 79), strict=False))
        assert all(abs(part) * 2**place < 2**37 for part, place in zip(parts, (42, 79), strict=False))
        quarter = double_tables.half_pi_parts()
        assert abs(sum(map(Decimal, quarter)) - exact.PI / 2) < Decimal(2) ** -148
        assert all(abs(part) * 2**place % 1 == 0 for part, place in zip(quarter, (32, 64, 96), strict=False))
        assert all(abs(part) * 2**place < 2**33 for part, place in zip(quarter, (32, 64, 96), strict=False))
        powers = [(Decimal(2).ln() * i / 32).exp() for i in range(32)]
        for got, want in zip(decimals(double_tables.powers_of_two()), powers, strict=True):
            assert abs(got - want) <= Decimal(2) ** -107 * want
        first, second = double_tables.erfcx_table()[:2]
        for i in range(0, double_tables.CENTRES, 7):
            centre = Decimal(2 * i + 1) / 16
            value = exact.erfc_of(centre) * (centre * centre).exp()
            slope = 2 * centre * value - 2 / exact.PI.sqrt()
            assert abs(decimals(first)[i] - value) <= Decimal(2) ** -107 * value
            assert abs(decimals(second)[i] - slope) <= Decimal(2) ** -107 * abs(slope)


def test_what_the_proof_of_erfc_rests_on() -> None:
    """Taylor's coefficients stay below 1/Γ(n/2 + 1) of the value; the asymptotic series' next term is small."""
    table = double_tables.erfcx_table()
    for n, column in enumerate(table):
        assert (np.abs(column.high) <= table[0].high / math.gamma(n / 2 + 1) * (1 + 1e-12)).all()
    assert 1.2 * 2.0 ** (-4 * 20) / math.gamma(11) < 2.0**-101
    assert math.prod(range(1, 68, 2)) / (2 * double_functions.FAR**2) ** 34 < 2.0**-101


FUNCTION_BUGS: dict[str, tuple[str, str, str]] = {
    "ln 2 of two parts": ("exp", "second)) - n * third\n\n\ndef _multiple", "second))\n\n\ndef _multiple"),
    "ln 2 of a part and a bit": ("exp", "-n * second)) - n * third\n\n", "0 * n)) - n * third\n\n"),
    "exp without the low part": ("exp", "x.low, 0.0)), n)", "0 * x.low, 0.0)), n)"),
    "a term of exp missing": ("exp", "q = q * r + a", "q = q * r + (a if a is not coefficients[5] else 0.0)"),
    "exp's first terms in float64": ("exp", "for a in coefficients[9:5:-1]", "for a in coefficients[9:2:-1]"),
    "expm1 always by the difference": ("expm1", "where(n == 0, p, less)", "less"),
    "log without the square": ("log", "(rest - (rest * rest).scaled(-1))", "rest"),
    "log without Newton": ("log", "(first + (rest", "(first + 0.0 * (rest"),
    "log by exp": ("log", "near * expm1(Pair.of(-first))", "near * (exp(Pair.of(-first)) - 1.0)"),
    "tanh by exp": ("tanh", "m = expm1(size.scaled(1))", "m = exp(size.scaled(1)) - 1.0"),
    "tanh that gives up too early": ("tanh", "size.high > 100.0", "size.high > 20.0"),
    "sigmoid's left by a difference": (
        "sigmoid",
        "where(x.high >= 0, one, e) / (e + 1.0)",
        "where(x.high >= 0, one / (e + 1.0), one - one / (e + 1.0))",
    ),
    "erfc of a rounded square": ("erfc", "exp(-(z * z))", "exp(Pair.of(-(z * z).high))"),
    "erfc reflected wrongly": ("erfc", "2.0 - tail", "1.0 - tail"),
    "erfc's series too early": ("erfc", "FAR = 10.0", "FAR = 7.0"),
    "erfc's series too short": ("erfc", "range(33, 12, -1)", "range(20, 12, -1)"),
    "erfc about the wrong centre": ("erfc", "(2 * np.minimum(index", "(2.0000000001 * np.minimum(index"),
    "erfc's coefficients in float64": ("erfc", "coefficients[-2:11:-1]", "coefficients[-2:7:-1]"),
    "cos and sin of too few terms": ("cos", "short = coefficients[13].high", "short = 0 * coefficients[13].high"),
    "cos and sin in float64 too early": ("sin", "coefficients[12:8:-1]", "coefficients[12:5:-1]"),
}


@pytest.mark.parametrize("bug", FUNCTION_BUGS)
def test_planted_mistakes_in_functions_are_caught(bug: str) -> None:
    name, text, wrong = FUNCTION_BUGS[bug]
    broken = mutated(double_functions, text, wrong)
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        check_function(broken, name)


def test_a_planted_mistake_in_the_turns_is_caught() -> None:
    broken = mutated(double_functions, " - n * third - n * fourth", " - n * third")
    x = Pair.of(np.array([2.0**20 - 0.3, 2.0**20 - 1.1]))
    cosines = zip(decimals(x), decimals(broken.cos_sin(x)[0]), strict=True)
    assert max(abs(c - exact.cos_and_sin_of(v)[0]) for v, c in cosines) > double_functions.COS_SIN_ERROR
