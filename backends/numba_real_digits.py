"""Activations cut into digits, and panels of quantised weights times them: exact integers, at the speed of bytes.

Ozaki's scheme on the dot product of bytes. In each block of 32 numbers x, with max |x| < 2^e,

    X = rint(x·2^(38 − e)),   X = Σⱼ dⱼ·256^j,   j < 5, −128 ≤ dⱼ ≤ 127

A digit times the weights' codes is an exact int32. |Σ X·c| < 32·2³⁸·255 < 2⁵², so the sum over the digits is exact in
float64, and so is its product with a scale of at most 24 bits times 2^(e − 38)... times what is rounded once, in the
fused addition of a block. Left over is r = x − X·2^(e − 38), exact in float64: 0 unless |x| < 2^(e − 15).

Bound. n fused additions err by γₙ·‖X‖·‖w‖, the remainder by ‖r‖·‖w‖, with ‖w‖ at least the length of
|scale·code| + |minimum|, and ‖X‖ ≤ ‖x‖ + ‖r‖. All is put into one length for x, in units of n + 10 roundings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_bytes import (
    half_to_f64, int_to_f64, load_bytes, load_bytes16, load_f32, load_halves, load_some, one_i64, signed_to_i32,
    store_f64, unsigned_to_i32, with_bits45,
)  # fmt: skip
from lepton_ref.backends.numba_dot import broadcast4, dot4, high_nibbles, low_nibbles, with_bit4
from lepton_ref.backends.numba_panels import OFFSETS
from lepton_ref.backends.numba_rounding import splat_f64, splat_i32, to_f64
from lepton_ref.backends.numba_types import F64X16, I8X16, I8X64, I32X16, I64X16
from lepton_ref.backends.numba_vectors import (
    absolute,
    converter,
    fma,
    largest,
    rint,
    select,
    shifted_left,
    shifted_right,
    splatter,
    storer,
    total,
)  # fmt: skip

DIGITS = 5
SHIFT = 38
BIAS = 0x8080808080
"""128 for every digit: with it added, digits are bytes."""

splat_i64 = splatter(I64X16)
store_i8 = storer(I8X16)
as_words = converter(I8X64, I32X16, lambda builder, value, target: builder.bitcast(value, target))
to_i64 = converter(F64X16, I64X16, lambda builder, value, target: builder.fptosi(value, target))
to_i8 = converter(I64X16, I8X16, lambda builder, value, target: builder.trunc(value, target))


@njit(nogil=True, cache=True)
def _numbers(F: Any, x: Any, left: Any) -> Any:
    """Sixteen numbers, or `left` and zeros; 0 for NaN and ∞, beside which nothing here counts."""
    if left >= 16:
        value = to_f64(load_f32(F, x))
    elif left > 0:
        value = to_f64(load_some(F, x, left))
    else:
        value = splat_f64(0.0)
    return select(absolute(value) < splat_f64(np.inf), value, splat_f64(0.0))


@njit(nogil=True, cache=True)
def cut(F: Any, x: Any, width: Any, D: Any, d: Any, P: Any, p: Any) -> float:
    """One row into digits, D[d + 160·block + 32·j + i]; returns at least ‖r‖.

    P[p + 3·block] becomes 2^(e − 38), the next two Σ X of either half of the block.
    """
    squares = splat_f64(0.0)
    bias = splat_i64(np.int64(BIAS))
    for block in range((width + 31) // 32):
        at, left = x + 32 * block, width - 32 * block
        low, high = _numbers(F, at, left), _numbers(F, at + 16, left - 16)
        e = math.frexp(largest(select(absolute(low) > absolute(high), absolute(low), absolute(high))))[1]
        up, down = splat_f64(math.ldexp(1.0, SHIFT - e)), splat_f64(math.ldexp(1.0, e - SHIFT))
        P[p + 3 * block] = math.ldexp(1.0, e - SHIFT)
        for half in range(2):
            value = low if half == 0 else high
            whole = rint(value * up)
            rest = value - whole * down
            squares = fma(rest, rest, squares)
            P[p + 3 * block + 1 + half] = total(whole)
            digits = (to_i64(whole) + bias) ^ bias
            place = d + 160 * block + 16 * half
            for j in range(DIGITS):
                store_i8(D, place + 32 * j, to_i8(shifted_right(digits, 8 * j)))
    return math.sqrt(total(squares)) * (1 + 2.0**-20)


@njit(nogil=True, cache=True)
def _five(isa: Any, sums: Any, u: Any, D: Any, d: Any) -> Any:
    a, b, c, e, f = sums
    return (
        dot4(isa, a, u, broadcast4(D, d)),
        dot4(isa, b, u, broadcast4(D, d + 32)),
        dot4(isa, c, u, broadcast4(D, d + 64)),
        dot4(isa, e, u, broadcast4(D, d + 96)),
        dot4(isa, f, u, broadcast4(D, d + 128)),
    )


@njit(nogil=True, cache=True)
def _whole(sums: Any, less: Any) -> Any:
    """The five digits' sums as one integer in float64, and `less` added: exact."""
    a, b, c, e, f = sums
    low, middle = a + shifted_left(b, 8), c + shifted_left(e, 8)
    upper = fma(int_to_f64(f), splat_f64(2.0**32), splat_f64(less))
    return fma(int_to_f64(middle), splat_f64(65536.0), upper) + int_to_f64(low)


