"""IQ3_XXS: 256 elements in 98 bytes: d, qs[64], words[8] (u32). Value d·(2s + 1)/4·G[q]·sign.

Elements 4k … 4k + 3 have qs[k] as their code q, a point of the table IQ3_XXS. Group g of 32 has words[g]: bits 7j … 7j
+ 6 are the sign code of its elements 8j … 8j + 7, the highest four its scale s. See `lepton_ref.storage.iq_grids`.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq_grids import even_sign, even_signs, listed, packed
from lepton_ref.storage.iq_parts import coded_sign, point
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scales, the point and the sign of one element."""
    at = 66 + 4 * (e // 32)
    s = part(block, "s", (Bits(at + 3, 4, 4),))
    q = point(block, (Bits(2 + e // 4, 0, 8),), "IQ3_XXS", e)
    return number(block, "d", 0, "e"), s, q, coded_sign(block, at, 7 * (e % 32 // 8), e)


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (word,) = struct.unpack_from("<I", block, 66 + 4 * (e // 32))
    sign = even_sign((word >> (7 * (e % 32 // 8))) & 127, e)
    return to_float32(half(block, 0) * (2 * (word >> 28) + 1) / 4 * listed("IQ3_XXS")[block[2 + e // 4]][e % 4] * sign)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 98) -> (N, 256)`; exact: 11 + 5 + 5 bits, a coordinate being twice a number below 32."""
    word = np.ascontiguousarray(blocks[:, 66:]).view("<u4")
    code = (word[:, :, np.newaxis] >> np.arange(0, 28, 7, dtype=np.uint32)) & 127
    signed = packed("IQ3_XXS").take(blocks[:, 2:66]).view(np.int8).reshape(-1, 8, 32)
    value = (signed * even_signs().take(code).view(np.int8)).astype(np.float32)
    value *= (halves(blocks, 0) * ((word >> 28) * 2 + 1).astype(np.float32) / 4)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ3_XXS = BlockFormat(
    "IQ3_XXS", length=256, nbytes=98, decode=decode, decode_element=decode_element,
    fields=(
        Field("d", 0, 2, "fp16"), Field("qs", 2, 64, "8-bit point codes"),
        Field("words", 66, 32, "u32: four 7-bit sign codes, 4-bit scale"),
    ),
    formula="d·(2s + 1)/4·G[q]·sign", read=read,
)  # fmt: skip
