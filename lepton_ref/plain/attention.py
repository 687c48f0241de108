r"""Softmax, its logarithm and attention: quotients of sums of exponentials.

    softmax(x)ᵢ = exp(xᵢ)/Σⱼ exp(xⱼ)        log_softmax(x)ᵢ = −log Σⱼ exp(xⱼ − xᵢ)
    attention   = Σₛ exp(scoreₛ)·valueₛ/(Σₛ exp(scoreₛ) + exp(sink)),  scoreₛ = cap(scale·Σₖ qₖ·keyₛₖ)

A comparison with a rational m is one of Σ c·exp(e) with 0, with rational c: for attention each key contributes
value − m and the sink −m; for softmax 1 − m for i and −m for the others; for its logarithm exp(−m) is compared with the
sum. How, and what is known of ties, `lepton_ref.plain.exponentials` says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

from lepton_ref.plain.algebraic import dot
from lepton_ref.plain.exponentials import Exponent, grouped, sign_of_sum
from lepton_ref.plain.functions import exp, log
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real, Value
from lepton_ref.plain.special import exact, require_length, special_sum, zero_of_sum
from lepton_ref.plain.transcendental import require_cap

__all__ = ["Exponent", "attention", "log_softmax", "sign_of_sum", "softmax"]


def softmax(x: Sequence[float]) -> list[Value]:
    """exp(xᵢ)/Σⱼ exp(xⱼ); a row that holds a NaN or +∞, or −∞ alone, is NaN throughout.

    Raises:
        ValueError: no scores.
    """
    if not _has_softmax(x):
        return [math.nan] * len(x)
    kept = [Fraction(score) for score in x if score > -math.inf]
    return [Real.rational(0) if score == -math.inf else _share(Fraction(score), kept) for score in x]


def log_softmax(x: Sequence[float]) -> list[Value]:
    """−log Σⱼ exp(xⱼ − xᵢ), and −∞ for −∞; a row that holds a NaN or +∞, or −∞ alone, is NaN throughout.

    Raises:
        ValueError: no scores.
    """
    if not _has_softmax(x):
        return [math.nan] * len(x)
    kept = [Fraction(score) for score in x if score > -math.inf]
    return [-math.inf if score == -math.inf else _log_share(Fraction(score), kept) for score in x]


def _has_softmax(x: Sequence[float]) -> bool:
    if not x:
        raise ValueError("softmax over an empty axis has no value; give at least one score")
    return not any(math.isnan(score) or score == math.inf for score in x) and max(x) > -math.inf


def _share(score: Fraction, kept: list[Fraction]) -> Real:
    if set(kept) == {score}:
        return Real.rational(Fraction(1, len(kept)))
    top = max(kept)

    def enclose(digits: int) -> Interval:
        return exp(Interval.of(score - top, digits)) / _total([s - top for s in kept], digits)

    def difference(m: Fraction, digits: int) -> Interval:
        return sign_of_sum(grouped([(Exponent(s), -m) for s in kept] + [(Exponent(score), Fraction(1))]), digits)

    return Real(enclose, sign=1, difference=difference)


def _log_share(score: Fraction, kept: list[Fraction]) -> Real:
    if len(kept) == 1:
        return Real.rational(0)
    top = max(kept)
    others = [s - top for s in kept if s != score]

    def enclose(digits: int) -> Interval:
        if score == top and len(others) == len(kept) - 1:
            t = _total(others, digits)
            if t.high.adjusted() < -digits:  # −t < −log(1 + t) < −t·(1 − t), where 1 + t would keep nothing of t
                return Interval((-t).low, (-(t * (1 - t))).high, digits)
        return Interval.of(score - top, digits) - log(_total([s - top for s in kept], digits))

    def difference(m: Fraction, digits: int) -> Interval:
        terms = [(Exponent(s - score), Fraction(-1)) for s in kept]
        return sign_of_sum(grouped([*terms, (Exponent(-m), Fraction(1))]), digits)

    return Real(enclose, sign=-1, difference=difference)


def _total(exponents: Sequence[Fraction], digits: int) -> Interval:
    return functools.reduce(Interval.__add__, (exp(Interval.of(e, digits)) for e in exponents))


def attention(
    q: Sequence[float],
    keys: Sequence[Sequence[float]],
    values: Sequence[Sequence[float]],
    seen: Sequence[bool],
    *,
    scale: float,
    cap: float | None = None,
    sink: float | None = None,
) -> list[Value]:
    """One query of one head: the weighted sum of the values of the keys it sees, +0 where it sees none.

    What is not seen takes no part, NaN included. A score of −∞ weighs 0, and 0·∞ is NaN; a NaN or +∞ makes all NaN. An
    infinite sink takes all weight.

    Args:
        q: the query, K numbers.
        keys: K numbers each.
        values: their width may differ from the keys'.
        seen: True for the keys that the query sees.
        scale: the factor of the scores.
        cap: the soft cap of the scores, or None.
        sink: a score without a value, or None.

    Raises:
        ValueError: lengths that disagree, no key, or a cap that is not positive and finite.
    """
    if not keys:
        raise ValueError("attention needs at least one key, got none; mask what must not be seen")
    require_length("the number of values", values, len(keys))
    require_length("the length of the mask", seen, len(keys))
    if cap is not None:
        require_cap(cap)
    if not any(seen):
        return [Real.rational(0)] * len(values[0])
    scores = [_score(q, key, scale, cap) for key, see in zip(keys, seen, strict=True) if see]
    columns = zip(*(value for value, see in zip(values, seen, strict=True) if see), strict=True)
    sunk = -math.inf if sink is None else sink
    if _is_nan(scores, sunk):
        return [math.nan for _ in columns]
    weightless = Exponent(-math.inf)
    kept = [weightless if e is None or sunk == math.inf else e for e in scores]
    rest = None if math.isinf(sunk) else Exponent(Fraction(sunk))
    return _means(list(columns), [None if e == weightless else e for e in kept], rest)


def _score(q: Sequence[float], key: Sequence[float], scale: float, cap: float | None) -> Exponent | None:
    """The key's exponent; None for NaN."""
    product = dot(q, key)
    if isinstance(product, Real):
        score = exact(product) * Fraction(scale)
        return Exponent(score, None if cap is None or score == 0 else Fraction(cap))
    infinite = product * scale
    return None if math.isnan(infinite) else Exponent(infinite, None if cap is None else Fraction(cap))


