"""Q2_K: 256 elements in 84 bytes: s[16], qs[64], d, dmin. Value d·sc·q − dmin·m.

Sixteen groups of 16. Group j has the low nibble of s[j] as its scale sc and the high one as its minimum m. Element e
lies in half h = e div 128, quarter k of that half, place l = e mod 32: its code q is bits 2k, 2k + 1 of qs[32h + l].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, pairs, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The two scales, the group's scale and minimum, and the code of one element."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    return (
        number(block, "d", 80, "e"), part(block, "sc", (Bits(e // 16, 0, 4),)),
        part(block, "q", (Bits(16 + 32 * h + place, 2 * k, 2),)),
        number(block, "dmin", 82, "e"), part(block, "m", (Bits(e // 16, 4, 4),)),
    )  # fmt: skip


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    h, k, place = e // 128, (e % 128) // 32, e % 32
    q = (block[16 + 32 * h + place] >> (2 * k)) & 3
    s = block[e // 16]
    return to_float32(half(block, 80) * nibble(s, 0) * q - half(block, 82) * nibble(s, 1))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 84) -> (N, 256)`; both products are exact (11 + 4 + 2 bits), the difference rounds once."""
    return _decode(blocks, np.float32)


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 84) -> (N, 256)`, exact."""
    return _decode(blocks, np.float64)


def _decode(blocks: NDArray[np.uint8], dtype: type[Any]) -> NDArray[Any]:
    s = blocks[:, :16]
    q: NDArray[Any] = pairs(blocks[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16).astype(dtype)
    q *= (halves(blocks, 80) * (s & np.uint8(15)))[:, :, np.newaxis]
    q -= (halves(blocks, 82) * (s >> np.uint8(4)))[:, :, np.newaxis]
    return q.reshape(-1, 256)


Q2_K = BlockFormat(
    "Q2_K", length=256, nbytes=84, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(
        Field("s", 0, 16, "4-bit scales and minima"), Field("qs", 16, 64, "2-bit codes"),
        Field("d", 80, 2, "fp16"), Field("dmin", 82, 2, "fp16"),
    ),
    formula="d·sc·q − dmin·m", read=read,
)  # fmt: skip
