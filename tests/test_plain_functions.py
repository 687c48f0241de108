"""Intervals and their elementary functions: published digits, decimals of 90 digits, and one enclosure in another."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from types import ModuleType

import exact
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import functions, interval
from lepton_ref.plain.interval import Interval

# The first digits, from the literature (Abramowitz and Stegun, tables 1.1, 4.x and 7.1; OEIS).
PUBLISHED: dict[str, tuple[Callable[[ModuleType, int], Interval], str]] = {
    "pi": (lambda f, d: f.pi(d), "3.14159265358979323846264338327950288419716939937510"),
    "e": (lambda f, d: f.exp(Interval.of(1, d)), "2.71828182845904523536028747135266249775724709369995"),
    "ln 2": (lambda f, d: f.log(Interval.of(2, d)), "0.69314718055994530941723212145817656807550013436025"),
    "√2": (lambda f, d: f.sqrt(Interval.of(2, d)), "1.41421356237309504880168872420969807856967187537694"),
    "sin 1": (lambda f, d: f.cos_sin(Interval.of(1, d))[1], "0.84147098480789650665250232163029899962256306079837"),
    "cos 1": (lambda f, d: f.cos_sin(Interval.of(1, d))[0], "0.54030230586813971740093660744297660373231042061792"),
    "tanh 1": (lambda f, d: f.tanh(Interval.of(1, d)), "0.76159415595576488811945828260479359041276859725793"),
    "erf 1": (lambda f, d: f.erf(Interval.of(1, d)), "0.84270079294971486934122063508260925929606699796630"),
    "erfc 1": (lambda f, d: f.erfc(Interval.of(1, d)), "0.15729920705028513065877936491739074070393300203369"),
    "2^(1/2)": (
        lambda f, d: f.power(Interval.of(2, d), Fraction(1, 2)),
        "1.4142135623730950488016887242096980785696718753769",
    ),
}
RISING = ("exp", "log", "sqrt", "tanh", "sigmoid", "erf")
PERIODIC = {
    "cos": lambda module, x: module.cos_sin(x)[0],
    "sin": lambda module, x: module.cos_sin(x)[1],
}
POINTS = {
    "exp": (-700.0, -1.0, -1e-3, -1e-30, 0.0, 1e-30, 0.5, 3.0, 88.7),
    "log": (1e-300, 1e-3, 0.5, 1 - 2.0**-53, 1.0, 1 + 2.0**-52, 7.0, 1e300),
    "sqrt": (0.0, 1e-300, 0.25, 2.0, 1e10, 1e300),
    "tanh": (-300.0, -20.0, -1.0, -1e-3, -1e-45, 0.0, 1e-300, 1e-10, 0.3, 2.0, 9.5, 50.0),
    "sigmoid": (-700.0, -20.0, -1.0, -1e-45, 0.0, 1e-10, 0.3, 2.0, 40.0, 90.0),
    "erf": (-9.0, -1.0, -0.3, -1e-45, 0.0, 1e-300, 0.01, 0.999, 1.0, 2.5, 6.0, 10.0),
    "erfc": (-9.0, -1.0, -0.3, 0.0, 1e-10, 0.7, 1.0, 3.0, 5.0, 7.7, 9.9, 10.5, 26.0, 40.0),
    "cos": (0.0, 1e-20, 0.7, 0.8, math.pi / 2, 2.4, math.pi, 4.0, 5.5, 6.3, 7.9, 131071.0, 1e15),
    "sin": (0.0, 1e-20, 0.7, 0.8, math.pi / 2, 2.4, math.pi, 4.0, 5.5, 6.3, 7.9, 131071.0, 1e15),
}
ORACLES: dict[str, Callable[[Decimal], Decimal]] = {
    "exp": lambda x: x.exp(),
    "log": lambda x: x.ln(),
    "sqrt": lambda x: x.sqrt(),
    "tanh": exact.tanh_of,
    "sigmoid": exact.sigmoid_of,
    "erf": lambda x: 1 - exact.erfc_of(x),
    "erfc": exact.erfc_of,
    "cos": lambda x: exact.cos_and_sin_of(x)[0],
    "sin": lambda x: exact.cos_and_sin_of(x)[1],
}


def called(module: ModuleType, name: str, x: Interval) -> Interval:
    return PERIODIC[name](module, x) if name in PERIODIC else getattr(module, name)(x)


def width(box: Interval) -> Decimal:
    """Relative to the larger end; 0 for a point."""
    with localcontext(Context(prec=20, Emax=10**9, Emin=-(10**9))):
        return (box.high - box.low) / box.magnitude if box.magnitude else Decimal(0)


def published_digits(module: ModuleType) -> None:
    """Both ends begin with the digits that the literature gives."""
    for name, (number, digits) in PUBLISHED.items():
        for kept in (15, 30, 60):
            box = number(module, kept)
            last = Fraction(1, 10 ** (len(digits) - digits.index(".") - 1))
            assert Fraction(box.low) <= Fraction(digits) + last, name
            assert Fraction(box.high) >= Fraction(digits) - last, name
            assert width(box) <= Decimal(10) ** (4 - kept), name


def decimals_of_90_digits(module: ModuleType) -> None:
    """The oracle errs by less than 10⁻⁸⁰ of 1, or of its result where that is small but for erf, where it cancels."""
    with localcontext(Context(prec=90, Emax=10**9, Emin=-(10**9))):
        for name, points in POINTS.items():
            for x in points:
                box, want = called(module, name, Interval.of(x, 35)), ORACLES[name](Decimal(x))
                error = Decimal("1e-60") * (1 if name in ("erf", "cos", "sin") else abs(want))
                if name == "erfc" and 5 <= abs(x) < 9:
                    error = Decimal("1e-40") * abs(want)  # the oracle's continued fraction converges slowly there
                assert box.low <= want + error, (name, x)
                assert box.high >= want - error, (name, x)


def narrow(module: ModuleType) -> None:
    """An enclosure of a point's image has the digits that were asked for, in the tails and near zero too."""
    for name, points in POINTS.items():
        for x in points:
            for digits in (20, 50, 200):
                box = called(module, name, Interval(Decimal(x), Decimal(x), digits))
                lost = 4 + (max(0, -box.magnitude.adjusted()) if name in PERIODIC else 0)  # beside a zero of theirs
                assert width(box) <= Decimal(10) ** (lost - digits), (name, x)


