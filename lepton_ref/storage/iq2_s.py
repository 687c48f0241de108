"""IQ2_S: 256 elements in 82 bytes: d, qs[32], signs[32], qh[8], scales[8]. Value d·(2s + 1)/8·G[q]·sign.

Elements 8k … 8k + 7 have a ten-bit code q, a point of the table IQ2_S: qs[k] and above it bits 2(k mod 4) and the next
of qh[k div 4]. Element e is minus where bit e mod 8 of signs[e div 8] is set. Elements 16h … 16h + 15 have nibble h mod
2 of scales[h div 2] as their scale s. See `lepton_ref.storage.iq_grids`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq_grids import listed, packed, signs
from lepton_ref.storage.iq_parts import free_sign, point
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scales, the point and the sign of one element."""
    k = e // 8
    s = part(block, "s", (Bits(74 + e // 32, 4 * (e // 16 % 2), 4),))
    q = Bits(2 + k, 0, 8), Bits(66 + k // 4, 2 * (k % 4), 2)
    return number(block, "d", 0, "e"), s, point(block, q, "IQ2_S", e), free_sign(block, 34, e)


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    k = e // 8
    q = block[2 + k] | ((block[66 + k // 4] >> (2 * (k % 4))) & 3) << 8
    s = nibble(block[74 + e // 32], e // 16 % 2)
    sign = -1 if block[34 + k] >> (e % 8) & 1 else 1
    return to_float32(half(block, 0) * (2 * s + 1) / 8 * listed("IQ2_S")[q][e % 8] * sign)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 82) -> (N, 256)`; exact: 11 + 5 + 6 bits."""
    high = (blocks[:, 66:74, np.newaxis] >> np.arange(0, 8, 2, dtype=np.uint8)).reshape(-1, 32) & 3
    q = blocks[:, 2:34] | high.astype(np.uint16) << 8
    signed = packed("IQ2_S").take(q).view(np.int8) * signs().take(blocks[:, 34:66]).view(np.int8)
    s = nibbles(blocks[:, 74:, np.newaxis]).reshape(-1, 16)
    value = signed.reshape(-1, 16, 16).astype(np.float32)
    value *= (halves(blocks, 0) * (s * 2 + 1) / 8)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ2_S = BlockFormat(
    "IQ2_S", length=256, nbytes=82, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qs", 2, 32, "low 8 bits of the point codes"), Field("signs", 34, 32, "signs"),
        Field("qh", 66, 8, "high 2 bits of the point codes"), Field("scales", 74, 8, "4-bit scales"),
    ),
    formula="d·(2s + 1)/8·G[q]·sign", read=read,
)  # fmt: skip
