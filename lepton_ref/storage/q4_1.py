"""Q4_1: 32 elements in 20 bytes: d, m, qs[16]. Value d·q + m.

Element e has the low (e < 16) or high nibble of qs[e mod 16] as its code q.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale, the code and the minimum of one element."""
    q = part(block, "q", (Bits(4 + e % 16, 4 * (e // 16), 4),))
    return number(block, "d", 0, "e"), q, number(block, "m", 2, "e")


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    q = nibble(block[4 + e % 16], e // 16)
    return to_float32(half(block, 0) * q + half(block, 2))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 20) -> (N, 32)`; the product is exact (11 + 4 bits), the sum rounds once."""
    return _decode(blocks, np.float32)


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 20) -> (N, 32)`, exact."""
    return _decode(blocks, np.float64)


def _decode(blocks: NDArray[np.uint8], dtype: type[Any]) -> NDArray[Any]:
    q: NDArray[Any] = nibbles(blocks[:, 4:]).reshape(-1, 32).astype(dtype)
    q *= halves(blocks, 0)
    q += halves(blocks, 2)
    return q


Q4_1 = BlockFormat(
    "Q4_1", length=32, nbytes=20, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(Field("d", 0, 2, "fp16"), Field("m", 2, 2, "fp16"), Field("qs", 4, 16, "4-bit codes")),
    formula="d·q + m", read=read,
)  # fmt: skip
