"""The constants of `double_functions`, from the specification's intervals: computed once, when first used."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np

from lepton_ref.numerics.double_double import Pair, concatenate
from lepton_ref.plain.functions import exp, log, pi, sqrt
from lepton_ref.plain.interval import Interval

DIGITS = 60
"""Decimal digits of the constants: far more than a pair's 32."""

ERFCX_DIGITS = 160
"""For `erfcx_table`: its difference loses 45 digits at 10, the recurrence some 30 more."""

FIXED_POINT = 900
"""`_erfcx` counts units of 2^−FIXED_POINT."""

STEPS = 32
"""exp's table has 2^(i/STEPS), i = 0 … STEPS − 1."""

CENTRES, PER_UNIT = 80, 8
"""erfcx is expanded about (2i + 1)/(2·PER_UNIT), i = 0 … CENTRES − 1."""

DEGREE = 19
"""Of those expansions."""

Parts = tuple[float, ...]


@functools.cache
def log_2_parts() -> Parts:
    """(ln 2)/STEPS in three parts: multiples of 2⁻⁴² and 2⁻⁷⁹ of 37 bits at most, and the rest within 2⁻¹³²."""
    return _parts(log(Interval.of(2, DIGITS)) / STEPS, [42, 79])


@functools.cache
def half_pi_parts() -> Parts:
    """π/2 in four parts: multiples of 2⁻³², 2⁻⁶⁴ and 2⁻⁹⁶ of 33 bits at most, and the rest within 2⁻¹⁴⁹."""
    return _parts(pi(DIGITS) / 2, [32, 64, 96])


@functools.cache
def root_pi() -> Pair:
    """√π."""
    return _pair(sqrt(pi(DIGITS)))


@functools.cache
def powers_of_two() -> Pair:
    """2^(i/STEPS) of shape (STEPS), each within 2⁻¹⁰⁷ relatively."""
    step = log(Interval.of(2, DIGITS)) / STEPS
    return concatenate([_pair(exp(step * i))[None] for i in range(STEPS)])


@functools.cache
def inverse_factorials(first: int, count: int, by: int) -> tuple[Pair, ...]:
    """1/first!, 1/(first + by)!, …, `count` of them."""
    return tuple(Pair.rational(Fraction(1, math.factorial(first + by * j))) for j in range(count))


@functools.cache
def erfcx_table() -> tuple[Pair, ...]:
    """Taylor's coefficients a₀ … a_DEGREE of erfcx(x) = exp(x²)·erfc(x), each of shape (CENTRES).

    erfcx′ = 2x·erfcx − 2/√π gives (n + 1)·aₙ₊₁ = 2c·aₙ + 2·aₙ₋₁ about c, for n ≥ 1.
    """
    slope = 2 / sqrt(pi(ERFCX_DIGITS))
    columns = []
    for i in range(CENTRES):
        centre = Fraction(2 * i + 1, 2 * PER_UNIT)
        before = _erfcx(centre)
        coefficients = [before, before * (2 * centre) - slope]
        for n in range(1, DEGREE):
            coefficients.append((coefficients[n] * (2 * centre) + coefficients[n - 1] * 2) / (n + 1))
        columns.append([_pair(a) for a in coefficients])
    return tuple(concatenate([column[n][None] for column in columns]) for n in range(DEGREE + 1))


def _erfcx(x: Fraction) -> Interval:
    """exp(x²) − 2/√π·Σ 2ⁿ·x^(2n+1)/(1·3·…·(2n+1)) for 0 < x < 10, DLMF 7.6.2, in integers.

    A term is its predecessor times 2x²/(2n + 1), rounded down by less than a unit; the factors that follow multiply
    this by less than exp(x²) < 2¹⁴⁵, so fewer than 2¹⁰ terms err by less than 2¹⁶⁵ together. The terms after the last,
    which is 0 units, shrink by half and more.
    """
    term, total, n = int(x * 2**FIXED_POINT), 0, 0
    square = 2 * x * x
    while term > 0:
        total, n = total + term, n + 1
        term = term * square.numerator // (square.denominator * (2 * n + 1))
    low, high = (Interval.of(Fraction(end, 2**FIXED_POINT), ERFCX_DIGITS) for end in (total, total + 2**170))
    power = exp(Interval.of(x * x, ERFCX_DIGITS))
    return power - Interval(low.low, high.high, ERFCX_DIGITS) * 2 / sqrt(pi(ERFCX_DIGITS))


def _parts(value: Interval, places: list[int]) -> Parts:
    """Parts that are rounded to those places after the binary point, and the rest."""
    rest, parts = Fraction(value.low), []
    for place in places:
        parts.append(float(Fraction(round(rest * 2**place), 2**place)))
        rest -= Fraction(parts[-1])
    return (*parts, float(rest))


def _pair(value: Interval) -> Pair:
    """Of shape (); the interval is narrower than a pair can tell."""
    if value.high - value.low > value.magnitude.scaleb(-45):
        raise ArithmeticError(f"the interval from {value.low} to {value.high} is too wide; keep more digits")
    pair = Pair.rational(Fraction(value.low))
    return Pair(np.asarray(pair.high), np.asarray(pair.low))
