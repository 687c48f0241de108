"""What the encoders of matrices with scales of tiles share: input, extremes of tiles, and scales rounded once.

A scale is the exact quotient of an extreme and the largest code, rounded once to the scale's format, to nearest even;
to E8M0 upward, so that nothing is clipped (RCEIL). It stops at the format's largest number, and is at least its least
positive one. A tile of zeros has scale 1: nothing that divides by it fails.

Why float64 rounds an extreme over a code's largest number once: the extreme has 24 bits (25 where doubled), the largest
number at most 8, and a midpoint between two scales at most 25; an extreme that is not midpoint·largest differs from it
by 2⁻³⁴ of itself or more, and float64's quotient, 2⁻⁵³, neither reaches nor leaves a midpoint. The difference of two
extremes may have any number of bits: see `rounded_range`.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import round_array
from lepton_ref.plain.formats import FloatFormat, get_format, round_to
from lepton_ref.storage.scales import FORMATS, Scales, tiles

Floats = NDArray[np.float64]

AT_ONCE = 1 << 18
"""Elements encoded at a time."""


def matrix(what: str, array: HostArray, *, finite: bool = True) -> NDArray[np.float32]:
    """The array as a float32 matrix that holds its numbers exactly.

    Raises:
        ValueError: no matrix, no elements, no numbers of float32, or, if `finite`, one that is not.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2 or array.size == 0:
        shown = (array.dtype, array.shape) if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{what} must be a matrix (O, I) of numbers with an element at least, got {shown}")
    with np.errstate(over="ignore", invalid="ignore"):
        x = array.astype(np.float32)
        same = np.array_equal(x.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    if not same:
        raise ValueError(f"{what} has numbers that float32 does not hold; round them to float32 yourself")
    if finite and not np.isfinite(x).all():
        at = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(x)))
        raise ValueError(f"{what} has {x[at]} at {at}; only finite numbers have a scale: repair the tensor first")
    return x


def extreme(ufunc: np.ufunc, x: NDArray[np.float32], tile: tuple[int, int], /) -> Floats:
    """`(O, I) -> (rows, columns of tiles)` float64: the maximum or minimum of each tile, the last too."""
    rows, columns = np.arange(0, x.shape[0], tile[0]), np.arange(0, x.shape[1], tile[1])
    found: Floats = ufunc.reduceat(ufunc.reduceat(x, columns, axis=1), rows, axis=0).astype(np.float64)
    return found


def rounded_scales(extremes: Floats, largest: float, format: str, /) -> Floats:
    """extreme/largest as numbers of the format of scales; 1 where the extreme is 0.

    Raises:
        ValueError: an unknown format.
    """
    number = scale_number(format)
    mode = "even" if number.signed else "up"
    quotient = np.where(extremes > 0, extremes / largest, 1.0)
    return np.maximum(round_array(quotient, number, mode=mode, saturate=True), number.least)


def rounded_range(low: Floats, high: Floats, largest: int, format: str, /) -> Floats:
    """(high − low)/largest as numbers of the format of scales, each rounded once; 1 where both are equal.

    low and high are float32 numbers. Where the ends of an interval around the float64 quotient round to two numbers,
    the quotient is rounded as a fraction.

    Raises:
        ValueError: an unknown format.
    """
    number = scale_number(format)
    mode = "even" if number.signed else "up"
    quotient = np.where(high > low, (high - low) / largest, 1.0)
    ends = [round_array(quotient * (1 + sign * 2.0**-50), number, mode=mode, saturate=True) for sign in (-1, 1)]
    found = ends[0]
    for at in zip(*np.nonzero(ends[0] != ends[1]), strict=True):
        exact = (Fraction(float(high[at])) - Fraction(float(low[at]))) / largest if high[at] > low[at] else Fraction(1)
        found[at] = round_to(exact, number, mode=mode, saturate=True)
    return np.maximum(found, number.least)


def scale_number(format: str) -> FloatFormat:
    """The number format of scales of this name.

    Raises:
        ValueError: an unknown name.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format of scales {format!r}; known: {', '.join(FORMATS)}")
    found = get_format(FORMATS[format][1])
    assert isinstance(found, FloatFormat), "scales are floating-point numbers"
    return found


def require_scales(scales: Scales, shape: tuple[int, int], tile: tuple[int, int]) -> Floats:
    """The values of given scales: one for each tile, all finite and above 0.

    Raises:
        ValueError: others.
    """
    values = scales.values()
    if values.shape != tiles(shape, tile):
        raise ValueError(f"{shape} in tiles of {tile} takes scales {tiles(shape, tile)}, got {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"scale {values[~(np.isfinite(values) & (values > 0))][0]:g}; give finite scales above 0")
    return values


def row_steps(shape: tuple[int, int]) -> list[NDArray[np.int64]]:
    """The row numbers in pieces of about `AT_ONCE` elements."""
    step = max(1, AT_ONCE // max(1, shape[1]))
    return [np.arange(at, min(at + step, shape[0])) for at in range(0, shape[0], step)]
