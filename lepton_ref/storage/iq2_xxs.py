"""IQ2_XXS: 256 elements in 66 bytes: d, then for each group of 32 four bytes and a u32. Value d·(2s + 1)/8·G[q]·sign.

Group g lies at byte 2 + 8g. Byte k of its four is the code q of its elements 8k … 8k + 7, a point of the table IQ2_XXS.
Of the u32 bits 7k … 7k + 6 are the sign code of these elements, the highest four the group's scale s. See
`lepton_ref.storage.iq_grids`.
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
    at, k = 2 + 8 * (e // 32), e % 32 // 8
    s = part(block, "s", (Bits(at + 7, 4, 4),))
    sign = coded_sign(block, at + 4, 7 * k, e)
    return number(block, "d", 0, "e"), s, point(block, (Bits(at + k, 0, 8),), "IQ2_XXS", e), sign


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    q = block[2 + 8 * (e // 32) + e % 32 // 8]
    (word,) = struct.unpack_from("<I", block, 6 + 8 * (e // 32))
    sign = even_sign((word >> (7 * (e % 32 // 8))) & 127, e)
    return to_float32(half(block, 0) * (2 * (word >> 28) + 1) / 8 * listed("IQ2_XXS")[q][e % 8] * sign)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 66) -> (N, 256)`; exact: 11 + 5 + 6 bits."""
    groups = blocks[:, 2:].reshape(-1, 8, 8)
    word = np.ascontiguousarray(groups[:, :, 4:]).view("<u4")
    code = (word >> np.arange(0, 28, 7, dtype=np.uint32)) & 127
    signed = packed("IQ2_XXS").take(groups[:, :, :4]).view(np.int8) * even_signs().take(code).view(np.int8)
    value = signed.astype(np.float32)
    value *= (halves(blocks, 0) * ((word[:, :, 0] >> 28) * 2 + 1).astype(np.float32) / 8)[:, :, np.newaxis]
    return value.reshape(-1, 256)


IQ2_XXS = BlockFormat(
    "IQ2_XXS", length=256, nbytes=66, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 64, "8 × (4 point codes; u32: 4 sign codes, scale)")),
    formula="d·(2s + 1)/8·G[q]·sign", read=read,
)  # fmt: skip
