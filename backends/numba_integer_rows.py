"""Activations as w8a8 and w4a8 take them: int8 in blocks of 32 with a scale of 11 bits.

The definition, and why float64's quotients are rounded once, is `lepton_ref.numerics.operands`. In float32 a quotient
is the product with the rounded inverse of the scale: two errors of 2⁻²⁴ of at most 127·(1 + 2⁻¹¹), less than 2⁻¹⁶.
Where no such product of a block is within 2⁻¹⁶ of a midpoint, they are rounded as the quotients are, which are within
±127.5 then; where one is, float64 divides the block. Of a row there are kept, its last block filled with zeros:

    q         int8 [blocks][32]
    d         float64 [blocks]           the scales
    sums      int32 [blocks][2]          Σq of either half of a block
    lengths   float64 [2]                at least ‖d·q‖; 0 for zeros, infinite where a scale is NaN. Then the same
                                         divided by the largest power of two that divides all scales. Neither is NaN

No square underflows, a scale being at least 2⁻¹⁴⁹, so a length is right unless it is 0 or infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import (
    address,
    f32_at,
    f64_to_int,
    int_to_f64,
    one_f64_at,
    some_at,
    to_i8,
    unsigned_to_i32,
)
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_bits, splat_f32, splat_f64, splat_i32, to_f64
from lepton_ref.backends.numba_vectors import I8X16, absolute, bits_of, fma, largest, select, splatter, storer, total
from lepton_ref.numerics.lengths import UPWARD
from lepton_ref.numerics.operands import INT8_LARGEST, SCALE_BITS, SCALE_LEAST

store_codes, splat_i8 = storer(I8X16), splatter(I8X16)

DROPPED = 53 - SCALE_BITS
LEAST_SCALE = 2.0**SCALE_LEAST
COARSE = 1.5 * 2.0 ** (52 + SCALE_LEAST - SCALE_BITS + 1)
"""Added and taken away again, it leaves multiples of the least scale's unit."""
INTEGER = 1.5 * 2.0**52
INFINITE = 0x7F800000
SHIFT, CLEAR = np.float32(1.5 * 2.0**23), np.float32(0.5 - 2.0**-16)


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
    blocks, arena, steps = (width + 31) // 32, address(F), address(d)
    for row in range(first, last):
        start, at = arena + 4 * (x0 + row * stride), row * blocks
        for b in range(blocks):  # all scales first: no block waits for another one's
            low, high = two_vectors(start + 128 * b, width - 32 * b)
            positive = splat_i32(np.int32(0x7FFFFFFF))
            sizes, others = as_bits(low) & positive, as_bits(high) & positive
            most = largest(select(sizes > others, sizes, others))
            d[at + b] = np.nan if most >= INFINITE else scale_of(np.float64(np.int32(most).view(np.float32)))
        squares, grain = splat_f64(0.0), np.inf
        for b in range(blocks):
            scale = one_f64_at(steps + 8 * (at + b))
            first_codes, second_codes = splat_i32(np.int32(0)), splat_i32(np.int32(0))
            if scale > 0.0:
                grain = min(grain, last_bit(scale))
                low, high = two_vectors(start + 128 * b, width - 32 * b)
                inverse, shift = splat_f32(np.float32(1.0 / scale)), splat_f32(SHIFT)
                first_near, second_near = low * inverse, high * inverse
                first_moved, second_moved = first_near + shift, second_near + shift
                off = larger(first_near - (first_moved - shift), second_near - (second_moved - shift))
                if bits_of(off < splat_f32(CLEAR)) == 0xFFFF:  # NaN, of an inverse that overflows, is not
                    none = as_bits(shift)
                    first_codes, second_codes = as_bits(first_moved) - none, as_bits(second_moved) - none
                else:
                    divisor = splat_f64(scale)
                    first_codes, second_codes = whole(to_f64(low) / divisor), whole(to_f64(high) / divisor)
            first_bytes, second_bytes = to_i8(first_codes), to_i8(second_codes)
            store_codes(q, 32 * (at + b), first_bytes)
            store_codes(q, 32 * (at + b) + 16, second_bytes)
            sums[2 * (at + b)], sums[2 * (at + b) + 1] = byte_sum(first_bytes), byte_sum(second_bytes)
            each = int_to_f64(first_codes * first_codes + second_codes * second_codes)
            squares = fma(splat_f64(scale * scale), each, squares)
        square = total(squares)
        length = np.sqrt(square) * UPWARD if square == square else np.inf
        lengths[2 * row] = length
        lengths[2 * row + 1] = length / grain if length < np.inf else np.inf  # a maximum might drop a NaN


@njit(nogil=True)
def two_vectors(place: Any, left: Any) -> Any:
    """The float32 of a block at an address, zeros behind the first `left`."""
    if left >= 32:
        return f32_at(place), f32_at(place + 64)
    return some_at(place, left), some_at(place + 64, left - 16)


@njit(nogil=True)
def byte_sum(codes: Any) -> Any:
    """The sum of sixteen bytes, made unsigned: x86 has an instruction that sums those."""
    return total(unsigned_to_i32(codes ^ splat_i8(np.int8(-128)))) - 2048


@njit(nogil=True)
def larger(first: Any, second: Any) -> Any:
    """The larger sizes of two vectors' lanes."""
    first, second = absolute(first), absolute(second)
    return select(first > second, first, second)


@njit(nogil=True)
def whole(quotient: Any) -> Any:
    """Sixteen quotients rounded to integers, ties to even, and cut off at ±127."""
    most, integer = splat_i32(np.int32(127)), splat_f64(INTEGER)
    near = f64_to_int((quotient + integer) - integer)
    near = select(near > most, most, near)
    least = splat_i32(np.int32(-127))
    return select(near < least, least, near)
