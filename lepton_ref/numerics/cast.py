"""From float64 to an activation format on any backend: to nearest even, by + − × and comparisons alone.

Every format of activations is held in float32 arrays, whose numbers include those of all smaller formats; "fp64" in
float64. To p significant bits (`round_bits`): with L the least power of two above |x|, x + C − C for C = 1.5·2⁵²·L·2⁻ᵖ
rounds x to a multiple of L·2⁻ᵖ, which is the format's spacing below L. The sum lies in C's binade, so float64's own
rounding to nearest even is the one rounding; the difference is exact. L is never below twice the least normal number:
that makes the spacing of subnormals. L itself is |(q + |x|) − q| with q = 2⁵³·|x| (Rump, Ogita and Oishi 2008): half
of q's spacing is below |x| unless |x| is a power of two, which is then its own L.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.plain.formats import FORMATS, FloatFormat

ACTIVATIONS = ("fp32", "bf16", "fp16", "fp64")
"""Formats that an op's output may be rounded to."""

INTEGER = 1.5 * 2.0**52
"""Adding and subtracting it rounds a float64 below 2⁵¹ to an integer, ties to even."""

FARTHEST = 2.0**300
"""Beyond every format's overflow but fp64's, and small enough for the constants above not to overflow."""


def float_format(name: str, /) -> FloatFormat:
    """The floating-point format of that name."""
    found = FORMATS[name]
    assert isinstance(found, FloatFormat), "activations are floating-point numbers"
    return found


def cast(value: Array, format: str, /, *, backend: Backend) -> Array:
    """`(...) float64 -> (...)` rounded to nearest even: float32, or float64 for "fp64". Overflow is infinite."""
    xp = backend.xp
    if format == "fp64":
        return value
    if format == "fp32":
        return xp.astype(value, xp.float32, copy=False)
    form = float_format(format)
    rounded = round_bits(value, precision=form.precision, emin=form.emin, largest=form.largest, backend=backend)
    return xp.astype(rounded, xp.float32, copy=False)


def round_bits(x: Array, /, *, precision: int, emin: int, largest: float, backend: Backend) -> Array:
    """`(...) float64 -> (...) float64` to the nearest number of `precision` significant bits, ties to even.

    Args:
        x: any float64; NaN and infinities stay.
        precision: p, the hidden bit included.
        emin: the exponent of the least normal number: below, the spacing stays 2^(emin − p + 1).
        largest: what is larger after rounding becomes infinite.
        backend: whose array x is.
    """
    xp = backend.xp
    size = xp.abs(x)
    size = xp.where(size > FARTHEST, FARTHEST, size)  # NaN stays
    q = size * 2.0**53
    above = xp.abs((q + size) - q)
    above = xp.where(above == 0.0, size, above)
    least = 2.0 ** (emin + 1)
    constant = xp.where(above < least, least, above) * (1.5 * 2.0 ** (52 - precision))
    rounded = (size + constant) - constant
    rounded = xp.where((rounded > largest) | (xp.abs(x) == math.inf), math.inf, rounded)
    return xp.where((x < 0) | ((x == 0) & (1.0 / x < 0)), -rounded, rounded)
