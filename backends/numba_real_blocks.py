"""Blocks of quantised panels in float64, exact: codes, scales and minima of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import (
    half_to_f64,
    int_to_f64,
    load_bytes,
    load_bytes16,
    load_f32,
    load_halves,
    load_i32,
    one_i64,
    signed_to_i32,
    store_f64,
    unsigned_to_i32,
    with_bits45,
)  # fmt: skip
from lepton_ref.backends.numba_dot import high_nibbles, low_nibbles, with_bit4
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import OFFSETS
from lepton_ref.backends.numba_rounding import splat_f64, splat_i32, to_f64
from lepton_ref.backends.numba_types import I8X64, I32X16
from lepton_ref.backends.numba_vectors import converter, shifted_right

as_words = converter(I8X64, I32X16, lambda builder, value, target: builder.bitcast(value, target))


@njit(nogil=True, cache=True, _nrt=False)
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


@njit(nogil=True, cache=True, _nrt=False)
def scales_of(kind: Any, W: Any, w0: Any, at: Any, panel: Any, blocks: Any, b: Any) -> Any:
    """Scale and minimum of a block, so that an element is scale·(code − offset) + minimum.

    Of Q6_K both halves' scales, of groups scale and zero point, which is the offset.
    """
    shared = at[5]
    group, fine = panel * ((blocks + shared - 1) // shared) + b // shared, w0 + at[2] + 32 * (panel * blocks + b)
    if kind >= 8:
        return to_f64(load_f32(W, w0 + at[1] + 128 * group)), int_to_f64(load_i32(W, w0 + at[1] + 128 * group + 64))
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


@njit(nogil=True, cache=True, _nrt=False)
def unpack_block(kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, b: Any, S: Any, s: Any) -> None:
    """The 32 columns of a block in float64, exact: S[s + 32·k + r]."""
    blocks = (width + 31) // 32
    block = panel * blocks + b
    codes, high = w0 + at[0] + (256 if kind != 0 and kind != 8 else 512) * block, w0 + at[3]
    high += (128 if kind == 7 else 64) * block
    scale, other = scales_of(kind, W, w0, at, panel, blocks, b)
    minimum = kind == 2 or kind == 4 or kind == 5 or kind == 6
    offset = splat_i32(np.int32(OFFSETS[kind]))
    for j in range(4):
        low, upper = pair(kind, W, codes, high, j)
        for half in range(2):
            four = as_words(low if half == 0 else upper)
            factor = other if kind == 7 and half == 1 else scale
            for i in range(4):
                code = (shifted_right(four, 8 * i) & splat_i32(np.int32(255))) - offset
                value = (int_to_f64(code) - other) * factor if kind >= 8 else int_to_f64(code) * factor
                if minimum:
                    value = value + other
                store_f64(S, s + 32 * (16 * half + 4 * j + i), value)
