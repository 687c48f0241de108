"""Panels of formats whose blocks of 32 have an fp16 scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, and what is encoded as such.

The bytes are those of the file in another order: see `lepton_ref.backends.numba_panels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_panels import BLOCK, KINDS, ROWS, Bytes, Panels, Parts, panels_of
from lepton_ref.storage.base import Weight
from lepton_ref.storage.encoded import Encoded

NBYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24}


def by_panel(rows: NDArray[Any]) -> NDArray[Any]:
    """`(16·G, …) -> (G, …, 16)`: the rows of a panel beside one another, contiguous."""
    return np.ascontiguousarray(np.moveaxis(rows.reshape(-1, ROWS, *rows.shape[1:]), 1, -1))


def interleaved(codes: Bytes) -> Bytes:
    """`(16·G, b, 4·n) -> flat`: four neighbours of each row together, for all panels."""
    words = np.ascontiguousarray(codes).view(np.uint32)
    return by_panel(words).reshape(-1).view(np.uint8)


def paired(codes: Bytes) -> Bytes:
    """`(…, 32) -> (…, 16)`: two nibbles in a byte, those of the second half being the high ones."""
    return codes[..., :16] | codes[..., 16:] << np.uint8(4)


def halves(numbers: NDArray[Any]) -> Bytes:
    """`(16·G, …)` fp16 as uint16 `-> flat` bytes, a panel's rows beside one another."""
    return by_panel(numbers).reshape(-1).view(np.uint8)


def fifth_bits(bits: Bytes) -> Bytes:
    """`(16·G, b, 32)` 0 or 1 `-> flat`: one word for every vector of 64 codes."""
    panels = bits.reshape(-1, ROWS, bits.shape[1], 8, 4)
    return np.packbits(np.moveaxis(panels, 1, 3), axis=None, bitorder="little")


def filled(rows: NDArray[Any]) -> NDArray[Any]:
    """Zero rows behind, up to whole panels."""
    missing = -len(rows) % ROWS
    if not missing:
        return rows
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), dtype=rows.dtype)])


def pack_blocks(weight: Weight) -> Panels | None:
    """A weight in one of these formats; None for another."""
    if weight.format in ("Q4_K", "Q5_K", "Q6_K"):
        from lepton_ref.backends.numba_panels_k import pack_k

        return pack_k(weight)
    if weight.format not in NBYTES:
        from lepton_ref.backends.numba_panels_integers import pack_integers

        return pack_integers(weight)
    name = weight.format
    wide, minimum, fifth = name == "Q8_0", name.endswith("_1"), name.startswith("Q5")
    blocks = weight.shape[1] // BLOCK

    def parts(first: int, last: int) -> Parts:
        raw = filled(weight.blocks(np.arange(first * ROWS, min(last * ROWS, weight.shape[0]))))
        start = 4 if minimum else 2
        scales = np.ascontiguousarray(raw[:, :, :start]).view(np.uint16)
        if not minimum:
            scales = scales[:, :, 0]
        if wide:
            return interleaved(raw[:, :, 2:] ^ np.uint8(0x80)), halves(scales)
        if not fifth:
            return interleaved(raw[:, :, start:]), halves(scales)
        bits = np.unpackbits(raw[:, :, start : start + 4], axis=-1, bitorder="little")
        return interleaved(raw[:, :, start + 4 :]), halves(scales), np.empty(0, np.uint8), fifth_bits(bits)

    codes = ROWS * (32 if wide else 16) * blocks
    sizes = (codes, ROWS * 2 * blocks * (2 if minimum else 1), 0, 64 * blocks if fifth else 0)
    return panels_of(KINDS[name], (weight.shape[0], weight.shape[1]), sizes, parts, 1)


def pack_encoded(weight: Encoded) -> Panels | None:
    """A dense weight as it is encoded to Q8_0 or Q4_0; None for fp8."""
    if weight.encoding not in ("Q8_0", "Q4_0"):
        return None
    wide = weight.encoding == "Q8_0"
    offset = 128 if wide else 8
    width = weight.shape[1]
    blocks = -(-width // BLOCK)

    def parts(first: int, last: int) -> Parts:
        q, scale = weight.scaled(np.arange(first * ROWS, min(last * ROWS, weight.shape[0])))
        code = np.full((len(q), blocks * BLOCK), offset, dtype=np.uint8)
        code[:, :width] = q + offset
        code = filled(code.reshape(len(q), blocks, BLOCK))
        if not wide:
            code = paired(code)
        return interleaved(code), halves(filled(scale[:, ::BLOCK].astype(np.float16).view(np.uint16)))

    return panels_of(
        KINDS[weight.encoding],
        (weight.shape[0], width),
        (ROWS * (32 if wide else 16) * blocks, ROWS * 2 * blocks),
        parts,
        1,
    )
