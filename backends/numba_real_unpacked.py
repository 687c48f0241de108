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
from lepton_ref.backends.numba_real_digits import FACTORS
from lepton_ref.backends.numba_real_exact import load_f64
from lepton_ref.backends.numba_real_kinds import eight, eight_high, eight_low, spread
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
def unpacked_dots(
    isa: Any, kind: Any, S: Any, s: Any, blocks: Any, rows: Any, D: Any, d: Any, P: Any, p: Any, out: Any
) -> None:
    """Sixteen outputs of each row that was `cut`, S[out + 16·row …]."""
    if kind == 7:
        _halves(isa, S, s, blocks, rows, D, d, P, p, out)
        return
    offset, minimum, zero = float(OFFSETS[kind]), kind == 2 or kind == 4 or kind == 5 or kind == 6, kind >= 8
    if kind == 1 or kind == 2 or kind == 5 or kind == 9:
        _blocks(isa, spread(), offset, minimum, zero, S, s, blocks, rows, D, d, P, p, out)
    else:
        _blocks(isa, eight(), offset, minimum, zero, S, s, blocks, rows, D, d, P, p, out)


@njit(nogil=True, cache=True, _nrt=False)
def _blocks(
    isa: Any, stored: Any, offset: Any, minimum: Any, zero: Any, S: Any, s: Any, blocks: Any, rows: Any,
    D: Any, d: Any, P: Any, p: Any, out: Any,
) -> None:  # fmt: skip
    """All kinds but Q6_K."""
    scales = s + 64 * blocks
    for row in range(rows):
        value = splat_f64(0.0)
        for b in range(row * blocks, row * blocks + blocks):
            place, own = p + FACTORS * b, b - row * blocks
            whole = P[place + 3] + P[place + 4]
            total = block_sum(isa, stored, S, s + 64 * own, 0, D, d + 160 * b, P, place, -offset * whole)
            if zero:
                total = fma(load_f64(S, scales + 32 * own + 16), splat_f64(-whole), total)
            value = fma(total, load_f64(S, scales + 32 * own), value)
            if minimum:
                value = fma(load_f64(S, scales + 32 * own + 16), splat_f64(whole), value)
        store_f64(S, out + 16 * row, value)


@njit(nogil=True, cache=True, _nrt=False)
def _halves(isa: Any, S: Any, s: Any, blocks: Any, rows: Any, D: Any, d: Any, P: Any, p: Any, out: Any) -> None:
    """Q6_K."""
    scales = s + 64 * blocks
    for row in range(rows):
        value, other = splat_f64(0.0), splat_f64(0.0)
        for b in range(row * blocks, row * blocks + blocks):
            place, own, digits = p + FACTORS * b, b - row * blocks, d + 160 * b
            total = block_sum(isa, eight_low(), S, s + 64 * own, 0, D, digits, P, place, -32.0 * P[place + 3])
            value = fma(total, load_f64(S, scales + 32 * own), value)
            total = block_sum(isa, eight_high(), S, s + 64 * own, 0, D, digits, P, place, -32.0 * P[place + 4])
            other = fma(total, load_f64(S, scales + 32 * own + 16), other)
        store_f64(S, out + 16 * row, value + other)
