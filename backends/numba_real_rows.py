"""Rows of activations made ready for linear layers: lengths, and numbers in float64 or cut into digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_real_digits import FACTORS, cut
from lepton_ref.backends.numba_real_quantised import whole_length
from lepton_ref.backends.numba_real_tile import HEIGHT
from lepton_ref.backends.numba_rounding import splat_f64, to_f64
from lepton_ref.backends.numba_types import F32X16
from lepton_ref.backends.numba_vectors import fma, loader, total

COLUMNS = 128
"""Columns of dense weights that are decoded at a time."""

TILE_ROWS = 3
"""So many rows and more are multiplied by dense weights in tiles."""

UPWARD = 1 + 2.0**-20
load_f32 = loader(F32X16)


@njit(nogil=True, cache=True, _nrt=False)
def length_of(F: Any, x: Any, width: Any) -> Any:
    """At least ‖x‖, by less than a part in 10⁶; NaN where there is none."""
    a = splat_f64(0.0)
    b = splat_f64(0.0)
    whole = width - width % 32
    for k in range(0, whole, 32):
        v = to_f64(load_f32(F, x + k))
        a = fma(v, v, a)
        v = to_f64(load_f32(F, x + k + 16))
        b = fma(v, v, b)
    rest = total(a + b)
    for k in range(whole, width):
        rest += np.float64(F[x + k]) ** 2
    length = np.sqrt(rest) * UPWARD
    return length if length < np.inf else np.nan


@njit(nogil=True, cache=True, _nrt=False)
def prepare_rows(
    kind: Any, F: Any, x0: Any, xstride: Any, rows: Any, width: Any, first: Any, last: Any,
    P: Any, p0: Any, D: Any, d0: Any,
) -> None:  # fmt: skip
    """Lengths of the rows [first, last) of `rows`, P[p0 + row], and behind all lengths what the panels multiply.

    For quantised panels digits: see `lepton_ref.backends.numba_real_digits`. For dense ones float64 numbers: few rows
    one after the other, more in tiles, [width / 128][rows / 6][128][6], what is behind the last row being 0.
    """
    padded = (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    body, blocks = p0 + padded, (width + 31) // 32
    for row in range(first, last):
        x = x0 + row * xstride
        P[p0 + row] = length_of(F, x, width)
        if kind < F32:
            left = cut(F, x, width, D, d0 + 160 * blocks * row, P, body + FACTORS * blocks * row)
            P[p0 + row] = whole_length(P[p0 + row], left, blocks)
        elif rows < TILE_ROWS:
            for k in range(width):
                P[body + row * width + k] = F[x + k]
    if kind < F32 or rows < TILE_ROWS:
        return
    for row in range(first, padded if last == rows else last):
        for start in range(0, width, COLUMNS):
            count = min(COLUMNS, width - start)
            at = body + padded * start + row // HEIGHT * HEIGHT * count + row % HEIGHT
            for k in range(count):
                P[at + HEIGHT * k] = F[x0 + row * xstride + start + k] if row < rows else 0.0
