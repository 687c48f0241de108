"""Reading small fields out of bytes: fp16 scales, nibbles, pairs of bits, for arrays of blocks and for one block."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

_PAIRS = np.array([[0], [2], [4], [6]], dtype=np.uint8)


def halves(blocks: NDArray[np.uint8], at: int) -> NDArray[np.float32]:
    """`(N, bytes) -> (N, 1)` the fp16 number at byte `at` of each block; exact."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(..., B) -> (..., 2, B)` the low four bits of every byte, then the high four."""
    out = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), dtype=np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=out[..., 0, :])
    np.right_shift(packed, np.uint8(4), out=out[..., 1, :])
    return out


def pairs(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(..., B) -> (..., 4, B)` the lowest two bits of every byte, then the next two, and so on."""
    out = np.empty((*packed.shape[:-1], 4, packed.shape[-1]), dtype=np.uint8)
    np.right_shift(packed[..., np.newaxis, :], _PAIRS, out=out)
    out &= np.uint8(3)
    return out


def half(block: bytes, at: int) -> float:
    """The fp16 number at byte `at` of one block; exact."""
    return float(struct.unpack_from("<e", block, at)[0])


def nibble(byte: int, which: int) -> int:
    """Four bits of a byte: `which` is 0 for the low ones, 1 for the high ones."""
    return (byte >> (4 * which)) & 15


def to_float32(value: float) -> float:
    """The float64 value rounded once to float32, to nearest even; beyond float32's numbers, infinity."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
