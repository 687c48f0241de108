"""Activations in double-double, and by the specification: what settles the elements that float64 leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import erfc, sigmoid, tanh
from lepton_ref.numerics.exact_sum import exact_sums, two_product
from lepton_ref.numerics.rounding import UNKNOWN, Index, Reals, Repair
from lepton_ref.ops.base import host_reals, short
from lepton_ref.plain import transcendental
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-75
"""Of every form below, relative to |y|: the functions are within 2⁻⁹², and a relative error of 2⁻⁹⁸ in their argument z
grows at most by 2·z² (erfc), which is below 2¹² wherever y is above `LEAST`."""

LEAST, LARGEST = 2.0**-600, 2.0**600
"""Between them no part of a result has underflowed."""

ROOT_HALF = Pair(np.array(0.7071067811865476), np.array(-4.833646656726457e-17))
"""1/√2."""
TWICE_TANH_GELU_SCALE = Pair(np.array(1.5957691216057308), np.array(-9.96930880911092e-17))
"""2·√(2/π)."""
TANH_GELU_CUBE = Pair.rational(Fraction(44715, 10**6))
QUICK_GELU_SCALE = Pair.rational(Fraction(1702, 1000))


TINY, TINY_CUBE = 2.0**-52, 2.0**-26
"""Below it an activation is its leading term times 1 + δ with 0 < |δ| < 2⁻⁵², and of numbers of 24 bits and a midpoint
of 25 the leading term, times up, either is the midpoint or differs from it by 2⁻⁴⁸ of itself or more. Tanh's δ is of
second order."""


def _gelu_tanh(x: Pair) -> Pair:
    return x * sigmoid(TWICE_TANH_GELU_SCALE * (x + TANH_GELU_CUBE * x * x * x))


DOUBLES: Mapping[str, Callable[[Pair], Pair]] = MappingProxyType(
    {
        "relu2": lambda x: x * x,
        "sigmoid": sigmoid,
        "tanh": tanh,
        "silu": lambda x: x * sigmoid(x),
        "quick_gelu": lambda x: x * sigmoid(QUICK_GELU_SCALE * x),
        "gelu": lambda x: x * erfc(-x * ROOT_HALF) * 0.5,
        "gelu_tanh": _gelu_tanh,
        "relu": lambda x: Pair.of(np.maximum(x.high, 0.0)),
    }
)
"""Activation name → its double-double form."""


def _half(x: Reals) -> Reals:
    return x / 2


LEADING: Mapping[str, tuple[Callable[[Reals], Reals], Callable[[Reals], Reals]]] = MappingProxyType(
    {
        "sigmoid": (lambda x: np.full(x.shape, 0.5), np.sign),
        "tanh": (lambda x: x, lambda x: np.full(x.shape, -1.0)),
        "silu": (_half, np.sign),
        "quick_gelu": (_half, np.sign),
        "gelu": (_half, np.sign),
        "gelu_tanh": (_half, np.sign),
    }
)
"""Activation → its leading term near 0, and the sign of δ: sigmoid is ½ + x/4 − …, tanh x − x³/3 + …, x·sigmoid(a·x)
and x·Φ(x) are x/2·(1 + b·x + …) with 0 < b < 1."""


def activation_repair(x: Array, up: Array | None, kind: str, backend: Backend) -> Repair:
    """Single elements of activation(x), or of activation(x)·up."""

    def double(places: Index) -> tuple[Pair, Reals]:
        given = host_reals(x, backend=backend)[places]
        value = DOUBLES[kind](Pair.of(given))
        inner, other = np.abs(value.high), np.ones(given.size)
        if up is not None:
            other = host_reals(up, backend=backend)[places]
            value = value * other
        size = np.abs(value.high)
        usual = (inner > LEAST) & (inner < LARGEST) & (size > LEAST) & (size < LARGEST)
        exact = np.where(
            short(given, other) & (kind in ("relu", "relu2")), 0.0, DOUBLE_ERROR
        )  # as a product with float32 is
        return value, np.where(usual, size * exact, np.inf)

    def plain(place: tuple[int, ...]) -> Value:
        one = [float(host_reals(x, backend=backend)[place])]
        if up is None:
            return transcendental.activate(one, kind)[0]
        return transcendental.gated(one, [float(host_reals(up, backend=backend)[place])], kind)[0]

    def side(places: Index, middle: Reals) -> NDArray[np.int8]:
        """Where x is so small that activation(x) is its leading term but for a known side: see `LEADING`."""
        small = host_reals(x, backend=backend)[places]
        other = np.ones(small.size) if up is None else host_reals(up, backend=backend)[places]
        if kind not in LEADING:
            return np.full(small.size, UNKNOWN, dtype=np.int8)
        factor, correction = LEADING[kind]
        leading = two_product(factor(small), other)
        terms = np.stack([*leading, -middle], axis=1)
        usual = (np.abs(small) < (TINY_CUBE if kind == "tanh" else TINY)) & (np.abs(small) > LEAST)
        usual &= short(small, other) & (np.abs(other) > LEAST) & (np.abs(other) < LARGEST)
        sign = exact_sums(np.where(usual[:, None], terms, 0.0)).sign()
        beside = (np.sign(leading[0]) * correction(small)).astype(np.int8)
        return np.where(usual, np.where(sign == 0, beside, sign), np.int8(UNKNOWN)).astype(np.int8)

    return Repair(plain, double, side)
