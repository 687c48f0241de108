"""Panels of dense weights: for sixteen rows the same k side by side, in the bytes that are stored.

    data[at[0] + bytes·(16·(width·g + k) + r)]   row 16·g + r, column k; F32, BF16 or F16
    data[at[4] + 4·(16·g + r)]                   the row's length, float32, rounded up; NaN where it holds NaN or ∞

Rows behind the last are zeros. A quantised weight whose decoding to float32 rounds somewhere, and any other weight that
`lepton_ref.backends.numba_panels` and `numba_panels_scaled` have no form for, is decoded and becomes a panel of F32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_panels import ROWS, Panels
from lepton_ref.numerics.lengths import UPWARD
from lepton_ref.storage.base import Weight
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.kept import Kept

F32, BF16, F16, E4M3, E5M2, TIMES, OVER = range(32, 39)
"""Kinds of panels that float64 numbers are multiplied by; the last four are `numba_panels_scaled`'s."""

KINDS = {"F32": F32, "BF16": BF16, "F16": F16}
"""Format of a dense weight → the kind of its panels."""

STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<f2")}
ALIGNMENT = 64
STEP = 1 << 21
"""Elements packed at a time."""


def pack_dense(weight: Weight, /) -> Panels | None:
    """`(O, I) -> Panels` of a matrix: dense weights as stored, others decoded to float32.

    None for what decodes to float64, and for what is no matrix; see also `lepton_ref.backends.numba_panels_real`.
    """
    base = weight.base if isinstance(weight, Kept) else weight
    if len(base.shape) != 2 or 0 in base.shape or base.format == "F64" or base.operand_width != base.shape[1]:
        return None
    outputs, width = base.shape
    stored = STORED.get(base.format, STORED["F32"]) if isinstance(base, Dense) else STORED["F32"]
    panels = -(-outputs // ROWS)
    codes = panels * ROWS * width * stored.itemsize
    start = -(-codes // ALIGNMENT) * ALIGNMENT
    data = np.zeros(start + 4 * ROWS * panels, dtype=np.uint8)
    weights = data[:codes].view(stored).reshape(panels, width, ROWS)
    lengths = data[start:].view(np.float32)
    step = max(1, STEP // (ROWS * width)) * ROWS
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        numbers = base.rows(first, last)
        if numbers.dtype != np.float32:
            return None
        lengths[first:last] = lengths_upward(numbers)
        as_stored = base.array[first:last] if isinstance(base, Dense) else numbers
        transpose(as_stored, weights[first // ROWS :])
    at = np.zeros(8, dtype=np.int64)
    at[4] = start
    return Panels(KINDS.get(base.format, F32) if isinstance(base, Dense) else F32, outputs, width, data, at)


def transpose(rows: NDArray[np.generic], weights: NDArray[np.generic]) -> None:
    """`(N, I)` into the first of `(panels, I, 16)`."""
    whole, width = len(rows) // ROWS, rows.shape[1]
    weights[:whole] = rows[: whole * ROWS].reshape(whole, ROWS, width).transpose(0, 2, 1)
    if len(rows) % ROWS:
        weights[whole, :, : len(rows) % ROWS] = rows[whole * ROWS :].T


def lengths_upward(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """`(N, I) -> (N)`: at least the lengths, as `lepton_ref.numerics.lengths` has them; NaN where there is none."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.einsum("ni,ni->n", rows, rows, dtype=np.float64)
        length = np.sqrt(squares) * UPWARD
        near = length.astype(np.float32)
        up = np.where(near < length, np.nextafter(near, np.float32(np.inf)), near)
    return np.where(np.isfinite(length), up, np.float32(np.nan))
