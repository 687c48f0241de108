"""The formats of one level: a scale, perhaps a minimum, and codes for each block; ggml's reference encoders.

    Q8_0   d = amax/127     q = x·(1/d), half away from zero                value d·q
    Q4_0   d = m/−8         q = ⌊x·(1/d) + 8.5⌋, at most 15                 value d·(q − 8)
    Q5_0   d = m/−16        q = ⌊x·(1/d) + 16.5⌋, at most 31                value d·(q − 16)
    Q4_1   d = (max−min)/15 q = ⌊(x − min)·(1/d) + 0.5⌋, at most 15         value d·q + min
    Q5_1   d = (max−min)/31 the same, at most 31
    Q8_1   Q8_0 beside s = d·Σq
    Q8_K   d = 1/(−127/m), a float32; q = x·(−127/m), half to even; and Σq of every 16
    Q1_0   d = Σ|x|/128, the sum taken in order; q = 1 where x ≥ 0          value ±d
    Q2_0   d = amax         q = x·(1/d), half away from zero, plus 1        value d·(q − 1): 2d is never used

amax is the largest |x|, m the first x of that size. Every operation is one of float32's, and q comes from the float32
d; fp16 d, m and s are rounded from float32 when they are stored. 1/d of d = 0 is 0. Where 1/d overflows C leaves the
codes undefined; here they are 0 bytes, as x86-64 makes them: the stored d is 0 there anyway. A d beyond fp16 is stored
as infinity. An all-zero block of Q8_K has zero sums, which ggml leaves unwritten. Where numbers have weights, Q4_0 and
Q5_0, Q4_1 and Q5_1 are searched for: see `legacy_weighted`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders import legacy_weighted

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def inverse(d: Floats) -> Floats:
    """1/d, and 0 of 0."""
    return np.where(d == 0, np.float32(0), np.float32(1) / d)


def largest(x: Floats) -> Floats:
    """`(..., L) -> (..., 1)` the first number whose size is the largest; +0 of zeros."""
    at = np.argmax(np.abs(x), axis=-1)[..., np.newaxis]
    return np.take_along_axis(x, at, axis=-1) + np.float32(0)


def half_away(x: Floats) -> Floats:
    """To the nearest integer, a half away from zero, as C's roundf; |x| below 2²⁴."""
    whole = np.floor(np.abs(x.astype(np.float64)) + 0.5)  # exact, as it would not be in float32
    return np.copysign(whole, x).astype(np.float32) + np.float32(0)


def truncated(x: Floats, most: int) -> Floats:
    """⌊x⌋ of what is not negative, at most this; 0 for what is no number."""
    return np.where(np.isfinite(x), np.minimum(np.trunc(x), np.float32(most)), np.float32(0))


def q8_0(x: Floats) -> tuple[Floats, Floats]:
    """`(..., L) -> (..., 1), (..., L)` the float32 scale and the codes of blocks of any length."""
    d = np.max(np.abs(x), axis=-1, keepdims=True) / np.float32(127)
    return d, half_away(x * inverse(d))


def symmetric(x: Floats, half: int) -> tuple[Floats, Floats]:
    """`(..., L) -> (..., 1), (..., L)` the float32 scale and the codes of Q4_0 (`half` 8) or Q5_0 (16)."""
    d = largest(x) / np.float32(-half)
    return d, truncated(x * inverse(d) + np.float32(half + 0.5), 2 * half - 1)


def affine(x: Floats, most: int) -> tuple[Floats, Floats, Floats]:
    """`(N, L) -> (N, 1), (N, 1), (N, L)` the float32 scale and minimum and the codes of Q4_1 (`most` 15), Q5_1 (31)."""
    low = np.take_along_axis(x, np.argmin(x, axis=-1)[:, np.newaxis], axis=-1)  # the first: zeros have signs
    high = np.max(x, axis=-1, keepdims=True)
    d = np.where(high == low, np.float32(0), high - low).astype(np.float32) / np.float32(most)
    return d, low, truncated((x - low) * inverse(d) + np.float32(0.5), most)


def _half(x: Floats) -> Bytes:
    """`(N, 1) -> (N, 2)` as fp16."""
    return x.astype("<f2").view(np.uint8)


def _signed(q: Floats) -> Bytes:
    """Integers as signed bytes; 0 for what is no number."""
    return np.where(np.isfinite(q), q, np.float32(0)).astype(np.int8).view(np.uint8)


def _nibbles(q: Bytes) -> Bytes:
    """`(N, 32) -> (N, 16)` the low four bits of code e and of code e + 16."""
    return (q[:, :16] & np.uint8(15)) | (q[:, 16:] << np.uint8(4))


def _fifth_bits(q: Bytes) -> Bytes:
    """`(N, 32) -> (N, 4)`."""
    return np.packbits(q >> np.uint8(4), axis=-1, bitorder="little")


def encode_q4_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 18)`."""
    d, q = symmetric(x, 8) if weights is None else legacy_weighted.symmetric(x, weights, 8)
    return np.concatenate([_half(d), _nibbles(q.astype(np.uint8))], axis=1)


def encode_q5_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 22)`."""
    d, q = symmetric(x, 16) if weights is None else legacy_weighted.symmetric(x, weights, 16)
    code = q.astype(np.uint8)
    return np.concatenate([_half(d), _fifth_bits(code), _nibbles(code)], axis=1)


def encode_q4_1(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 20)`."""
    d, low, q = affine(x, 15) if weights is None else legacy_weighted.affine(x, weights, 15)
    return np.concatenate([_half(d), _half(low), _nibbles(q.astype(np.uint8))], axis=1)


def encode_q5_1(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 24)`."""
    d, low, q = affine(x, 31) if weights is None else legacy_weighted.affine(x, weights, 31)
    code = q.astype(np.uint8)
    return np.concatenate([_half(d), _half(low), _fifth_bits(code), _nibbles(code)], axis=1)


def encode_q8_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 34)`."""
    d, q = q8_0(x)
    return np.concatenate([_half(d), _signed(q)], axis=1)


def encode_q8_1(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 36)`."""
    d, q = q8_0(x)
    code = _signed(q)
    total = code.view(np.int8).sum(axis=1, dtype=np.int64, keepdims=True).astype(np.float32)
    return np.concatenate([_half(d), _half(total * d), code], axis=1)


def encode_q8_k(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 292)`."""
    m = largest(x)
    scale = np.where(m == 0, np.float32(0), np.float32(-127) / m).astype(np.float32)
    q = np.rint(x * scale)  # at most 127 in size, for |−127/m·x| is below 127.5
    code = _signed(q)
    sums = code.view(np.int8).reshape(-1, 16, 16).sum(axis=2, dtype="<i2")
    return np.concatenate([inverse(scale).astype("<f4").view(np.uint8), code, sums.view(np.uint8)], axis=1)


def encode_q1_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 128) -> (N, 18)`."""
    total: Floats = np.add.accumulate(np.abs(x), axis=1)[:, -1:]  # in order, as a loop adds
    return np.concatenate([_half(total / np.float32(128)), np.packbits(x >= 0, axis=1, bitorder="little")], axis=1)


def encode_q2_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 64) -> (N, 18)`."""
    d = np.max(np.abs(x), axis=1, keepdims=True)
    t = half_away(x * inverse(d))
    q = (np.where(np.isfinite(t), t, np.float32(-1)) + np.float32(1)).astype(np.uint8).reshape(-1, 16, 4)
    packed: Bytes = np.bitwise_or.reduce(q << np.array([0, 2, 4, 6], dtype=np.uint8), axis=2)
    return np.concatenate([_half(d), packed], axis=1)
