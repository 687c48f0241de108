r"""Activations, plain and gated, and the soft cap.

    relu(x)       = max(x, 0)                     relu2(x) = max(x, 0)²
    sigmoid(x)    = 1/(1 + exp(−x))               silu(x)  = x·sigmoid(x)
    quick_gelu(x) = x·sigmoid(1.702·x)            tanh(x)
    gelu(x)       = x·Φ(x),  Φ(x) = erfc(−x/√2)/2
    gelu_tanh(x)  = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))) = x·sigmoid(2·√(2/π)·(x + 0.044715·x³))
    gated(g, u)   = activation(g)·u               softcap(x) = cap·tanh(x/cap)

1.702 and 0.044715 are the decimals, √(2/π) the real number. Ties: exp of a rational other than 0 is transcendental
(Lindemann), so sigmoid, tanh, silu, quick_gelu and the soft cap are rational at 0 alone. Of the two GELUs at other
numbers nothing is known, and nothing is claimed.

Near its limit, where a function is 1 − tiny, it is compared by the tiny part, 1 − m being exact; and no function
reaches its limits, however far out its argument, so an m that is a limit or beyond is decided at once.

Edges: relu(±0) = +0; the limit of silu and the GELUs at −∞ is 0, but −∞·0 is NaN and so are they.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from lepton_ref.plain import functions
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Enclosure, Real, Value
from lepton_ref.plain.special import plain, require_length, scaled

QUICK_GELU_SCALE = Fraction(1702, 1000)
TANH_GELU_CUBE = Fraction(44715, 10**6)


def activate(x: Sequence[float], kind: str) -> list[Value]:
    """activation(x), element by element.

    Raises:
        ValueError: an unknown activation.
    """
    return [_activation(kind)(a) for a in x]


def gated(gate: Sequence[float], up: Sequence[float], kind: str) -> list[Value]:
    """activation(gate)·up, element by element.

    Raises:
        ValueError: an unknown activation, or two lengths.
    """
    require_length("the length of up", up, len(gate))
    return [scaled(_activation(kind)(g), u) for g, u in zip(gate, up, strict=True)]


def softcap(x: Sequence[float], cap: float) -> list[Value]:
    """cap·tanh(x/cap), element by element.

    Raises:
        ValueError: cap is not positive and finite.
    """
    require_cap(cap)
    return [scaled(_tanh(Fraction(a) / Fraction(cap), a), cap) if math.isfinite(a) else scaled(tanh(a), cap) for a in x]


def require_cap(cap: float) -> None:
    """Raise ValueError unless a soft cap is positive and finite."""
    if not 0 < cap < math.inf:
        raise ValueError(f"a soft cap must be positive and finite, got {cap}; leave it out where a model has none")


def relu(x: float) -> Value:
    """max(x, 0); NaN stays."""
    return Real.rational(0) if x <= 0 else plain(x)


def relu2(x: float) -> Value:
    """max(x, 0)²."""
    return scaled(relu(x), 0.0 if x <= 0 else x)


def sigmoid(x: float) -> Value:
    """1/(1 + exp(−x)); 0 and 1 at the infinities."""
    if not math.isfinite(x):
        return _limit(x, 0, 1)
    return _logistic(Fraction(x))


def tanh(x: float) -> Value:
    """The hyperbolic tangent; −1 and 1 at the infinities."""
    if not math.isfinite(x):
        return _limit(x, -1, 1)
    return _tanh(Fraction(x), x)


def silu(x: float) -> Value:
    """x·sigmoid(x)."""
    return scaled(sigmoid(x), x)


def quick_gelu(x: float) -> Value:
    """x·sigmoid(1.702·x)."""
    return scaled(_logistic(QUICK_GELU_SCALE * Fraction(x)) if math.isfinite(x) else sigmoid(x), x)


def gelu(x: float) -> Value:
    """x·Φ(x), Φ being the normal distribution's probability of a number up to x."""
    return scaled(_phi(Fraction(x)) if math.isfinite(x) else _limit(x, 0, 1), x)


