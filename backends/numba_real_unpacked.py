"""Quantised panels for more rows than one: unpacked once, then multiplied as `numba_real_quantised` does.

S[s + 8·v …]                 codes as bytes, eight vectors [8][16][4] a block
S[s + 64·blocks + 32·b …]    scale of the block, then its minimum, its zero point, or the scale of its second half
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_bytes import store_bytes
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import OFFSETS
from lepton_ref.backends.numba_real_blocks import pair, scales_of
from lepton_ref.backends.numba_real_dense import store_f64
from lepton_ref.backends.numba_real_exact import load_f64
from lepton_ref.backends.numba_real_kinds import eight, eight_high, eight_low
from lepton_ref.backends.numba_real_quantised import block_sum
from lepton_ref.backends.numba_rounding import splat_f64
from lepton_ref.backends.numba_vectors import fma


@njit(nogil=True, cache=True, _nrt=False)
def unpack_panel(kind: Any, W: Any, w0: Any, at: Any, panel: Any, blocks: Any, S: Any, s: Any) -> None:
    """One panel: see the top of the page."""
    step, wide = 256 if kind != 0 and kind != 8 else 512, 128 if kind == 7 else 64
    for b in range(blocks):
        block = panel * blocks + b
        for j in range(4):
            low, upper = pair(kind, W, w0 + at[0] + step * block, w0 + at[3] + wide * block, j)
            store_bytes(S, s + 64 * b + 8 * j, low)
            store_bytes(S, s + 64 * b + 8 * j + 32, upper)
        scale, other = scales_of(kind, W, w0, at, panel, blocks, b)
        store_f64(S, s + 64 * blocks + 32 * b, scale)
        store_f64(S, s + 64 * blocks + 32 * b + 16, other)


@njit(nogil=True, cache=True, _nrt=False)
def unpacked_dot(isa: Any, kind: Any, S: Any, s: Any, blocks: Any, D: Any, d: Any, P: Any, p: Any) -> Any:
    """`-> f64`: sixteen outputs of one row that was `cut`."""
    value, least = splat_f64(0.0), splat_f64(0.0)
    scales, offset = s + 64 * blocks, float(OFFSETS[kind])
    if kind == 7:
        for b in range(blocks):
            unit, place = splat_f64(P[p + 3 * b]), d + 160 * b
            total = block_sum(isa, eight_low(), S, s + 64 * b, 0, D, place, -offset * P[p + 3 * b + 1])
            value = fma(total, load_f64(S, scales + 32 * b) * unit, value)
            total = block_sum(isa, eight_high(), S, s + 64 * b, 0, D, place, -offset * P[p + 3 * b + 2])
            least = fma(total, load_f64(S, scales + 32 * b + 16) * unit, least)
        return value + least
    if kind >= 8:
        for b in range(blocks):
            total = block_sum(isa, eight(), S, s + 64 * b, 0, D, d + 160 * b, 0.0)
            all_ = splat_f64(-P[p + 3 * b + 1] - P[p + 3 * b + 2])
            total = fma(load_f64(S, scales + 32 * b + 16), all_, total)
            value = fma(total, load_f64(S, scales + 32 * b) * splat_f64(P[p + 3 * b]), value)
        return value
    if offset != 0.0:
        for b in range(blocks):
            less = -offset * (P[p + 3 * b + 1] + P[p + 3 * b + 2])
            total = block_sum(isa, eight(), S, s + 64 * b, 0, D, d + 160 * b, less)
            value = fma(total, load_f64(S, scales + 32 * b) * splat_f64(P[p + 3 * b]), value)
        return value
    for b in range(blocks):
        total = block_sum(isa, eight(), S, s + 64 * b, 0, D, d + 160 * b, 0.0)
        value = fma(total, load_f64(S, scales + 32 * b) * splat_f64(P[p + 3 * b]), value)
        whole = splat_f64((P[p + 3 * b + 1] + P[p + 3 * b + 2]) * P[p + 3 * b])
        least = fma(whole, load_f64(S, scales + 32 * b + 16), least)
    return value + least
