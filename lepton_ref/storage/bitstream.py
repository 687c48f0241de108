"""Codes of b bits in 32-bit words, b from 1 to 8, along either axis of a matrix.

    dense     code e takes bits b·e … b·e + b − 1 of the stream whose bit k is bit k mod 32 of word ⌊k/32⌋, lowest
              first. Where b does not divide 32, codes straddle words.
    aligned   ⌊32/b⌋ codes a word, code e at bit b·(e mod ⌊32/b⌋) of word ⌊e/⌊32/b⌋⌋; the upper bits stay 0.

The two are one where b divides 32. A line's last word is filled up with zero bits. Words are int32 in files; their bits
alone count.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.layout import Bits

WORD = 32
"""Bits of a word."""

Words = NDArray[Any]
"""int32 or uint32."""


def words_for(count: int, bits: int, *, aligned: bool = False) -> int:
    """How many words a line of `count` codes takes."""
    _check_bits(bits)
    return -(-count // (WORD // bits)) if aligned else -(-count * bits // WORD)


def pack(codes: NDArray[Any], bits: int, *, axis: int = -1, aligned: bool = False) -> NDArray[np.int32]:
    """`(..., N, ...) -> (..., words, ...)` codes from 0 to 2^bits − 1 as words along one axis.

    Raises:
        ValueError: bits outside 1 … 8, an axis that is not there, codes that are no integers or too large.
    """
    _check_bits(bits)
    _check_axis(codes, axis)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes are integers from 0 to {2**bits - 1}, got an array of {codes.dtype}")
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << bits):
        worst = codes.min() if codes.min() < 0 else codes.max()
        raise ValueError(f"a code of {bits} bits is 0 … {2**bits - 1}, got {worst}; add the offset first")
    lines = np.moveaxis(codes, axis, -1)
    period, step = _period(bits, aligned)
    count = lines.shape[-1]
    rounds = -(-count // period)
    padded = np.zeros((*lines.shape[:-1], rounds * period), dtype=np.uint32)
    padded[..., :count] = lines
    words = np.zeros((*lines.shape[:-1], rounds * step), dtype=np.uint32)
    for e in range(period):
        word, low = divmod(bits * e, WORD)
        words[..., word::step] |= padded[..., e::period] << np.uint32(low)
        if low + bits > WORD:
            words[..., word + 1 :: step] |= padded[..., e::period] >> np.uint32(WORD - low)
    words = words[..., : words_for(count, bits, aligned=aligned)]
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def unpack(words: Words, bits: int, count: int, *, axis: int = -1, aligned: bool = False) -> NDArray[np.uint8]:
    """`(..., words, ...) -> (..., count, ...)` the first `count` codes of every line along one axis.

    Raises:
        ValueError: bits outside 1 … 8, words that are not 32 bits wide, or another number of them than `count` needs.
    """
    _check_words(words, bits, axis)
    needed = words_for(count, bits, aligned=aligned)
    if words.shape[axis] != needed:
        raise ValueError(f"{count} codes of {bits} bits take {needed} words, got {words.shape[axis]}")
    lines = np.moveaxis(words.view(np.uint32), axis, -1)
    period, step = _period(bits, aligned)
    rounds = -(-count // period)
    if lines.shape[-1] != rounds * step:
        whole = np.zeros((*lines.shape[:-1], rounds * step), dtype=np.uint32)
        whole[..., : lines.shape[-1]] = lines
        lines = whole
    codes = np.empty((*lines.shape[:-1], rounds * period), dtype=np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for e in range(period):
        word, low = divmod(bits * e, WORD)
        code = lines[..., word::step] >> np.uint32(low)
        if low + bits > WORD:
            code |= lines[..., word + 1 :: step] << np.uint32(WORD - low)
        codes[..., e::period] = code & mask
    return np.moveaxis(codes[..., :count], -1, axis)


def pick(words: Words, bits: int, index: NDArray[np.int64], *, axis: int = -1, aligned: bool = False) -> Words:
    """`(..., words, ...), (N,) -> (..., N, ...)` uint8, the codes of these numbers along one axis.

    Raises:
        ValueError: bits outside 1 … 8, words that are not 32 bits wide, numbers beyond the line.
    """
    _check_words(words, bits, axis)
    index = np.asarray(index, dtype=np.int64)
    have = words.shape[axis]
    room = have * (WORD // bits) if aligned else have * WORD // bits
    if index.size and (index.min() < 0 or index.max() >= room):
        raise ValueError(f"a line of {have} words has codes 0 … {room - 1} of {bits} bits, got {index.max()}")
    word, low = _place(index, bits, aligned)
    lines = np.moveaxis(words.view(np.uint32), axis, -1)
    pair = lines[..., word].astype(np.uint64)
    over = low + bits > WORD
    if over.any():
        pair[..., over] |= lines[..., word[over] + 1].astype(np.uint64) << np.uint64(WORD)
    codes = (pair >> low.astype(np.uint64)) & np.uint64((1 << bits) - 1)
    return np.moveaxis(codes.astype(np.uint8), -1, axis)


def places(
    shape: tuple[int, ...], bits: int, code: int, line: int, *, axis: int = -1, aligned: bool = False
) -> tuple[Bits, ...]:
    """Which bytes and bits of a `(rows, columns)` matrix of little-endian words hold one code, the least bits first."""
    word, low = (int(n) for n in _place(np.array(code), bits, aligned))
    found: list[Bits] = []
    left = bits
    while left:
        flat = line * shape[1] + word if axis in (1, -1) else word * shape[1] + line
        width = min(left, 8 - low % 8)
        found.append(Bits(4 * flat + low // 8, low % 8, width))
        low, left = low + width, left - width
        if low == WORD:
            word, low = word + 1, 0
    return tuple(found)


def _place(index: NDArray[np.int64], bits: int, aligned: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The word and the lowest bit of each code."""
    if aligned:
        each = WORD // bits
        return index // each, bits * (index % each)
    return bits * index // WORD, bits * index % WORD


def _period(bits: int, aligned: bool) -> tuple[int, int]:
    """After how many codes, and words, the pattern repeats."""
    if aligned:
        return WORD // bits, 1
    common = gcd(WORD, bits)
    return WORD // common, bits // common


def _check_bits(bits: int) -> None:
    if not isinstance(bits, (int, np.integer)) or isinstance(bits, bool) or not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, got {bits!r}")


def _check_axis(array: NDArray[Any], axis: int) -> None:
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"an array of shape {array.shape} has no axis {axis}")


def _check_words(words: Words, bits: int, axis: int) -> None:
    _check_bits(bits)
    _check_axis(words, axis)
    if words.dtype.kind not in "iu" or words.dtype.itemsize != 4:
        raise ValueError(f"codes are packed in 32-bit words, got an array of {words.dtype}; read it as int32")
