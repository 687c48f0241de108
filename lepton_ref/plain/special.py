"""NaN, infinities and the signs of zeros: the exact definition extended by IEEE 754's rules.

A real number has no sign of zero and is never infinite, so these rules are about floats alone. They are chosen such
that no order of evaluation matters: a sum with an infinity or a NaN is decided by those of its terms that are not
finite; a sum that is exactly zero is −0 if every term is −0, and +0 otherwise; a product's sign is the product of its
factors' signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from lepton_ref.plain.real import Real, Value

Number = float | Fraction
"""A stored number: a float, or a weight's closed form, which no float may hold."""


def finite(*numbers: Number) -> bool:
    """Whether all are."""
    return all(isinstance(x, Fraction) or math.isfinite(x) for x in numbers)


def negative(x: float) -> bool:
    """Whether the sign bit is set."""
    return math.copysign(1.0, x) < 0


def special_sum(terms: Iterable[float]) -> float | None:
    """What a sum is by its terms that are not finite: NaN or an infinity; None where all are finite."""
    decisive = [term for term in terms if not math.isfinite(term)]
    return sum(decisive) if decisive else None


def zero_of_sum(terms: Iterable[float]) -> float:
    """The zero that a sum of zeros, or one that cancels, is: −0.0 if every term has the sign bit, else 0.0."""
    return -0.0 if all(negative(term) for term in terms) else 0.0


def zero_of_product(*factors: float) -> float:
    """The zero that a product with a factor of zero is."""
    return -0.0 if sum(map(negative, factors)) % 2 else 0.0


def stand_in(value: Value) -> float:
    """A float with the value's sign that is zero, finite, infinite or NaN as the value is: ±0, ±1, or itself."""
    if not isinstance(value, Real):
        return value
    sign = value.compare(0)
    return float(sign) if sign else value.zero


def plain(x: float) -> Value:
    """A float as a value: the rational number that it is, or NaN or an infinity."""
    return Real.rational(x, zero=x) if math.isfinite(x) else x


def exact(value: Value) -> Fraction:
    """The rational number that a value is.

    Raises:
        TypeError: it is not known to be rational.
    """
    if not isinstance(value, Real) or value.exact is None:
        raise TypeError(f"a rational number is needed here, got {value}")
    return value.exact


def scaled(value: Value, factor: float) -> Value:
    """A value times a float."""
    if not isinstance(value, Real) or not math.isfinite(factor):
        return stand_in(value) * factor
    f = Fraction(factor)
    if f == 0 or value.compare(0) == 0:
        return Real.rational(0, zero=zero_of_product(stand_in(value), factor))
    if value.exact is not None:
        return Real.rational(value.exact * f)
    up, equals = 1 if f > 0 else -1, value.equals
    return Real(
        lambda digits: value.enclose(digits) * f,
        None if equals is None else lambda m: equals(m / f),
        sign=value.compare(0) * up,
        difference=lambda m, digits: value.minus(m / f, digits) * up,
    )


def require_length(what: str, got: Sequence[object], want: int) -> None:
    """Raise ValueError unless a list is as long as it must be."""
    if len(got) != want:
        raise ValueError(f"{what} is {len(got)}, but must be {want}")
