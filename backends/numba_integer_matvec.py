"""One row of activations times one panel, for each kind: sixteen sums Σ d·(scale·Σ code·q + minimum·Σ q), in float64.

Dots of integers within a block are exact in int32, d·scale and d·minimum have at most 35 bits, and a fused multiply-add
rounds their product and sum once. So a term passes one rounding for every term behind it, and there are `terms(kind)`
of them in a block. Where several blocks share a scale, their d·dot are summed before they are multiplied by it: a
term passes as many roundings, and sums are exact under the same condition (`numba_integer_finish`), whose terms are
divided by the scale on both sides.

Codes are read as they lie, 64 bytes at a time. What is subtracted from all codes of a block is the start of its dot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

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
    unsigned_to_i32,
    with_bits45,
)
from lepton_ref.backends.numba_dot import broadcast4, dot4, high_nibbles, low_nibbles, with_bit4
from lepton_ref.backends.numba_rounding import splat_f64, splat_i32, to_f64
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


@njit(nogil=True)
def five_bits(isa: Any, W: Any, p: Any, h: Any, q: Any, k: Any, start: Any) -> Any:
    """The same of nibbles at p with their fifth bits at h."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        pair = load_bytes(W, p + 64 * j)
        low = with_bit4(low_nibbles(pair), one_i64(W, h + 8 * j))
        start = dot4(isa, start, low, broadcast4(q, k + 4 * j))
        high = with_bit4(high_nibbles(pair), one_i64(W, h + 8 * j + 32))
        other = dot4(isa, other, high, broadcast4(q, k + 4 * j + 16))
    return start + other


@njit(nogil=True)
def q5(isa: Any, W: Any, p: Any, s: Any, h: Any, least: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Nibbles at p, fifth bits at h, at s scales, and minima where there are some: Q5_0, Q5_1."""
    value, rest = splat_f64(0.0), splat_f64(0.0)
    for b in range(blocks):
        both = sums[2 * b] + sums[2 * b + 1]
        dot = five_bits(isa, W, p, h, q, 32 * b, splat_i32(np.int32(0 if least else -16 * both)))
        value = fma(half_to_f64(load_halves(W, s)) * splat_f64(d[b]), int_to_f64(dot), value)
        if least:
            rest = fma(half_to_f64(load_halves(W, s + 32)), splat_f64(d[b] * np.float64(both)), rest)
            s += 32
        p += 256
        s += 32
        h += 64
    return value + rest


@njit(nogil=True)
def k_quant(
    isa: Any, W: Any, p: Any, s: Any, f: Any, h: Any, fifth: Any, q: Any, d: Any, sums: Any, blocks: Any
) -> Any:
    """Nibbles at p, fine scales at f, at s scales of eight blocks, fifth bits at h where there are some: Q4_K, Q5_K.

    Of the eight blocks of a scale the integers code·scale and minimum are summed first, weighted by d alone.
    """  # fmt: skip
    value = splat_f64(0.0)
    for first in range(0, blocks, 8):
        part, least = splat_f64(0.0), splat_f64(0.0)
        for b in range(first, first + 8):
            start = splat_i32(np.int32(0))
            dot = five_bits(isa, W, p, h, q, 32 * b, start) if fifth else four_bits(isa, W, p, q, 32 * b, start)
            factor = splat_f64(d[b])
            both = splat_i32(sums[2 * b] + sums[2 * b + 1])
            part = fma(int_to_f64(dot * unsigned_to_i32(load_bytes16(W, f))), factor, part)
            least = fma(int_to_f64(both * unsigned_to_i32(load_bytes16(W, f + 16))), factor, least)
            p += 256
            f += 32
            h += 64
        value = fma(half_to_f64(load_halves(W, s)), part, value)
        value = fma(splat_f64(0.0) - half_to_f64(load_halves(W, s + 32)), least, value)
        s += 64
    return value


@njit(nogil=True)
def q6_k(isa: Any, W: Any, p: Any, s: Any, f: Any, h: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Nibbles at p, planes of two bits at h, factors of half blocks at f, scales of eight blocks at s."""
    value = splat_f64(0.0)
    for first in range(0, blocks, 8):
        part = splat_f64(0.0)
        for b in range(first, first + 8):
            low, high = splat_i32(np.int32(-32 * sums[2 * b])), splat_i32(np.int32(-32 * sums[2 * b + 1]))
            one, two = load_bytes(W, h), load_bytes(W, h + 64)
            for j in range(4):
                pair = load_bytes(W, p + 64 * j)
                code = with_bits45(low_nibbles(pair), one, j)
                low = dot4(isa, low, code, broadcast4(q, 32 * b + 4 * j))
                code = with_bits45(high_nibbles(pair), two, j)
                high = dot4(isa, high, code, broadcast4(q, 32 * b + 4 * j + 16))
            whole = low * signed_to_i32(load_bytes16(W, f)) + high * signed_to_i32(load_bytes16(W, f + 16))
            part = fma(int_to_f64(whole), splat_f64(d[b]), part)
            p += 256
            f += 32
            h += 128
        value = fma(half_to_f64(load_halves(W, s)), part, value)
        s += 32
    return value


@njit(nogil=True)
def integers(isa: Any, W: Any, p: Any, s: Any, wide: Any, shared: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Bytes or nibbles at p, float32 scales and int32 zeros of `shared` blocks at s."""
    value = splat_f64(0.0)
    for first in range(0, blocks, shared):
        part, zero = splat_f64(0.0), load_i32(W, s + 64)
        for b in range(first, min(first + shared, blocks)):
            start = splat_i32(-(sums[2 * b] + sums[2 * b + 1])) * zero
            dot = eight_bits(isa, W, p, q, 32 * b, start) if wide else four_bits(isa, W, p, q, 32 * b, start)
            part = fma(int_to_f64(dot), splat_f64(d[b]), part)
            p += 512 if wide else 256
        value = fma(to_f64(load_f32(W, s)), part, value)
        s += 128
    return value
