r"""Embedding: the row of a table that belongs to a token.

    y[b, t, :] = scale · w[ids[b, t], :]

Scale is 1 for most families; Gemma multiplies by √D. Bound: one product, |error before rounding| ≤ 2⁻⁵³·|y| + 2⁻¹⁰⁷⁵.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, round_once
from lepton_ref.ops.base import op
from lepton_ref.storage.base import Weight


@op
def embed(
    ids_bt: NDArray[np.int64], w_vd: Weight, *, scale: float = 1.0, backend: Backend, precision: Precision
) -> Array:
    """(B, T), (V, D) -> (B, T, D), a scaled row of the table for each id.

    Args:
        ids_bt: row numbers, on the host.
        w_vd: the table; only the rows that are asked for are decoded.
        scale: the factor, a real number.
        backend: where the output lies.
        precision: what the output is rounded to.

    Raises:
        ValueError: an id outside [0, V), which the message names, or ids that are not integers.
    """
    if not np.issubdtype(ids_bt.dtype, np.integer):
        raise ValueError(f"token ids must be integers, got {ids_bt.dtype}; a table has no row between two rows")
    ids = ids_bt.astype(np.int64)
    outside = (ids < 0) | (ids >= w_vd.shape[0])
    if outside.any():
        raise ValueError(f"id {ids[outside][0]} is outside the table of {w_vd.shape[0]} rows")
    rows = w_vd.take(ids.reshape(-1)).reshape(*ids.shape, w_vd.shape[1])
    value = backend.from_numpy(rows.astype(np.float64)) * scale
    return round_once(value, backend=backend, precision=precision)


def embed_scalar(token: int, table: list[list[float]], *, scale: float = 1.0) -> list[float]:
    """One token's row: the specification."""
    return [scale * value for value in table[token]]
