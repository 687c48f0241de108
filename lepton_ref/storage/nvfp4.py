"""NVFP4: 64 elements in 36 bytes: d[4] (UE4M3), qs[32]. Value d·q.

Four groups of 16. Element e of group j = e div 16 has the low (e mod 16 < 8) or high nibble of qs[8j + e mod 8] as its
code, an E2M1 number; q is twice that number, as in MXFP4. Byte j is the group's scale, an E4M3 number without a sign:
three bits f below four bits x, f·2⁻⁹ for x = 0 and (8 + f)·2^(x − 10) otherwise; d is half of it. Bit 7 of the byte
counts for nothing, with one exception that is ggml's: byte 0x7F, which E4M3 calls NaN, is 0, while 0xFF is 240, half of
480. NVIDIA's second, per-tensor scale is a tensor of its own in the file and no part of the block.

Exact: d has four significant bits and q two, and d·q is a multiple of 2⁻¹⁰ below 2¹².
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, part
from lepton_ref.storage.mxfp4 import E2M1_TWICE


def half_scale(byte: int) -> float:
    """Half of the UE4M3 number; exact."""
    if byte == 0x7F:
        return 0.0
    x, f = (byte >> 3) & 15, byte & 7
    return math.ldexp(f, -10) if x == 0 else math.ldexp(8 + f, x - 11)


_CODES = np.array(E2M1_TWICE, dtype=np.float32)
_SCALES = np.array([half_scale(byte) for byte in range(256)], dtype=np.float32)


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The group's scale and the code of one element."""
    j = e // 16
    where = Bits(4 + 8 * j + e % 8, 4 * (e % 16 // 8), 4)
    d = part(block, "d", (Bits(j, 0, 8),), half_scale(block[j]))
    return d, part(block, "q", (where,), float(E2M1_TWICE[where.of(block)]))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    j = e // 16
    return to_float32(half_scale(block[j]) * E2M1_TWICE[nibble(block[4 + 8 * j + e % 8], e % 16 // 8)])


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 36) -> (N, 64)`; exact."""
    q = _CODES.take(nibbles(blocks[:, 4:].reshape(-1, 4, 8)).reshape(-1, 4, 16))
    q *= _SCALES.take(blocks[:, :4])[:, :, np.newaxis]
    return q.reshape(-1, 64)


NVFP4 = BlockFormat(
    "NVFP4", length=64, nbytes=36, decode=decode, decode_element=decode_element,
    fields=(Field("d", 0, 4, "UE4M3 scales, halved"), Field("qs", 4, 32, "E2M1 codes, doubled")),
    formula="d·q", read=read,
)  # fmt: skip