def gelu_tanh(x: float) -> Value:
    """x·sigmoid(2·√(2/π)·(x + 0.044715·x³))."""
    if not math.isfinite(x) or x == 0:
        return scaled(sigmoid(x), x)
    cubic = Fraction(x) + TANH_GELU_CUBE * Fraction(x) ** 3

    def argument(digits: int) -> Interval:
        return functions.sqrt(2 / functions.pi(digits)) * (2 * cubic)

    return scaled(_sigmoid_of(argument, x > 0, None), x)


ACTIVATIONS: Mapping[str, Callable[[float], Value]] = MappingProxyType(
    {
        "relu": relu,
        "relu2": relu2,
        "sigmoid": sigmoid,
        "tanh": tanh,
        "silu": silu,
        "quick_gelu": quick_gelu,
        "gelu": gelu,
        "gelu_tanh": gelu_tanh,
    }
)
"""Activation name → the function of one number."""


def _activation(kind: str) -> Callable[[float], Value]:
    if kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]


def _limit(x: float, left: int, right: int) -> Value:
    return math.nan if math.isnan(x) else Real.rational(left if x < 0 else right)


def _never(m: Fraction) -> bool:
    """Equality with a rational number of one that is known to be transcendental."""
    return False


def _logistic(x: Fraction) -> Real:
    if x == 0:
        return Real.rational(Fraction(1, 2))
    return _sigmoid_of(lambda digits: Interval.of(x, digits), x > 0, _never)


def _sigmoid_of(x: Enclosure, positive: bool, equals: Callable[[Fraction], bool] | None) -> Real:
    """sigmoid(x) for x ≠ 0: less m, it is (1 − m) − sigmoid(−x) for x > 0."""

    def difference(m: Fraction, digits: int) -> Interval:
        if not 0 < m < 1:
            return Interval.of(-1 if m > 0 else 1, digits)
        if positive:
            return Interval.of(1 - m, digits) - functions.sigmoid(-x(digits))
        return functions.sigmoid(x(digits)) - m

    return Real(lambda digits: functions.sigmoid(x(digits)), equals, sign=1, difference=difference)


def _tanh(x: Fraction, zero: float) -> Real:
    """tanh(x); for x > 0 it has, less m, the sign of (1 − m) − (1 + m)·exp(−2x), and it is odd."""
    if x == 0:
        return Real.rational(0, zero=zero)

    def difference(m: Fraction, digits: int) -> Interval:
        if not -1 < m < 1:
            return Interval.of(-1 if m > 0 else 1, digits)
        if abs(x) < 1:
            return functions.tanh(Interval.of(x, digits)) - m
        if x < 0:
            return functions.exp(Interval.of(2 * x, digits)) * (1 - m) - (1 + m)
        return (1 - m) - functions.exp(Interval.of(-2 * x, digits)) * (1 + m)

    return Real(
        lambda digits: functions.tanh(Interval.of(x, digits)), _never, sign=1 if x > 0 else -1, difference=difference
    )


def _phi(x: Fraction) -> Real:
    """Φ(x): less m, it is (1 − m) − Φ(−x) for x > 0."""
    if x == 0:
        return Real.rational(Fraction(1, 2))

    def phi(sign: int, digits: int) -> Interval:
        root = functions.sqrt(Interval.of(2, digits))
        return functions.erfc(Interval.of(-x * sign, digits) / root) / 2

    def difference(m: Fraction, digits: int) -> Interval:
        if not 0 < m < 1:
            return Interval.of(-1 if m > 0 else 1, digits)
        return Interval.of(1 - m, digits) - phi(-1, digits) if x > 0 else phi(1, digits) - m

    return Real(lambda digits: phi(1, digits), None, sign=1, difference=difference)
