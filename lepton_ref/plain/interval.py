"""Intervals of decimals, every operation rounded outward: what is computed contains what is meant.

The standard library's decimal module rounds each of + − × ÷ as its context says, so an interval's lower end is computed
towards −∞ and its upper end towards +∞, and the exact result stays between the two however few digits are kept.
Source: R. E. Moore, Interval Analysis, 1966; the decimal module's ROUND_FLOOR and ROUND_CEILING.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from fractions import Fraction


@functools.cache
def floor_context(digits: int) -> Context:
    """The context that rounds to `digits` digits, down."""
    return Context(digits, ROUND_FLOOR, MIN_EMIN, MAX_EMAX, traps=[InvalidOperation, DivisionByZero, Overflow])


@functools.cache
def ceiling_context(digits: int) -> Context:
    """The context that rounds to `digits` digits, up."""
    return Context(digits, ROUND_CEILING, MIN_EMIN, MAX_EMAX, traps=[InvalidOperation, DivisionByZero, Overflow])


@dataclass(frozen=True)
class Interval:
    """All real numbers from `low` to `high`.

    Attributes:
        low: the lower end.
        high: the upper end, at least `low`.
        digits: how many decimal digits the operations on it keep; of two operands, the larger number.
    """

    low: Decimal
    high: Decimal
    digits: int

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval's ends must be in order, got {self.low} and {self.high}")

    @classmethod
    def of(cls, value: Fraction | int | float, digits: int) -> Interval:
        """The smallest interval of `digits` digits around one number.

        Raises:
            ValueError: for NaN and infinities, which are no real numbers.
        """
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ValueError(f"an interval encloses a real number, got {value}; handle NaN and infinities before")
        exact = Fraction(value)
        top, bottom = Decimal(exact.numerator), Decimal(exact.denominator)
        return cls(floor_context(digits).divide(top, bottom), ceiling_context(digits).divide(top, bottom), digits)

    def within(self, digits: int) -> Interval:
        """The same numbers, for operations that keep `digits` digits; the ends stay as they are."""
        return Interval(self.low, self.high, digits)

    @property
    def magnitude(self) -> Decimal:
        """The largest |x| in it."""
        return max(self.low.copy_abs(), self.high.copy_abs())

    @property
    def sign(self) -> int | None:
        """−1, 0 or 1 if all of its numbers have that sign, else None."""
        if self.low > 0:
            return 1
        if self.high < 0:
            return -1
        return 0 if self.low == self.high else None

    def __neg__(self) -> Interval:
        return Interval(self.high.copy_negate(), self.low.copy_negate(), self.digits)

    def __abs__(self) -> Interval:
        if self.low >= 0:
            return self
        return -self if self.high <= 0 else Interval(Decimal(0), self.magnitude, self.digits)

    def __add__(self, other: Interval | Fraction | int | float) -> Interval:
        other, digits = self._with(other)
        down, up = floor_context(digits), ceiling_context(digits)
        return Interval(down.add(self.low, other.low), up.add(self.high, other.high), digits)

    def __sub__(self, other: Interval | Fraction | int | float) -> Interval:
        other, digits = self._with(other)
        down, up = floor_context(digits), ceiling_context(digits)
        return Interval(down.subtract(self.low, other.high), up.subtract(self.high, other.low), digits)

    def __mul__(self, other: Interval | Fraction | int | float) -> Interval:
        other, digits = self._with(other)
        down, up = floor_context(digits), ceiling_context(digits)
        if self.low >= 0 and other.low >= 0:
            return Interval(down.multiply(self.low, other.low), up.multiply(self.high, other.high), digits)
        ends = [(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(down.multiply(a, b) for a, b in ends), max(up.multiply(a, b) for a, b in ends), digits)

    def __truediv__(self, other: Interval | Fraction | int | float) -> Interval:
        other, digits = self._with(other)
        if other.low <= 0 <= other.high:
            raise ZeroDivisionError(
                f"the divisor's interval [{other.low}, {other.high}] contains zero; keep more digits"
            )
        down, up = floor_context(digits), ceiling_context(digits)
        ends = [(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(down.divide(a, b) for a, b in ends), max(up.divide(a, b) for a, b in ends), digits)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Fraction | int | float) -> Interval:
        return Interval.of(other, self.digits) - self

    def __rtruediv__(self, other: Fraction | int | float) -> Interval:
        return Interval.of(other, self.digits) / self

    def _with(self, other: Interval | Fraction | int | float) -> tuple[Interval, int]:
        if isinstance(other, Interval):
            return other, max(self.digits, other.digits)
        return Interval.of(other, self.digits), self.digits