def nested(module: ModuleType) -> None:
    """What 70 digits enclose lies within what 12 digits enclose."""
    for name, points in POINTS.items():
        for x in points:
            sharp = called(module, name, Interval.of(x, 70))
            blunt = called(module, name, Interval.of(x, 12))
            assert blunt.low <= sharp.low, (name, x)
            assert sharp.high <= blunt.high, (name, x)


def images_of_intervals(module: ModuleType) -> None:
    """The image of an interval contains the images of its ends and of its middle, and no much larger set."""
    for name, points in POINTS.items():
        for x in points:
            ends = (Fraction(x), Fraction(x) * Fraction(1001, 1000))
            a, b = sorted(ends)
            whole = called(module, name, Interval(Interval.of(a, 30).low, Interval.of(b, 30).high, 30))
            for point in (a, (a + b) / 2, b):
                part = called(module, name, Interval.of(point, 40))
                assert whole.low <= part.high, (name, x)
                assert part.low <= whole.high, (name, x)
                assert name in PERIODIC or whole.low <= part.low, (name, x)
                assert name in PERIODIC or part.high <= whole.high, (name, x)


def far_tails(module: ModuleType) -> None:
    """Arguments that no machine could take as a power: the result is near its limit, and at once."""
    for x in (-1e9, -1e30, -1e300):
        for name in ("exp", "sigmoid"):
            box = called(module, name, Interval.of(x, 30))
            assert 0 <= box.low <= box.high < Decimal("1e-40000000"), name
    for x in (1e9, 1e300):
        assert called(module, "erfc", Interval.of(x, 30)).high < Decimal("1e-40000000")
        assert called(module, "erfc", Interval.of(-x, 30)).low > Decimal("1.999999999999999999999999999")
        assert called(module, "tanh", Interval.of(-x, 30)).high < Decimal("-0.999999999999999999999999999")
        assert called(module, "sigmoid", Interval.of(x, 30)).low > Decimal("0.999999999999999999999999999")


