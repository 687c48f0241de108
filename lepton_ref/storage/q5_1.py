"""Q5_1: 32 elements in 24 bytes: d, m, qh (32 bits), qs[16]. Value d·q + m.

Element e has the low (e < 16) or high nibble of qs[e mod 16] as the low bits of its code q, and bit e of qh above them.
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
    q = part(block, "q", (Bits(8 + e % 16, 4 * (e // 16), 4), Bits(4 + e // 8, e % 8, 1)))
    return number(block, "d", 0, "e"), q, number(block, "m", 2, "e")


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    high = (int.from_bytes(block[4:8], "little") >> e) & 1
    q = nibble(block[8 + e % 16], e // 16) | (high << 4)
    return to_float32(half(block, 0) * q + half(block, 2))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 24) -> (N, 32)`; the product is exact (11 + 5 bits), the sum rounds once."""
    return _decode(blocks, np.float32)


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 24) -> (N, 32)`, exact."""
    return _decode(blocks, np.float64)


def _decode(blocks: NDArray[np.uint8], dtype: type[Any]) -> NDArray[Any]:
    code = np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little")
    code <<= np.uint8(4)
    code |= nibbles(blocks[:, 8:]).reshape(-1, 32)
    q: NDArray[Any] = code.astype(dtype)
    q *= halves(blocks, 0)
    q += halves(blocks, 2)
    return q


Q5_1 = BlockFormat(
    "Q5_1", length=32, nbytes=24, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(
        Field("d", 0, 2, "fp16"), Field("m", 2, 2, "fp16"), Field("qh", 4, 4, "fifth bits of the codes"),
        Field("qs", 8, 16, "low 4 bits of the codes"),
    ),
    formula="d·q + m", read=read,
)  # fmt: skip
