"""Blocks of bytes that reach every scale and every code, by arithmetic alone: the same wherever they are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

COUNT = 1 << 16


def every(nbytes: int, halves: Iterable[int]) -> NDArray[np.uint8]:
    """`(65536, nbytes)`: mixed bytes, and at each of `halves` each of the 65 536 fp16 numbers once.

    Every byte of the block takes every value, whatever the others are.
    """
    i = np.arange(COUNT, dtype=np.uint32)[:, np.newaxis]
    x = i * np.uint32(0x9E3779B1) + np.arange(nbytes, dtype=np.uint32) * np.uint32(0x85EBCA77)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(12)
    blocks = (x >> np.uint32(8)).astype(np.uint8)
    for turn, at in enumerate(halves):
        half = (i[:, 0] * np.uint32(1 + 0x4E36 * turn)).astype("<u2")  # an odd factor: every number, in another order
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks
