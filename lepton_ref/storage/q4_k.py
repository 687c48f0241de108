"""Q4_K: 256 elements in 144 bytes: d, dmin, s[12], qs[128]. Value d·sc·q − dmin·m.

Eight groups of 32. Group j has a 6-bit scale sc and a 6-bit minimum m, packed in s: for j < 4 the low six bits of s[j]
and s[j + 4]; for the others four bits in s[j + 4] and the two bits that the first four left over in s[j − 4] and s[j].
The codes of groups 2i and 2i + 1 are the low and the high nibbles of qs[32i … 32i + 31].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, nibble, nibbles, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part


def scale_and_minimum(s: bytes, j: int) -> tuple[int, int]:
    """Group j's 6-bit scale and minimum out of the twelve packed bytes."""
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)


def scales_and_minima(s: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`(N, 12) -> (N, 8), (N, 8)` the 6-bit scales and minima of all groups."""
    first, second, third = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scale = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scale, minimum


def where_scale_and_minimum(at: int, j: int) -> tuple[tuple[Bits, ...], tuple[Bits, ...]]:
    """The bits of group j's scale and of its minimum, the twelve packed bytes being at byte `at`."""
    if j < 4:
        return (Bits(at + j, 0, 6),), (Bits(at + j + 4, 0, 6),)
    return (Bits(at + j + 4, 0, 4), Bits(at + j - 4, 6, 2)), (Bits(at + j + 4, 4, 4), Bits(at + j, 6, 2))


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The two scales, the group's scale and minimum, and the code of one element."""
    scale, minimum = where_scale_and_minimum(4, e // 32)
    q = part(block, "q", (Bits(16 + 32 * (e // 64) + e % 32, 4 * ((e // 32) % 2), 4),))
    return (
        number(block, "d", 0, "e"), part(block, "sc", scale), q,
        number(block, "dmin", 2, "e"), part(block, "m", minimum),
    )  # fmt: skip


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    scale, minimum = scale_and_minimum(block[4:16], e // 32)
    q = nibble(block[16 + 32 * (e // 64) + e % 32], (e // 32) % 2)
    return to_float32(half(block, 0) * scale * q - half(block, 2) * minimum)


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 144) -> (N, 256)`; both products are exact (11 + 6 + 4 bits), the difference rounds once."""
    return _decode(blocks, np.float32)


def unrounded(blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`(N, 144) -> (N, 256)`, exact."""
    return _decode(blocks, np.float64)


def _decode(blocks: NDArray[np.uint8], dtype: type[Any]) -> NDArray[Any]:
    scale, minimum = scales_and_minima(blocks[:, 4:16])
    q: NDArray[Any] = nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32).astype(dtype)
    q *= (halves(blocks, 0) * scale)[:, :, np.newaxis]
    q -= (halves(blocks, 2) * minimum)[:, :, np.newaxis]
    return q.reshape(-1, 256)


Q4_K = BlockFormat(
    "Q4_K", length=256, nbytes=144, decode=decode, decode_element=decode_element, unrounded=unrounded,
    fields=(
        Field("d", 0, 2, "fp16"), Field("dmin", 2, 2, "fp16"), Field("s", 4, 12, "6-bit scales and minima"),
        Field("qs", 16, 128, "4-bit codes"),
    ),
    formula="d·sc·q − dmin·m", read=read,
)  # fmt: skip
