"""Embedding: rows of a table that a linear layer multiplies by as well, out of its panels.

    F[y + row·width + k] = scale · w[id, k]

A table's element is the float32 that it decodes to: in the kinds served here scale·code is one. Its product with the
factor is float64's and what that loses, which nothing underflows as the factor is neither tiny nor huge; rounded to odd
the pair rounds to every format of activations as the exact product does, so that nothing is left open.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_bytes import address, prefetch_at
from lepton_ref.backends.numba_double import odd, two_product
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_read import NO_MINIMUM, value_at
from lepton_ref.backends.numba_rounding import round_to, splat_f64
from lepton_ref.backends.numba_rows import load_columns, store_columns

SERVED = (*NO_MINIMUM, 7)
"""Kinds of panels whose scale·code is a float32: a product of 11 and 8, or of 11 and 13 bits."""


def usual(scale: float) -> bool:
    """Whether products of float32 numbers with the factor are normal in float64."""
    return 2.0**-100 < abs(scale) < 2.0**100


@njit(nogil=True)
def embed(
    kind: Any, W: Any, at: Any, I: Any, ids: Any, width: Any, scale: Any, F: Any, y: Any, first: Any, last: Any,
    form: Any,
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
            product, lost = two_product(load_columns(F, out + k, count), splat_f64(scale))
            store_columns(F, out + k, round_to(odd(product, lost), form), count)
