r"""RMSNorm (Zhang and Sennrich 2019): divide by the root of the mean square; ε inside the root.

    y[…, d] = x[…, d] / √(Σⱼ x[…, j]² / D + ε) · (offset + w[d])

Offset is 0; Gemma's checkpoints store w − 1 and add it back. Bound: γ_{⌈D/2⌉+5}·|y|: the mean square and ε do not
cancel, so that their sum's relative error is at most γ_{D+2}, which the root halves; root, quotient, offset + w and the
product add one rounding each.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum, require_axis


@op
def rms_norm(x: Array, w_d: Array, *, eps: float, offset: float = 0.0, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (D) -> (B, T, D), the norm over the last axis.

    Any number of leading axes: (B, T, H, K) with a weight of length K norms each head.

    Raises:
        ValueError: w is not of length D.
    """
    require_axis("the length of the norm's weight", w_d.shape[0], x.shape[-1])
    x64 = lift(x, backend=backend)
    w64 = lift(w_d, backend=backend) + offset
    square = backend.sum(x64 * x64, axis=-1, keepdims=True, accumulate="float64") / x.shape[-1]
    value = x64 / backend.xp.sqrt(square + eps) * w64
    return round_once(value, backend=backend, precision=precision)


def rms_norm_scalar(x_d: list[float], w_d: list[float], *, eps: float, offset: float = 0.0) -> list[float]:
    """One position: the specification."""
    root = math.sqrt(real_sum(x * x for x in x_d) / len(x_d) + eps)
    return [x / root * (offset + w) for x, w in zip(x_d, w_d, strict=True)]
