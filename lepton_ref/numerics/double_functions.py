"""Elementary functions of double-double numbers, each with a proven bound on its relative error.

The bounds hold for results of size 2^−900 … 2^900; below that the low part, then the high part, underflow, and nothing
is claimed. NaN gives NaN, infinities the limits. u = 2⁻⁵³; errors of second order are
covered by the room that each constant leaves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.double_double import Pair, Reals, concatenate, where
from lepton_ref.numerics.double_tables import (
    CENTRES,
    PER_UNIT,
    STEPS,
    erfcx_table,
    half_pi_parts,
    inverse_factorials,
    log_2_parts,
    powers_of_two,
    root_pi,
)
from lepton_ref.numerics.error_free import two_sum

EXP_ERROR = 2.0**-102
EXPM1_ERROR = 2.0**-95
LOG_ERROR = 2.0**-93
TANH_ERROR = 2.0**-94
SIGMOID_ERROR = 2.0**-100
ERFC_ERROR = 2.0**-92
COS_SIN_ERROR = 2.0**-100

ANGLE_LIMIT = 2.0**20
"""The largest |x| of `cos_sin`."""

EXP_LIMIT = 800.0
"""exp of more is beyond float64, of less than −EXP_LIMIT below it."""

FAR = 10.0
"""From here on `erfc` is its asymptotic series."""

BLOCK = 2**13
"""Numbers at a time, so that the arrays of a step stay in the second-level cache."""

Integers = NDArray[np.int64]
Function = Callable[[Pair], Pair]


def in_blocks(function: Function) -> Function:
    """The function, applied to `BLOCK` numbers at a time."""

    @functools.wraps(function)
    def run(x: Pair, /) -> Pair:
        if x.high.ndim > 0 and x.high.size <= BLOCK:
            return function(x)
        flat = x.reshape(-1)
        blocks = [function(flat[i : i + BLOCK]) for i in range(0, flat.high.size, BLOCK)]
        return concatenate(blocks).reshape(*x.shape)

    return run


@in_blocks
def exp(x: Pair, /) -> Pair:
    """e^x within `EXP_ERROR`; 0 and infinity where that leaves float64.

    x = n·L + r with L = ln 2/32 and |r| ≤ 0.0109, so e^x = 2^(n div 32)·(T + T·p), T = 2^((n mod 32)/32), p = e^r − 1.
    p errs by 2⁻¹⁰⁹ (see `_reduced` and `_expm1_small`), T by 2⁻¹⁰⁷, T·p by 2⁻¹⁰³·0.011, the sum by 2⁻¹⁰⁴.
    """
    n, p = _steps(x)
    table = powers_of_two()[n % STEPS]
    return (table + table * p).scaled(n // STEPS)


@in_blocks
def expm1(x: Pair, /) -> Pair:
    """e^x − 1 within `EXPM1_ERROR`.

    Where |x| ≤ L/2 it is p, within 2⁻¹⁰² (see `_expm1_small`). Elsewhere |e^x − 1| > 0.0107·max(1, e^x), so exp's error
    grows to 2⁻¹⁰²/0.0107 < 2^−95.4, and the difference adds 2⁻¹⁰⁴.
    """
    n, p = _steps(x)
    table = powers_of_two()[n % STEPS]
    whole = (table + table * p).scaled(n // STEPS)
    less = whole - 1.0
    less = where(np.isinf(whole.high), whole, less)
    return where(n == 0, p, less)


@in_blocks
def log(x: Pair, /) -> Pair:
    """The natural logarithm within `LOG_ERROR`; −inf of 0, NaN of negative numbers.

    x = m·2^k, 0.707 ≤ m < 1.415. Newton: with y₀ near log m, log m = y₀ + log(1 + e), e = (m − 1) + m·expm1(−y₀).
    Both summands are at most 1.5·|y₀| in size (y₀ = 0: e = m − 1 exactly), so e errs by 1.5·2^−95·|y₀|. |y₀| is at most
    2.1·|log m|: twice as large only where m.high is a neighbour of 1 and m.low takes half of the difference back. With
    NumPy's logarithm within 8 ulps, |e| < 2⁻⁴⁸·|y₀| + 2⁻⁵³, and log(1 + e) = e − e²/2 up to e³/3 < 2⁻¹⁰²·|log m|. Where
    k ≠ 0, |log x| ≥ |log m|, and k·ln 2 is within 2⁻¹⁰³.
    """
    with np.errstate(all="ignore"):
        fraction, exponents = np.frexp(x.high)
        exponents = exponents - (fraction < np.sqrt(0.5))
        near = x.scaled(-exponents)
        first = np.asarray(np.log(near.high))
        rest = (near - 1.0) + near * expm1(Pair.of(-first))
        result = _multiple(exponents * float(STEPS)) + (first + (rest - (rest * rest).scaled(-1)))
        plain = (x.high > 0) & np.isfinite(x.high)
        return where(plain, result, Pair(np.asarray(np.log(x.high)), np.zeros_like(x.high)))


@in_blocks
def tanh(x: Pair, /) -> Pair:
    """The hyperbolic tangent within `TANH_ERROR`, near 0 too.

    tanh |x| = m/(m + 2) with m = expm1(2|x|): m's relative error shrinks by 2/(m + 2); quotient and sum add 2⁻¹⁰².
    Beyond 100 it differs from 1 by less than 2⁻²⁸⁷.
    """
    size = abs(x)
    size = where(size.high > 100.0, Pair.of(np.full_like(x.high, 100.0)), size)
    m = expm1(size.scaled(1))
    return _with_sign(m / (m + 2.0), x)


@in_blocks
def sigmoid(x: Pair, /) -> Pair:
    """1/(1 + e^−x) within `SIGMOID_ERROR`, in both tails.

    With e = exp(−|x|) it is 1/(1 + e) or e/(1 + e): numerator 2⁻¹⁰², denominator half of that and 2⁻¹⁰⁴, ÷ 2⁻¹⁰².
    """
    e = exp(-abs(x))
    one = Pair.of(np.ones_like(x.high))
    return where(x.high >= 0, one, e) / (e + 1.0)


@in_blocks
def erfc(x: Pair, /) -> Pair:
    """The complementary error function within `ERFC_ERROR` on the whole line.

    erfc(z) = exp(−z²)·erfcx(z) for z = |x|, and 2 − erfc(z) on the left. z² ≤ 624 where the result is 2^−900 or more,
    so exp(−z²) errs by 624·2⁻¹⁰³ < 2^−93.7 from z², 2⁻¹⁰² of its own; erfcx by 2^−96 (see there), the product by 2⁻¹⁰³.
    """
    z = abs(x)
    z = where(z.high > 40.0, Pair.of(np.full_like(x.high, 40.0)), z)
    tail = exp(-(z * z)) * _erfcx(z)
    return where(x.high < 0, 2.0 - tail, tail)


def cos_sin(x: Pair, /) -> tuple[Pair, Pair]:
    """(cos x, sin x), each within `COS_SIN_ERROR` absolutely, and where |x| ≤ π/4 also relatively.

    x = n·π/2 + r: of π/2's four parts three give exact products with n, each sum errs by 2⁻¹⁰⁴ of |r| < 0.8 and of
    parts far smaller. The series of 14 terms in r² ≤ 0.62 leave out less than 2⁻¹⁰⁷; Horner's sums and products err by
    2⁻¹⁰³·(1 + r²) of the result, as the terms fall by r²/2 and more.

    Raises:
        ValueError: |x| above `ANGLE_LIMIT`, or not finite.
    """
    if not np.all(np.abs(x.high) <= ANGLE_LIMIT):
        raise ValueError(f"an angle is NaN or beyond ±{ANGLE_LIMIT:.0f}; reduce it by whole turns first")
    n = np.rint(x.high * (2 / np.pi))
    first, second, third, fourth = half_pi_parts()
    r = Pair(*two_sum(x.high, -n * first)) + Pair(*two_sum(x.low, -n * second)) - n * third - n * fourth
    square = r * r
    cos = _alternating(square, first=0)
    sin = r * _alternating(square, first=1)
    quadrant = n.astype(np.int64) % 4
    swap = quadrant % 2 == 1
    cos, sin = where(swap, sin, cos), where(swap, cos, sin)
    return where((quadrant == 1) | (quadrant == 2), -cos, cos), where(quadrant >= 2, -sin, sin)


def _alternating(square: Pair, *, first: int) -> Pair:
    """Σⱼ (−square)ʲ/(2j + first)!, j = 0 … 13; from j = 9 on, less than 2⁻⁵⁷, float64 is enough."""
    coefficients = inverse_factorials(first, 14, 2)
    minus = -square
    short = coefficients[13].high
    for a in coefficients[12:8:-1]:
        short = a.high + minus.high * short
    total = Pair.of(short)
    for a in coefficients[8::-1]:
        total = total * minus + a
    return total


def _erfcx(z: Pair) -> Pair:
    """exp(z²)·erfc(z) for 0 ≤ z ≤ 40 within 2⁻⁹⁶."""
    far = z.high >= FAR
    out = Pair(np.empty_like(z.high), np.empty_like(z.low))
    for where_it_is, function in ((far, _erfcx_far), (~far, _erfcx_near)):
        if where_it_is.any():
            part = function(z[where_it_is])
            out.high[where_it_is], out.low[where_it_is] = part.high, part.low
    return out


def _erfcx_near(z: Pair) -> Pair:
    """Taylor's polynomial about the nearest centre, |h| ≤ 1/16.

    erfcx(z) = 2/√π·∫₀^∞ exp(−t² − 2zt) dt, so |aₙ|/erfcx falls with z from its value 1/Γ(n/2 + 1) at 0. Left out is
    less than 1.2·2⁻⁸⁰/Γ(11) < 2⁻¹⁰¹ (1.2: how much erfcx falls in 1/8). From n = 12 on terms are below 2⁻⁵⁷: float64
    is enough. Horner errs by 2⁻¹⁰³, as the terms fall by 0.08 and more.
    """
    index = np.where(z.high >= 0, z.high * PER_UNIT, 0.0).astype(np.int64)  # NaN to 0
    h = z - (2 * np.minimum(index, CENTRES - 1) + 1) / (2 * PER_UNIT)
    coefficients = [a[index] for a in erfcx_table()]
    short = coefficients[-1].high
    for a in coefficients[-2:11:-1]:
        short = a.high + h.high * short
    total = Pair.of(short)
    for a in coefficients[11::-1]:
        total = total * h + a
    return total


def _erfcx_far(z: Pair) -> Pair:
    """1/(z√π)·Σ (−1)ⁿ·1·3·…·(2n−1)/(2z²)ⁿ, n < 34, DLMF 7.12.1; what is left out is less than the next term, 2⁻¹⁰¹.

    As 1 − w(1 − 3w(1 − 5w(…))) with w = 1/(2z²) ≤ 1/200; the levels from 13 on count less than 2⁻⁵⁶.
    """
    w = 0.5 / (z * z)
    short = np.ones_like(z.high)
    for n in range(33, 12, -1):
        short = 1 - (2 * n - 1) * w.high * short
    total = Pair.of(short)
    for n in range(12, 0, -1):
        total = 1.0 - total * w * float(2 * n - 1)
    return total / (z * root_pi())


def _steps(x: Pair) -> tuple[Integers, Pair]:
    """(n, e^r − 1) of x = n·L + r, L = ln 2/STEPS; infinite and huge numbers are taken to ±`EXP_LIMIT`."""
    high = np.clip(x.high, -EXP_LIMIT, EXP_LIMIT)
    n = np.rint(high * (STEPS / np.log(2.0)))
    r = _reduced(Pair(high, np.where(high == x.high, x.low, 0.0)), n)
    return np.where(np.isnan(n), 0.0, n).astype(np.int64), _expm1_small(r)


def _reduced(x: Pair, n: Reals) -> Pair:
    """Give x − n·L for |n| < 2¹⁶: n times L's first two parts is exact, so are both two_sums.

    Each further sum errs by 2⁻¹⁰⁴ of itself, the last product by 2⁻⁵³·2¹⁶·2⁻⁸⁰ = 2⁻¹¹⁷, L's end by 2¹⁶·2⁻¹³². If n = 0,
    nothing errs.
    """
    first, second, third = log_2_parts()
    return Pair(*two_sum(x.high, -n * first)) + Pair(*two_sum(x.low, -n * second)) - n * third


def _multiple(n: Reals) -> Pair:
    """n·L for integers |n| < 2¹⁶ within 2⁻¹⁰³."""
    first, second, third = log_2_parts()
    return Pair(*two_sum(n * first, n * second)) + n * third


def _expm1_small(r: Pair) -> Pair:
    """e^r − 1 for |r| ≤ 0.0109 within 2⁻¹⁰³ of itself, as r + r²·q, q = Σ rʲ/(j + 2)! for j ≤ 10.

    r²q is at most 0.0055·r. What is left out of q is less than 2⁻¹⁰⁴; its terms from j = 6 on are below 2⁻⁵⁴: float64
    is enough. q errs by 2⁻¹⁰³, each product by as much, the sum by 2⁻¹⁰⁴.
    """
    coefficients = inverse_factorials(2, 11, 1)
    short = coefficients[10].high
    for a in coefficients[9:5:-1]:
        short = a.high + r.high * short
    q = Pair.of(short)
    for a in coefficients[5::-1]:
        q = q * r + a
    return r + r * (r * q)


def _with_sign(size: Pair, x: Pair) -> Pair:
    flip = np.where(np.signbit(x.high), -1.0, 1.0)
    return Pair(size.high * flip, size.low * flip)
