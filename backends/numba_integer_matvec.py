"""One row of activations times one panel, for each kind: sixteen sums Σ d·(scale·Σ code·q + minimum·Σ q), in float64.

Dots of integers within a block are exact in int32, d·scale and d·minimum have at most 35 bits, and a fused multiply-add
rounds their product and sum once. So a term passes one rounding for every term behind it, and there are `terms(kind)`
of them in a block. Where several blocks share a scale, their d·dot are summed before they are multiplied by it: a
term passes as many roundings, and sums are exact under the same condition (`numba_integer_finish`), whose terms are
divided by the scale on both sides.

All places are addresses. Codes are read as they lie, 64 bytes at a time. What is subtracted from all codes of a block
is the start of its dot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import (
    bytes16_at,
    bytes_at,
    f32_at,
    four_at,
    half_to_f64,
    halves_at,
    i32_at,
    int_to_f64,
    one_f64_at,
    one_i32_at,
    one_i64_at,
    prefetch_at,
    signed_to_i32,
    unsigned_to_i32,
    with_bits45,
)
from lepton_ref.backends.numba_dot import dot4, high_nibbles, low_nibbles, with_bit4
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import splat_f64, splat_i32, to_f64
from lepton_ref.backends.numba_vectors import fma

AHEAD = 8192
"""Bytes of codes ahead that are asked for: two pages, where what the processor does by itself ends with one.

On a Zen 5 core this is worth 32 → 46 GB/s; 4096 and 16384 are worth 36 and 42."""


@njit(nogil=True)
def terms(kind: Any) -> Any:
    """Terms that a block adds to a sum."""
    return 2 if kind in (2, 4, 5, 6) else 1


@njit(nogil=True)
def sum_at(sums: Any, b: Any) -> Any:
    """Σq of block b."""
    return one_i32_at(sums + 8 * b) + one_i32_at(sums + 8 * b + 4)


@njit(nogil=True)
def eight_bits(isa: Any, p: Any, q: Any, start: Any) -> Any:
    """`start` plus the dot of one block of bytes at p with q."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        prefetch_at(p + AHEAD + 64 * j)
        prefetch_at(p + AHEAD + 64 * j + 256)
        start = dot4(isa, start, bytes_at(p + 64 * j), four_at(q + 4 * j))
        other = dot4(isa, other, bytes_at(p + 64 * j + 256), four_at(q + 4 * j + 16))
    return start + other


@njit(nogil=True)
def four_bits(isa: Any, p: Any, q: Any, start: Any) -> Any:
    """The same of a block of nibbles."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        prefetch_at(p + AHEAD + 64 * j)
        pair = bytes_at(p + 64 * j)
        start = dot4(isa, start, low_nibbles(pair), four_at(q + 4 * j))
        other = dot4(isa, other, high_nibbles(pair), four_at(q + 4 * j + 16))
    return start + other


@njit(nogil=True)
def q8_0(isa: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales at s."""
    value = splat_f64(0.0)
    for b in range(blocks):
        start = splat_i32(np.int32(-128 * (sum_at(sums, b))))
        dot = eight_bits(isa, p, q + 32 * b, start)
        value = fma(half_to_f64(halves_at(s)) * splat_f64(one_f64_at(d + 8 * b)), int_to_f64(dot), value)
        p += 512
        s += 32
    return value


