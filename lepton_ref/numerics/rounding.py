"""Into real numbers and out again: every op lifts its inputs to float64 and rounds its output once."""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.precision import Precision


def lift(x: Array, /, *, backend: Backend) -> Array:
    """`(...) -> (...)` the same values in float64: exact from every float of 64 bits or fewer."""
    return backend.xp.astype(x, backend.xp.float64, copy=False)


def round_once(value: Array, /, *, backend: Backend, precision: Precision) -> Array:
    """`(...) -> (...)` round a float64 value to the precision's activations, to nearest even.

    This is the only place where an op rounds. Overflow goes to infinity, as IEEE 754 has it; a NaN becomes the one
    quiet NaN without sign or payload, since a processor's choice of those bits is no part of the result.
    """
    xp = backend.xp
    rounded = xp.astype(value, getattr(xp, precision.activations), copy=False)
    return xp.where(rounded == rounded, rounded, math.nan)  # only NaN differs from itself
