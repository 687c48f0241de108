"""Activations as w8a8 and w4a8 take them: int8 in blocks of 32 with a scale of 11 bits.

The definition, and why float64's quotients are rounded once, is `lepton_ref.numerics.operands`; the operations here
are the same ones in the same order, so that the bits are too. Of a row there are kept, its last block filled with
zeros:

    q         int8 [blocks][32]
    d         float64 [blocks]           the scales
    sums      int32 [blocks][2]          Σq of either half of a block
    lengths   float64 [2]                at least ‖d·q‖; 0 for zeros, infinite where a scale is NaN. Then the same
                                         divided by the largest power of two that divides all scales

No square underflows, a scale being at least 2⁻¹⁴⁹, so a length is right unless it is 0 or infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_bytes import address, f32_at, f64_to_int, some_at, to_i8
from lepton_ref.backends.numba_rounding import as_bits, splat_f64, splat_i32, to_f64
from lepton_ref.backends.numba_vectors import I8X16, largest, select, storer, total
from lepton_ref.numerics.lengths import UPWARD
from lepton_ref.numerics.operands import INT8_LARGEST, SCALE_BITS, SCALE_LEAST

store_codes = storer(I8X16)

DROPPED = 53 - SCALE_BITS
LEAST_SCALE = 2.0**SCALE_LEAST
COARSE = 1.5 * 2.0 ** (52 + SCALE_LEAST - SCALE_BITS + 1)
"""Added and taken away again, it leaves multiples of the least scale's unit."""
INTEGER = 1.5 * 2.0**52
INFINITE = 0x7F800000


@njit(nogil=True)
def scale_of(amax: float) -> Any:
    """amax/127 to 11 significand bits, to nearest even; NaN of what is not finite."""
    quotient = np.float64(amax) / INT8_LARGEST
    if not quotient < np.inf:
        return np.nan
    if quotient < LEAST_SCALE:
        return (quotient + COARSE) - COARSE
    bits = np.float64(quotient).view(np.int64)
    bits += (np.int64(1) << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1)
    return np.int64(bits >> DROPPED << DROPPED).view(np.float64)


@njit(nogil=True)
def last_bit(x: float) -> Any:
    """The largest power of two that divides a positive float64 that is not subnormal."""
    bits = np.float64(x).view(np.int64)
    if bits & ((np.int64(1) << 52) - 1) == 0:
        return x
    return x - np.int64(bits & (bits - 1)).view(np.float64)


@njit(nogil=True, cache=True)
def quantise_rows(
    F: Any, x0: Any, stride: Any, first: Any, last: Any, width: Any, q: Any, d: Any, sums: Any, lengths: Any
) -> None:
    """Rows [first, last) of the arena, each `width` float32 at x0 + row·stride: see the top of the page."""
    blocks, arena = (width + 31) // 32, address(F)
    for row in range(first, last):
        squares, grain = 0.0, np.inf
        for b in range(blocks):
            place, left = x0 + row * stride + 32 * b, width - 32 * b
            if left >= 32:
                low, high = f32_at(arena + 4 * place), f32_at(arena + 4 * place + 64)
            else:
                low, high = some_at(arena + 4 * place, left), some_at(arena + 4 * place + 64, left - 16)
            positive = splat_i32(np.int32(0x7FFFFFFF))
            sizes, others = as_bits(low) & positive, as_bits(high) & positive
            most = largest(select(sizes > others, sizes, others))
            scale = np.nan if most >= INFINITE else scale_of(np.float64(np.int32(most).view(np.float32)))
            at = row * blocks + b
            d[at] = scale
            if scale > 0.0:
                first_codes, second_codes = codes(low, scale), codes(high, scale)
                grain = min(grain, last_bit(scale))
            else:
                first_codes, second_codes = splat_i32(np.int32(0)), splat_i32(np.int32(0))
            store_codes(q, 32 * at, to_i8(first_codes))
            store_codes(q, 32 * at + 16, to_i8(second_codes))
            sums[2 * at], sums[2 * at + 1] = total(first_codes), total(second_codes)
            squares += scale * scale * np.float64(total(first_codes * first_codes + second_codes * second_codes))
        length = np.sqrt(squares) * UPWARD if squares == squares else np.inf
        lengths[2 * row], lengths[2 * row + 1] = length, length / grain


@njit(nogil=True)
def codes(x: Any, scale: Any) -> Any:
    """Sixteen of x/scale, cut off at ±127 and rounded to integers, ties to even."""
    most, integer = splat_f64(INT8_LARGEST), splat_f64(INTEGER)
    quotient = to_f64(x) / splat_f64(scale)
    quotient = select(quotient > most, most, quotient)
    least = splat_f64(-INT8_LARGEST)
    quotient = select(quotient < least, least, quotient)
    return f64_to_int((quotient + integer) - integer)