def too_wide(module: ModuleType) -> None:
    """An angle that is hardly known can have any cosine."""
    cos, sin = module.cos_sin(Interval(Decimal(0), Decimal(3), 30))
    assert (cos.low, cos.high, sin.low, sin.high) == (-1, 1, -1, 1)


CHECKS = [published_digits, decimals_of_90_digits, narrow, nested, images_of_intervals, far_tails, too_wide]


@pytest.mark.parametrize("check", CHECKS)
def test_functions(check: Callable[[ModuleType], None]) -> None:
    check(functions)


ERF_LOOP = """term.high.adjusted() > total.low.adjusted() - work):
        n += 1
        term = term * square / (2 * n + 1)
        total = total + term
    total = Interval(total.low, (total + term).high, work)"""


TAIL_LOOP = """while term.magnitude.adjusted() > -work:
        n += 1
        term = term * -(2 * n - 1) / double_square
        total = total + term
    rest = term.magnitude
    total = total + Interval(-rest, rest, work)"""

BUGS = {
    "exp is taken as exact": ("return _outward(floor_context(digits).exp(x), digits)", "y = floor_context(digits).exp(x)\n    return Interval(y, y, digits)", nested),
    "a logarithm is taken as exact": ("return _outward(floor_context(digits).ln(x), digits)", "y = floor_context(digits).ln(x)\n    return Interval(y, y, digits)", nested),
    "a root is taken as exact": ("return _outward(floor_context(digits).sqrt(x), digits)", "y = floor_context(digits).sqrt(x)\n    return Interval(y, y, digits)", nested),
    "a step inward": ("floor_context(digits).next_minus(value), ceiling_context(digits).next_plus(value)", "floor_context(digits).next_plus(value), ceiling_context(digits).next_plus(value)", nested),
    "the image of the lower end alone": ("high = low if x.low == x.high else point(x.high, x.digits)", "high = low", images_of_intervals),
    "erfc is thought to rise": ("low = _erfc(x.high, x.digits)", "low = _erfc(x.low, x.digits)", images_of_intervals),
    "exp of the far left is 0": ("return Interval(Decimal(0), EXP_TINY, digits)", "return Interval(EXP_TINY, EXP_TINY.copy_negate(), digits)", far_tails),
    "Machin's 239 is 238": ("arctan_of_inverse(239)", "arctan_of_inverse(238)", published_digits),
    "Machin's error is forgotten": ("error = 20 * (3 * (digits + 10) + 2)", "error = -(10**10)", published_digits),
    "tanh's cancellation is forgotten": ("work = digits + GUARD + max(0, -x.adjusted())", "work = digits + GUARD", narrow),
    "tanh is even": ("return value if x > 0 else -value", "return value", decimals_of_90_digits),
    "sigmoid cancels on the left": ("(small if x < 0 else 1) / (small + 1)", "(1 - 1 / (small + 1) if x < 0 else 1 / (small + 1))", narrow),
    "sigmoid is symmetric": ("(small if x < 0 else 1) / (small + 1)", "1 / (small + 1)", decimals_of_90_digits),
    "erf's series stops early": ("> total.low.adjusted() - work", "> total.low.adjusted() - 9", narrow),
    "erf's series stops early, without its remainder": (ERF_LOOP, ERF_LOOP.replace("- work", "- 9").replace("(total + term).high", "total.high"), nested),
    "erf's factor is forgotten": ("* 2 / sqrt(pi(work))", "* 2 / pi(work)", decimals_of_90_digits),
    "erfc's cancellation is forgotten": ("lost = int(x * x / 2) + int(x) + GUARD", "lost = GUARD", narrow),
    "erfc of the left is that of the right": ("return 2 - _erfc(x.copy_negate(), digits)", "return _erfc(x.copy_negate(), digits)", decimals_of_90_digits),
    "the tail's terms do not alternate": ("term = term * -(2 * n - 1)", "term = term * (2 * n - 1)", decimals_of_90_digits),
    "the tail's series stops early": ("while term.magnitude.adjusted() > -work:", "while term.magnitude.adjusted() > -9:", narrow),
    "the tail's series stops early, without its remainder": (TAIL_LOOP, TAIL_LOOP.replace("-work", "-9").replace("Interval(-rest, rest, work)", "0"), nested),
    "a quarter turn the wrong way": ("[(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)]", "[(cos, sin), (sin, -cos), (-cos, -sin), (-sin, cos)]", decimals_of_90_digits),
    "large angles lose their digits": ("work = x.digits + GUARD + max(0, x.magnitude.adjusted())", "work = x.digits + GUARD", narrow),
    "Taylor's signs are those of cosh": ("signed = -term if n % 4 >= 2 else term", "signed = term", decimals_of_90_digits),
    "Taylor's remainder is forgotten": ("return cos + rest, sin + rest", "return Interval(cos.high, cos.high, r.digits), Interval(sin.high, sin.high, r.digits)", nested),
    "a wide angle is cut": ("if rest.magnitude >= 1:", "if rest.magnitude >= 10:", too_wide),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ValueError)):
        check(mutated(functions, text, replacement))


