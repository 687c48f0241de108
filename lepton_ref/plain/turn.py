r"""RoPE: each pair of a head's numbers is turned by its angle and scaled by the attention factor, in real numbers.

    (y₀, y₁) = A·(x₀·cos θ − x₁·sin θ,  x₁·cos θ + x₀·sin θ),    θ = position·frequency[pair]

Ties: cos θ and sin θ are combinations of exp(iθ) and exp(−iθ). For an algebraic θ ≠ 0 these and 1 are linearly
independent over the algebraic numbers (Lindemann and Weierstrass), so y is never zero unless x₀ and x₁ both are, and
never rational where A is algebraic. Of other angles, and other factors, nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lepton_ref.plain import rope as angles
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real, Value
from lepton_ref.plain.special import plain, scaled, special_sum, stand_in, zero_of_sum


def rope(x: Sequence[float], position: int, record: angles.Rope, *, length: int) -> list[Value]:
    """One head at one position, turned; what lies beyond the rotary width passes as it is.

    Args:
        x: the head's numbers.
        position: where it stands, from 0 up.
        record: the angles, see `lepton_ref.plain.rope`.
        length: what length-dependent kinds take.

    Raises:
        ValueError: a rotary width beyond the head's, or a negative position.
    """
    if record.width > len(x):
        raise ValueError(f"the rotary width {record.width} exceeds the head width {len(x)}")
    if position < 0:
        raise ValueError(f"a position must not be negative, got {position}")
    y = [plain(number) for number in x]
    pairs = record.width // 2
    for pair in range(pairs):
        i, j = (2 * pair, 2 * pair + 1) if record.interleaved else (pair, pair + pairs)
        y[i] = _turned(x[i], -x[j], record, position, pair, length)
        y[j] = _turned(x[j], x[i], record, position, pair, length)
    return y


def _turned(a: float, b: float, record: angles.Rope, position: int, pair: int, length: int) -> Value:
    """A·(a·cos θ + b·sin θ)."""
    factor = angles.attention_factor(record)
    still = angles.stands_still(record, position, pair, length=length)
    if not (math.isfinite(a) and math.isfinite(b)) or a == b == 0:
        cos, sin = (1.0, 0.0) if still else _signs(record, position, pair, length)
        special = special_sum([a * cos, b * sin])
        zero = Real.rational(0, zero=zero_of_sum([a * cos, b * sin]))
        return scaled(zero, stand_in(factor)) if special is None else special * stand_in(factor)
    if still:
        return scaled(factor, a) if a != 0 else scaled(plain(zero_of_sum([a, b * 0.0])), stand_in(factor))

    def enclose(digits: int) -> Interval:
        cos, sin = angles.cos_sin_of_turn(record, position, pair, length, digits)
        return (cos * a + sin * b) * factor.enclose(digits)

    known = angles.is_algebraic(record, pair, length=length) and angles.factor_is_algebraic(record)
    return Real(enclose, (lambda m: False) if known else None)


def _signs(record: angles.Rope, position: int, pair: int, length: int) -> tuple[float, float]:
    """The signs of cos θ and sin θ for θ ≠ 0."""

    def part(which: int) -> Real:
        return Real(lambda digits: angles.cos_sin_of_turn(record, position, pair, length, digits)[which])

    return stand_in(part(0)), stand_in(part(1))
