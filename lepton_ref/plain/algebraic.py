r"""The ops whose results are rational, or rational but for a square root: every comparison is one of integers.

    embed       y = scale · w[id]                     linear      y = Σᵢ xᵢ·w[o, i] + b[o]
    add         y = x + f
    rms_norm    y = x·(offset + w)/√(Σⱼ xⱼ²/D + ε)
    layer_norm  y = (x − μ)·w/√(Σⱼ (xⱼ − μ)²/D + ε) + b,  μ = Σⱼ xⱼ/D
    pool        y = Σₜ x[t]/n, or x at the first position, or maxₜ x[t]; normalised y/max(√Σ y², 10⁻¹²)

A root is compared by squares: p/√q ≥ m if and only if S(p)/q ≥ S(m), where S(z) = z·|z| rises with z.
Every function takes lists of floats, one position at a time, and gives a list of values, not yet rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from lepton_ref.plain.functions import sqrt
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real, Value
from lepton_ref.plain.special import (
    Number,
    exact,
    finite,
    plain,
    require_length,
    scaled,
    special_sum,
    stand_in,
    zero_of_sum,
)

POOLINGS = ("mean", "cls", "max")
NORMALISE_EPS = Fraction(1, 10**12)
"""What a vector's length is at least, before it is divided by: the decimal 10⁻¹²."""


def embed(token: int, table: Sequence[Sequence[float]], *, scale: float = 1.0) -> list[Value]:
    """A table's row, times scale.

    Raises:
        ValueError: a token that the table has no row for.
    """
    if not 0 <= token < len(table):
        raise ValueError(f"id {token} is outside the table of {len(table)} rows")
    return [scaled(plain(w), scale) for w in table[token]]


def add(x: Sequence[float], f: Sequence[float]) -> list[Value]:
    """The sums x + f, element by element.

    Raises:
        ValueError: two lengths.
    """
    require_length("the length of what is added", f, len(x))
    return [dot([a, b], [1.0, 1.0]) for a, b in zip(x, f, strict=True)]


def linear(x: Sequence[float], w_oi: Sequence[Sequence[Number]], b_o: Sequence[float] | None = None) -> list[Value]:
    """W·x + b.

    Raises:
        ValueError: a row of W is not as long as x, or b not as W has rows.
    """
    if b_o is None:
        return [dot(x, w) for w in w_oi]
    require_length("the length of the bias", b_o, len(w_oi))
    return [dot([*x, 1.0], [*w, b]) for w, b in zip(w_oi, b_o, strict=True)]


def dot(x: Sequence[Number], w: Sequence[Number]) -> Value:
    """Σᵢ xᵢ·wᵢ.

    Raises:
        ValueError: two lengths.
    """
    require_length("the length of a row of weights", w, len(x))
    pairs = list(zip(x, w, strict=True))
    special = special_sum(float(a) * float(b) for a, b in pairs if not finite(a, b))
    if special is not None:
        return special
    total = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
    return Real.rational(total, zero=zero_of_sum(float(a) * float(b) for a, b in pairs))


def rms_norm(x: Sequence[float], w: Sequence[float], *, eps: float, offset: float = 0.0) -> list[Value]:
    """Divide x by the root of its mean square, multiply by (offset + w). An infinite x makes the root infinite.

    Raises:
        ValueError: w is not as long as x, or eps is not a number from 0 up.
    """
    require_length("the length of the norm's weight", w, len(x))
    _require_eps(eps)
    if any(map(math.isnan, x)):
        return [math.nan] * len(x)
    if any(map(math.isinf, x)):
        quotients = [math.copysign(0.0, a) if math.isfinite(a) else math.nan for a in x]
        return [scaled(plain(a), offset + b) for a, b in zip(quotients, w, strict=True)]
    square = mean_of([Fraction(a) ** 2 for a in x]) + Fraction(eps)
    weights = [dot([offset, b], [1.0, 1.0]) for b in w]
    return [_weighted(Fraction(a), a, square, b, None) for a, b in zip(x, weights, strict=True)]


