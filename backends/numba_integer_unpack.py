"""One panel with its codes as bytes and its scales in float64, whatever its kind: what many rows are multiplied by.

    codes     uint8 [b][8][16][4], from 0 on
    scales    float64 [b][16]
    minima    float64 [b][16], of kinds that have one: element = scale·code + minimum
    fine      int32 [b][2][16], of Q6_K: either half's factor, beside the scale; of integers: the zero point

All lie in an arena S of bytes, at the offsets that are given. For tiles, sixteen float64 lie in the order of a tile's
sums, `numba_integer_sums.ORDER`.
"""

from __future__ import annotations

from typing import Any

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
    store_bytes,
    store_f64,
    store_i32,
    unsigned_to_i32,
    with_bits45,
)  # fmt: skip
from lepton_ref.backends.numba_dot import high_nibbles, low_nibbles, with_bit4
from lepton_ref.backends.numba_integer_sums import in_order
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import splat_f64, to_f64


@njit(nogil=True)
def has_minimum(kind: Any) -> Any:
    """Whether elements are scale·code + minimum."""
    return kind in (2, 4, 5, 6)


@njit(nogil=True)
def has_zero(kind: Any) -> Any:
    """Whether elements are scale·(code − zero)."""
    return kind in (8, 9)


@njit(nogil=True)
def unpack_codes(kind: Any, W: Any, w0: Any, at: Any, blocks: Any, panel: Any, S: Any, codes: Any) -> None:
    """The codes of one panel."""
    high = w0 + at[3]
    if kind in (0, 8):
        start = w0 + at[0] + panel * blocks * 512
        for i in range(8 * blocks):
            store_bytes(S, codes + 64 * i, load_bytes(W, start + 64 * i))
        return
    start = w0 + at[0] + panel * blocks * 256
    for b in range(blocks):
        block = panel * blocks + b
        for j in range(4):
            pair = load_bytes(W, start + 256 * b + 64 * j)
            low, upper = low_nibbles(pair), high_nibbles(pair)
            if kind in (3, 4, 6):
                low = with_bit4(low, one_i64(W, high + 64 * block + 8 * j))
                upper = with_bit4(upper, one_i64(W, high + 64 * block + 8 * j + 32))
            elif kind == 7:
                low = with_bits45(low, load_bytes(W, high + 128 * block), j)
                upper = with_bits45(upper, load_bytes(W, high + 128 * block + 64), j)
            store_bytes(S, codes + 512 * b + 64 * j, low)
            store_bytes(S, codes + 512 * b + 64 * j + 256, upper)


@njit(nogil=True)
def ordered(value: Any, tiled: Any) -> Any:
    """The value, or its sixteen in the order of tiles."""
    return in_order(value) if tiled else value


@njit(nogil=True)
def unpack_scales(
    kind: Any, W: Any, w0: Any, at: Any, blocks: Any, panel: Any, S: Any, scales: Any, minima: Any, fine: Any,
    tiled: Any = False,
) -> None:  # fmt: skip
    """The scales of one panel, and its minima or fine scales. tiled: whether float64 lie in the order of tiles."""
    shared = at[5]
    groups = (blocks + shared - 1) // shared
    for b in range(blocks):
        group, small = panel * groups + b // shared, w0 + at[2] + 32 * (panel * blocks + b)
        if kind in (0, 1, 3, 7):
            store_f64(S, scales + 128 * b, ordered(half_to_f64(load_halves(W, w0 + at[1] + 32 * group)), tiled))
            if kind == 7:
                store_i32(S, fine + 128 * b, signed_to_i32(load_bytes16(W, small)))
                store_i32(S, fine + 128 * b + 64, signed_to_i32(load_bytes16(W, small + 16)))
            continue
        if kind >= 8:
            store_f64(S, scales + 128 * b, ordered(to_f64(load_f32(W, w0 + at[1] + 128 * group)), tiled))
            store_i32(S, fine + 128 * b, load_i32(W, w0 + at[1] + 128 * group + 64))
            continue
        scale = half_to_f64(load_halves(W, w0 + at[1] + 64 * group))
        minimum = half_to_f64(load_halves(W, w0 + at[1] + 64 * group + 32))
        if kind >= 5:
            scale = scale * int_to_f64(unsigned_to_i32(load_bytes16(W, small)))
            minimum = (splat_f64(0.0) - minimum) * int_to_f64(unsigned_to_i32(load_bytes16(W, small + 16)))
        store_f64(S, scales + 128 * b, ordered(scale, tiled))
        store_f64(S, minima + 128 * b, ordered(minimum, tiled))
