"""Rows of codes of 1 … 8 bits in bytes, without gaps: element i of a row has the bits i·b … i·b + b − 1 of the row.

Bit n of a row is bit n mod 8 of its byte ⌊n/8⌋, bit 0 being worth 1. So a row of 4-bit codes has element 0 in the low
nibble of byte 0, and four 6-bit codes take three bytes. A row ends at a whole byte; the bits left over are zero. (The
formats that people pack into 32-bit words are in `lepton_ref.storage.bitstream`.)
"""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.layout import Bits

Codes = NDArray[np.uint8]


def row_bytes(count: int, width: int) -> int:
    """Bytes of a row of `count` codes of `width` bits."""
    return (count * width + 7) // 8


def pack(codes: Codes, width: int) -> Codes:
    """`(..., N) -> (..., bytes of a row)`, both uint8.

    Raises:
        ValueError: a width outside 1 … 8, codes that are not uint8, or one that does not fit the width.
    """
    _check(codes, width)
    if codes.size and int(codes.max()) >> width:
        raise ValueError(f"code {int(codes.max())} does not fit {width} bits; encode it for that width")
    if width == 8:
        return codes.copy()
    bits = np.unpackbits(codes[..., np.newaxis], axis=-1, count=width, bitorder="little")
    return np.packbits(bits.reshape(*codes.shape[:-1], codes.shape[-1] * width), axis=-1, bitorder="little")


def unpack(packed: Codes, width: int, count: int) -> Codes:
    """`(..., bytes of a row) -> (..., count)`, both uint8.

    Raises:
        ValueError: a width outside 1 … 8, bytes that are not uint8, or rows of another length than `count` codes take.
    """
    _check(packed, width)
    if packed.shape[-1] != row_bytes(count, width):
        raise ValueError(
            f"{count} codes of {width} bits take {row_bytes(count, width)} bytes a row, got {packed.shape[-1]}"
        )
    if width == 8:
        return packed
    if width == 4:
        out = np.empty((*packed.shape, 2), dtype=np.uint8)
        np.bitwise_and(packed, np.uint8(15), out=out[..., 0])
        np.right_shift(packed, np.uint8(4), out=out[..., 1])
        return out.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :count]
    return _by_shifts(packed, width, count)


def bits_of(first: int, element: int, width: int) -> tuple[Bits, ...]:
    """Where element number `element` of a row lies that begins at byte `first`: its bits, worth least first."""
    at = element * width
    byte, low = first + at // 8, at % 8
    here = min(width, 8 - low)
    rest = () if here == width else (Bits(byte + 1, 0, width - here),)
    return (Bits(byte, low, here), *rest)


def _by_shifts(packed: Codes, width: int, count: int) -> Codes:
    """After some codes the pattern of shifts repeats at a byte's beginning: each place of it at once."""
    period, step = 8 // gcd(8, width), width // gcd(8, width)
    rounds = -(-count // period)
    whole = np.zeros((*packed.shape[:-1], rounds * step), dtype=np.uint8)
    whole[..., : packed.shape[-1]] = packed
    out = np.empty((*packed.shape[:-1], rounds * period), dtype=np.uint8)
    for place in range(period):
        byte, low = divmod(place * width, 8)
        code = whole[..., byte::step] >> np.uint8(low)
        if low + width > 8:
            code |= whole[..., byte + 1 :: step] << np.uint8(8 - low)
        np.bitwise_and(code, np.uint8((1 << width) - 1), out=out[..., place::period])
    return out[..., :count]


def _check(array: Codes, width: int) -> None:
    if not 1 <= width <= 8:
        raise ValueError(f"codes of {width} bits; give a width of 1 to 8")
    if array.dtype != np.uint8 or array.ndim == 0:
        raise ValueError(f"codes are uint8 with at least one axis, got {array.dtype} {array.shape}")
