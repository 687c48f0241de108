"""Q2_0: 64 elements in 18 bytes: d, qs[16]. Value d·(q − 1).

Element e has bits 2(e mod 4), 2(e mod 4) + 1 of qs[e div 4] as its code q: −d, 0, d and 2·d.

Source: `block_q2_0` in ggml-common.h and `dequantize_row_q2_0` in ggml-quants.c of github.com/ggml-org/llama.cpp. A
fork had blocks of 128 elements under the same number, 42, before. They take fewer bytes, so that tensors of such a file
overlap when they are read as these, and the file is refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part

_PAIR = np.array([0, 2, 4, 6], dtype=np.uint8)


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "e"), part(block, "q", (Bits(2 + e // 4, 2 * (e % 4), 2),))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    q = (block[2 + e // 4] >> (2 * (e % 4))) & 3
    return to_float32(half(block, 0) * (q - 1))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 18) -> (N, 64)`; exact: 11 + 2 bits."""
    code = (blocks[:, 2:, np.newaxis] >> _PAIR) & np.uint8(3)
    q = code.reshape(-1, 64).astype(np.float32)
    q -= np.float32(1)
    q *= halves(blocks, 0)
    return q


Q2_0 = BlockFormat(
    "Q2_0", length=64, nbytes=18, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 16, "2-bit codes")), formula="d·(q − 1)", read=read,
)  # fmt: skip
