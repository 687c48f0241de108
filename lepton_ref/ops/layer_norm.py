r"""LayerNorm (Ba, Kiros and Hinton 2016): subtract the mean, divide by the standard deviation; ε inside the root.

    y[…, d] = (x[…, d] − μ) / √(Σⱼ (x[…, j] − μ)² / D + ε) · w[d] + b[d],    μ = Σⱼ x[…, j] / D

Bound: with a = maxⱼ |xⱼ − μ| + maxⱼ |xⱼ| and r the root, (2D + 8)·2⁻⁵³·(a/r·|w| + |b|): the subtraction of the mean may
cancel, so the bound scales with max |x| and not with |x − μ| alone.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, require_axis


@op
def layer_norm(
    x: Array, w_d: Array, b_d: Array | None = None, *, eps: float, backend: Backend, precision: Precision
) -> Array:
    """(B, T, D), (D), (D) -> (B, T, D)

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
    mean = math.fsum(x_d) / len(x_d)
    root = math.sqrt(math.fsum((x - mean) ** 2 for x in x_d) / len(x_d) + eps)
    bias = [0.0] * len(x_d) if b_d is None else b_d
    return [(x - mean) / root * w + b for x, w, b in zip(x_d, w_d, bias, strict=True)]
