"""Q8_0: 32 elements in 34 bytes: d, q[32] as signed bytes. Value d·q."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Field, Part, number


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "e"), number(block, "q", 2 + e, "b")


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (q,) = struct.unpack_from("<b", block, 2 + e)
    return to_float32(half(block, 0) * q)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 34) -> (N, 32)`; exact: 11 + 7 bits."""
    q = blocks[:, 2:].view(np.int8).astype(np.float32)
    q *= halves(blocks, 0)
    return q


Q8_0 = BlockFormat(
    "Q8_0", length=32, nbytes=34, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 2, "fp16"), Field("qs", 2, 32, "signed 8-bit codes")), formula="d·q", read=read,
)  # fmt: skip
