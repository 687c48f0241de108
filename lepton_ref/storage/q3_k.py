"""Q3_K: 256 elements in 110 bytes: hmask[32], qs[64], s[12], d. Value d·(sc − 32)·(q − 4).

Sixteen groups of 16. Group j has a 6-bit scale sc: the low four bits are the low (j < 8) or high nibble of s[j mod 8],
the upper two are bits 2(j div 4), 2(j div 4) + 1 of s[8 + j mod 4]. Element e lies in half h = e div 128, quarter k of
that half, place l = e mod 32: the low two bits of its code q are bits 2k, 2k + 1 of qs[32h + l], the third is bit e div
32 of hmask[l]. ggml says it the other way round: two bits, less four where the mask has no bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, pairs, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part

_EIGHTH = np.arange(8, dtype=np.uint8)[:, np.newaxis]


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale, the group's scale and the code of one element."""
    h, k, place, j = e // 128, (e % 128) // 32, e % 32, e // 16
    return (
        number(block, "d", 108, "e"),
        part(block, "sc", (Bits(96 + j % 8, 4 * (j // 8), 4), Bits(104 + j % 4, 2 * (j // 4), 2))),
        part(block, "q", (Bits(32 + 32 * h + place, 2 * k, 2), Bits(place, e // 32, 1))),
    )


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    h, k, place, j = e // 128, (e % 128) // 32, e % 32, e // 16
    scale = nibble(block[96 + j % 8], j // 8) | (((block[104 + j % 4] >> (2 * (j // 4))) & 3) << 4)
    low = (block[32 + 32 * h + place] >> (2 * k)) & 3
    high = (block[place] >> (e // 32)) & 1
    return to_float32(half(block, 108) * (scale - 32) * ((low | (high << 2)) - 4))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 110) -> (N, 256)`; exact: 11 + 6 + 3 bits."""
    scale = nibbles(blocks[:, 96:104]).reshape(-1, 16)
    scale |= pairs(blocks[:, 104:108]).reshape(-1, 16) << np.uint8(4)
    code = (blocks[:, np.newaxis, :32] >> _EIGHTH) & np.uint8(1)
    code <<= np.uint8(2)
    code |= pairs(blocks[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 8, 32)
    q = code.reshape(-1, 16, 16).astype(np.float32)
    q -= np.float32(4)
    q *= (halves(blocks, 108) * (scale.view(np.int8) - np.int8(32)))[:, :, np.newaxis]
    return q.reshape(-1, 256)


Q3_K = BlockFormat(
    "Q3_K", length=256, nbytes=110, decode=decode, decode_element=decode_element,
    fields=(
        Field("hmask", 0, 32, "third bits of the codes"), Field("qs", 32, 64, "low 2 bits of the codes"),
        Field("s", 96, 12, "6-bit scales"), Field("d", 108, 2, "fp16"),
    ),
    formula="d·(sc − 32)·(q − 4)", read=read,
)  # fmt: skip
