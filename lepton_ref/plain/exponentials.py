r"""Sums Σ c·exp(e) with rational c, compared with zero: what softmax and attention come down to.

Ties: terms of equal exponents are added up. Exponentials of different algebraic numbers are linearly independent over
the algebraic numbers (Lindemann and Weierstrass), so what is left is 0 if and only if no term is left. Capped scores
are not algebraic, and there the order of the exponents decides, or the digits do, or nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from lepton_ref.plain.functions import exp, tanh
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import FIRST


@dataclass(frozen=True)
class Exponent:
    """A score, as exp takes it: cap·tanh(score/cap), or the score where there is no cap.

    Attributes:
        score: the score before the cap; a float where it is infinite.
        cap: the soft cap, or None.
    """

    score: Fraction | float
    cap: Fraction | None = None

    def enclose(self, digits: int) -> Interval:
        """An enclosure of the exponent."""
        if self.cap is None:
            return Interval.of(self.score, digits)
        if isinstance(self.score, float):
            return Interval.of(self.cap if self.score > 0 else -self.cap, digits)
        return tanh(Interval.of(self.score / self.cap, digits)) * self.cap

    def above(self, other: Exponent, digits: int) -> Interval:
        """This exponent less another; exact before it is enclosed where both are rational."""
        if self.cap is None and other.cap is None:
            return Interval.of(Fraction(self.score) - Fraction(other.score), digits)
        return Interval.of(0, digits) if self == other else self.enclose(digits) - other.enclose(digits)


SATURATED = 1000
"""Scores of so many caps differ from the cap, capped, by less than 2·cap·10⁻⁸⁶⁸: digits are of no help."""

Terms = Mapping[Exponent, Fraction]
"""Σ c·exp(e), as e → c."""


def grouped(terms: Sequence[tuple[Exponent, Fraction]]) -> Terms:
    """The terms, those of equal exponents added up."""
    sums: dict[Exponent, Fraction] = {}
    for exponent, coefficient in terms:
        sums[exponent] = sums.get(exponent, Fraction(0)) + coefficient
    return sums


def sign_of_sum(terms: Terms, digits: int) -> Interval:
    """An enclosure of a number with the sign of Σ c·exp(e): by order alone where that decides, else over the largest.

    Where scores are so large that a cap makes nearly the same of all, see `_saturated`. Proof for the order: let
    w₁ ≥ w₂ ≥ … > 0 be the exponentials and Cᵢ = c₁ + … + cᵢ. Then Σ cᵢ·wᵢ = Σ Cᵢ·(wᵢ − wᵢ₊₁), the one after the last
    being 0: if no Cᵢ is negative and one is positive, every summand is from 0 up, and the sum is positive, as the
    exponents differ (Abel).
    """
    left = {e: c for e, c in terms.items() if c != 0}
    if not left:
        return Interval.of(0, digits)
    order = _descending(list(left))
    partial = [] if order is None else list(_running([left[e] for e in order]))
    if partial and (min(partial) >= 0 or max(partial) <= 0):
        return Interval.of(1 if max(partial) > 0 else -1, digits)
    saturated = _saturated(left, digits)
    if saturated is not None:
        return saturated
    lead = max(left, key=lambda e: e.enclose(digits).low)
    return functools.reduce(Interval.__add__, (exp(e.above(lead, digits)) * c for e, c in left.items()))


def _saturated(terms: Terms, digits: int) -> Interval | None:
    """The sign where Σ c = 0 and all scores, of one cap and one sign, are so large that e = ±(cap − δ) with a tiny δ.

    Proof: δ = 2·cap·t/(1 + t), t = exp(−2z), z = |score|/cap. exp(e) is exp(±cap)·exp(∓δ), and for δ < 1 exp(∓δ) is
    1 ∓ δ·(1 + θ), |θ| ≤ δ. The ones cancel, as Σ c = 0; what is left is ∓Σ c·δ·(1 + θ), here divided by 2·cap and the
    largest t. An infinite score has δ = 0.
    """
    cap = next(iter(terms)).cap
    if cap is None or any(e.cap != cap for e in terms) or len({e.score > 0 for e in terms}) > 1:
        return None
    sizes = {abs(e.score) / cap: c for e, c in terms.items() if isinstance(e.score, Fraction)}
    least = min(sizes)
    if least < SATURATED or sum(terms.values(), Fraction(0)) != 0:
        return None
    total = Interval.of(0, digits)
    for z, c in sizes.items():
        small = exp(Interval.of(-2 * z, digits))
        error = (small * (2 * cap)).high
        total = (
            total + exp(Interval.of(2 * (least - z), digits)) / (small + 1) * (1 + Interval(-error, error, digits)) * c
        )
    return -total if next(iter(terms)).score > 0 else total


def _running(numbers: Sequence[Fraction]) -> list[Fraction]:
    sums = [Fraction(0)]
    for number in numbers:
        sums.append(sums[-1] + number)
    return sums[1:]


def _descending(exponents: list[Exponent]) -> list[Exponent] | None:
    """The exponents from the largest down, or None where `FIRST` digits do not tell: a cap keeps the order."""
    if len({e.cap for e in exponents}) == 1:
        return sorted(exponents, key=lambda e: e.score, reverse=True)
    order = sorted(exponents, key=lambda e: (e.enclose(FIRST).low, e.score), reverse=True)
    for e, f in pairwise(order):
        if e.cap != f.cap and e.enclose(FIRST).low <= f.enclose(FIRST).high:
            return None
        if e.cap == f.cap and e.score < f.score:
            return None
    return order
