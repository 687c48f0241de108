"""Q1_0: 128 elements in 18 bytes: d, qs[16]. Value d·(2q − 1).

Element e has bit e mod 8 of qs[e div 8] as its code q: d where it is set, −d where it is not.

Source: `block_q1_0` in ggml-common.h and `dequantize_row_q1_0` in ggml-quants.c of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "e"), part(block, "q", (Bits(2 + e // 8, e % 8, 1),))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    q = (block[2 + e // 8] >> (e % 8)) & 1
    return to_float32(half(block, 0) * (2 * q - 1))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 18) -> (N, 128)`; exact: 11 bits."""
    q = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32)
    q *= np.float32(2)
    q -= np.float32(1)
    q *= halves(blocks, 0)
    return q


Q1_0 = BlockFormat(
    "Q1_0", length=128, nbytes=18, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 16, "1-bit codes")), formula="d·(2q − 1)", read=read,
)  # fmt: skip
