"""Real numbers: compared exactly and rounded once, against the rounding of the same number as a fraction."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import functions, real
from lepton_ref.plain.formats import FORMATS, MODES, FloatFormat, round_to
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real, UndecidedError, rounded

FORMAT_NAMES = ("fp64", "fp32", "bf16", "fp16", "e4m3fn", "e5m2", "e3m2", "e2m1", "e8m0", "nf4", "int8", "int4")
CHANCE = Fraction(5, 7)


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


def hidden(module: ModuleType, value: Fraction, *, theorem: bool = True) -> Real:
    """The number, of which only enclosures and, with a theorem, equality are known."""
    return module.Real(lambda digits: Interval.of(value, digits), (lambda m: m == value) if theorem else None)


def boundaries(name: str) -> list[Fraction]:
    """Numbers of a format, and midpoints between neighbours: about zero, one, the least normal and the largest."""
    f = FORMATS[name]
    if name == "nf4":
        numbers = sorted(map(Fraction, f.values))
    elif not isinstance(f, FloatFormat):
        numbers = [Fraction(n) for n in (-3, -2, -1, 0, 1, 2, 3, int(f.largest) - 1, int(f.largest))]
    else:
        unit = Fraction(2) ** (f.emin - f.mantissa_bits)
        top = Fraction(f.largest)
        step = Fraction(2) ** (f.emax - f.mantissa_bits)
        least = Fraction(2) ** f.emin
        numbers = [
            0 * unit,
            unit,
            2 * unit,
            3 * unit,
            least - unit,
            least,
            least + unit,
            1 - Fraction(1, 2**f.precision),
        ]
        numbers += [Fraction(1), 1 + Fraction(2, 2**f.precision), top - step, top, top + step]
    middles = [(a + b) / 2 for a, b in pairwise(numbers)]
    return [*numbers, *middles, *(-n for n in numbers), *(-n for n in middles)]


ALL = [(name, boundary) for name in FORMAT_NAMES for boundary in boundaries(name)]


def expect_rounding(module: ModuleType, value: Fraction, name: str, mode: str, saturate: bool) -> None:
    chance = CHANCE.limit_denominator(2) if mode == "stochastic" else None
    want = round_to(value, name, mode=mode, saturate=saturate, chance=chance)
    got = hidden(module, value).round(name, mode=mode, saturate=saturate, chance=chance)
    assert same(got, want), f"{value} to {name}, {mode}: {got}, not {want}"


def near_boundaries(module: ModuleType) -> None:
    """On a number or a midpoint of the format, and beside it by as little as can be seen, and less than 30 digits show."""
    for name, boundary in ALL:
        for offset in (0, 2**40, -(2**40), 2**-70, 2**-104, -(2**-104), -(2**-400)):
            share = Fraction(offset) / 2**90 * (abs(boundary) if boundary else Fraction(FORMATS[name].least))
            for mode in MODES:
                expect_rounding(module, boundary + share, name, mode, saturate=False)


def known_to_be_close(module: ModuleType) -> None:
    """Beside a midpoint by 10⁻¹⁰⁰⁰, which takes two thousand digits to see."""
    for sign in (1, -1):
        value = Fraction(3, 2) + Fraction(2) ** -24 + sign * Fraction(1, 10**1000)
        expect_rounding(module, value, "fp32", "even", saturate=False)


def comparisons(module: ModuleType) -> None:
    for value in (Fraction(1, 3), Fraction(-7, 8), Fraction(0), Fraction(1, 10**300)):
        for number in (hidden(module, value), module.Real.rational(value)):
            assert number.compare(value) == 0
            assert number.compare(value + Fraction(1, 10**500)) == -1
            assert number.compare(value - Fraction(1, 10**500)) == 1


def zeros(module: ModuleType) -> None:
    """An exact zero has the sign it is given; a number that rounds to zero has its own."""
    for zero in (0.0, -0.0):
        for name in ("fp32", "int8", "e4m3fnuz"):
            assert same(module.Real.rational(0, zero=zero).round(name), round_to(zero, name))
            real_zero = module.Real(lambda digits: Interval.of(0, digits), lambda m: m == 0, zero)
            assert same(real_zero.round(name), round_to(zero, name))
    assert same(hidden(module, Fraction(-1, 10**4000)).round("fp64"), -0.0)
    assert same(hidden(module, Fraction(1, 10**4000)).round("fp64", mode="up"), 5e-324)


def signs_known_beforehand(module: ModuleType) -> None:
    """exp of a huge negative number is enclosed by an interval that touches 0; its sign is known all the same."""
    tiny = module.Real(lambda digits: functions.exp(Interval.of(-1e30, digits)), None, sign=1)
    assert tiny.compare(0) == 1
    assert same(tiny.round("fp32"), 0.0)
    assert tiny.round("fp32", mode="up") == 2.0**-149
    negative = module.Real(lambda digits: -functions.exp(Interval.of(-1e30, digits)), None, sign=-1)
    assert same(negative.round("fp32"), -0.0)
    assert negative.round("fp16", mode="down") == -(2.0**-24)


def overflow(module: ModuleType) -> None:
    huge = module.Real(lambda digits: Interval.of(Fraction(10) ** 4000, digits))
    assert huge.round("fp64") == math.inf
    assert huge.round("fp64", mode="zero") == FORMATS["fp64"].largest
    assert huge.round("e4m3fn", saturate=True) == 448.0
    assert math.isnan(huge.round("e4m3fn"))


def differences(module: ModuleType) -> None:
    """A difference that is given is believed: here 1 − 10⁻¹⁰⁰⁰⁰, which no enclosure of 2000 digits tells from 1."""
    below_one = module.Real(
        lambda digits: 1 - Interval.of(Fraction(1, 10**10000), digits),
        difference=lambda m, digits: Interval.of(1 - m, digits) - Fraction(1, 10**10000),
    )
    assert below_one.compare(1) == -1
    assert below_one.round("fp32") == 1.0
    assert below_one.round("fp32", mode="down") == 1 - 2.0**-24


def without_a_theorem(module: ModuleType) -> None:
    """Equality cannot be seen, so the limit is reached and said; what is not equal is found out."""
    third = hidden(module, Fraction(1, 3), theorem=False)
    assert third.compare(Fraction(1, 3) + Fraction(1, 10**1500)) == -1
    with pytest.raises(module.UndecidedError, match=r"^2000 digits do not tell the number from 1/3, and no theorem"):
        third.compare(Fraction(1, 3))


def special_values(module: ModuleType) -> None:
    assert math.isnan(module.rounded(math.nan, "fp32"))
    assert module.rounded(-math.inf, "bf16") == -math.inf
    assert module.rounded(module.Real.rational(Fraction(1, 3)), "fp16") == 0.333251953125


CHECKS = [
    near_boundaries, known_to_be_close, comparisons, zeros, signs_known_beforehand, overflow, differences, without_a_theorem, special_values,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_real_numbers(check: Callable[[ModuleType], None]) -> None:
    check(real)


BUGS = {
    "the middle of the interval is rounded": ("if low == high:\n                return low", "return low", near_boundaries),
    "a number beside the grid is taken to be on it": ("return (first - Fraction(1, 2)) * step", "return first * step", near_boundaries),
    "a number on the grid is taken to be above it": ("Fraction(self.compare(first * step), 2)", "Fraction(1, 2)", near_boundaries),
    "the grid is as coarse as fp32's midpoints": ("FINE = 192", "FINE = 24", near_boundaries),
    "the grid begins above its first point": ("first, last = math.ceil(low / step), math.floor(high / step)", "first, last = math.floor(low / step) + 1, math.floor(high / step)", near_boundaries),
    "digits stop at 240": ("LIMIT = 2000", "LIMIT = 240", known_to_be_close),
    "equality is not asked for": ("self.equals is not None and self.equals(m)", "False", comparisons),
    "equality is believed of all": ("self.equals is not None and self.equals(m)", "self.equals is not None", comparisons),
    "a comparison the wrong way round": ("(self.exact > m) - (self.exact < m)", "(self.exact < m) - (self.exact > m)", comparisons),
    "every zero is positive": ("once(self.zero if", "once(0.0 if", zeros),
    "a tiny number loses its sign": ("return Fraction(sign, 2**DEEP)", "return Fraction(1, 2**DEEP)", zeros),
    "a tiny number is zero": ("return Fraction(sign, 2**DEEP)", "return Fraction(0)", zeros),
    "the sign is not asked for": ("if m == 0 and self.sign is not None:", "if False:", signs_known_beforehand),
    "a huge number is one": ("return Fraction(sign * 2**DEEP)", "return Fraction(sign)", overflow),
    "the difference is not asked for": ("self.enclose(digits) - m if self.difference is None else self.difference(m, digits)", "self.enclose(digits) - m", differences),
    "undecided is equal": ("raise UndecidedError(f\"{LIMIT} digits do not tell the number", "return 0\n            raise UndecidedError(f\"{LIMIT} digits do not tell the number", without_a_theorem),
    "the mode is lost": ("return round_to(value, format, mode=mode, saturate=saturate, chance=chance)\n\n        if", "return round_to(value, format)\n\n        if", near_boundaries),
    "a value that is no real number is zero": ("return round_to(value, format, mode=mode, saturate=saturate, chance=chance)\n\n\ndef", "return 0.0\n\n\ndef", special_values),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ArithmeticError, ValueError, pytest.fail.Exception)):
        check(mutated(real, text, replacement))


@given(
    st.sampled_from(ALL),
    st.fractions(-1, 1, max_denominator=10**6),
    st.integers(0, 1200),
    st.sampled_from(MODES),
    st.booleans(),
)
@example(("fp32", Fraction(1) + Fraction(1, 2**24)), Fraction(1), 300, "even", False)
def test_a_number_near_a_boundary_is_rounded_as_its_fraction_is(
    where: tuple[str, Fraction], share: Fraction, bits: int, mode: str, saturate: bool
) -> None:
    name, boundary = where
    size = abs(boundary) if boundary else Fraction(FORMATS[name].least)
    expect_rounding(real, boundary + share * size / 2**bits, name, mode, saturate)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(FORMAT_NAMES), st.sampled_from(MODES[:6]))
def test_any_float_is_rounded_as_its_fraction_is(x: float, name: str, mode: str) -> None:
    want = round_to(x, name, mode=mode)
    assert same(rounded(Real.rational(x, zero=x), name, mode=mode), want)
    number = Real(lambda digits: Interval.of(x, digits), lambda m: m == Fraction(x), zero=x)
    assert same(number.round(name, mode=mode), want)


@given(st.integers(-30, 30), st.integers(1, 10**9), st.sampled_from(("fp32", "bf16", "fp16")))
def test_a_square_root_is_rounded_as_integers_say(exponent: int, n: int, name: str) -> None:
    """√n·2^e lies between m − u/2 and m + u/2, squared: an oracle without digits."""
    square = Fraction(n) * Fraction(4) ** exponent
    number = Real(lambda digits: functions.sqrt(Interval.of(square, digits)), lambda m: m >= 0 and m * m == square)
    got = number.round(name)
    if math.isfinite(got) and got > FORMATS[name].least:
        below = round_to(math.nextafter(got, 0), name, mode="down")
        step = Fraction(got) - Fraction(below)
        assert (Fraction(got) - step / 2) ** 2 <= square <= (Fraction(got) + step) ** 2


def test_nan_and_infinities_are_no_real_numbers() -> None:
    for x in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=rf"^NaN and infinities are no real numbers, got {x}; keep it as the float"
        ):
            Real.rational(x)


def test_the_stated_limit() -> None:
    assert real.LIMIT == 2000
    with pytest.raises(UndecidedError, match=r"^2000 digits do not locate the number within 2\^-192 of itself$"):
        Real(lambda digits: Interval(Interval.of(1, 9).low, Interval.of(2, 9).high, digits), sign=1).round("fp32")
