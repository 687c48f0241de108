"""IQ3_S: 256 elements in 110 bytes: d, qs[64], qh[8], signs[32], scales[4]. Value d·(2s + 1)·G[q]·sign.

Elements 4k … 4k + 3 have a nine-bit code q, a point of the table IQ3_S: qs[k] and above it bit k mod 8 of qh[k div 8].
Element e is minus where bit e mod 8 of signs[e div 8] is set. Group g of 32 has nibble g mod 2 of scales[g div 2] as
its scale s. See `lepton_ref.storage.iq_grids`.
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
    k = e // 4
    s = part(block, "s", (Bits(106 + e // 64, 4 * (e // 32 % 2), 4),))
    q = Bits(2 + k, 0, 8), Bits(66 + k // 8, k % 8, 1)
    return number(block, "d", 0, "e"), s, point(block, q, "IQ3_S", e), free_sign(block, 74, e)


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    k = e // 4
    q = block[2 + k] | ((block[66 + k // 8] >> (k % 8)) & 1) << 8
    s = nibble(block[106 + e // 64], e // 32 % 2)
    sign = -1 if block[74 + e // 8] >> (e % 8) & 1 else 1
    return to_float32(half(block, 0) * (2 * s + 1) * listed("IQ3_S")[q][e % 4] * sign)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 110) -> (N, 256)`; exact: 11 + 5 + 4 bits."""
    high = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little")
    q = blocks[:, 2:66] | high.astype(np.uint16) << 8
    signed = packed("IQ3_S").take(q).view(np.int8) * signs().take(blocks[:, 74:106]).view(np.int8)
    s = nibbles(blocks[:, 106:, np.newaxis]).reshape(-1, 8)
    value = signed.reshape(-1, 8, 32).astype(np.float32)
    value *= (halves(blocks, 0) * (s * 2 + 1))[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ3_S = BlockFormat(
    "IQ3_S", length=256, nbytes=110, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qs", 2, 64, "low 8 bits of the point codes"),
        Field("qh", 66, 8, "high bits of the point codes"), Field("signs", 74, 32, "signs"),
        Field("scales", 106, 4, "4-bit scales"),
    ),
    formula="d·(2s + 1)·G[q]·sign", read=read,
)  # fmt: skip
