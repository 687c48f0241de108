"""Q8_K: 256 elements in 292 bytes: d as float32, q[256] as signed bytes, bsums[16] as int16. Value d·q.

bsums[j] is the sum of codes 16j … 16j + 15, which ggml's integer dot products use. No value depends on it. ggml makes
such blocks of activations; it writes no file of them.

Why one multiplication in float32 rounds once: d and q are float32 numbers, and an IEEE product is the exact product
rounded once, where it is subnormal or overflows too. In float64 the product is exact: 24 + 8 bits, a multiple of 2⁻¹⁴⁹
below 2¹³⁵.

Source: `block_q8_K` in ggml-common.h of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Field, Part, number


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    return number(block, "d", 0, "f"), number(block, "q", 4 + e, "b")


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    (d,) = struct.unpack_from("<f", block, 0)
    (q,) = struct.unpack_from("<b", block, 4 + e)
    return to_float32(d * q)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 292) -> (N, 256)`; the product rounds once."""
    q = blocks[:, 4:260].view(np.int8).astype(np.float32)
    with np.errstate(over="ignore"):  # infinite, as the exact product rounds
        q *= blocks[:, :4].view("<f4")
    return q


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 292) -> (N, 256)`, exact."""
    q = blocks[:, 4:260].view(np.int8).astype(np.float64)
    q *= blocks[:, :4].view("<f4")
    return q


Q8_K = BlockFormat(
    "Q8_K", length=256, nbytes=292, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(
        Field("d", 0, 4, "fp32"), Field("qs", 4, 256, "signed 8-bit codes"),
        Field("bsums", 260, 32, "int16 sums of 16 codes, in no value"),
    ),
    formula="d·q", read=read,
)  # fmt: skip
