"""MXFP4: 32 elements in 17 bytes: e (E8M0), qs[16]. Value d·q with d = 2^(e − 128).

Element e has the low (e < 16) or high nibble of qs[e mod 16] as its code, an E2M1 number; q is twice that number: 0, 1,
2, 3, 4, 6, 8, 12, and the same less than zero with bit 3 set, but for code 8, which ggml makes +0. d is half the scale
of OCP's MX: their product is the same. OCP calls e = 255 NaN; ggml goes on counting, d = 2¹²⁷, and so does this file.

Why one multiplication in float32 rounds once: d is a float32 number (2⁻¹²⁸ and 2⁻¹²⁷ are subnormal), and so is q; the
product has at most two significant bits above 2⁻¹²⁸, hence is exact, unless it is 2¹²⁸ or more (e ≥ 253): then IEEE
makes it infinite, which is the exact product rounded. float64 holds them all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, part

E2M1_TWICE = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Code → twice the E2M1 number that it is; the sign of zero is dropped."""

_CODES = np.array(E2M1_TWICE, dtype=np.float32)
_SCALES = np.ldexp(1.0, np.arange(256) - 128).astype(np.float32)


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the code of one element."""
    where = Bits(1 + e % 16, 4 * (e // 16), 4)
    d = part(block, "d", (Bits(0, 0, 8),), math.ldexp(1.0, block[0] - 128))
    return d, part(block, "q", (where,), float(E2M1_TWICE[where.of(block)]))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    return to_float32(math.ldexp(E2M1_TWICE[nibble(block[1 + e % 16], e // 16)], block[0] - 128))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 17) -> (N, 32)`; exact, or infinite where float32 has no such number."""
    q = _CODES.take(nibbles(blocks[:, 1:]).reshape(-1, 32))
    with np.errstate(over="ignore"):
        q *= _SCALES.take(blocks[:, :1])
    return q


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 17) -> (N, 32)`, exact."""
    q = _CODES.take(nibbles(blocks[:, 1:]).reshape(-1, 32)).astype(np.float64)
    q *= _SCALES.take(blocks[:, :1])
    return q


MXFP4 = BlockFormat(
    "MXFP4", length=32, nbytes=17, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(Field("d", 0, 1, "E8M0 scale, halved"), Field("qs", 1, 16, "E2M1 codes, doubled")),
    formula="d·q", read=read,
)  # fmt: skip
