"""Constants that a family's formula gives: real numbers rounded once to float64, whatever the mathematical library.

`n ** -0.5` is the C library's power function, whose last bit is its own affair. An op's scale is the float64 number
that stands in the op list, so that number must be the same everywhere.
"""

from __future__ import annotations

import math
from fractions import Fraction

from lepton_ref.plain.algebraic import over_root
from lepton_ref.plain.functions import log
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real


def root(n: float, /) -> float:
    """√n, which IEEE 754 rounds once."""
    return math.sqrt(n)


def inverse_root(n: float, /) -> float:
    """1/√n rounded once: 1/math.sqrt(n) would round twice.

    Raises:
        ValueError: n is not a number above 0.
    """
    if not 0 < n < math.inf:
        raise ValueError(f"an inverse root needs a number above 0, got {n}")
    return over_root(Fraction(1), Fraction(n)).round("fp64")


def yarn_scale(factor: float, times: float, /) -> float:
    """times·(0.1·ln factor + 1), rounded once; `times` itself for a factor of at most 1."""
    if factor <= 1:
        return times
    exact = Real(lambda digits: (log(Interval.of(factor, digits)) * Fraction(1, 10) + 1) * Fraction(times))
    return exact.round("fp64")