@njit(nogil=True, cache=True)
def _nothing() -> Any:
    zero = splat_i32(np.int32(0))
    return (zero, zero, zero, zero, zero)


@njit(nogil=True, cache=True)
def pair(kind: Any, W: Any, codes: Any, high: Any, j: Any) -> Any:
    """Vectors j and j + 4 of a block's codes, from 0 on; `high` is the place of its upper bits."""
    if kind == 0 or kind == 8:
        return load_bytes(W, codes + 64 * j), load_bytes(W, codes + 64 * j + 256)
    both = load_bytes(W, codes + 64 * j)
    low, upper = low_nibbles(both), high_nibbles(both)
    if kind == 3 or kind == 4 or kind == 6:
        low = with_bit4(low, one_i64(W, high + 8 * j))
        upper = with_bit4(upper, one_i64(W, high + 8 * j + 32))
    elif kind == 7:
        low = with_bits45(low, load_bytes(W, high), j)
        upper = with_bits45(upper, load_bytes(W, high + 64), j)
    return low, upper


@njit(nogil=True, cache=True)
def scales_of(kind: Any, W: Any, w0: Any, at: Any, panel: Any, blocks: Any, b: Any) -> Any:
    """Scale and minimum of a block, so that an element is scale·(code − offset) + minimum; of Q6_K both halves' scales."""
    shared = at[5]
    group, fine = panel * ((blocks + shared - 1) // shared) + b // shared, w0 + at[2] + 32 * (panel * blocks + b)
    if kind >= 8:
        scale = to_f64(load_f32(W, w0 + at[1] + 128 * group))
        return scale, splat_f64(-0.0) - scale * to_f64(load_f32(W, w0 + at[1] + 128 * group + 64))
    if kind == 2 or kind == 4 or kind == 5 or kind == 6:
        scale = half_to_f64(load_halves(W, w0 + at[1] + 64 * group))
        minimum = half_to_f64(load_halves(W, w0 + at[1] + 64 * group + 32))
        if kind < 5:
            return scale, minimum
        scale = scale * int_to_f64(unsigned_to_i32(load_bytes16(W, fine)))
        return scale, splat_f64(-0.0) - minimum * int_to_f64(unsigned_to_i32(load_bytes16(W, fine + 16)))
    scale = half_to_f64(load_halves(W, w0 + at[1] + 32 * group))
    if kind < 7:
        return scale, scale
    first = scale * int_to_f64(signed_to_i32(load_bytes16(W, fine)))
    return first, scale * int_to_f64(signed_to_i32(load_bytes16(W, fine + 16)))


@njit(nogil=True, cache=True)
def digits_dot(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, D: Any, d: Any, P: Any, p: Any
) -> Any:
    """`-> f64`: sixteen outputs of one row that was `cut`."""
    blocks = (width + 31) // 32
    nibbles = kind != 0 and kind != 8
    minimum = kind == 2 or kind == 4 or kind == 5 or kind == 6 or kind >= 8
    offset = float(OFFSETS[kind])
    value = splat_f64(0.0)
    step = 256 if nibbles else 512
    for b in range(blocks):
        block = panel * blocks + b
        codes, high, place = w0 + at[0] + step * block, w0 + at[3] + (128 if kind == 7 else 64) * block, d + 160 * b
        unit, first, second = P[p + 3 * b], P[p + 3 * b + 1], P[p + 3 * b + 2]
        sums = _nothing()
        scale, other = scales_of(kind, W, w0, at, panel, blocks, b)
        if kind == 7:
            more = _nothing()
            for j in range(4):
                low, upper = pair(kind, W, codes, high, j)
                sums = _five(isa, sums, low, D, place + 4 * j)
                more = _five(isa, more, upper, D, place + 4 * j + 16)
            value = fma(_whole(sums, -offset * first), scale * splat_f64(unit), value)
            value = fma(_whole(more, -offset * second), other * splat_f64(unit), value)
            continue
        for j in range(4):
            low, upper = pair(kind, W, codes, high, j)
            sums = _five(isa, sums, low, D, place + 4 * j)
            sums = _five(isa, sums, upper, D, place + 4 * j + 16)
        value = fma(_whole(sums, -offset * (first + second)), scale * splat_f64(unit), value)
        if minimum:
            value = fma(other, splat_f64((first + second) * unit), value)
    return value


@njit(nogil=True, cache=True)
def unpack_block(kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, b: Any, S: Any, s: Any) -> None:
    """The 32 columns of a block in float64, exact: S[s + 32·k + r]."""
    blocks = (width + 31) // 32
    block = panel * blocks + b
    codes, high = w0 + at[0] + (256 if kind != 0 and kind != 8 else 512) * block, w0 + at[3]
    high += (128 if kind == 7 else 64) * block
    scale, other = scales_of(kind, W, w0, at, panel, blocks, b)
    minimum = kind == 2 or kind == 4 or kind == 5 or kind == 6 or kind >= 8
    offset = splat_i32(np.int32(OFFSETS[kind]))
    for j in range(4):
        low, upper = pair(kind, W, codes, high, j)
        for half in range(2):
            four = as_words(low if half == 0 else upper)
            factor = other if kind == 7 and half == 1 else scale
            for i in range(4):
                code = (shifted_right(four, 8 * i) & splat_i32(np.int32(255))) - offset
                value = int_to_f64(code) * factor
                if minimum:
                    value = value + other
                store_f64(S, s + 32 * (16 * half + 4 * j + i), value)
