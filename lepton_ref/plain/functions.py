"""Elementary functions of intervals: the image of every number of the interval lies in the result.

exp, ln and √ are the decimal module's, which rounds them correctly to nearest; one step outward makes an enclosure.
The others are series whose remainder is bounded, evaluated in interval arithmetic, so that no rounding is forgotten.
A function that rises is evaluated at the two ends, with as many more digits as its cancellation costs there. Every
function keeps about `digits` digits relative to the result, in the tails and near zero too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from lepton_ref.plain.interval import Interval, ceiling_context, floor_context

EXP_LEAST = Decimal(-(10**8))
"""exp of less is enclosed by [0, `EXP_TINY`]; the smallest exponent of a decimal is not far away on 32-bit machines."""
EXP_TINY = Decimal((0, (1,), -43429448))
"""More than exp(`EXP_LEAST`) = 10^(−43429448.19…)."""
GUARD = 5
"""Digits beyond those asked for, where a result is assembled from several."""


def _rising(point: Callable[[Decimal, int], Interval], x: Interval) -> Interval:
    low = point(x.low, x.digits)
    high = low if x.low == x.high else point(x.high, x.digits)
    return Interval(low.low, high.high, x.digits)


def _outward(value: Decimal, digits: int) -> Interval:
    """From a value rounded to nearest: the exact one lies within half a step of the last digit, so within one."""
    return Interval(floor_context(digits).next_minus(value), ceiling_context(digits).next_plus(value), digits)


def exp(x: Interval) -> Interval:
    """The exponential function; of less than `EXP_LEAST`, an interval from 0.

    Raises:
        OverflowError: above −`EXP_LEAST`: take the largest argument off first.
    """
    if x.high > -EXP_LEAST:
        raise OverflowError(f"exp of {x.high} is out of reach; take the largest argument off first")
    return _rising(_exp, x)


def _exp(x: Decimal, digits: int) -> Interval:
    if x < EXP_LEAST:
        return Interval(Decimal(0), EXP_TINY, digits)
    if x == 0:
        return Interval(Decimal(1), Decimal(1), digits)
    return _outward(floor_context(digits).exp(x), digits)


def log(x: Interval) -> Interval:
    """The natural logarithm.

    Raises:
        ValueError: where the interval does not lie above zero.
    """
    if x.low <= 0:
        raise ValueError(f"a logarithm is taken of positive numbers, got an interval from {x.low}")
    return _rising(_log, x)


def _log(x: Decimal, digits: int) -> Interval:
    if x == 1:
        return Interval(Decimal(0), Decimal(0), digits)
    return _outward(floor_context(digits).ln(x), digits)


def sqrt(x: Interval) -> Interval:
    """The square root.

    Raises:
        ValueError: where the interval goes below zero.
    """
    if x.low < 0:
        raise ValueError(f"a square root is taken of numbers from 0 up, got an interval from {x.low}")
    return _rising(_sqrt, x)


def _sqrt(x: Decimal, digits: int) -> Interval:
    if x == 0:
        return Interval(Decimal(0), Decimal(0), digits)
    return _outward(floor_context(digits).sqrt(x), digits)


def power(base: Interval, exponent: Interval | Fraction | int) -> Interval:
    """base^exponent = exp(exponent·ln base), the base being positive."""
    return exp(log(base) * exponent)


@functools.cache
def pi(digits: int) -> Interval:
    """π by Machin's formula 16·arctan(1/5) − 4·arctan(1/239) in integers.

    Proof, in units of 10^−(digits + 10): arctan(1/n) = Σ (−1)ᵏ/((2k + 1)·n^(2k+1)) alternates, its terms fall, and what
    is left out is at most the first term left out, below 2 units. The power that is carried along is cut to an integer
    each time and errs by less than 1 + 1/n² + 1/n⁴ + … < 2, a term by less than 3. There are fewer than digits + 10
    terms, as 5² > 10, so an arctan errs by less than 3·(digits + 10) + 2 and π by less than 20 times that.
    """
    unit = 10 ** (digits + 10)

    def arctan_of_inverse(n: int) -> int:
        power_of_inverse, total, k = unit // n, 0, 0
        while power_of_inverse:
            total += (-1) ** k * (power_of_inverse // (2 * k + 1))
            power_of_inverse //= n * n
            k += 1
        return total

    value = 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)
    error = 20 * (3 * (digits + 10) + 2)
    low = Interval.of(Fraction(value - error, unit), digits)
    return Interval(low.low, Interval.of(Fraction(value + error, unit), digits).high, digits)


def sigmoid(x: Interval) -> Interval:
    """1/(1 + exp(−x)), for x < 0 as exp(x)/(1 + exp(x)): no cancellation in either form."""
    return _rising(_sigmoid, x)


def _sigmoid(x: Decimal, digits: int) -> Interval:
    small = _exp(x.copy_abs().copy_negate(), digits + GUARD)
    return (small if x < 0 else 1) / (small + 1)


def tanh(x: Interval) -> Interval:
    """(1 − e)/(1 + e), e = exp(−2|x|), with the sign of x.

    For |x| < 10^−k, 1 − e loses fewer than k + 1 digits, and so many more are kept.
    """
    return _rising(_tanh, x)


def _tanh(x: Decimal, digits: int) -> Interval:
    if x == 0:
        return Interval(Decimal(0), Decimal(0), digits)
    work = digits + GUARD + max(0, -x.adjusted())
    small = exp(Interval(x, x, work) * (-2 if x > 0 else 2))
    value = (1 - small) / (1 + small)
    return value if x > 0 else -value


def erf(x: Interval) -> Interval:
    """2/√π·∫₀ˣ exp(−t²) dt: `_erf_series` for |x| < 1, 1 − erfc(x) beyond."""
    return _rising(_erf, x)


def _erf(x: Decimal, digits: int) -> Interval:
    if x < 0:
        return -_erf(x.copy_negate(), digits)
    return _erf_series(x, digits) if x < 1 else 1 - _erfc(x, digits)


def erfc(x: Interval) -> Interval:
    """1 − erf(x), which falls from 2 to 0, with full relative accuracy in the tail.

    1 − `_erf_series` where x² is small against the digits: erfc(x) > exp(−x²)/(2x + 2), so the difference loses fewer
    than x²/ln 10 + log₁₀(2x + 2) digits, and so many more are kept. `_erfc_tail` beyond.
    """
    low = _erfc(x.high, x.digits)
    high = low if x.low == x.high else _erfc(x.low, x.digits)
    return Interval(low.low, high.high, x.digits)


def _erfc(x: Decimal, digits: int) -> Interval:
    if x < 0:
        return 2 - _erfc(x.copy_negate(), digits)
    if x > digits or x * x > 3 * digits + 30:
        return _erfc_tail(x, digits)
    lost = int(x * x / 2) + int(x) + GUARD
    return 1 - _erf_series(x, digits + lost)


def _erf_series(x: Decimal, digits: int) -> Interval:
    """2/√π·exp(−x²)·Σ 2ⁿ·x^(2n+1)/(1·3·…·(2n+1)) for x ≥ 0 (DLMF 7.6.2).

    Proof: all terms are positive. From the first term whose successors' ratio 2x²/(2n + 3) is at most ½, the rest is at
    most twice the next term, hence at most the term itself.
    """
    work = digits + GUARD
    point = Interval(x, x, work)
    square = point * point * 2
    term, total, n = point, point, 0
    while term.high and (square.high > n + 1 or term.high.adjusted() > total.low.adjusted() - work):
        n += 1
        term = term * square / (2 * n + 1)
        total = total + term
    total = Interval(total.low, (total + term).high, work)
    return total * exp(point * point * -1) * 2 / sqrt(pi(work))


def _erfc_tail(x: Decimal, digits: int) -> Interval:
    """exp(−x²)/(x·√π)·Σ (−1)ⁿ·1·3·…·(2n−1)/(2x²)ⁿ for large x (DLMF 7.12.1).

    Proof: integrating by parts N times leaves (−1)ᴺ·(1·3·…·(2N−1)/2ᴺ)·2/√π·∫ t^(−2N)·exp(−t²) dt from x on, and the
    integral is at most x^(−2N−1)/2·exp(−x²): at most the first term left out, whose sign it has. The terms fall while
    2n − 1 < 2x², below 10^−digits before that where x² > 3·digits.
    """
    work = digits + GUARD
    point = Interval(x, x, work)
    double_square = point * point * 2
    term = total = Interval.of(1, work)
    n = 0
    while term.magnitude.adjusted() > -work:
        n += 1
        term = term * -(2 * n - 1) / double_square
        total = total + term
    rest = term.magnitude
    total = total + Interval(-rest, rest, work)
    return total * exp(point * point * -1) / (point * sqrt(pi(work)))


def cos_sin(x: Interval) -> tuple[Interval, Interval]:
    """(cos x, sin x): whole quarters of a turn taken off, then Taylor's series for |r| < 1.

    Proof: r = x − q·π/2 is exact but for its outward rounding; (cos, sin)(r + q·π/2) are ±(cos, sin) r or ±(sin, cos) r
    by q mod 4. Lagrange's remainder after the terms below rⁿ/n! is at most |r|ⁿ/n!. An interval that is too wide gives
    [−1, 1].
    """
    work = x.digits + GUARD + max(0, x.magnitude.adjusted())
    quarter = pi(work) / 2
    turns = int(floor_context(work).divide(x.high, quarter.low).to_integral_value())
    rest = x.within(work) - quarter * turns if turns else x.within(work)
    if rest.magnitude >= 1:
        return Interval(Decimal(-1), Decimal(1), x.digits), Interval(Decimal(-1), Decimal(1), x.digits)
    cos, sin = _taylor(rest)
    swapped = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][turns % 4]
    return swapped[0].within(x.digits), swapped[1].within(x.digits)


def _taylor(r: Interval) -> tuple[Interval, Interval]:
    term = cos = Interval.of(1, r.digits)
    sin = Interval.of(0, r.digits)
    enough, n = r.magnitude.adjusted() - r.digits, 0
    while term.magnitude and (n < 4 or term.magnitude.adjusted() > enough):
        n += 1
        term = term * r / n
        signed = -term if n % 4 >= 2 else term
        cos, sin = (cos, sin + signed) if n % 2 else (cos + signed, sin)
    rest = Interval(-term.magnitude, term.magnitude, r.digits)
    return cos + rest, sin + rest
