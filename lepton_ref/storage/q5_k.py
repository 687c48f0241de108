"""Q5_K: 256 elements in 176 bytes: d, dmin, s[12], qh[32], qs[128]. Value d·sc·q − dmin·m.

Eight groups of 32, their scales sc and minima m packed in s as in Q4_K. The low four bits of the codes q of groups 2i
and 2i + 1 are the low and the high nibbles of qs[32i … 32i + 31]; the fifth bit of element e is bit e div 32 of
qh[e mod 32].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part
from lepton_ref.storage.q4_k import scale_and_minimum, scales_and_minima, where_scale_and_minimum

_EIGHTH = np.arange(8, dtype=np.uint8)[:, np.newaxis]


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The two scales, the group's scale and minimum, and the code of one element."""
    scale, minimum = where_scale_and_minimum(4, e // 32)
    low = Bits(48 + 32 * (e // 64) + e % 32, 4 * ((e // 32) % 2), 4)
    return (
        number(block, "d", 0, "e"), part(block, "sc", scale), part(block, "q", (low, Bits(16 + e % 32, e // 32, 1))),
        number(block, "dmin", 2, "e"), part(block, "m", minimum),
    )  # fmt: skip


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    scale, minimum = scale_and_minimum(block[4:16], e // 32)
    high = (block[16 + e % 32] >> (e // 32)) & 1
    q = nibble(block[48 + 32 * (e // 64) + e % 32], (e // 32) % 2) | (high << 4)
    return to_float32(half(block, 0) * scale * q - half(block, 2) * minimum)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 176) -> (N, 256)`; both products are exact (11 + 6 + 5 bits), the difference rounds once."""
    return _decode(blocks, np.float32)


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 176) -> (N, 256)`, exact."""
    return _decode(blocks, np.float64)


def _decode(blocks: NDArray[np.uint8], dtype: type[Any]) -> NDArray[Any]:
    scale, minimum = scales_and_minima(blocks[:, 4:16])
    code = (blocks[:, np.newaxis, 16:48] >> _EIGHTH) & np.uint8(1)
    code <<= np.uint8(4)
    code |= nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    q: NDArray[Any] = code.astype(dtype)
    q *= (halves(blocks, 0) * scale)[:, :, np.newaxis]
    q -= (halves(blocks, 2) * minimum)[:, :, np.newaxis]
    return q.reshape(-1, 256)


Q5_K = BlockFormat(
    "Q5_K", length=256, nbytes=176, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(
        Field("d", 0, 2, "fp16"), Field("dmin", 2, 2, "fp16"), Field("s", 4, 12, "6-bit scales and minima"),
        Field("qh", 16, 32, "fifth bits of the codes"), Field("qs", 48, 128, "low 4 bits of the codes"),
    ),
    formula="d·sc·q − dmin·m", read=read,
)  # fmt: skip
