"""Embedding: rows of a table that a linear layer multiplies by as well, out of its panels.

    F[y + row·width + k] = scale · w[id, k]

A table's element is the float32 that it decodes to: in the kinds served here scale·code is one. Times the scale it is
within 2⁻⁵³ of its size; the rounding test adds two roundings of its own, so 2⁻⁵¹ covers all. Nothing underflows, as the
factor is neither tiny nor huge.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_bytes import address, prefetch_at
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_read import NO_MINIMUM, value_at
from lepton_ref.backends.numba_rounding import splat_f64
from lepton_ref.backends.numba_rows import load_columns, rounded, store_columns
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import absolute

SERVED = (*NO_MINIMUM, 7)
"""Kinds of panels whose scale·code is a float32: a product of 11 and 8, or of 11 and 13 bits."""


def usual(scale: float) -> bool:
    """Whether products of float32 numbers with the factor are normal in float64."""
    return 2.0**-100 < abs(scale) < 2.0**100


@njit(nogil=True)
def embed(
    kind: Any, W: Any, at: Any, I: Any, ids: Any, width: Any, scale: Any, F: Any, y: Any, first: Any, last: Any,
    form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last), whose ids are I[ids + row], each of the table."""
    blocks = (width + 31) // 32
    codes = address(W) + at[0]
    for row in range(first, last):
        index, out = I[ids + row], y + row * width
        step = 512 if kind == 0 else 256
        for line in range(codes + index // 16 * blocks * step, codes + (index // 16 + 1) * blocks * step, 64):
            prefetch_at(line)  # from memory all at once, not one after the other
        for k in range(width):
            F[out + k] = value_at(kind, W, 0, at, blocks, index, k)
        for k in range(0, width, 16):
            count = min(width - k, 16)
            product = load_columns(F, out + k, count) * splat_f64(scale)
            bound = absolute(product) * splat_f64(0.0 if scale == 1.0 else 2.0**-51)
            value, opened = rounded(product, bound, form)
            store_columns(F, out + k, value, count)
            for lane in range(count):
                if opened >> lane & 1:
                    push(stuck, row, k + lane)
