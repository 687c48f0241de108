"""Residual: y = x + f of float32 rows, rounded once to any format.

The exact sum is float64's and what it loses (two-sum). The float64 next to it whose last bit is 1, unless nothing was
lost, rounds to every format of activations as the exact sum does: nothing is left open.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_double import odd, two_sum
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import round_to, splat_f32, to_f64
from lepton_ref.backends.numba_rows import load_columns, load_floats, store_columns, store_floats
from lepton_ref.backends.numba_vectors import select


@njit(nogil=True, cache=True)
def add(
    F: Any, x: Any, x_stride: Any, f: Any, f_stride: Any, y: Any, y_stride: Any, width: Any, first: Any, last: Any,
    form: Any,
) -> None:  # fmt: skip
    """Rows [first, last): F[y + row·y_stride + k] = F[x + row·x_stride + k] + F[f + row·f_stride + k]."""
    for row in range(first, last):
        a, b, out = x + row * x_stride, f + row * f_stride, y + row * y_stride
        k = 0
        while k + 16 <= width:
            if form == 0:
                total = load_floats(F, a + k) + load_floats(F, b + k)
                store_floats(F, out + k, select(total == total, total, splat_f32(np.float32(np.nan))))
            else:
                s, lost = two_sum(to_f64(load_floats(F, a + k)), to_f64(load_floats(F, b + k)))
                store_floats(F, out + k, round_to(odd(s, lost), form))
            k += 16
        if k < width:
            _rest(F, a + k, b + k, out + k, width - k, form)


@njit(nogil=True, cache=True)
def _rest(F: Any, a: Any, b: Any, out: Any, count: Any, form: Any) -> None:
    s, lost = two_sum(load_columns(F, a, count), load_columns(F, b, count))
    store_columns(F, out, round_to(odd(s, lost), form), count)
