r"""RoPE's angles as real numbers: each kind's formula, enclosed to as many digits as are asked for.

    default       fⱼ = θ^(−2j/R)
    linear        fⱼ / factor
    dynamic       θ'^(−2j/R),  θ' = θ·(1 + factor·(L − M)/M)^(R/(R − 2)) for a length L above M
    llama3        fⱼ·((1 − t)/factor + t),  t = (M·fⱼ/2π − low)/(high − low), cut to [0, 1]
    yarn          fⱼ·(r/factor + 1 − r),    r = (j − a)/(b − a), cut to [0, 1]; a and b are the pairs that turn
                  beta_fast and beta_slow times over M, R·ln(M/(2π·times))/(2·ln θ), but at least 0 and at most R − 1,
                  before that rounded down and up where `truncate` says so
    longrope      fⱼ / short[j] for L ≤ M, fⱼ / long[j] above
    proportional  fⱼ / factors[j]; a pair of factor ∞ does not turn

The angle is position·frequency, nothing of it being rounded: θ, the factors and the bounds are the float64 numbers that
they are, 0.1 and 0.001 in yarn's formulas the decimals. See `is_algebraic` for which angles are algebraic numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

from lepton_ref.plain.functions import cos_sin, log, pi, power, sqrt
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import FIRST, LIMIT, Enclosure, Real, UndecidedError

YARN_SLOPE = Fraction(1, 10)
"""yarn's attention factor is this times ln factor, plus 1."""
YARN_GAP = Fraction(1, 1000)
"""What the reference code of yarn puts between its two bounds where they are equal."""


Rope = Any
"""A record: anything hashable with the attributes of `lepton_ref.ops.Rope`, where the kinds' sources stand."""


def frequency(rope: Rope, pair: int, *, length: int) -> Enclosure:
    """The radians by which a pair turns from one position to the next.

    Args:
        rope: the record.
        pair: j, from 0 up to R/2.
        length: L, for the kinds that depend on it.

    Raises:
        ValueError: there is no such pair, an unknown kind, or a factor of zero or NaN.
    """
    if not 0 <= pair < rope.width // 2:
        raise ValueError(f"a rotary width of {rope.width} has pairs 0 … {rope.width // 2 - 1}, got {pair}")
    match rope.kind:
        case "default":
            return lambda digits: _plain(rope, pair, digits)
        case "linear":
            return lambda digits: _plain(rope, pair, digits) / rope.factor
        case "dynamic":
            return lambda digits: _dynamic(rope, pair, length, digits)
        case "llama3":
            return lambda digits: _plain(rope, pair, digits) * _stretched(rope, 1 - llama3_blend(rope, pair, digits))
        case "yarn":
            return lambda digits: _plain(rope, pair, digits) * _stretched(rope, yarn_ramp(rope, pair, digits))
        case "longrope":
            return _divided(rope, pair, rope.long_factors if length > rope.original_length else rope.short_factors)
        case "proportional":
            return _divided(rope, pair, rope.short_factors)
    raise ValueError(f"unknown RoPE scaling {rope.kind!r}")


def angle(rope: Rope, position: int, pair: int, *, length: int) -> Enclosure:
    """position·frequency: the radians by which a pair is turned at a position.

    Raises:
        ValueError: as `frequency`.
    """
    turn = frequency(rope, pair, length=length)
    return lambda digits: turn(digits + len(str(position))) * position


@functools.lru_cache(maxsize=1 << 14)
def cos_sin_of_turn(rope: Rope, position: int, pair: int, length: int, digits: int) -> tuple[Interval, Interval]:
    """(cos, sin) of the angle, kept for the next head at the same position."""
    return cos_sin(angle(rope, position, pair, length=length)(digits))


@functools.lru_cache(maxsize=1 << 14)
def stands_still(rope: Rope, position: int, pair: int, *, length: int) -> bool:
    """Whether the angle is exactly 0: at position 0, or where the frequency is 0."""
    return position == 0 or frequency(rope, pair, length=length)(FIRST).sign == 0


