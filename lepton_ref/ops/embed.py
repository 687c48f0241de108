r"""Embedding: the row of a table that belongs to a token.

    y[b, t, :] = scale · w[ids[b, t], :]

Scale is 1 for most families, where nothing is rounded but to formats smaller than the table's; Gemma multiplies by √D.
Bound: one product, |error before rounding| ≤ 2⁻⁵³·|y|, and three units for the rounding test. A product that underflows
in float64 has its sign, and is a zero of that sign in every smaller format.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, round_once
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import two_product
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import op
from lepton_ref.ops.checks import require_number
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value
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
    require_number("an embedding's scale", scale)
    if not np.issubdtype(ids_bt.dtype, np.integer):
        raise ValueError(f"token ids must be integers, got {ids_bt.dtype}; a table has no row between two rows")
    ids = ids_bt.astype(np.int64)
    outside = (ids < 0) | (ids >= w_vd.shape[0])
    if outside.any():
        raise ValueError(f"id {ids[outside][0]} is outside the table of {w_vd.shape[0]} rows")
    rows = w_vd.take(ids.reshape(-1)).reshape(*ids.shape, w_vd.shape[1]).astype(np.float64)

    def double(places: Index) -> tuple[Pair, Reals]:
        high, low = two_product(rows[places], np.full(places[0].size, scale))
        usual = (np.abs(high) > 2.0**-900) & (np.abs(high) < 2.0**900)  # elsewhere the low part may be wrong
        return Pair(high, low), np.where(usual, 0.0, np.inf)

    def plain(place: tuple[int, ...]) -> Value:
        return algebraic.embed(0, [[float(rows[place])]], scale=scale)[0]

    value = backend.from_numpy(rows) * scale
    bound = 0.0 if scale == 1.0 else backend.xp.abs(value) * 2.0**-51
    repair = Repair(plain, double)
    return round_once(value, bound, op="embed", repair=repair, backend=backend, precision=precision)
