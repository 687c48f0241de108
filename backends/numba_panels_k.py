"""Panels of Q4_K, Q5_K and Q6_K: 256 elements share an fp16 scale, and each block of 32 has fine scales of its own.

The bytes are those of the file, its twelve bytes of 6-bit scales and minima spread to sixteen: see
`lepton_ref.backends.numba_panels`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_panels import KINDS, ROWS, Bytes, Panels, Parts, panels_of
from lepton_ref.backends.numba_panels_blocks import by_panel, fifth_bits, filled, halves, interleaved, paired
from lepton_ref.storage.base import Weight
from lepton_ref.storage.bits import nibbles
from lepton_ref.storage.q4_k import scales_and_minima

LENGTH, PER = 256, 8
"""Elements that share a scale, and blocks of 32 of them."""

_EIGHTH = np.arange(8, dtype=np.uint8)[:, np.newaxis]
_PAIR = np.array([[0], [2], [4], [6]], dtype=np.uint8)


def upper_pairs(high: Bytes) -> Bytes:
    """`(16·G, b, 32)` bits 4 and 5 of codes `-> flat`: two vectors for every block."""
    fours = high.reshape(*high.shape[:2], 2, 4, 4)
    plane = fours[:, :, :, 0].copy()
    for n in range(1, 4):
        plane |= fours[:, :, :, n] << np.uint8(2 * n)
    return interleaved(plane)


def pack_k(weight: Weight) -> Panels:
    """A weight in one of these formats."""
    name, width = weight.format, weight.shape[1]
    blocks = width // 32
    make = _six if name == "Q6_K" else _four_or_five

    def parts(first: int, last: int) -> Parts:
        return make(filled(weight.blocks(np.arange(first * ROWS, min(last * ROWS, weight.shape[0])))))

    high = {"Q4_K": 0, "Q5_K": 64, "Q6_K": 128}[name] * blocks
    sizes = (ROWS * 16 * blocks, ROWS * (2 if name == "Q6_K" else 4) * (blocks // PER), 32 * blocks, high)
    return panels_of(KINDS[name], (weight.shape[0], width), sizes, parts, PER)


def _four_or_five(raw: Bytes) -> Parts:
    """`(16·G, n, bytes)`."""
    rows, count, size = raw.shape
    blocks = raw.reshape(rows * count, size)
    code = nibbles(blocks[:, -128:].reshape(-1, 4, 32)).reshape(rows, PER * count, 32)
    fine = np.stack(scales_and_minima(blocks[:, 4:16]), axis=-1).reshape(rows, PER * count, 2)
    high = np.empty(0, dtype=np.uint8)
    if size == 176:
        high = fifth_bits(((blocks[:, np.newaxis, 16:48] >> _EIGHTH) & np.uint8(1)).reshape(rows, PER * count, 32))
    scales = np.ascontiguousarray(raw[:, :, :4]).view(np.uint16)
    return interleaved(paired(code)), halves(scales), by_panel(fine).reshape(-1), high


def _six(raw: Bytes) -> Parts:
    """`(16·G, n, 210)`."""
    rows, count, _ = raw.shape
    low = nibbles(raw[:, :, :128].reshape(-1, 2, 64)).reshape(rows, PER * count, 32)
    high: NDArray[np.uint8] = (raw[:, :, 128:192].reshape(-1, 2, 1, 32) >> _PAIR) & np.uint8(3)
    fine = np.ascontiguousarray(raw[:, :, 192:208]).reshape(rows, PER * count, 2)
    scales = np.ascontiguousarray(raw[:, :, 208:]).view(np.uint16)[:, :, 0]
    return (
        interleaved(paired(low)),
        halves(scales),
        by_panel(fine).reshape(-1),
        upper_pairs(high.reshape(rows, PER * count, 32)),
    )
