"""How long the rows of panels are at most, for bounds.

    length² ≥ Σ (|scale|·|c| + |minimum|)² = scale²·Σc² + 2·|scale·minimum|·Σ|c| + 16·minimum²

in every half of a block, c being the code less its offset or zero point, from exact integer sums:
Σ(u − o)² = Σu·(u − o) − o·Σ(u − o). With a minimum there is no offset, so |c| = c. A scale that is no number makes the
length infinite.

Next to it lies the length in units of the row's grain: of the largest power of two that divides all scales and minima.

All instruction sets give the same integers, so what is packed is nobody's in particular, and packing is bound by all
else: the plain form serves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import int_to_f64, load_bytes, load_f64, load_i32, store_f32
from lepton_ref.backends.numba_dot import Isa, dot4
from lepton_ref.backends.numba_integer_unpack import has_minimum, has_zero, unpack_codes, unpack_scales
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import OFFSETS
from lepton_ref.backends.numba_rounding import splat_f32, splat_f64, splat_i32, to_f32
from lepton_ref.backends.numba_types import F64X16, I8X64, I64X16
from lepton_ref.backends.numba_vectors import absolute, converter, select, splatter, sqrt
from lepton_ref.numerics.lengths import UPWARD

splat_i8, splat_i64 = splatter(I8X64), splatter(I64X16)
PLAIN = Isa("plain")
words_of = converter(F64X16, I64X16, lambda builder, value, target: builder.bitcast(value, target))
of_words = converter(I64X16, F64X16, lambda builder, value, target: builder.bitcast(value, target))


@njit(nogil=True)
def finer(grain: Any, x: Any) -> Any:
    """The smaller of a power of two and the largest that divides x; 0 is divided by all."""
    bits = words_of(x)
    last = x - of_words(bits & (bits - splat_i64(1)))
    fraction = bits & splat_i64((np.int64(1) << 52) - 1)
    last = absolute(select(fraction == splat_i64(0), x, last))
    last = select(last == splat_f64(0.0), grain, last)
    return select(last < grain, last, grain)


def row_lengths(kind: int, data: Any, at: Any, count: int, blocks: int, out: Any) -> None:
    """Into `out`, float32 [count][2][16], for the rows of `count` panels: the lengths, and these by grain; upwards."""
    _row_lengths(PLAIN, kind, data, at, count, blocks, np.empty(1024 * blocks, dtype=np.uint8), out)


@njit(nogil=True, cache=True)
def _row_lengths(isa: Any, kind: Any, W: Any, at: Any, count: Any, blocks: Any, S: Any, out: Any) -> None:
    scales, minima, fine = 512 * blocks, 640 * blocks, 768 * blocks
    wide = kind in (0, 8)
    offset = 128 if wide else OFFSETS[kind]
    moved, nothing = splat_f64(np.float64(offset)), splat_f64(0.0)
    for panel in range(count):
        unpack_codes(kind, W, 0, at, blocks, panel, S, 0)
        unpack_scales(kind, W, 0, at, blocks, panel, S, scales, minima, fine)
        squares, grain = nothing, splat_f64(np.inf)
        for b in range(blocks):
            scale = load_f64(S, scales + 128 * b)
            grain = finer(grain, scale)
            for half in range(2):
                square, plain = splat_i32(np.int32(0)), splat_i32(np.int32(0))
                for j in range(4):
                    code = load_bytes(S, 512 * b + 256 * half + 64 * j)
                    centred = code - splat_i8(np.int8(offset - 256 if wide else offset))
                    square = dot4(isa, square, code, centred)
                    plain = dot4(isa, plain, splat_i8(np.int8(1)), centred)
                one, two = int_to_f64(plain), int_to_f64(square) - moved * int_to_f64(plain)
                if has_zero(kind):
                    zero = int_to_f64(load_i32(S, fine + 128 * b)) - moved
                    two = two - (zero + zero) * one + splat_f64(16.0) * zero * zero
                elif kind == 7:
                    part = int_to_f64(load_i32(S, fine + 128 * b + 64 * half))
                    two = two * part * part
                squares = squares + scale * scale * two
                if has_minimum(kind):
                    least = load_f64(S, minima + 128 * b)
                    grain = finer(grain, least)
                    both = absolute(scale * least)
                    squares = squares + (both + both) * one + splat_f64(16.0) * least * least
        length = sqrt(squares) * splat_f64(UPWARD)
        store_f32(out, 32 * panel, upward(length))
        store_f32(out, 32 * panel + 16, upward(length / grain))


@njit(nogil=True)
def upward(x: Any) -> Any:
    """Float64, not negative, to float32 of at least that size; NaN becomes infinite."""
    nothing = splat_f64(0.0)
    up = select(x > nothing, x * splat_f64(1 + 2.0**-22) + splat_f64(2.0**-149), x)
    return select(up == up, to_f32(up), splat_f32(np.float32(np.inf)))
