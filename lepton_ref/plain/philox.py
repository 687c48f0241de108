"""Random bits that depend on a key and a counter alone: Philox4x32-10, on Python integers.

Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011. Ten rounds of two 32-bit
multiplications each; the halves of the products change places, and the key moves on by a constant.
"""

from __future__ import annotations

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""What the counter's words 0 and 2 are multiplied by in each round."""

WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two words of the key grow by from round to round: parts of the golden ratio and of √3."""

ROUNDS = 10

WORD = 0xFFFFFFFF
"""The mask of 32 bits."""


def philox(key: tuple[int, int], counter: tuple[int, int, int, int], /) -> tuple[int, int, int, int]:
    """The four random words of 32 bits that belong to a key and a counter, each of words of 32 bits."""
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = second >> 32 ^ b ^ left, second & WORD, first >> 32 ^ d ^ right, first & WORD
        left, right = left + WEYL[0] & WORD, right + WEYL[1] & WORD
    return a, b, c, d


def random_bits(seed: int, feature: int, step: int, /) -> int:
    """64 random bits for one rounding: of output feature `feature`, after `step` others.

    The key is the seed, the counter is (step, feature), each of 64 bits, the low word first; the first two of the four
    words that Philox gives are the number's low and high half.

    Raises:
        ValueError: an argument that is no integer of 64 bits.
    """
    for name, value in (("seed", seed), ("feature", feature), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
            raise ValueError(f"{name} {value!r}; give an integer of 0 … 2⁶⁴ − 1")
    low, high, _, _ = philox(_words(seed), (*_words(step), *_words(feature)))
    return high << 32 | low


def _words(value: int) -> tuple[int, int]:
    """The low and the high half of 64 bits."""
    return value & WORD, value >> 32