def layer_norm(x: Sequence[float], w: Sequence[float], b: Sequence[float] | None = None, *, eps: float) -> list[Value]:
    """Divide x less its mean by the root of its variance, multiply by w, add b.

    An infinite x has no variance: all are NaN.

    Raises:
        ValueError: w or b is not as long as x, or eps is not a number from 0 up.
    """
    require_length("the length of the norm's weight", w, len(x))
    _require_eps(eps)
    if b is not None:
        require_length("the length of the norm's bias", b, len(x))
    if not finite(*x):
        return [math.nan] * len(x)
    mean = mean_of([Fraction(a) for a in x])
    centred = [Fraction(a) - mean for a in x]
    variance = mean_of([c * c for c in centred]) + Fraction(eps)
    zeros = [_zero_of_centred(a, zero_of_sum(x)) for a in x]
    biases = [None] * len(x) if b is None else b
    return [
        _weighted(c, zero, variance, plain(weight), bias)
        for c, zero, weight, bias in zip(centred, zeros, w, biases, strict=True)
    ]


def pool(x_td: Sequence[Sequence[float]], *, kind: str, normalise: bool) -> list[Value]:
    """One vector from those of all unmasked positions. Of +0 and −0 the larger is +0.

    Raises:
        ValueError: an unknown kind, or no position.
    """
    if kind not in POOLINGS:
        raise ValueError(f"unknown pooling {kind!r}; known: {', '.join(POOLINGS)}")
    if not x_td:
        raise ValueError("a sequence has no unmasked position to pool; leave empty texts out")
    if kind == "cls":
        value = [plain(x) for x in x_td[0]]
    else:
        columns = list(zip(*x_td, strict=True))
        value = [_mean(column) if kind == "mean" else _largest(column) for column in columns]
    return _normalised(value) if normalise else value


def mean_of(numbers: Sequence[Fraction]) -> Fraction:
    """The sum over the count."""
    return sum(numbers, Fraction(0)) / len(numbers)


def over_root(top: Fraction, square: Fraction, shift: Fraction = Fraction(0), zero: float = 0.0) -> Real:
    """top/√square + shift, for a positive square."""

    def enclose(digits: int) -> Interval:
        return Interval.of(top, digits) / sqrt(Interval.of(square, digits)) + shift

    def difference(m: Fraction, digits: int) -> Interval:
        return Interval.of(_signed_square(top) / square - _signed_square(m - shift), digits)

    return Real(enclose, zero=zero, difference=difference)


def _signed_square(z: Fraction) -> Fraction:
    return z * abs(z)


def _weighted(top: Fraction, zero: float, square: Fraction, weight: Value, bias: float | None) -> Value:
    """top/√square · weight + bias; `zero` is a float with the sign of a top that is 0, and no bias is no term."""
    if square == 0:
        return math.nan
    sign = math.copysign(0.0, zero) if top == 0 else math.copysign(1.0, top)
    terms = [sign * stand_in(weight), *([] if bias is None else [bias])]
    special = special_sum(terms)
    if special is not None:
        return special
    return over_root(top * exact(weight), square, Fraction(0 if bias is None else bias), zero_of_sum(terms))


def _zero_of_centred(x: float, zero_mean: float) -> float:
    """What x − μ is where it is 0: as IEEE 754 has it −0 − (+0) is −0, and every other difference +0."""
    return x - zero_mean if x == 0 else 0.0


def _require_eps(eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"a norm's eps must be a number from 0 up, got {eps}")


def _mean(column: Sequence[float]) -> Value:
    return dot(column, [Fraction(1, len(column))] * len(column))


def _largest(column: Sequence[float]) -> Value:
    if any(map(math.isnan, column)):
        return math.nan
    return plain(max(column, key=lambda x: (x, math.copysign(1.0, x))))


def _normalised(value: list[Value]) -> list[Value]:
    signs = [stand_in(v) for v in value]
    if any(map(math.isnan, signs)):
        return [math.nan] * len(value)
    if any(map(math.isinf, signs)):
        return [math.nan if math.isinf(sign) else plain(math.copysign(0.0, sign)) for sign in signs]
    numbers = [exact(v) for v in value]
    square = max(sum((v * v for v in numbers), Fraction(0)), NORMALISE_EPS**2)
    return [over_root(v, square, zero=sign) for v, sign in zip(numbers, signs, strict=True)]
