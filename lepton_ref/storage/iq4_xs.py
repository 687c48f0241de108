"""IQ4_XS: 256 elements in 136 bytes: d, sh (u16), sl[4], qs[128]. Value d·(s − 32)·K[q], K the levels of IQ4_NL.

Eight groups of 32. Group g has a 6-bit scale s: its low four bits are nibble g mod 2 of sl[g div 2], its high two
bits 2g and 2g + 1 of sh. Element i of the group has the low (i < 16) or high nibble of qs[16g + i mod 16] as its code
q.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq4_nl import LEVELS
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale of the block, that of the group and the code of one element."""
    g, i = divmod(e, 32)
    low, high = Bits(4 + g // 2, 4 * (g % 2), 4), Bits(2 + g // 4, 2 * (g % 4), 2)
    q = Bits(8 + 16 * g + i % 16, 4 * (i // 16), 4)
    return number(block, "d", 0, "e"), part(block, "s", (low, high)), part(block, "q", (q,), LEVELS[q.of(block)])


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    g, i = divmod(e, 32)
    sh = block[2] | block[3] << 8
    s = nibble(block[4 + g // 2], g % 2) | ((sh >> (2 * g)) & 3) << 4
    return to_float32(half(block, 0) * (s - 32) * LEVELS[nibble(block[8 + 16 * g + i % 16], i // 16)])


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 136) -> (N, 256)`; exact: 11 + 5 + 7 bits, as |s − 32| is at most 31 or a power of two."""
    low = nibbles(blocks[:, 4:8, np.newaxis]).reshape(-1, 8)
    high = (blocks[:, 2:4, np.newaxis] >> np.arange(0, 8, 2, dtype=np.uint8)).reshape(-1, 8) & 3
    scale = halves(blocks, 0) * ((low | high << 4).astype(np.float32) - np.float32(32))
    q = nibbles(blocks[:, 8:].reshape(-1, 8, 16)).reshape(-1, 8, 32)
    value = np.array(LEVELS, dtype=np.float32).take(q)
    value *= scale[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ4_XS = BlockFormat(
    "IQ4_XS", length=256, nbytes=136, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("sh", 2, 2, "high 2 bits of the scales"),
        Field("sl", 4, 4, "low 4 bits of the scales"), Field("qs", 8, 128, "4-bit codes"),
    ),
    formula="d·(s − 32)·K[q]", read=read,
)  # fmt: skip