rationals = st.fractions(min_value=-1000, max_value=1000, max_denominator=10**6)


@st.composite
def intervals(draw: st.DrawFn, digits: int = 6) -> tuple[Interval, Fraction]:
    """An interval of few digits and a number of it."""
    a, b, share = draw(rationals), draw(rationals), draw(st.fractions(0, 1))
    low, high = sorted((a, b))
    box = Interval(Interval.of(low, digits).low, Interval.of(high, digits).high, digits)
    return box, low + (high - low) * share


def contains(box: Interval, number: Fraction) -> bool:
    return Fraction(box.low) <= number <= Fraction(box.high)


def arithmetic(module: ModuleType, first: tuple[Interval, Fraction], second: tuple[Interval, Fraction]) -> None:
    (a, x), (b, y) = [(module.Interval(box.low, box.high, box.digits), number) for box, number in (first, second)]
    assert contains(a + b, x + y)
    assert contains(a - b, x - y)
    assert contains(a * b, x * y)
    assert contains(-a, -x)
    assert contains(abs(a), abs(x))
    assert contains(1 - a, 1 - x)
    assert contains(a * Fraction(1, 3) + 2, x / 3 + 2)
    if not contains(b, Fraction(0)):
        assert contains(a / b, x / y)
        assert contains(1 / b, 1 / y)


@given(intervals(), intervals())
def test_arithmetic_of_intervals_contains_that_of_their_numbers(
    first: tuple[Interval, Fraction], second: tuple[Interval, Fraction]
) -> None:
    arithmetic(interval, first, second)


