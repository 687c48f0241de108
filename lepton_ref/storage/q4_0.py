"""Q4_0: 32 elements in 18 bytes: d, qs[16]. Value d·(q − 8).

Element e has the low (e < 16) or high nibble of qs[e mod 16] as its code q.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "e"), part(block, "q", (Bits(2 + e % 16, 4 * (e // 16), 4),))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    q = nibble(block[2 + e % 16], e // 16)
    return to_float32(half(block, 0) * (q - 8))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 18) -> (N, 32)`; exact: 11 + 4 bits."""
    q = nibbles(blocks[:, 2:]).reshape(-1, 32).astype(np.float32)
    q -= np.float32(8)
    q *= halves(blocks, 0)
    return q


Q4_0 = BlockFormat(
    "Q4_0", length=32, nbytes=18, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 16, "4-bit codes")), formula="d·(q − 8)", read=read,
)  # fmt: skip
