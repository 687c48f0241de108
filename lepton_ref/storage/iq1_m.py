"""IQ1_M: 256 elements in 56 bytes: qs[32], qh[16], scales[4] (u16). Value d·(2s + 1)·(G[q] + δ), δ = 1/8 or −1/8.

Elements 8k … 8k + 7 have an eleven-bit code q, a point of the table IQ1_S: qs[k] and above it the low three bits of
nibble k mod 2 of qh[k div 2]; the nibble's high bit says that their δ is −1/8. Elements 16h … 16h + 15 have bits 3(h
mod 4) … 3(h mod 4) + 2 of scales[h div 4] as their scale s. The fp16 number d is in four pieces: the high four bits of
scales[0], those of scales[1] above them, and so on. See `lepton_ref.storage.iq_grids`.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq_grids import listed, packed_shifted
from lepton_ref.storage.iq_parts import point, shift, span
from lepton_ref.storage.layout import Bits, Field, Part, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scales, the point and the shift of one element."""
    pieces = tuple(Bits(49 + 2 * i, 4, 4) for i in range(4))
    k, h = e // 8, e // 16
    low, high = 4 * (k % 2), 32 + k // 2
    return (
        part(block, "d", pieces, _scale(block)),
        part(block, "s", span(48 + 2 * (h // 4), 3 * (h % 4), 3)),
        point(block, (Bits(k, 0, 8), Bits(high, low, 3)), "IQ1_S", e),
        shift(block, Bits(high, low + 3, 1)),
    )


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    k, h = e // 8, e // 16
    high = nibble(block[32 + k // 2], k % 2)
    (word,) = struct.unpack_from("<H", block, 48 + 2 * (h // 4))
    s = (word >> (3 * (h % 4))) & 7
    delta = -0.125 if high & 8 else 0.125
    return to_float32(_scale(block) * (2 * s + 1) * (listed("IQ1_S")[block[k] | (high & 7) << 8][e % 8] + delta))


def _scale(block: bytes) -> float:
    words = struct.unpack_from("<4H", block, 48)
    joined = sum(word >> 12 << (4 * i) for i, word in enumerate(words))
    return float(struct.unpack("<e", struct.pack("<H", joined))[0])


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 56) -> (N, 256)`; exact: 11 + 4 + 4 bits, 8(G + δ) being an integer of at most 9."""
    q = blocks[:, :32] | nibbles(blocks[:, 32:48, np.newaxis]).reshape(-1, 32).astype(np.uint16) << 8
    high = blocks[:, 49::2] >> 4
    d = halves((high[:, ::2] | high[:, 1::2] << 4).astype(np.uint8), 0)
    word = np.ascontiguousarray(blocks[:, 48:]).view("<u2")[:, :, np.newaxis]
    s = ((word >> np.arange(0, 12, 3, dtype=np.uint16)) & 7).reshape(-1, 16)
    value = packed_shifted("IQ1_S").take(q).view(np.int8).reshape(-1, 16, 16).astype(np.float32)
    value *= (d * (s * 2 + 1).astype(np.float32) / 8)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ1_M = BlockFormat(
    "IQ1_M", length=256, nbytes=56, decode=decode, decode_element=decode_element,
    fields=(
        Field("qs", 0, 32, "low 8 bits of the point codes"),
        Field("qh", 32, 16, "high 3 bits of the point codes, signs of δ"),
        Field("scales", 48, 8, "u16: four 3-bit scales, 4 bits of d"),
    ),
    formula="d·(2s + 1)·(G[q] + δ)", read=read,
)  # fmt: skip
