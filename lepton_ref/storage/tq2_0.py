"""TQ2_0: 256 elements in 66 bytes: qs[64], d. Value d·(q − 1).

Element e lies in half h = e div 128, quarter k of that half, place l = e mod 32: its code q is bits 2k, 2k + 1 of
qs[32h + l]. Encoders write 0, 1 and 2; the code 3 is worth 2·d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, pairs, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    return number(block, "d", 64, "e"), part(block, "q", (Bits(32 * h + place, 2 * k, 2),))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    q = (block[32 * h + place] >> (2 * k)) & 3
    return to_float32(half(block, 64) * (q - 1))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 66) -> (N, 256)`; exact: 11 + 2 bits."""
    q = pairs(blocks[:, :64].reshape(-1, 2, 32)).reshape(-1, 256).astype(np.float32)
    q -= np.float32(1)
    q *= halves(blocks, 64)
    return q


TQ2_0 = BlockFormat(
    "TQ2_0", length=256, nbytes=66, decode=decode, decode_element=decode_element,
    fields=(Field("qs", 0, 64, "2-bit codes"), Field("d", 64, 2, "fp16")), formula="d·(q − 1)", read=read,
)  # fmt: skip
