r"""Linear: a matrix, and perhaps a bias.

    y[…, o] = Σᵢ x[…, i]·w[o, i] + b[o]

Products of two float32 are exact in float64, so only the sum carries error. Bound, in any order of summation, fused or
not (Higham, Accuracy and Stability, §3.1): |error before rounding| ≤ γ_I·(Σᵢ |xᵢ·wᵢ| + |b|), and γ_{I+1} where x or w
is wider than float32 and the products round too.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum, require_axis, try_kernel
from lepton_ref.storage.base import Weight


@op
def linear(x: Array, w_oi: Weight, b_o: Array | None = None, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, I), (O, I), (O) -> (B, T, O), x·wᵀ + b.

    Any number of leading axes. The weight is decoded in panels of rows, so that it never lies decoded as a whole
    unless its storage keeps it so.

    Raises:
        ValueError: x's last axis is not I, or b is not of length O.
    """
    require_axis("the last axis of x", x.shape[-1], w_oi.shape[1])
    if b_o is not None:
        require_axis("the length of the bias", b_o.shape[0], w_oi.shape[0])
    done = try_kernel("linear", w_oi, x, w_oi, b_o, backend=backend, precision=precision)
    if done is not NotImplemented:
        return done
    xp = backend.xp
    rows = math.prod(x.shape[:-1])
    x64 = xp.reshape(lift(x, backend=backend), (rows, x.shape[-1]))
    parts = []
    for start, stop, panel in w_oi.panels(backend=backend):
        part = backend.matmul(x64, xp.permute_dims(panel, (1, 0)), accumulate="float64")
        if b_o is not None:
            part = part + lift(b_o[start:stop], backend=backend)
        parts.append(round_once(part, backend=backend, precision=precision))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)
    return xp.reshape(y, (*x.shape[:-1], w_oi.shape[0]))


def linear_scalar(x_i: list[float], w_oi: list[list[float]], b_o: list[float] | None = None) -> list[float]:
    """One row of inputs: the specification, each sum exact and rounded once to float64."""
    bias = [0.0] * len(w_oi) if b_o is None else b_o
    return [real_sum([*(x * w for x, w in zip(x_i, w_i, strict=True)), b]) for w_i, b in zip(w_oi, bias, strict=True)]
