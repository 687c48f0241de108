"""IQ2_XS: 256 elements in 74 bytes: d, qs[32] (u16), scales[8]. Value d·(2s + 1)/8·G[q]·sign.

Elements 8k … 8k + 7 have qs[k]: the low nine bits are their code q, a point of the table IQ2_XS, the high seven their
sign code. Elements 16h … 16h + 15 have nibble h mod 2 of scales[h div 2] as their scale s. See
`lepton_ref.storage.iq_grids`.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq_grids import even_sign, even_signs, listed, packed
from lepton_ref.storage.iq_parts import coded_sign, point, span
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scales, the point and the sign of one element."""
    at = 2 + 2 * (e // 8)
    s = part(block, "s", (Bits(66 + e // 32, 4 * (e // 16 % 2), 4),))
    return number(block, "d", 0, "e"), s, point(block, span(at, 0, 9), "IQ2_XS", e), coded_sign(block, at, 9, e)


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (word,) = struct.unpack_from("<H", block, 2 + 2 * (e // 8))
    s = nibble(block[66 + e // 32], e // 16 % 2)
    return to_float32(half(block, 0) * (2 * s + 1) / 8 * listed("IQ2_XS")[word & 511][e % 8] * even_sign(word >> 9, e))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 74) -> (N, 256)`; exact: 11 + 5 + 6 bits."""
    word = np.ascontiguousarray(blocks[:, 2:66]).view("<u2")
    signed = packed("IQ2_XS").take(word & 511).view(np.int8) * even_signs().take(word >> 9).view(np.int8)
    s = nibbles(blocks[:, 66:, np.newaxis]).reshape(-1, 16)
    value = signed.reshape(-1, 16, 16).astype(np.float32)
    value *= (halves(blocks, 0) * (s * 2 + 1) / 8)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ2_XS = BlockFormat(
    "IQ2_XS", length=256, nbytes=74, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qs", 2, 64, "u16: 9-bit point codes, 7-bit sign codes"),
        Field("scales", 66, 8, "4-bit scales"),
    ),
    formula="d·(2s + 1)/8·G[q]·sign", read=read,
)  # fmt: skip
