"""Euclidean lengths of rows, for bounds: Σ |x·w| ≤ ‖x‖·‖w‖ (Cauchy and Schwarz), without a second matrix product."""

from __future__ import annotations

import math
from typing import Any

from lepton_ref.interface import Array, Backend

LEAST, LARGEST = 2.0**-400, 2.0**400
"""Outside, a square or a product might leave float64's range, and a length says nothing: it is infinite."""

UPWARD = 1 + 2.0**-20
"""More than the relative error of a length of fewer than 2³¹ numbers, (n/2 + 2)·2⁻⁵³ and what squares underflow."""


def lengths(x: Array, /, *, backend: Backend) -> Array:
    """`(..., I) float64 -> (..., 1)`: at least ‖x‖, by less than a part in 10⁶; 0 for a row of zeros alone.

    Infinite where the row holds NaN, an infinity, or numbers outside `LEAST` … `LARGEST` altogether.
    """
    xp: Any = backend.xp
    length = xp.sqrt(backend.sum(x * x, axis=-1, keepdims=True, accumulate="float64")) * UPWARD
    inside = (length > LEAST) & (length < LARGEST)
    if backend.to_numpy(xp.all(inside)):
        return length
    zero = xp.all(x == 0.0, axis=-1)
    return xp.where(xp.expand_dims(zero, axis=-1), 0.0, xp.where(inside, length, math.inf))