def _is_nan(scores: Sequence[Exponent | None], sink: float) -> bool:
    """Whether the softmax of the scores and the sink is NaN: a NaN, ∞ − ∞, or 0/0."""
    if math.isnan(sink) or any(e is None or e == Exponent(math.inf) for e in scores):
        return True
    return sink == -math.inf and all(e == Exponent(-math.inf) for e in scores)


def _means(
    columns: Sequence[Sequence[float]], exponents: Sequence[Exponent | None], sink: Exponent | None
) -> list[Value]:
    """Each column's weighted mean; None is an exponent of −∞, a weight of 0."""
    weighing = [e for e in exponents if e is not None]
    everyone = weighing if sink is None else [*weighing, sink]

    @functools.cache
    def weights(digits: int) -> list[Interval]:
        top = max(everyone, key=lambda e: e.enclose(digits).low)
        return [exp(e.above(top, digits)) for e in everyone]

    def mean(column: Sequence[float]) -> Value:
        products = [(0.0 if e is None else 1.0) * v for e, v in zip(exponents, column, strict=True)]
        special = special_sum(products)
        if special is not None:
            return special
        numbers = [Fraction(v) for e, v in zip(exponents, column, strict=True) if e is not None]
        if not numbers or (sink is None and len(set(numbers)) == 1):
            return Real.rational(numbers[0] if numbers else 0, zero=zero_of_sum(products))

        def enclose(digits: int) -> Interval:
            w = weights(digits)
            total = functools.reduce(Interval.__add__, w)
            return functools.reduce(Interval.__add__, (a * v for a, v in zip(w, numbers, strict=False))) / total

        def difference(m: Fraction, digits: int) -> Interval:
            terms = [(e, v - m) for e, v in zip(weighing, numbers, strict=True)]
            return sign_of_sum(grouped(terms if sink is None else [*terms, (sink, -m)]), digits)

        return Real(enclose, zero=zero_of_sum(products), difference=difference)

    return [mean(column) for column in columns]
