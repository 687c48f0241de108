"""IQ1_S: 256 elements in 50 bytes: d, qs[32], qh[8] (u16). Value d·(2s + 1)·(G[q] + δ), δ = 1/8 or −1/8.

Eight groups of 32. Elements 8k … 8k + 7 of group g have an eleven-bit code q, a point of the table IQ1_S: qs[4g + k]
and above it bits 3k … 3k + 2 of qh[g]. Bits 12 … 14 of qh[g] are the group's scale s, bit 15 says that its δ is −1/8.
See `lepton_ref.storage.iq_grids`.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq_grids import listed, packed_shifted
from lepton_ref.storage.iq_parts import point, shift, span
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scales, the point and the shift of one element."""
    at, k = 34 + 2 * (e // 32), e % 32 // 8
    q = point(block, (Bits(2 + e // 8, 0, 8), *span(at, 3 * k, 3)), "IQ1_S", e)
    return number(block, "d", 0, "e"), part(block, "s", (Bits(at + 1, 4, 3),)), q, shift(block, Bits(at + 1, 7, 1))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (word,) = struct.unpack_from("<H", block, 34 + 2 * (e // 32))
    q = block[2 + e // 8] | ((word >> (3 * (e % 32 // 8))) & 7) << 8
    delta = -0.125 if word >> 15 else 0.125
    return to_float32(half(block, 0) * (2 * (word >> 12 & 7) + 1) * (listed("IQ1_S")[q][e % 8] + delta))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 50) -> (N, 256)`; exact: 11 + 4 + 4 bits, 8(G + δ) being an integer of at most 9."""
    word = np.ascontiguousarray(blocks[:, 34:]).view("<u2")[:, :, np.newaxis]
    high = (word >> np.arange(0, 12, 3, dtype=np.uint16)) & 7 | (word >> 15) << 3
    q = blocks[:, 2:34].reshape(-1, 8, 4) | high << 8
    value = packed_shifted("IQ1_S").take(q).view(np.int8).astype(np.float32)
    value *= (halves(blocks, 0) * ((word[:, :, 0] >> 12 & 7) * 2 + 1).astype(np.float32) / 8)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ1_S = BlockFormat(
    "IQ1_S", length=256, nbytes=50, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qs", 2, 32, "low 8 bits of the point codes"),
        Field("qh", 34, 16, "u16: four times the high 3 bits of a point code, 3-bit scale, sign of δ"),
    ),
    formula="d·(2s + 1)·(G[q] + δ)", read=read,
)  # fmt: skip
