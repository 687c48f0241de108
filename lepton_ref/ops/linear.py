r"""Linear: a matrix, and perhaps a bias.

    y[…, o] = Σᵢ x[…, i]·w[o, i] + b[o]

Under w8a8, w4a8 and fp8 x and w are what `lepton_ref.numerics.operands` and `lepton_ref.storage.encoded` make of them,
under ggml what `lepton_ref.plain.ggml` says.

Bound, in any order of summation, fused or not (Higham, Accuracy and Stability, §3.1): a term passes at most I + 1
roundings, its product's, I − 1 sums' and the bias's, so the float64 value is within γ_{I+1}·(Σᵢ |xᵢ·wᵢ| + |b|) of the
exact one, and Σᵢ |xᵢ·wᵢ| ≤ ‖x‖·‖w‖ needs no second matrix product. Three units more cover the rounding test and the
lengths. Where a length is no finite number that products of are safe, the bound is infinite.

A sum that is exactly zero is −0 if every term is −0, otherwise +0: what IEEE addition gives in any order.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import gamma
from lepton_ref.numerics.lengths import lengths
from lepton_ref.numerics.operands import activations
from lepton_ref.ops.base import op, require_axis, try_kernel
from lepton_ref.ops.checks import require_numbers
from lepton_ref.ops.linear_otherwise import by_machine, fast
from lepton_ref.ops.linear_repair import LinearRepair
from lepton_ref.storage.base import Panel, Weight


@op
def linear(x: Array, w_oi: Weight, b_o: Array | None = None, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, I), (O, I), (O) -> (B, T, O), x·wᵀ + b.

    Any number of leading axes. The weight is decoded in panels of rows, so that it never lies decoded as a whole
    unless its storage keeps it so.

    Raises:
        ValueError: x's last axis is not I, or b is not of length O.
    """
    if not isinstance(w_oi, Weight) or len(w_oi.shape) != 2 or 0 in w_oi.shape:
        what = f"a weight of shape {w_oi.shape}" if isinstance(w_oi, Weight) else type(w_oi).__name__
        raise ValueError(f"w must be a Weight of shape (O, I), none of them 0, got {what}; Dense wraps an array")
    require_numbers("x", x, any_size=True, backend=backend, precision=precision)
    require_axis("the last axis of x", x.shape[-1], w_oi.shape[1])
    if b_o is not None:
        require_numbers("the bias", b_o, axes=1, any_size=True, backend=backend, precision=precision)
        require_axis("the length of the bias", b_o.shape[0], w_oi.shape[0])
    done = try_kernel("linear", w_oi, x, w_oi, b_o, backend=backend, precision=precision)
    if done is not NotImplemented:
        return done
    xp = backend.xp
    flat = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    if precision.machine is not None:
        y = by_machine(flat, w_oi, b_o, backend, precision)
    elif precision.accumulate == "float32":
        y = fast(flat, w_oi, b_o, backend, precision)
    else:
        y = _round_once(flat, w_oi, b_o, backend, precision)
    return xp.reshape(y, (*x.shape[:-1], w_oi.shape[0]))


def _round_once(x: Array, w_oi: Weight, b_o: Array | None, backend: Backend, precision: Precision) -> Array:
    """(M, I), (O, I), (O) -> (M, O)."""
    xp = backend.xp
    x64 = activations(lift(x, backend=backend), precision.operands, w_oi.format, backend=backend)
    sizes = lengths(x64, backend=backend) if precision.proven else None
    parts = []
    for panel in w_oi.panels(backend=backend):
        value, bound = _product(x64, panel, b_o, sizes, backend)
        start = panel.start
        del panel  # so that the next one is not decoded beside it
        repair = LinearRepair(x64, w_oi, b_o, start, backend).functions()
        parts.append(round_once(value, bound, op="linear", repair=repair, backend=backend, precision=precision))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def _product(
    x: Array, panel: Panel, b_o: Array | None, sizes: Array | None, backend: Backend
) -> tuple[Array, Array | float]:
    """(M, I), (P, I), (O) -> (M, P) twice: the value with its bias, and its bound where sizes are given."""
    rows = lift(panel.rows, backend=backend)
    value = backend.matmul(x, backend.xp.permute_dims(rows, (1, 0)), accumulate="float64")
    bias = None if b_o is None else lift(b_o[panel.start : panel.stop], backend=backend)
    if sizes is None:
        return value if bias is None else value + bias, 0.0
    return _bounded(value, x, rows, sizes, panel, bias, backend)


def _bounded(
    value: Array, x: Array, rows: Array, sizes: Array, panel: Panel, bias: Array | None, backend: Backend
) -> tuple[Array, Array]:
    """(M, O) twice: the value with its bias, zeros signed as they should be, and its bound."""
    xp = backend.xp
    unit = float(gamma(rows.shape[1] + 4))
    bound = (sizes * unit) * panel.lengths
    regular = [xp.all((row_lengths > 0.0) & xp.isfinite(row_lengths)) for row_lengths in (sizes, panel.lengths)]
    if all(backend.to_numpy(each) for each in regular):
        return (value, bound) if bias is None else (value + bias, bound + xp.abs(bias) * unit)
    # No product but zeros: the sum is a zero, and exact. 0·∞ is none of them.
    empty = ((sizes == 0.0) & xp.isfinite(panel.lengths)) | ((panel.lengths == 0.0) & xp.isfinite(sizes))
    value = xp.where(empty, _zeros(x, rows, backend), value)
    value = _without_overflow(value, x, rows, backend)
    if bias is None:
        return value, xp.where(empty, 0.0, bound)
    return value + bias, xp.where(empty, 0.0, bound + xp.abs(bias) * unit)


def _without_overflow(value: Array, x: Array, rows: Array, backend: Backend) -> Array:
    """(M, O): 0, to be repaired, for a sum of numbers that overflowed on the way; of NaN and ∞ what those alone give.

    Lengths are infinite here, hence bounds. Next to an infinity all numbers count by their sign, which cannot overflow.
    """
    xp = backend.xp
    healthy = [xp.all(xp.isfinite(array), axis=-1) for array in (x, rows)]
    numbers = xp.expand_dims(healthy[0], axis=1) & xp.expand_dims(healthy[1], axis=0)
    small = [xp.where(xp.isfinite(array) & (xp.abs(array) > 1.0), array / xp.abs(array), array) for array in (x, rows)]
    special = backend.matmul(small[0], xp.permute_dims(small[1], (1, 0)), accumulate="float64")
    return xp.where(numbers, xp.where(xp.isfinite(value), value, 0.0), special)


def _zeros(x: Array, rows: Array, backend: Backend) -> Array:
    """(M, I), (O, I) -> (M, O): −0 where all products have a minus sign, +0 elsewhere; right where all are zeros."""
    xp = backend.xp
    minus = [(array < 0.0) | ((array == 0.0) & (1.0 / array < 0.0)) for array in (x, rows)]
    signs = [1.0 - 2.0 * xp.astype(each, xp.float64) for each in minus]
    agreement = backend.matmul(signs[0], xp.permute_dims(signs[1], (1, 0)), accumulate="float64")
    return xp.where(agreement == -float(rows.shape[1]), -0.0, 0.0 * xp.abs(agreement))