ARITHMETIC_BUGS = {
    "the lower end is rounded up": ("return Context(digits, ROUND_FLOOR", "return Context(digits, ROUND_CEILING"),
    "the upper end is rounded down": ("return Context(digits, ROUND_CEILING", "return Context(digits, ROUND_FLOOR"),
    "ends are subtracted pairwise": ("down.subtract(self.low, other.high)", "down.subtract(self.low, other.low)"),
    "a product takes two of the four": ("for a in (self.low, self.high) for b in (other.low, other.high)]\n        return Interval(min(down.multiply", "for a in (self.low,) for b in (other.low, other.high)]\n        return Interval(min(down.multiply"),
    "a quotient takes two of the four": ("for a in (self.low, self.high) for b in (other.low, other.high)]\n        return Interval(min(down.divide", "for a in (self.low,) for b in (other.low, other.high)]\n        return Interval(min(down.divide"),
    "an absolute value has the ends'": ("Interval(Decimal(0), self.magnitude, self.digits)", "Interval(min(abs(self.low), abs(self.high)), self.magnitude, self.digits)"),
    "a negated interval keeps its order": ("Interval(self.high.copy_negate(), self.low.copy_negate(), self.digits)", "Interval(self.low.copy_negate(), self.low.copy_negate(), self.digits)"),
    "a number less an interval is the interval less it": ("return Interval.of(other, self.digits) - self", "return self - Interval.of(other, self.digits)"),
}  # fmt: skip

SAMPLES = [
    ((Interval(Decimal(a), Decimal(b), 2), Fraction(x)), (Interval(Decimal(c), Decimal(d), 2), Fraction(y)))
    for a, b, x in (
        ("-1.5", "2.3", "-1.5"),
        ("-1.5", "2.3", "0"),
        ("1.1", "3.7", "3.7"),
        ("-3.7", "-1.1", "-3.7"),
        ("-3.7", "-1.1", "-1.1"),
    )
    for c, d, y in (("-7.7", "-0.3", "-7.7"), ("0.3", "7.7", "0.3"), ("0.3", "7.7", "7.7"), ("-7.7", "3", "3"))
]


def all_samples(module: ModuleType) -> None:
    for first, second in SAMPLES:
        arithmetic(module, first, second)


@pytest.mark.parametrize("bug", ARITHMETIC_BUGS)
def test_the_property_sees_the_planted_bug(bug: str) -> None:
    all_samples(interval)
    module = mutated(interval, *ARITHMETIC_BUGS[bug])
    with pytest.raises((AssertionError, ValueError)):
        all_samples(module)


@given(rationals, st.integers(1, 40))
def test_a_rational_is_enclosed_by_neighbours(x: Fraction, digits: int) -> None:
    box = Interval.of(x, digits)
    assert contains(box, x)
    assert width(box) <= Decimal(10) ** (1 - digits)
    assert (box.low == box.high) == (Fraction(box.low) == x)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_the_numbers_they_are(x: float) -> None:
    assert contains(Interval.of(x, 20), Fraction(x))
    box = Interval.of(x, 800)
    assert Fraction(box.low) == Fraction(box.high) == Fraction(x)


def test_signs() -> None:
    assert [Interval(Decimal(a), Decimal(b), 9).sign for a, b in ((1, 2), (-2, -1), (0, 0), (0, 1), (-1, 1))] == [
        1, -1, 0, None, None,
    ]  # fmt: skip


def test_bad_input_is_refused_in_one_line() -> None:
    one = Interval.of(1, 20)
    for call, message in (
        (lambda: Interval(Decimal(2), Decimal(1), 9), r"^an interval's ends must be in order, got 2 and 1$"),
        (lambda: Interval.of(math.nan, 9), r"^an interval encloses a real number, got nan; handle NaN and infinities"),
        (lambda: Interval.of(math.inf, 9), r"got inf; "),
        (
            lambda: functions.log(Interval.of(0, 20)),
            r"^a logarithm is taken of positive numbers, got an interval from 0",
        ),
        (lambda: functions.sqrt(one - 2), r"^a square root is taken of numbers from 0 up, got an interval from -1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ZeroDivisionError, match=r"^the divisor's interval \[-1, 1\] contains zero; keep more digits$"):
        one / Interval(Decimal(-1), Decimal(1), 20)
    with pytest.raises(
        OverflowError, match=r"^exp of 1000000000 is out of reach; take the largest argument off first$"
    ):
        functions.exp(Interval.of(10**9, 20))
