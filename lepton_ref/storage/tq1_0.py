"""TQ1_0: 256 elements in 54 bytes: qs[48], qh[4], d. Value d·(q − 1).

A byte of qs holds five ternary digits q, one of qh four. Byte b is digits x₁x₂x₃x₄x₅ as the fraction 0.x₁x₂x₃x₄x₅ of
base 3, in 256ths and rounded up: b = ⌈256·(81x₁ + 27x₂ + 9x₃ + 3x₄ + x₅)/243⌉. Multiplying it by 3ⁿ modulo 256 drops
the first n digits, and three times what is left, divided by 256, is the next: digit n is ⌊3·(3ⁿ·b mod 256)/256⌋. This
is the definition for bytes that no encoder writes, too.

Digit n of qs[l] is element 32n + l for l < 32, and element 160 + 16n + l − 32 for the other sixteen bytes; digit n of
qh[l] is element 240 + 4n + l.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bits import half, halves, to_float32
from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.layout import Bits, Field, Part, number, part

_POWERS = np.array([[1], [3], [9], [27], [81]], dtype=np.uint8)


def _place(e: int) -> tuple[int, int]:
    """The byte that element e is a digit of, and which digit."""
    if e < 160:
        return e % 32, e // 32
    if e < 240:
        return 32 + e % 16, (e - 160) // 16
    return 48 + e % 4, (e - 240) // 4


def _digit(byte: int, n: int) -> int:
    return 3 * ((1, 3, 9, 27, 81)[n] * byte % 256) // 256


def read(block: bytes, e: int) -> tuple[Part, ...]:
    """The scale and the digit of one element: all eight bits of its byte make it."""
    byte, n = _place(e)
    return number(block, "d", 52, "e"), part(block, "q", (Bits(byte, 0, 8),), float(_digit(block[byte], n)))


def decode_element(block: bytes, e: int) -> float:
    """One element of one block, as the format's definition reads."""
    byte, n = _place(e)
    return to_float32(half(block, 52) * (_digit(block[byte], n) - 1))


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, 54) -> (N, 256)`; exact: 11 + 1 bits."""
    left = np.empty((len(blocks), 256), dtype=np.uint8)
    for at, width, first, digits in ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)):
        out = left[:, first : first + digits * width].reshape(-1, digits, width)
        np.multiply(blocks[:, np.newaxis, at : at + width], _POWERS[:digits], out=out)
    # ⌊3·left/256⌋ − 1: 3·86 is the first multiple that reaches 256, 3·171 the first that reaches 512
    q = (left >= np.uint8(171)).view(np.int8) - (left < np.uint8(86)).view(np.int8)
    value = q.astype(np.float32)
    value *= halves(blocks, 52)
    return value


TQ1_0 = BlockFormat(
    "TQ1_0", length=256, nbytes=54, decode=decode, decode_element=decode_element,
    fields=(
        Field("qs", 0, 48, "5 ternary digits a byte"), Field("qh", 48, 4, "4 ternary digits a byte"),
        Field("d", 52, 2, "fp16"),
    ),
    formula="d·(q − 1)", read=read,
)  # fmt: skip
