r"""Soft cap (Gemma 2): y = cap · tanh(x / cap), which keeps logits within ±cap.

Bound: tanh's condition number is at most 1, so quotient, product and tanh within e ulps give γ_{2e+2}·|y|.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op


@op
def softcap(x: Array, *, cap: float, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), cap·tanh(x/cap).

    Raises:
        ValueError: cap is not positive.
    """
    if not cap > 0:
        raise ValueError(f"a soft cap must be positive, got {cap}; leave it out where a model has none")
    value = backend.xp.tanh(lift(x, backend=backend) / cap) * cap
    return round_once(value, backend=backend, precision=precision)


def softcap_scalar(x_v: list[float], *, cap: float) -> list[float]:
    """One position: the specification."""
    return [cap * math.tanh(x / cap) for x in x_v]
