r"""The bounds of activations, gated ones and the soft cap; see `bounds` for what all bounds share.

Relative errors in units of u, with z what enters the exponential or erfc, and g an activation's value at x:

    relu 0       relu2 1       tanh 2e       sigmoid 2e + 2       silu 2e + 3
    quick_gelu 2e + 3 + 2·|z|, z = 1.702·x: constant and product
    gelu_tanh 2e + 3 + 8·|z|, z = 2·√(2/π)·(x + 0.044715·x³): three products and a constant in the cube, the sum, the
        factor's constant and product
    gelu 4e + 19 + 2·x², z = −x/√2: constant and quotient, times erfc's condition number, at most x² + 1, twice; erfc
        within 4e + 16 units, which is what `lepton_ref.numerics.special.erfc` keeps; the product by x

What z carries in relative error enters exp(z) multiplied by |z|; the terms in z and x² belong to the left tail, where a
sigmoid is nearly an exponential. For x ≥ 0, |z|·(1 − σ(z)) < 0.28, so that they are 1, 3 and 1 at most there.

Exponentials that underflow lose (2e + 6)·η·|x| at most. The *textbook* forms lose more in the left tail:
1/(1 + exp(−x)) is 0 where exp(−x) overflows, and so loses 1/largest, multiplied by |x|; x/2·(1 + erf(x/√2)) and
x/2·(1 + tanh(z/2)) cancel, and err by the relative error of erf or tanh, whose condition numbers are at most 1: 2e + 2
and 2e + 8 units of |x|/2, and four more.

With a radius ρ, g moves by ρ·sup |g'| between x − ρ and x + ρ, at most ρ·min(sup |g'|, |g'(x)| + ρ·sup |g''|).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from lepton_ref.numerics.arithmetic import (
    ULPS,
    UNIT,
    Arithmetic,
    Reals,
    finish,
    get_arithmetic,
    reals,
    unless_beyond,
)

GELU_SCALE, GELU_CUBE, QUICK_SCALE = 2 * math.sqrt(2 / math.pi), 0.044715, 1.702


def _sigmoid(x: Reals) -> Reals:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def _phi(x: Reals) -> Reals:
    """Φ, the normal distribution."""
    return np.asarray(np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in x.ravel()]).reshape(x.shape))


def _silu_slope(x: Reals) -> Reals:
    return np.asarray(_sigmoid(x) * (1 + x * _sigmoid(-x)))


def _gelu_tanh_slope(x: Reals) -> Reals:
    z, turn = GELU_SCALE * (x + GELU_CUBE * x**3), GELU_SCALE * (1 + 3 * GELU_CUBE * x * x)
    return np.asarray(_sigmoid(z) * (1 + x * turn * _sigmoid(-z)))


@dataclass(frozen=True)
class Shape:
    """An activation as the bounds see it.

    Attributes:
        value: g in float64, with a small relative error.
        units: (x, e) -> the relative error in units of u.
        slope: g', in float64.
        steepest: the largest |g'|, rounded up.
        bend: the largest |g''|, rounded up.
        textbook: (e) -> what the textbook form errs by in units of u·|x|/2; None where it does not cancel.
        exponential: whether an exponential may underflow.
    """

    value: Callable[[Reals], Reals]
    units: Callable[[Reals, float], ArrayLike]
    slope: Callable[[Reals], Reals]
    steepest: float
    bend: float
    textbook: Callable[[float], float] | None = None
    exponential: bool = True


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "relu": Shape(
            lambda x: np.maximum(x, 0.0), lambda x, e: 0.0, lambda x: np.ones(x.shape), 1.0, 0.0, exponential=False
        ),
        "relu2": Shape(
            lambda x: np.maximum(x, 0.0) ** 2, lambda x, e: 1.0, lambda x: 2 * np.maximum(x, 0.0), math.inf, 2.0,
            exponential=False,
        ),
        "tanh": Shape(np.tanh, lambda x, e: 2 * e, lambda x: 1 - np.tanh(x) ** 2, 1.0, 0.7699),
        "sigmoid": Shape(_sigmoid, lambda x, e: 2 * e + 2, lambda x: _sigmoid(x) * _sigmoid(-x), 0.25, 0.0963),
        "silu": Shape(lambda x: x * _sigmoid(x), lambda x, e: 2 * e + 3, _silu_slope, 1.0999, 0.5001),
        "quick_gelu": Shape(
            lambda x: x * _sigmoid(QUICK_SCALE * x),
            lambda x, e: 2 * e + 3 + np.where(x < 0, 2 * QUICK_SCALE * np.abs(x), 1.0),
            lambda x: _silu_slope(QUICK_SCALE * x), 1.0999, 0.8512,
        ),
        "gelu": Shape(
            lambda x: x * _phi(x), lambda x, e: 4 * e + 19 + np.where(x < 0, 2 * x * x, 1.0),
            lambda x: _phi(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi), 1.129, 0.798,
            textbook=lambda e: 2 * e + 2,
        ),
        "gelu_tanh": Shape(
            lambda x: x * _sigmoid(GELU_SCALE * (x + GELU_CUBE * x**3)),
            lambda x, e: 2 * e + 3 + np.where(x < 0, 8 * np.abs(GELU_SCALE * (x + GELU_CUBE * x**3)), 3.0),
            _gelu_tanh_slope, 1.13, 0.8, textbook=lambda e: 2 * e + 8,
        ),
    }
)  # fmt: skip
"""Activation name → its value, its error and its slope. relu2 has no steepest slope."""


@np.errstate(all="ignore")
def activation_bound(
    x: ArrayLike,
    *,
    kind: str,
    ulps: float = ULPS,
    textbook: bool = False,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., F) -> (..., F): the page's relative error times |g|, what underflows, and what a radius moves.

    Args:
        x: the numbers that the op had.
        kind: the activation.
        ulps: e.
        textbook: whether forms that cancel in the left tail, or overflow there, are to be covered.
        arithmetic: how the evaluation computes.
        output: the format of the result.
        radius: how far the evaluation's inputs may lie from x.

    Raises:
        ValueError: an unknown activation.
    """
    a, x64 = get_arithmetic(arithmetic), reals(x)
    rho = a.read(x64, radius)
    y, moved, own = _errors(x64, rho, kind, ulps, textbook, a)
    return finish(y, moved + own, a, output)


