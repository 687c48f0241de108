r"""Softmax and its logarithm over the last axis, as sampling and scoring use them.

    softmax(x)ᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)        log_softmax(x)ᵢ = xᵢ − log Σⱼ exp(xⱼ)

Both are unchanged by a shift, so the largest x, m, is subtracted first and nothing overflows; a row that holds a NaN or
+∞, or −∞ alone, is NaN throughout (∞ − ∞). Bound, with dᵢ = xᵢ − m, n numbers in a row, exp and log within e ulps: the
rounding of dᵢ enters exp absolutely, and Σⱼ yⱼ·|dⱼ| ≤ ln n, so the sum errs relatively by τ = (n − 1 + 2e + ln n)·2⁻⁵³:

    softmax (n + ln n + 4e + |dᵢ|)·2⁻⁵³·y        log_softmax τ + (|dᵢ| + 2e·ln Σ + |y|)·2⁻⁵³.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum


@op
def softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), each row sums to one; −inf has probability zero.

    Raises:
        ValueError: the last axis is empty.
    """
    exps, total, _ = _exponentials(x, backend=backend)
    return round_once(exps / total, backend=backend, precision=precision)


@op
def log_softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), natural logarithms of softmax.

    Raises:
        ValueError: the last axis is empty.
    """
    _, total, shifted = _exponentials(x, backend=backend)
    return round_once(shifted - backend.xp.log(total), backend=backend, precision=precision)


def _exponentials(x: Array, *, backend: Backend) -> tuple[Array, Array, Array]:
    if x.shape[-1] == 0:
        raise ValueError("softmax over an empty axis has no value; give at least one score")
    x64 = lift(x, backend=backend)
    shifted = x64 - backend.xp.max(x64, axis=-1, keepdims=True)
    exps = backend.xp.exp(shifted)
    return exps, backend.sum(exps, axis=-1, keepdims=True, accumulate="float64"), shifted


def softmax_scalar(x_v: list[float]) -> list[float]:
    """One row: the specification."""
    top = max(x_v)
    exps = [math.exp(x - top) for x in x_v]
    return [e / real_sum(exps) for e in exps]


def log_softmax_scalar(x_v: list[float]) -> list[float]:
    """One row: the specification."""
    top = max(x_v)
    log_total = math.log(real_sum(math.exp(x - top) for x in x_v))
    return [x - top - log_total for x in x_v]
