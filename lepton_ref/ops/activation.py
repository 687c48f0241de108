r"""Activations, plain and gated.

    relu(x)       = max(x, 0)                     relu2(x) = max(x, 0)²
    sigmoid(x)    = 1 / (1 + exp(−x))             silu(x)  = x · sigmoid(x)
    quick_gelu(x) = x · sigmoid(1.702·x)          tanh(x)
    gelu(x)       = x · Φ(x) = x/2 · erfc(−x/√2)
    gelu_tanh(x)  = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))) = x · sigmoid(2·√(2/π)·(x + 0.044715·x³))
    gated(g, u)   = activation(g) · u             (SwiGLU, GeGLU: Shazeer 2020)

The forms at the far right keep a small relative error in the left tail, where 1 + tanh cancels. A gated activation is
one op: the product is rounded, not the activation before it. The constants are the decimals written here, and π.

Bound, relative, in units of 2⁻⁵³, where exp and tanh err by e ulps (an ulp is at most two units): what z carries in
relative error enters exp(z) multiplied by |z|, and erfc's own condition number is at most x² + 1.

    relu 0        relu2 1           tanh 2e       sigmoid 2e + 2        silu 2e + 3
    quick_gelu 2e + 3 + 2·|z|, z = 1.702·x        gelu_tanh 2e + 3 + 8·|z|, z as above        gelu 4e + 19 + 2·x²
    gated: one unit more. The terms in z and x² belong to the left tail; for x ≥ 0 they are at most 1, 3 and 1.

Edges: relu(±0) = +0; the limit of silu and the GELUs at −∞ is 0, but −∞·0 is NaN and so are they.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.rounding import one_signed
from lepton_ref.numerics.special import erfc, sigmoid
from lepton_ref.ops.activation_repair import activation_repair
from lepton_ref.ops.base import op
from lepton_ref.ops.checks import require_numbers

TANH_GELU_SCALE = math.sqrt(2 / math.pi)
TANH_GELU_CUBE = 0.044715
QUICK_GELU_SCALE = 1.702

SLACK = 1 + 2.0**-20
"""Covers what is of second order, and the rounding of the bounds themselves."""


def _relu(x: Array, backend: Backend) -> Array:
    return backend.xp.where(x <= 0, 0.0, x)  # NaN stays


def _relu2(x: Array, backend: Backend) -> Array:
    y = _relu(x, backend)
    return y * y


def _sigmoid(x: Array, backend: Backend) -> Array:
    return sigmoid(x, backend=backend)


def _tanh(x: Array, backend: Backend) -> Array:
    return backend.xp.tanh(x)


def _silu(x: Array, backend: Backend) -> Array:
    return x * sigmoid(x, backend=backend)


def _quick_gelu(x: Array, backend: Backend) -> Array:
    return x * sigmoid(QUICK_GELU_SCALE * x, backend=backend)


def _gelu(x: Array, backend: Backend) -> Array:
    return 0.5 * x * erfc(-x / math.sqrt(2.0), backend=backend)


def _gelu_tanh(x: Array, backend: Backend) -> Array:
    return x * sigmoid(2.0 * TANH_GELU_SCALE * (x + TANH_GELU_CUBE * x * x * x), backend=backend)


ACTIVATIONS: Mapping[str, Callable[[Array, Backend], Array]] = MappingProxyType(
    {
        "relu": _relu,
        "relu2": _relu2,
        "sigmoid": _sigmoid,
        "tanh": _tanh,
        "silu": _silu,
        "quick_gelu": _quick_gelu,
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
    }
)
"""Activation name → its float64 form."""


@op
def activate(x: Array, *, kind: str, backend: Backend, precision: Precision) -> Array:
    """(B, T, F) -> (B, T, F), activation(x).

    Raises:
        ValueError: an unknown activation; the message lists the known ones.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    value, bound = _bounded(lift(x, backend=backend), kind, 0, backend, precision)
    repair = activation_repair(x, None, kind, backend)
    return round_once(value, bound, op="activation", repair=repair, backend=backend, precision=precision)


@op
def gated(gate: Array, up: Array, *, kind: str, backend: Backend, precision: Precision) -> Array:
    """(B, T, F), (B, T, F) -> (B, T, F), activation(gate) · up.

    Raises:
        ValueError: an unknown activation, or two shapes.
    """
    for what, given in (("gate", gate), ("up", up)):
        require_numbers(what, given, backend=backend, precision=precision)
    if gate.shape != up.shape:
        raise ValueError(f"gate and up are of one shape, got {tuple(gate.shape)} and {tuple(up.shape)}")
    activation, bound = _bounded(lift(gate, backend=backend), kind, 1, backend, precision)
    up64 = lift(up, backend=backend)
    repair = activation_repair(gate, up, kind, backend)
    bound = backend.xp.where(bound == 0.0, 0.0, bound * backend.xp.abs(up64))  # not 0·∞
    return round_once(activation * up64, bound, op="gated", repair=repair, backend=backend, precision=precision)


def _bounded(x: Array, kind: str, more: int, backend: Backend, precision: Precision) -> tuple[Array, Array]:
    """activation(x), which keeps its sign where it underflows, and its bound with `more` roundings to come."""
    xp = backend.xp
    value = _activation(kind)(x, backend)
    if not precision.proven:
        return value, xp.abs(value) * 0.0
    if kind == "relu":
        return value, xp.abs(value) * (more * 4.0 * UNIT)
    bound = xp.abs(value) * ((_units(x, kind, backend) + (more + 3.0)) * (UNIT * SLACK))
    if kind == "relu2":
        short = xp.astype(xp.astype(x, xp.float32, copy=False), xp.float64) == x  # of 24 bits, so its square is exact
        return value, xp.where(short, xp.abs(value) * (more * 4.0 * UNIT), bound)
    sign = xp.where(xp.isfinite(x), xp.abs(x) if kind == "sigmoid" else x, 0.0)
    value, tiny = one_signed(value, sign, backend=backend)
    return value, xp.where(tiny, 0.0, bound)


def _activation(kind: str) -> Callable[[Array, Backend], Array]:
    if kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]


def _units(x: Array, kind: str, backend: Backend) -> Array | float:
    """The table above, in units of 2⁻⁵³ of |y|."""
    xp = backend.xp
    exponential = 2 * backend.ulps + 3
    match kind:
        case "relu":
            return 0.0
        case "relu2":
            return 1.0
        case "tanh":
            return 2 * backend.ulps
        case "gelu":
            return 4 * backend.ulps + 19 + xp.where(x < 0.0, 2.0 * x * x, 1.0)
        case "quick_gelu":
            return exponential + 1.0 + xp.abs(2.0 * QUICK_GELU_SCALE * x)
        case "gelu_tanh":
            z = 2.0 * TANH_GELU_SCALE * (x + TANH_GELU_CUBE * x * x * x)
            return exponential + 3.0 + 8.0 * xp.abs(z)
        case _:
            return exponential
