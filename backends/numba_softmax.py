r"""The logarithm of softmax at one place of each row, as sampling and scoring take it.

    log_softmax(x)ᵢ = dᵢ − log Σⱼ exp(dⱼ),    d = x − max x

The sum runs in sixty-four lanes, so that with n numbers it errs by n/64 + 8 units of u = 2⁻⁵³, by exp's 1.75 and by
ln n for the roundings of distances; the rest is the bound of `lepton_ref.ops.softmax`. What that leaves open, NaN,
infinities and a row of which one number stands alone are the op's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ref.backends.numba_functions import EXP, exp
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_ops import form_of
from lepton_ref.backends.numba_rounding import splat_f64, to_f64
from lepton_ref.backends.numba_rows import load_floats
from lepton_ref.backends.numba_vectors import largest, select, total
from lepton_ref.numerics import Precision, round_once
from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.cast import cast
from lepton_ref.numerics.rounding import Repair

SLACK = 1 + 2.0**-20


@njit(nogil=True, cache=True)
def row_sum(x: Any, start: Any, width: Any) -> Any:
    """-> the largest of x[start … start + width − 1] and Σ exp(x − largest); NaN where one is or the largest is ∞."""
    top, k = splat_f64(-math.inf), 0
    while k + 16 <= width:
        value = to_f64(load_floats(x, start + k))
        top = select(value > top, value, top)
        k += 16
    most = largest(top)
    for i in range(start + k, start + width):
        most = max(most, np.float64(x[i]))
    shift = splat_f64(most)
    a, b, c, d = splat_f64(0.0), splat_f64(0.0), splat_f64(0.0), splat_f64(0.0)
    k = 0
    while k + 64 <= width:
        a = a + exp(to_f64(load_floats(x, start + k)) - shift)
        b = b + exp(to_f64(load_floats(x, start + k + 16)) - shift)
        c = c + exp(to_f64(load_floats(x, start + k + 32)) - shift)
        d = d + exp(to_f64(load_floats(x, start + k + 48)) - shift)
        k += 64
    found = total((a + b) + (c + d))
    for i in range(start + k, start + width):
        found += total(exp(splat_f64(np.float64(x[i]) - most))) / 16
    return most, found


def log_softmax_at(x: Any, index: Any, *, backend: Any, precision: Precision) -> Any:
    """`lepton_ref.ops.log_softmax_at`, or NotImplemented where that is to be asked."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim == 0 or 0 in x.shape:
        return NotImplemented
    width, picked = x.shape[-1], np.asarray(index)
    if picked.shape != x.shape[:-1] or picked.dtype.kind not in "iu" or picked.min() < 0 or picked.max() >= width:
        return NotImplemented
    if form_of(precision) is None:
        return NotImplemented
    rows = np.ascontiguousarray(x).reshape(-1)
    sums = np.array([row_sum(rows, row * width, width) for row in range(picked.size)])
    places = picked.reshape(-1).astype(np.int64) + width * np.arange(picked.size)
    distance, log_total = rows[places].astype(np.float64) - sums[:, 0], np.log(sums[:, 1])
    value = distance - log_total
    units = width / 64 + width % 64 + 8 + EXP + 1.01 * math.log(width) + 2 * backend.ulps * log_total
    bound = (units + 2.0 * np.abs(distance) + 4.0 * np.abs(value)) * (UNIT * SLACK)
    low, high = (cast(end, precision.activations, backend=backend) for end in (value - bound, value + bound))
    same = (low == high) & (np.signbit(low) == np.signbit(high))
    if not (np.isfinite(value) & (log_total > 0.0) & same).all():
        return NotImplemented
    y = round_once(value, bound, op="log_softmax", repair=Repair(_none), backend=backend, precision=precision)
    return np.asarray(y).reshape(picked.shape)


def _none(place: tuple[int, ...]) -> float:
    raise AssertionError(f"element {place} was found to be settled")
