"""Which of its two neighbours in a format a magnitude is rounded to, in every mode, for whole arrays.

A magnitude is size + low, exactly: size ≥ 0 a float64, |low| at most half an ulp of it. It lies between `inner` and
`outer`, inner ≤ magnitude < outer. What is computed of its place between the two is exact, or exact in its sign.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain.formats import CodebookFormat, FloatFormat, Format, IntFormat, decode, goes_out

Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]
Flags = NDArray[np.bool_]

EXPONENT = np.uint64(0x7FF0000000000000)
"""The exponent field of a float64."""

_LEAST = 5e-324
_WORD = 2.0**64
"""A chance is a whole number of 2⁻⁶⁴."""


def by_steps(
    size: Floats, low: Floats, negative: Flags, f: FloatFormat | IntFormat, mode: str, bits: Bits | None
) -> Floats:
    """`(N,), (N,) -> (N,)` the chosen neighbour of each magnitude, as if the format's exponents had no upper end.

    Scaling by a power of two, the floor and the fraction of a float64 are exact; low is scaled exactly but where it
    falls below the normal numbers, where only its sign counts.
    """
    spacing = _spacing(size, low, f)
    steps = size / spacing
    whole = np.floor(steps)
    fraction = steps - whole
    rest = low / spacing
    rest = np.where((rest == 0) & (low != 0), np.copysign(_LEAST, low), rest)
    borrow = (rest < 0) & (fraction == 0)  # just below a multiple of the spacing
    whole -= borrow
    fraction += borrow
    odd = np.floor(whole / 2) * 2 != whole
    inexact = (fraction != 0) | (rest != 0)
    if bits is None:
        out = _goes_out(np.sign((fraction - 0.5) + rest), odd, negative, mode)
    else:
        out = _wins(fraction, rest, bits)
    chosen: Floats = (whole + (inexact & out)) * spacing
    return chosen


def _spacing(size: Floats, low: Floats, f: FloatFormat | IntFormat) -> Floats:
    """The distance between the neighbours of each magnitude."""
    if isinstance(f, IntFormat):
        return np.ones_like(size)
    leading = (size.view(np.uint64) & EXPONENT).view(np.float64)
    leading = np.where((low < 0) & (size == leading), leading / 2, leading)  # just below a power of two
    return np.maximum(leading, 2.0**f.emin) * 2.0**-f.mantissa_bits


def _goes_out(side: Floats, odd: Flags, negative: Flags, mode: str) -> Flags:
    """Whether an inexact magnitude goes to outer; `side` is the sign of its distance from the middle."""
    match mode:
        case "even":
            return np.asarray((side > 0) | ((side == 0) & odd))
        case "away":
            return np.asarray(side >= 0)
        case "up":
            return ~negative
        case "down":
            return negative
        case "odd":
            return ~odd
        case _:  # toward zero
            return np.zeros_like(odd)


def _wins(fraction: Floats, rest: Floats, bits: Bits) -> Flags:
    """Whether fraction + rest > bits·2⁻⁶⁴, for an inexact magnitude: whether bits < ⌈(fraction + rest)·2⁶⁴⌉.

    With F = fraction·2⁶⁴ and R = rest·2⁶⁴: |R| is at most half of what F is a multiple of. So where F is whole, the
    ceiling is F + ⌈R⌉, and otherwise no whole number lies between F and F + R, and it is ⌈F⌉. It may be 2⁶⁴, which
    uint64 cannot hold; ceiling − 1 never is. Arithmetic modulo 2⁶⁴.
    """
    scaled, part = fraction * _WORD, rest * _WORD
    above = np.ceil(np.where(part > 0, part, 0.0)).astype(np.uint64) - np.floor(np.where(part < 0, -part, 0.0)).astype(
        np.uint64
    )
    ceiling = np.ceil(np.where(fraction < 1, scaled, 0.0)).astype(np.uint64)  # 2⁶⁴ is 0 modulo 2⁶⁴
    ceiling += np.where(scaled == np.floor(scaled), above, np.uint64(0))
    return np.asarray(bits <= ceiling - np.uint64(1))


def from_list(size: Floats, low: Floats, negative: Flags, f: Format, mode: str, bits: Bits | None) -> Floats:
    """`(N,), (N,) -> (N,)` the chosen neighbour of each magnitude in a format that is a list of numbers."""
    result = np.empty_like(size)
    for sign in (False, True):
        at = np.flatnonzero(negative == sign)
        numbers, odd = _list(f, sign)
        chances = None if bits is None else bits[at]
        result[at] = _in_list(size[at], low[at], numbers, odd, sign, mode, chances)
    return result


def _list(f: Format, negative: bool) -> tuple[Floats, Flags]:
    """The magnitudes of one sign in rising order, and whether their codes are odd.

    Of e8m0, one more than the format has, so that what is too large can be seen to be.
    """
    if isinstance(f, CodebookFormat):
        values = np.array(f.values)
        codes = np.flatnonzero(values <= 0)[::-1] if negative else np.flatnonzero(values >= 0)
        return np.abs(values[codes]), codes % 2 == 1
    codes = np.arange((1 << f.bits) - 1)
    values = np.array([decode(int(code), f) for code in codes])
    return np.append(values, 2 * values[-1]), np.append(codes % 2 == 1, True)


def _in_list(
    size: Floats, low: Floats, numbers: Floats, odd: Flags, negative: bool, mode: str, bits: Bits | None
) -> Floats:
    """The chosen of the numbers for each magnitude; what lies outside them becomes the first or the last.

    size − middle has the right sign, and the sum of two neighbours in e8m0 and NF4 is exact in float64.
    """
    last = len(numbers) - 1
    after = np.searchsorted(numbers, size, side="right") - 1
    after -= (after >= 0) & (size == numbers[after]) & (low < 0)
    at = np.clip(after, 0, last - 1)
    inner, outer = numbers[at], numbers[at + 1]
    middle = (inner + outer) / 2
    side = np.where(size == middle, np.sign(low), np.sign(size - middle))
    signs = np.full(size.shape, negative)
    out = _goes_out(side, odd[at], signs, mode) if bits is None else _wins_between(size, low, inner, outer, bits)
    exact = (size == inner) & (low == 0)
    out = (after >= last) | ((after >= 0) & ~exact & out)
    return np.where(out, outer, inner)


def _wins_between(size: Floats, low: Floats, inner: Floats, outer: Floats, bits: Bits) -> Flags:
    """Whether (size + low − inner) / (outer − inner) > bits·2⁻⁶⁴: in float64, and exactly where that is too near.

    Each side of the float64 comparison is within 2⁻⁵⁰ of its number while size lies between the two.
    """
    passed, chance = ((size - inner) + low) / (outer - inner), bits / _WORD
    out = np.asarray(passed > chance)
    for at in np.flatnonzero(np.abs(passed - chance) < 2.0**-48):
        whole = Fraction(float(outer[at])) - Fraction(float(inner[at]))
        exact = (Fraction(float(size[at])) + Fraction(float(low[at])) - Fraction(float(inner[at]))) / whole
        out[at] = goes_out(exact, False, False, "stochastic", Fraction(int(bits[at]), 2**64))
    return out
