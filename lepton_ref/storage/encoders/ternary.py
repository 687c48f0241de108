"""TQ1_0 and TQ2_0: 256 numbers −d, 0 or d; ggml's reference encoders.

d = amax, the largest |x|, stored as fp16; t = x·(1/d) rounded half away from zero, in float32; the digit is t + 1.
TQ2_0 puts the digits of elements 128h + l, +32, +64, +96 into one byte, two bits each. TQ1_0 writes five digits to the
base 3 as one number n < 243 and stores ⌈n·256/243⌉, so that multiplying the byte by 3, again and again, brings out one
digit after the other above the eighth bit: bytes 0…31 hold elements l + 32k, bytes 32…47 elements 160 + l + 16k, and
bytes 48…51 four digits each, of elements 240 + l + 4k, as if a fifth were 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders.legacy import half_away, inverse

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def digits(x: Floats) -> tuple[Floats, Bytes]:
    """`(N, 256) -> (N, 1), (N, 256)` the float32 scale, and 0, 1 or 2 for −d, 0, d."""
    d = np.max(np.abs(x), axis=1, keepdims=True)
    t = half_away(x * inverse(d))
    return d, (np.where(np.isfinite(t), t, np.float32(0)) + np.float32(1)).astype(np.uint8)


def _base_3(digit: Bytes, places: int) -> Bytes:
    """`(N, places·B) -> (N, B)` the digits B apart as one byte, the first worth most."""
    apart = digit.reshape(len(digit), places, digit.shape[1] // places).astype(np.uint16)
    worth = np.array([81, 27, 9, 3, 1], dtype=np.uint16)[:places, np.newaxis]
    number: NDArray[np.uint16] = (apart * worth).sum(axis=1, dtype=np.uint16)
    return ((number * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8)


def encode_tq1_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 54)`: qs[48], qh[4], d."""
    d, digit = digits(x)
    parts = [_base_3(digit[:, :160], 5), _base_3(digit[:, 160:240], 5), _base_3(digit[:, 240:], 4)]
    return np.concatenate([*parts, d.astype("<f2").view(np.uint8)], axis=1)


def encode_tq2_0(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 66)`: qs[64], d."""
    d, digit = digits(x)
    apart = digit.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], dtype=np.uint8)[:, np.newaxis]
    codes = np.bitwise_or.reduce(apart, axis=2).reshape(-1, 64)
    return np.concatenate([codes, d.astype("<f2").view(np.uint8)], axis=1)