@functools.lru_cache(maxsize=1 << 14)
def is_algebraic(rope: Rope, pair: int, *, length: int) -> bool:
    """Whether the frequency, and so every angle of the pair, is known to be an algebraic number.

    θ, the factors and the exponents being rational, a power of θ is algebraic; so default, linear, dynamic, longrope
    and proportional are, llama3 and yarn where a pair is kept or stretched as a whole, and yarn with `truncate`, whose
    ramp is then rational. Between llama3's bounds the frequency contains π, and between yarn's, without `truncate`, π
    and logarithms: what those angles' cosines are, no theorem says.
    """
    if rope.kind == "llama3":
        return _is_cut(llama3_blend(rope, pair, FIRST))
    if rope.kind == "yarn":
        return rope.truncate or _is_cut(yarn_ramp(rope, pair, FIRST))
    return True


@functools.lru_cache(maxsize=256)
def attention_factor(rope: Rope) -> Real:
    """The scale of the rotated numbers: 1 but for yarn and longrope.

    A stored one is the float that it is. longrope's own is √(1 + ln factor/ln M), yarn's 1 + 0.1·mscale·ln factor or
    the quotient of two such. Equality with a rational m: the logarithm of a rational other than 1 is transcendental
    (Lindemann), so yarn's is never rational, nor is a quotient of two that differ; ln factor/ln M is rational or
    transcendental (Gelfond and Schneider), and where it is rational, m² decides.
    """
    if rope.kind not in ("yarn", "longrope"):
        return Real.rational(1)
    if rope.attention_factor is not None:
        return Real.rational(rope.attention_factor)
    if rope.factor <= 1:
        return Real.rational(1)
    if rope.kind == "longrope":
        return _longrope_factor(Fraction(rope.factor), rope.original_length)
    above, below = rope.mscale, rope.mscale_all_dim
    if above is None or below is None or above == 0 or below == 0:  # 0 is DeepSeek's way to leave one out
        above, below = 1.0, 0.0
    if above == below:
        return Real.rational(1)
    return Real(lambda digits: _yarn_scale(rope, above, digits) / _yarn_scale(rope, below, digits), lambda m: False)


def factor_is_algebraic(rope: Rope) -> bool:
    """Whether `attention_factor` is known to be an algebraic number."""
    if attention_factor(rope).exact is not None:
        return True
    return rope.kind == "longrope" and common_power(Fraction(rope.factor), rope.original_length) is not None


def common_power(s: Fraction, m: int) -> Fraction | None:
    """The quotient ln s/ln m where it is rational, for s > 1 and m > 1; None where it is transcendental.

    Proof: sᵠ = mᵖ makes s an integer, as a rational whose power is an integer is one. With g the smallest integer of
    which m is a power, gᵃ, unique factorisation makes s a power of g.
    """
    for exponent in range(m.bit_length(), 0, -1):
        root = _integer_root(m, exponent)
        if root**exponent == m:
            break
    times, rest = 0, s
    while rest.denominator == 1 and rest % root == 0:
        times, rest = times + 1, rest / root
    return Fraction(times, exponent) if rest == 1 else None


def llama3_blend(rope: Rope, pair: int, digits: int) -> Interval:
    """The t of the formula above."""
    turns = _plain(rope, pair, digits) * rope.original_length / (pi(digits) * 2)
    low, high = Fraction(rope.low_freq_factor), Fraction(rope.high_freq_factor)
    return _cut((turns - low) / (high - low))


