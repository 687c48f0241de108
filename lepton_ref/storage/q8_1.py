"""Q8_1: 32 elements in 36 bytes: d, s, q[32] as signed bytes. Value d·q.

s is the fp16 number d·Σq, which ggml's integer dot products with formats that have minima use. No value depends on it.
ggml makes such blocks of activations; it writes no file of them.

Source: `block_q8_1` in ggml-common.h of github.com/ggml-org/llama.cpp. The package gguf still gives 40 bytes a block,
the size of an older struct whose d and s were float32.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Field, Part, number


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "e"), number(block, "q", 4 + e, "b")


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (q,) = struct.unpack_from("<b", block, 4 + e)
    return to_float32(half(block, 0) * q)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 36) -> (N, 32)`; exact: 11 + 8 bits."""
    q = blocks[:, 4:].view(np.int8).astype(np.float32)
    q *= halves(blocks, 0)
    return q


Q8_1 = BlockFormat(
    "Q8_1", length=32, nbytes=36, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("s", 2, 2, "d·Σq, in no value"), Field("qs", 4, 32, "signed 8-bit codes")),
    formula="d·q", read=read,
)  # fmt: skip