@np.errstate(all="ignore")
def gated_bound(
    gate: ArrayLike,
    up: ArrayLike,
    *,
    kind: str,
    ulps: float = ULPS,
    textbook: bool = False,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radii: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> Reals:
    """(..., F), (..., F) -> (..., F): the activation's error times |up|, and one rounding more of the product.

    With g the activation, moved by μ and then evaluated with an error E, and up moved by ρ: the product moves by
    μ·(|up| + ρ) + |g|·ρ, errs by E·(|up| + ρ) and by u of itself, and may lose η.

    Raises:
        ValueError: an unknown activation.
    """
    a, gate64, up64 = get_arithmetic(arithmetic), reals(gate), reals(up)
    rho = a.read(up64, radii[1])
    g, moved, own = _errors(gate64, a.read(gate64, radii[0]), kind, ulps, textbook, a)
    reach = np.abs(up64) + rho
    size = (np.abs(g) + moved + own) * reach
    bound = moved * reach + np.abs(g) * rho + own * reach + a.gamma(1) * size + a.tiny
    return finish(g * up64, unless_beyond(bound, a, size), a, output)


@np.errstate(all="ignore")
def softcap_bound(
    x: ArrayLike,
    *,
    cap: float,
    ulps: float = ULPS,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., V) -> (..., V): γ_{2e+4}·|y|: cap rounded, quotient, tanh, product, cap again.

    Tanh's condition number is at most 1. A quotient that underflows loses η, tanh of a subnormal e ulps of it, both
    times cap. With a radius ρ, y moves by ρ·min(1, tanh'(x/cap) + 0.77·ρ/cap).
    """
    a, x64 = get_arithmetic(arithmetic), reals(x)
    rho = a.read(x64, radius)
    tanh = np.tanh(x64 / cap)
    moved = rho * np.minimum(1.0, 1 - tanh * tanh + 4 * UNIT + 0.7699 * rho / cap)
    own = a.gamma(2 * ulps + 4) * (np.abs(cap * tanh) + moved) + (cap * (1 + ulps) + 1) * a.tiny
    return finish(cap * tanh, moved + own, a, output)


def _errors(x: Reals, rho: Reals, kind: str, ulps: float, textbook: bool, a: Arithmetic) -> tuple[Reals, Reals, Reals]:
    """The activation's value, how far a radius moves it, and what evaluating it then errs by."""
    if kind not in SHAPES:
        raise ValueError(f"unknown activation {kind!r}; known: {', '.join(SHAPES)}")
    shape = SHAPES[kind]
    y, reach = shape.value(x), np.abs(x) + rho
    slope = np.minimum(shape.steepest, np.abs(shape.slope(x)) + 16 * UNIT * (1 + np.abs(x)) + shape.bend * rho)
    moved = np.where(rho > 0, rho * slope, 0.0)
    units = shape.units(np.where(x < 0, x - rho, x + rho), ulps)
    if kind != "relu" and rho.any():
        units = np.maximum(units, shape.units(x - rho, ulps))  # a radius may reach the left tail
    own = np.where(y != 0, a.gamma(units) * (np.abs(y) + moved), a.gamma(units) * moved)
    if shape.exponential:
        own = own + (2 * ulps + 6) * a.tiny * (1 + reach)
    elif kind == "relu2":
        own = unless_beyond(own + a.tiny, a, (reach) ** 2)
    if textbook and shape.exponential and kind != "tanh":
        lost = 0.0 if shape.textbook is None else float(a.gamma(shape.textbook(ulps) + 4)) / 2
        own = own + (lost + 2 / a.largest) * (1.0 if kind == "sigmoid" else reach)
    return y, moved, np.asarray(own)