def yarn_ramp(rope: Rope, pair: int, digits: int) -> Interval:
    """The r of the formula above."""
    first = _pair_that_turns(rope, rope.beta_fast, digits)
    last = _pair_that_turns(rope, rope.beta_slow, digits)
    if rope.truncate:
        first = Interval.of(_whole(rope, rope.beta_fast, ROUND_FLOOR), digits)
        last = Interval.of(_whole(rope, rope.beta_slow, ROUND_CEILING), digits)
    zero, end = Decimal(0), Decimal(rope.width - 1)
    first = Interval(max(first.low, zero), max(first.high, zero), digits)
    last = Interval(min(last.low, end), min(last.high, end), digits)
    if first == last:
        return _cut((Interval.of(pair, digits) - first) / YARN_GAP)
    return _cut((Interval.of(pair, digits) - first) / (last - first))


def _plain(rope: Rope, pair: int, digits: int) -> Interval:
    return _power(Interval.of(Fraction(rope.theta), digits), Fraction(-2 * pair, rope.width))


def _power(base: Interval, exponent: Fraction) -> Interval:
    return Interval.of(1, base.digits) if exponent == 0 else power(base, exponent)


def _dynamic(rope: Rope, pair: int, length: int, digits: int) -> Interval:
    m, width = rope.original_length, rope.width
    stretch = 1 + Fraction(rope.factor) * (max(length, m) - m) / m
    return _plain(rope, pair, digits) * _power(Interval.of(stretch, digits), Fraction(-2 * pair, width - 2))


def _divided(rope: Rope, pair: int, factors: Sequence[float]) -> Enclosure:
    divisor = factors[pair]
    if divisor == 0 or math.isnan(divisor):
        raise ValueError(f"RoPE's frequency of pair {pair} is divided by {divisor}; give a number other than zero")
    if math.isinf(divisor):
        return lambda digits: Interval.of(0, digits)
    return lambda digits: _plain(rope, pair, digits) / divisor


def _stretched(rope: Rope, part: Interval) -> Interval:
    """part/factor + (1 − part), as 1 − part·(1 − 1/factor)."""
    return 1 - part * (1 - 1 / Fraction(rope.factor))


def _cut(x: Interval) -> Interval:
    zero, one = Decimal(0), Decimal(1)
    return Interval(min(max(x.low, zero), one), min(max(x.high, zero), one), x.digits)


def _is_cut(part: Interval) -> bool:
    return part.low == part.high and part.low in (0, 1)


def _pair_that_turns(rope: Rope, times: float, digits: int) -> Interval:
    turns = Fraction(rope.original_length) / Fraction(times) / 2
    width: int = rope.width
    return log(turns / pi(digits)) * width / (log(Interval.of(rope.theta, digits)) * 2)


def _whole(rope: Rope, times: float, rounding: str) -> int:
    """The pair that turns so many times, rounded down or up.

    Proof that the loop ends: were it an integer k, then M/(2π·times) = θ^(2k/R), a transcendental number an algebraic
    one.
    """
    digits = FIRST
    while digits <= LIMIT:
        pair = _pair_that_turns(rope, times, digits)
        low, high = pair.low.to_integral_value(rounding), pair.high.to_integral_value(rounding)
        if low == high:
            return int(low)
        digits *= 2
    raise UndecidedError(f"{LIMIT} digits do not tell between which pairs one turns {times} times")


def _longrope_factor(factor: Fraction, length: int) -> Real:
    ratio = common_power(factor, length)
    if ratio is not None:
        return Real(lambda digits: sqrt(Interval.of(1 + ratio, digits)), lambda m: m > 0 and m * m == 1 + ratio)

    def enclose(digits: int) -> Interval:
        return sqrt(log(Interval.of(factor, digits)) / log(Interval.of(length, digits)) + 1)

    return Real(enclose, lambda m: False)


def _yarn_scale(rope: Rope, mscale: float, digits: int) -> Interval:
    slope = YARN_SLOPE * Fraction(mscale)
    return log(Interval.of(rope.factor, digits)) * slope + 1


def _integer_root(value: int, exponent: int) -> int:
    """⌊value^(1/exponent)⌋ by bisection."""
    low, high = 1, 1 << value.bit_length() // exponent + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**exponent <= value else (low, middle)
    return low
