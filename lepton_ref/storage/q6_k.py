"""Q6_K: 256 elements in 210 bytes: ql[128], qh[64], sc[16] as signed bytes, d. Value (d·sc)·(q − 32).

Sixteen groups of 16 with one scale each. Element e lies in half h = e div 128, quarter k of that half, place l = e mod
32: the low four bits of its code q are a nibble of ql[64h + 32(k mod 2) + l], low for k < 2, high for the others; the
upper two are bits 2k, 2k + 1 of qh[32h + l].
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part

_PAIR = np.array([[0], [2], [4], [6]], dtype=np.uint8)


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale, the group's scale and the code of one element."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    low = Bits(64 * h + 32 * (k % 2) + place, 4 * (k // 2), 4)
    return (
        number(block, "d", 208, "e"), number(block, "sc", 192 + e // 16, "b"),
        part(block, "q", (low, Bits(128 + 32 * h + place, 2 * k, 2))),
    )  # fmt: skip


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    low = nibble(block[64 * h + 32 * (k % 2) + place], k // 2)
    high = (block[128 + 32 * h + place] >> (2 * k)) & 3
    (scale,) = struct.unpack_from("<b", block, 192 + e // 16)
    return to_float32(half(block, 208) * scale * ((low | (high << 4)) - 32))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 210) -> (N, 256)`; exact: 11 + 7 + 5 bits."""
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PAIR) & np.uint8(3)
    code = nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    code |= high << np.uint8(4)
    q = code.reshape(-1, 16, 16).astype(np.float32)
    q -= np.float32(32)
    q *= (halves(blocks, 208) * blocks[:, 192:208].view(np.int8))[:, :, np.newaxis]
    return q.reshape(-1, 256)


Q6_K = BlockFormat(
    "Q6_K", length=256, nbytes=210, decode=decode, decode_element=decode_element,
    fields=(
        Field("ql", 0, 128, "low 4 bits of the codes"), Field("qh", 128, 64, "upper 2 bits of the codes"),
        Field("sc", 192, 16, "signed 8-bit scales"), Field("d", 208, 2, "fp16"),
    ),
    formula="d·sc·(q − 32)", read=read,
)  # fmt: skip
