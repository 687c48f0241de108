r"""LayerNorm (Ba, Kiros and Hinton 2016): subtract the mean, divide by the standard deviation; ε inside the root.

    y[…, d] = (x[…, d] − μ) / √(Σⱼ (x[…, j] − μ)² / D + ε) · w[d] + b[d],    μ = Σⱼ x[…, j] / D

Bound: the computed mean errs by at most ρ = γ_D·Σⱼ |xⱼ|/D, which the centred x inherits, while the variance gains only
ρ² (Σⱼ (xⱼ − μ) = 0). With r the root and A = |x − μ|·|w|/r, all else being products:
(1 + γ)·(ρ·|w|/r + A·ρ²/(2r²)) + γ·(A + |b|), γ = γ_{⌈D/2⌉+7}. It scales with mean |x|, not with |x − μ| alone: the
subtraction of the mean may cancel.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum, require_axis


@op
def layer_norm(
    x: Array, w_d: Array, b_d: Array | None = None, *, eps: float, backend: Backend, precision: Precision
) -> Array:
    """(B, T, D), (D), (D) -> (B, T, D), the norm over the last axis.

    Any number of leading axes.

    Raises:
        ValueError: w or b is not of length D.
    """
    require_axis("the length of the norm's weight", w_d.shape[0], x.shape[-1])
    if b_d is not None:
        require_axis("the length of the norm's bias", b_d.shape[0], x.shape[-1])
    x64 = lift(x, backend=backend)
    mean = backend.sum(x64, axis=-1, keepdims=True, accumulate="float64") / x.shape[-1]
    centred = x64 - mean
    variance = backend.sum(centred * centred, axis=-1, keepdims=True, accumulate="float64") / x.shape[-1]
    value = centred / backend.xp.sqrt(variance + eps) * lift(w_d, backend=backend)
    if b_d is not None:
        value = value + lift(b_d, backend=backend)
    return round_once(value, backend=backend, precision=precision)


def layer_norm_scalar(x_d: list[float], w_d: list[float], b_d: list[float] | None = None, *, eps: float) -> list[float]:
    """One position: the specification."""
    mean = real_sum(x_d) / len(x_d)
    root = math.sqrt(real_sum((x - mean) ** 2 for x in x_d) / len(x_d) + eps)
    bias = [0.0] * len(x_d) if b_d is None else b_d
    return [(x - mean) / root * w + b for x, w, b in zip(x_d, w_d, bias, strict=True)]
