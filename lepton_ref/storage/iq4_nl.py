"""IQ4_NL: 32 elements in 18 bytes: d, qs[16]. Value d·K[q], with sixteen levels that are closer together near zero.

Element e has the low (e < 16) or high nibble of qs[e mod 16] as its code q. The levels K are −127 −104 −83 −65 −49
−35 −22 −10 1 13 25 38 53 69 89 113; none is zero, so that a zero weight is stored as d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""Code → K."""


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element; the code's value is its level."""
    q = Bits(2 + e % 16, 4 * (e // 16), 4)
    return number(block, "d", 0, "e"), part(block, "q", (q,), LEVELS[q.of(block)])


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    return to_float32(half(block, 0) * LEVELS[nibble(block[2 + e % 16], e // 16)])


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 18) -> (N, 32)`; exact: 11 + 7 bits."""
    q = nibbles(blocks[:, 2:]).reshape(-1, 32)
    value = np.array(LEVELS, dtype=np.float32).take(q)
    value *= halves(blocks, 0)
    return value


IQ4_NL = BlockFormat(
    "IQ4_NL", length=32, nbytes=18, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 16, "4-bit codes")), formula="d·K[q]", read=read,
)  # fmt: skip
