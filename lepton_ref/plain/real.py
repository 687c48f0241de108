"""A real number: enclosed as tightly as is asked, compared exactly, and rounded once.

Ziv's strategy (ACM TOMS 17, 1991): enclose the number to a few digits; where that does not decide on which side of a
rational it lies, enclose it to twice as many. The loop ends unless the two are equal, which no number of digits can
show. Equality is therefore a theorem that comes with the number, or, where nobody knows one, the loop stops at `LIMIT`
digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from lepton_ref.plain.formats import Format, round_to
from lepton_ref.plain.interval import Interval

__all__ = ["FIRST", "LIMIT", "Enclosure", "Interval", "Real", "UndecidedError", "Value", "rounded"]

FIRST = 30
"""Decimal digits of the first attempt."""
LIMIT = 2000
"""Decimal digits of the last attempt."""
FINE = 192
"""Bits after a number's leading one, of the grid on which `Real.round` locates it before it rounds."""
DEEP = 2000
"""Below 2^−`DEEP` every format rounds alike: its smallest number is larger by far more than 2^`FINE`."""

Enclosure = Callable[[int], Interval]
"""From a number of decimal digits to an interval around the real number, tighter the more digits are asked for."""


class UndecidedError(ArithmeticError):
    """`LIMIT` digits do not tell a number from a rational, and no theorem decides whether they are equal."""


@dataclass(frozen=True)
class Real:
    """One real number.

    Attributes:
        enclose: from a number of digits to an enclosure.
        equals: whether the number equals a rational, where a theorem decides it; None where none does.
        zero: the zero, +0.0 or −0.0, that an exact 0 is rounded to.
        sign: −1, 0 or 1 where it is known beforehand.
        difference: from a rational m and a number of digits to an enclosure of a quantity with the sign of the number
            less m, where one is known that decides sooner than the difference of `enclose`'s interval and m.
        exact: the number, where it is rational.
    """

    enclose: Enclosure
    equals: Callable[[Fraction], bool] | None = None
    zero: float = 0.0
    sign: int | None = None
    difference: Callable[[Fraction, int], Interval] | None = None
    exact: Fraction | None = None

    @classmethod
    def rational(cls, value: Fraction | int | float, zero: float = 0.0) -> Real:
        """A rational number, which needs no digits: every comparison is one of integers.

        Raises:
            ValueError: for NaN and infinities.
        """
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"NaN and infinities are no real numbers, got {value}; keep it as the float that it is")
        exact = Fraction(value)
        return cls(lambda digits: Interval.of(exact, digits), lambda m: m == exact, zero, exact=exact)

    def minus(self, m: Fraction, digits: int) -> Interval:
        """An enclosure of a quantity with the sign of the number less m."""
        return self.enclose(digits) - m if self.difference is None else self.difference(m, digits)

    def compare(self, m: Fraction | int) -> int:
        """−1, 0 or 1 as the number is below, equal to or above the rational m.

        Raises:
            UndecidedError: where `LIMIT` digits do not decide.
        """
        m = Fraction(m)
        if self.exact is not None:
            return (self.exact > m) - (self.exact < m)
        if m == 0 and self.sign is not None:
            return self.sign
        digits = FIRST
        while True:
            sign = self.minus(m, digits).sign
            if sign is not None:
                return sign
            if digits == FIRST and self.equals is not None and self.equals(m):
                return 0
            if digits >= LIMIT:
                raise UndecidedError(f"{LIMIT} digits do not tell the number from {m}, and no theorem says it is equal")
            digits = min(2 * digits, LIMIT)

    def round(
        self, format: Format | str, *, mode: str = "even", saturate: bool = False, chance: Fraction | None = None
    ) -> float:
        """The number rounded once to the format, as a float.

        An interval whose two ends round to the same bits decides. Otherwise the number is located: either it lies on
        a grid finer than any format's numbers and the midpoints between them, or strictly between two neighbours of
        that grid, which all modes round alike.

        Args:
            format: the format or its name.
            mode: as in `round_to`.
            saturate: as in `round_to`.
            chance: as in `round_to`, a multiple of 2⁻⁶⁴.

        Raises:
            UndecidedError: where `LIMIT` digits do not decide.
        """

        def once(value: Fraction | float) -> float:
            return round_to(value, format, mode=mode, saturate=saturate, chance=chance)

        if self.exact is not None and self.exact != 0:
            return once(self.exact)
        box = self.enclose(FIRST)
        if box.sign in (-1, 1) and max(abs(box.low.adjusted()), abs(box.high.adjusted())) < DEEP // 4:
            low, high = once(Fraction(box.low)), once(Fraction(box.high))
            if low == high:
                return low
        sign = self.compare(0)
        return once(self.zero if sign == 0 else self._located(sign))

    def _located(self, sign: int) -> Fraction:
        """A rational that every format rounds as it rounds the number: the number, or its neighbour."""
        digits = FIRST
        while True:
            box = self.enclose(digits)
            if box.magnitude.adjusted() < -DEEP // 3:
                return Fraction(sign, 2**DEEP)
            if box.sign == sign and box.magnitude.adjusted() > DEEP // 3:
                return Fraction(sign * 2**DEEP)
            if box.sign == sign:
                low, high = Fraction(box.low), Fraction(box.high)
                step = Fraction(2) ** (_exponent(low) - FINE)
                first, last = math.ceil(low / step), math.floor(high / step)
                if first > last:
                    return (first - Fraction(1, 2)) * step
                if first == last:
                    return (first + Fraction(self.compare(first * step), 2)) * step
            if digits >= LIMIT:
                raise UndecidedError(f"{LIMIT} digits do not locate the number within 2^-{FINE} of itself")
            digits = min(2 * digits, LIMIT)


Value = Real | float
"""What an op gives: a real number, or NaN or an infinity as a float."""


def rounded(
    value: Value, format: Format | str, *, mode: str = "even", saturate: bool = False, chance: Fraction | None = None
) -> float:
    """A value of an op rounded once to the format; NaN and infinities become what the format has for them."""
    if isinstance(value, Real):
        return value.round(format, mode=mode, saturate=saturate, chance=chance)
    return round_to(value, format, mode=mode, saturate=saturate, chance=chance)


def _exponent(value: Fraction) -> int:
    """⌊log₂|value|⌋ of a number that is not 0."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if abs(value) >= Fraction(2) ** exponent else exponent - 1
