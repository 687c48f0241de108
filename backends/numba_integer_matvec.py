"""One row of activations times one panel, for each kind: sixteen sums Σ d·(scale·Σ code·q + minimum·Σ q), in float64.

Dots of integers within a block are exact in int32, d·scale and d·minimum have at most 35 bits, and a fused multiply-add
rounds their product and sum once. So a term passes one rounding for every term behind it, and there are `terms(kind)`
of them in a block. (The one product of three numbers, d·scale·dot, would be exact by itself: 11 + 11 + 20 bits.)

Codes are read as they lie, 64 bytes at a time. What is subtracted from all codes of a block is the start of its dot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_bytes import half_to_f64, int_to_f64, load_bytes, load_halves
from lepton_ref.backends.numba_dot import broadcast4, dot4, high_nibbles, low_nibbles
from lepton_ref.backends.numba_rounding import splat_f64, splat_i32
from lepton_ref.backends.numba_vectors import fma


@njit(nogil=True)
def terms(kind: Any) -> Any:
    """Terms that a block adds to a sum."""
    return 2 if kind in (2, 4, 5, 6) else 1


@njit(nogil=True)
def eight_bits(isa: Any, W: Any, p: Any, q: Any, k: Any, start: Any) -> Any:
    """`start` plus the dot of one block of bytes at p with q from k on."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        start = dot4(isa, start, load_bytes(W, p + 64 * j), broadcast4(q, k + 4 * j))
        other = dot4(isa, other, load_bytes(W, p + 64 * j + 256), broadcast4(q, k + 4 * j + 16))
    return start + other


@njit(nogil=True)
def four_bits(isa: Any, W: Any, p: Any, q: Any, k: Any, start: Any) -> Any:
    """The same of a block of nibbles."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        pair = load_bytes(W, p + 64 * j)
        start = dot4(isa, start, low_nibbles(pair), broadcast4(q, k + 4 * j))
        other = dot4(isa, other, high_nibbles(pair), broadcast4(q, k + 4 * j + 16))
    return start + other


@njit(nogil=True)
def q8_0(isa: Any, W: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales at s."""
    value = splat_f64(0.0)
    for b in range(blocks):
        start = splat_i32(np.int32(-128 * (sums[2 * b] + sums[2 * b + 1])))
        dot = eight_bits(isa, W, p, q, 32 * b, start)
        value = fma(half_to_f64(load_halves(W, s)) * splat_f64(d[b]), int_to_f64(dot), value)
        p += 512
        s += 32
    return value


@njit(nogil=True)
def q4_0(isa: Any, W: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales at s."""
    value = splat_f64(0.0)
    for b in range(blocks):
        start = splat_i32(np.int32(-8 * (sums[2 * b] + sums[2 * b + 1])))
        dot = four_bits(isa, W, p, q, 32 * b, start)
        value = fma(half_to_f64(load_halves(W, s)) * splat_f64(d[b]), int_to_f64(dot), value)
        p += 256
        s += 32
    return value


@njit(nogil=True)
def q4_1(isa: Any, W: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales and minima at s."""
    value, least = splat_f64(0.0), splat_f64(0.0)
    for b in range(blocks):
        dot = four_bits(isa, W, p, q, 32 * b, splat_i32(np.int32(0)))
        value = fma(half_to_f64(load_halves(W, s)) * splat_f64(d[b]), int_to_f64(dot), value)
        whole = d[b] * np.float64(sums[2 * b] + sums[2 * b + 1])
        least = fma(half_to_f64(load_halves(W, s + 32)), splat_f64(whole), least)
        p += 256
        s += 64
    return value + least
