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

TANH_GELU_SCALE = math.sqrt(2 / math.pi)
TANH_GELU_CUBE = 0.044715
QUICK_GELU_SCALE = 1.702


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
    x64 = lift(x, backend=backend)
    value = _activation(kind)(x64, backend)
    sign = backend.xp.abs(x64) if kind == "sigmoid" else x64
    return _round(value, _units(x64, kind, backend), sign, x, None, kind, backend, precision)


@op
def gated(gate: Array, up: Array, *, kind: str, backend: Backend, precision: Precision) -> Array:
    """(B, T, F), (B, T, F) -> (B, T, F), activation(gate) · up.

    Raises:
        ValueError: an unknown activation, or two shapes.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate and up are of one shape, got {tuple(gate.shape)} and {tuple(up.shape)}")
    gate64, up64 = lift(gate, backend=backend), lift(up, backend=backend)
    value = _activation(kind)(gate64, backend) * up64
    sign = (backend.xp.abs(gate64) if kind == "sigmoid" else gate64) * up64
    return _round(value, _units(gate64, kind, backend) + 1.0, sign, gate, up, kind, backend, precision)


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


def _round(
    value: Array, units: Array | float, sign: Array, x: Array, up: Array | None, kind: str,
    backend: Backend, precision: Precision,
) -> Array:  # fmt: skip
    """Round once; relu of a float32 is exact, and so is its square."""
    xp = backend.xp
    bound: Array | float = 0.0
    if kind not in ("relu", "relu2") or up is not None:
        if kind not in ("relu", "relu2") and precision.proven:
            value, tiny = one_signed(value, sign, backend=backend)
            bound = xp.where(tiny, 0.0, xp.abs(value) * ((units + 3.0) * (UNIT * (1 + 2.0**-20))))
        else:
            bound = xp.abs(value) * ((units + 3.0) * UNIT)
    elif kind == "relu2":
        bound = xp.where(
            xp.astype(xp.astype(x, xp.float32, copy=False), xp.float64) == x, 0.0, xp.abs(value) * (4.0 * UNIT)
        )
    op_name = "activation" if up is None else "gated"
    repair = activation_repair(x, up, kind, backend)
    return round_once(value, bound, op=op_name, repair=repair, backend=backend, precision=precision)
