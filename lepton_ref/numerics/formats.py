"""Rounding whole arrays to a number format, once: the vectorised twin of `lepton_ref.plain.formats`, bit for bit.

The numbers of a format around x are the multiples of its spacing there, a power of two that float64 arithmetic makes
from the exponent bits of x. To nearest even, one addition does it: M = 1.5·2⁵²·spacing is so large that the last bit of
the float64 x + M is worth one spacing, so the processor's own rounding is the one that is wanted, and taking M away
again is exact. The other modes, and a double-double's low part, take the number apart into whole steps and a fraction,
both exact in float64. Formats that are lists of numbers are searched.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.codes import decode_array, encode_array
from lepton_ref.numerics.neighbours import EXPONENT, by_steps, from_list
from lepton_ref.plain.formats import (
    MODES,
    CodebookFormat,
    FloatFormat,
    Format,
    IntFormat,
    get_format,
    nan_of,
    overflowed,
    round_to,
    turns_back,
)
from lepton_ref.plain.shown import shown

__all__ = ["decode_array", "encode_array", "round_array"]

Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]
Flags = NDArray[np.bool_]

_BLOCK = 1 << 13
"""Elements at a time: the few arrays of a step, 64 KiB each, then stay in the second-level cache."""


def round_array(
    x: Floats,
    format: str | Format,
    /,
    *,
    mode: str = "even",
    saturate: bool = False,
    low: Floats | None = None,
    bits: Bits | None = None,
) -> Floats:
    """`(...) -> (...)` the numbers of the format that the real numbers x + low round to, each once.

    float64 in, a new float64 array out; for each element the bits that `lepton_ref.plain.formats.round_to` gives, which
    says what overflow, ±∞, NaN and zero become. x and low may be any float64 numbers. Where x is not finite, low does
    not count; where low is not finite, x + low is as IEEE 754 has it; where low is zero, a zero has the sign of x.

    Args:
        x: the numbers.
        format: a format or its name.
        mode: one of `MODES`.
        saturate: whether overflow, ±∞ included, stops at the largest number.
        low: of x's shape; what is to be added to x exactly, as in a double-double number.
        bits: uint64 of x's shape, for "stochastic" alone: the chance of an element is bits · 2⁻⁶⁴.

    Raises:
        TypeError: x or low is not float64, bits not uint64, or saturate no bool.
        ValueError: another shape of low or bits; an unknown format or mode; bits that are missing or unasked for; NaN
            where the format has none.
    """
    f = get_format(format)
    _check(x, low, bits, mode)
    if not isinstance(saturate, bool | np.bool_):
        raise TypeError(f"saturate is {shown(saturate)}; give True or False")
    flat = np.ascontiguousarray(x).reshape(-1)
    lows = None if low is None else np.ascontiguousarray(low).reshape(-1)
    words = None if bits is None else np.ascontiguousarray(bits).reshape(-1)
    result = np.empty_like(flat)
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            some_low, some_bits = None if lows is None else lows[part], None if words is None else words[part]
            _round_block(flat[part], some_low, some_bits, f, mode, saturate, result[part])
    return result.reshape(x.shape)


def _check(x: Floats, low: Floats | None, bits: Bits | None, mode: str) -> None:
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"unknown rounding mode {shown(mode)}; known: {', '.join(MODES)}")
    if (mode == "stochastic") != (bits is not None):
        raise ValueError(f"mode {mode!r} with bits={shown(bits)}; bits belong to 'stochastic', which needs them")
    for name, array, dtype in (("x", x, "float64"), ("low", low, "float64"), ("bits", bits, "uint64")):
        if array is None and name != "x":
            continue
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            raise TypeError(f"{name} is {getattr(array, 'dtype', type(array).__name__)}; give a NumPy array of {dtype}")
        if array.shape != x.shape:
            raise ValueError(f"{name} has shape {array.shape}, x has {x.shape}; give equal shapes")


def _listed(f: Format) -> bool:
    """Whether the format is rounded to by searching a list: a codebook, or a float of one bit (powers of two)."""
    return isinstance(f, CodebookFormat) or (isinstance(f, FloatFormat) and f.precision == 1)


def _round_block(
    x: Floats, low: Floats | None, bits: Bits | None, f: Format, mode: str, saturate: bool, out: Floats
) -> None:
    """Round a block into `out`: the short way where there is one and nothing overflows, otherwise the way for all."""
    if low is None and mode == "even" and isinstance(f, IntFormat | FloatFormat) and (_whole(f) or _narrow(f)):
        if _narrow(f):
            _add_and_take(x, f, out)
        else:
            out[...] = x
        if not np.abs(out).max() <= f.largest:  # NaN, too, is not
            out[...] = _limited(np.abs(out), x, np.signbit(x), f, mode, saturate)
        return
    high, lack = (x, np.zeros_like(x)) if low is None else _normalised(x, low)
    out[...] = _limited(_chosen(high, lack, f, mode, bits), high, np.signbit(high), f, mode, saturate)
    if low is not None:
        _sums_beyond_float64(out, x, low, f, mode, saturate, bits)


def _whole(f: FloatFormat | IntFormat) -> bool:
    """Whether every float64 is a number of the format."""
    return isinstance(f, FloatFormat) and (f.exponent_bits, f.mantissa_bits) == (11, 52)


def _narrow(f: FloatFormat | IntFormat) -> bool:
    """Whether adding and taking away M rounds to the format: a bit to spare on each side, and M far from overflow."""
    return isinstance(f, IntFormat) or (2 <= f.precision <= 51 and f.emax < 900)


def _add_and_take(x: Floats, f: FloatFormat | IntFormat, out: Floats) -> None:
    """Put x + M − M into `out`, as if the format's exponents had no upper end; −0 stays where the format has it.

    Proof, for numbers up to the largest: with p ≤ 51 bits of precision |x| < 2^p·spacing ≤ 2⁵¹·spacing; so x + M lies
    in [2⁵², 2⁵³)·spacing, where float64's last bit is worth one spacing and M is an even multiple of it: ties go to the
    even multiple, as they should. Beyond, M no longer grows, and what comes out is beyond the largest, too.
    """
    if isinstance(f, IntFormat):
        np.add(x, 1.5 * 2.0**52, out=out)
        out -= 1.5 * 2.0**52
        return
    large = (x.view(np.uint64) & EXPONENT).view(np.float64)
    np.clip(large, 2.0**f.emin, 2.0 ** (f.emax + 1), out=large)
    large *= 1.5 * 2.0 ** (52 - f.mantissa_bits)
    np.add(x, large, out=out)
    out -= large
    if f.negative_zero:
        np.copysign(out, x, out=out)


def _chosen(x: Floats, low: Floats, f: Format, mode: str, bits: Bits | None) -> Floats:
    """The magnitude of the neighbour that the mode chooses, as if there were no largest number, for finite x."""
    finite = np.isfinite(x)
    size, negative = np.where(finite, np.abs(x), 0.0), np.signbit(x)
    low = np.where(negative, -low, low)
    if isinstance(f, CodebookFormat) or _listed(f):
        return from_list(size, low, negative, f, mode, bits)
    return by_steps(size, low, negative, f, mode, bits)


def _limited(size: Floats, x: Floats, negative: Flags, f: Format, mode: str, saturate: bool) -> Floats:
    """Magnitudes that were rounded as if there were no largest one → the format's numbers, for x of every kind."""
    result = np.where(negative, -size, size)
    for sign, chosen in ((False, ~negative), (True, negative)):
        largest = -f.lowest if sign else f.largest
        beyond = chosen & (size > largest) & np.isfinite(x)
        result[beyond] = overflowed(sign, f, saturate or turns_back(mode, sign, f))
        result[chosen & np.isinf(x)] = overflowed(sign, f, saturate)
    if not (isinstance(f, FloatFormat) and f.negative_zero):
        result += 0.0
    if isinstance(f, FloatFormat) and not f.signed:
        result[x <= 0] = f.least if saturate else np.nan
    missing = np.isnan(x)
    if missing.any():
        result[missing] = nan_of(f)
    return result


def _normalised(x: Floats, low: Floats) -> tuple[Floats, Floats]:
    """The float64 sum x + low and what it lacks, at most half its ulp: exact unless it overflows (Knuth's two-sum)."""
    high = np.where((low == 0) | ~np.isfinite(x), x, x + low)
    part = high - x
    lack = (x - (high - part)) + (low - part)
    return high, np.where(np.isfinite(high) & np.isfinite(lack), lack, 0.0)


def _sums_beyond_float64(
    result: Floats, x: Floats, low: Floats, f: Format, mode: str, saturate: bool, bits: Bits | None
) -> None:
    """Round again, one at a time and exactly, the few whose two-sum may have overflowed."""
    at_end = (np.abs(x) >= 2.0**1023) | (np.abs(low) >= 2.0**1023)
    for at in np.flatnonzero(at_end & np.isfinite(x) & np.isfinite(low)):
        exact = Fraction(float(x[at])) + Fraction(float(low[at]))
        chance = None if bits is None else Fraction(int(bits[at]), 2**64)
        result[at] = round_to(exact, f, mode=mode, saturate=saturate, chance=chance)
