"""Q5_0: 32 elements in 22 bytes: d, qh (32 bits), qs[16]. Value d·(q − 16).

Element e has the low (e < 16) or high nibble of qs[e mod 16] as the low bits of its code q, and bit e of qh above them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    q = part(block, "q", (Bits(6 + e % 16, 4 * (e // 16), 4), Bits(2 + e // 8, e % 8, 1)))
    return number(block, "d", 0, "e"), q


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    high = (int.from_bytes(block[2:6], "little") >> e) & 1
    q = nibble(block[6 + e % 16], e // 16) | (high << 4)
    return to_float32(half(block, 0) * (q - 16))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 22) -> (N, 32)`; exact: 11 + 5 bits."""
    code = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    code <<= np.uint8(4)
    code |= nibbles(blocks[:, 6:]).reshape(-1, 32)
    q = code.astype(np.float32)
    q -= np.float32(16)
    q *= halves(blocks, 0)
    return q


Q5_0 = BlockFormat(
    "Q5_0", length=32, nbytes=22, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qh", 2, 4, "fifth bits of the codes"),
        Field("qs", 6, 16, "low 4 bits of the codes"),
    ),
    formula="d·(q − 16)", read=read,
)  # fmt: skip