@njit(nogil=True)
def q4_0(isa: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales at s."""
    value = splat_f64(0.0)
    for b in range(blocks):
        start = splat_i32(np.int32(-8 * (sum_at(sums, b))))
        dot = four_bits(isa, p, q + 32 * b, start)
        value = fma(half_to_f64(halves_at(s)) * splat_f64(one_f64_at(d + 8 * b)), int_to_f64(dot), value)
        p += 256
        s += 32
    return value


@njit(nogil=True)
def q4_1(isa: Any, p: Any, s: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Codes at p, scales and minima at s."""
    value, least = splat_f64(0.0), splat_f64(0.0)
    for b in range(blocks):
        dot = four_bits(isa, p, q + 32 * b, splat_i32(np.int32(0)))
        value = fma(half_to_f64(halves_at(s)) * splat_f64(one_f64_at(d + 8 * b)), int_to_f64(dot), value)
        whole = one_f64_at(d + 8 * b) * np.float64(sum_at(sums, b))
        least = fma(half_to_f64(halves_at(s + 32)), splat_f64(whole), least)
        p += 256
        s += 64
    return value + least


@njit(nogil=True)
def five_bits(isa: Any, p: Any, h: Any, q: Any, start: Any) -> Any:
    """The same of nibbles at p with their fifth bits at h."""
    other = splat_i32(np.int32(0))
    for j in range(4):
        prefetch_at(p + AHEAD + 64 * j)
        pair = bytes_at(p + 64 * j)
        low = with_bit4(low_nibbles(pair), one_i64_at(h + 8 * j))
        start = dot4(isa, start, low, four_at(q + 4 * j))
        high = with_bit4(high_nibbles(pair), one_i64_at(h + 8 * j + 32))
        other = dot4(isa, other, high, four_at(q + 4 * j + 16))
    return start + other


@njit(nogil=True)
def q5(isa: Any, p: Any, s: Any, h: Any, least: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Nibbles at p, fifth bits at h, at s scales, and minima where there are some: Q5_0, Q5_1."""
    value, rest = splat_f64(0.0), splat_f64(0.0)
    for b in range(blocks):
        both = sum_at(sums, b)
        dot = five_bits(isa, p, h, q + 32 * b, splat_i32(np.int32(0 if least else -16 * both)))
        value = fma(half_to_f64(halves_at(s)) * splat_f64(one_f64_at(d + 8 * b)), int_to_f64(dot), value)
        if least:
            rest = fma(half_to_f64(halves_at(s + 32)), splat_f64(one_f64_at(d + 8 * b) * np.float64(both)), rest)
            s += 32
        p += 256
        s += 32
        h += 64
    return value + rest


@njit(nogil=True)
def k_quant(isa: Any, p: Any, s: Any, f: Any, h: Any, fifth: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Nibbles at p, fine scales at f, at s scales of eight blocks, fifth bits at h where there are some: Q4_K, Q5_K.

    Of the eight blocks of a scale the integers code·scale and minimum are summed first, weighted by d alone.
    """  # fmt: skip
    value = splat_f64(0.0)
    for first in range(0, blocks, 8):
        part, least = splat_f64(0.0), splat_f64(0.0)
        for b in range(first, first + 8):
            start = splat_i32(np.int32(0))
            dot = five_bits(isa, p, h, q + 32 * b, start) if fifth else four_bits(isa, p, q + 32 * b, start)
            factor = splat_f64(one_f64_at(d + 8 * b))
            both = splat_i32(sum_at(sums, b))
            part = fma(int_to_f64(dot * unsigned_to_i32(bytes16_at(f))), factor, part)
            least = fma(int_to_f64(both * unsigned_to_i32(bytes16_at(f + 16))), factor, least)
            p += 256
            f += 32
            h += 64
        value = fma(half_to_f64(halves_at(s)), part, value)
        value = fma(splat_f64(0.0) - half_to_f64(halves_at(s + 32)), least, value)
        s += 64
    return value


@njit(nogil=True)
def q6_k(isa: Any, p: Any, s: Any, f: Any, h: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Nibbles at p, planes of two bits at h, factors of half blocks at f, scales of eight blocks at s."""
    value = splat_f64(0.0)
    for first in range(0, blocks, 8):
        part = splat_f64(0.0)
        for b in range(first, first + 8):
            low, high = (
                splat_i32(np.int32(-32 * one_i32_at(sums + 8 * b))),
                splat_i32(np.int32(-32 * one_i32_at(sums + 8 * b + 4))),
            )
            one, two = bytes_at(h), bytes_at(h + 64)
            for j in range(4):
                prefetch_at(p + AHEAD + 64 * j)
                pair = bytes_at(p + 64 * j)
                code = with_bits45(low_nibbles(pair), one, j)
                low = dot4(isa, low, code, four_at(q + 32 * b + 4 * j))
                code = with_bits45(high_nibbles(pair), two, j)
                high = dot4(isa, high, code, four_at(q + 32 * b + 4 * j + 16))
            whole = low * signed_to_i32(bytes16_at(f)) + high * signed_to_i32(bytes16_at(f + 16))
            part = fma(int_to_f64(whole), splat_f64(one_f64_at(d + 8 * b)), part)
            p += 256
            f += 32
            h += 128
        value = fma(half_to_f64(halves_at(s)), part, value)
        s += 32
    return value


@njit(nogil=True)
def integers(isa: Any, p: Any, s: Any, wide: Any, shared: Any, q: Any, d: Any, sums: Any, blocks: Any) -> Any:
    """Bytes or nibbles at p, float32 scales and int32 zeros of `shared` blocks at s."""
    value = splat_f64(0.0)
    for first in range(0, blocks, shared):
        part, zero = splat_f64(0.0), i32_at(s + 64)
        for b in range(first, min(first + shared, blocks)):
            start = splat_i32(-(sum_at(sums, b))) * zero
            dot = eight_bits(isa, p, q + 32 * b, start) if wide else four_bits(isa, p, q + 32 * b, start)
            part = fma(int_to_f64(dot), splat_f64(one_f64_at(d + 8 * b)), part)
            p += 512 if wide else 256
        value = fma(to_f64(f32_at(s)), part, value)
        s += 128
    return value
