"""Double-double arithmetic on NumPy arrays: a number is the sum of two float64, of about 106 bits together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """The real numbers high + low, element by element: float64 arrays of one shape with high = RN(high + low)."""

    high: Reals
    low: Reals
