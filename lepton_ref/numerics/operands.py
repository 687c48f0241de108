"""What linear layers multiply: under w8a8, w4a8 and fp8 activations as small numbers with a scale.

    w8a8, w4a8   blocks of 32 along the row (the last may be shorter): d = amax/127, q = round(x/d), the value d·q
    fp8          a scale for each row, that is for each token: s = amax/448, q = round(x/s) to E4M3, the value s·q

A scale is rounded to 11 significand bits within float32's range, to nearest even, so that d·q, and d times the scale of
a weight, are short; a scale of zero gives zeros; a NaN or an infinity makes its block NaN. Integers and E4M3 numbers
are rounded to nearest even; what is larger than the largest, where a scale is subnormal, becomes the largest.

Why float64 rounds these quotients once. amax and x have 24 bits, a scale 11, and a midpoint of the rounding that
follows at most 12 (9 for an integer, 5 for E4M3). A quotient equal to a midpoint is exact in float64. One that is not
differs from it by 2⁻²⁴ of itself or more: amax − 127·midpoint and x − d·midpoint are multiples of the unit of a number
of 24 bits. So float64's rounding, 2⁻⁵³, neither reaches a midpoint nor leaves one.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.cast import INTEGER, round_bits
from lepton_ref.numerics.ggml_blocks import ggml_activations

BLOCK = 32
"""Activations that share a scale under w8a8 and w4a8."""

INT8_LARGEST, E4M3_LARGEST = 127.0, 448.0
SCALE_BITS = 11
SCALE_LEAST = -139
"""The exponent of the least number of 11 bits that float32 holds with all of them."""


def scaled_activations(x: Array, operands: str, /, *, backend: Backend) -> tuple[Array, Array]:
    """`(M, I) float64 -> (M, I), (M, I) or (M, 1)`: the numbers q and their scales, float64; q·scale is exact.

    Args:
        x: activations.
        operands: "w8a8", "w4a8" or "fp8".
        backend: whose array x is.
    """
    if operands == "fp8":
        return _scaled(x, E4M3_LARGEST, backend)
    xp = backend.xp
    rows, width = x.shape
    whole = width // BLOCK * BLOCK
    parts = []
    if whole:
        q, scale = _scaled(xp.reshape(x[:, :whole], (rows, whole // BLOCK, BLOCK)), INT8_LARGEST, backend)
        parts.append((q, scale + 0.0 * q))
    if whole < width:
        q, scale = _scaled(x[:, whole:], INT8_LARGEST, backend)
        parts.append((q, scale + 0.0 * q))
    flat = [tuple(xp.reshape(array, (rows, math.prod(array.shape[1:]))) for array in part) for part in parts]
    if len(flat) == 1:
        return flat[0][0], flat[0][1]
    return xp.concat([part[0] for part in flat], axis=1), xp.concat([part[1] for part in flat], axis=1)


def activations(x: Array, operands: str, format: str = "F32", /, *, backend: Backend) -> Array:
    """`(M, I) float64 -> (M, I) float64` what a linear layer multiplies: x itself where operands are "stored".

    Under "ggml" the weight's storage format decides: see `lepton_ref.numerics.ggml_blocks`.
    """
    if operands == "stored":
        return x
    if operands == "ggml":
        return ggml_activations(x, format, backend=backend)
    q, scale = scaled_activations(x, operands, backend=backend)
    return q * scale


def _scaled(x: Array, largest: float, backend: Backend) -> tuple[Array, Array]:
    """`(..., N) -> (..., N), (..., 1)`, one scale for the last axis."""
    xp = backend.xp
    amax = xp.max(xp.abs(x), axis=-1, keepdims=True)
    scale = round_bits(amax / largest, precision=SCALE_BITS, emin=SCALE_LEAST, largest=math.inf, backend=backend)
    scale = xp.where(scale == math.inf, math.nan, scale)
    quotient = xp.where(scale == 0.0, 0.0 * x, x / scale)
    quotient = xp.where(quotient > largest, largest, xp.where(quotient < -largest, -largest, quotient))  # NaN stays
    if largest == INT8_LARGEST:
        return (quotient + INTEGER) - INTEGER, scale
    return round_bits(quotient, precision=4, emin=-6, largest=E4M3_LARGEST, backend=backend), scale
