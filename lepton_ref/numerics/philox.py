"""Philox4x32-10 over whole arrays: the vectorised twin of `lepton_ref.plain.philox`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain.philox import MULTIPLIERS, ROUNDS, WEYL, WORD
from lepton_ref.plain.shown import shown

Words = NDArray[np.uint64]

_HALF = np.uint64(32)
_WORD = np.uint64(WORD)


def random_bits(seed: int, features: Words, steps: Words, /) -> Words:
    """`(...), (...) -> (...)` 64 random bits for each (feature, step), as `lepton_ref.plain.philox.random_bits` draws.

    uint64 arrays of shapes that broadcast. A product of two 32-bit words fits in the 64 bits of an element.

    Raises:
        ValueError: a seed that is no integer of 64 bits.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {shown(seed)}; give an integer of 0 … 2⁶⁴ − 1")
    features, steps = np.broadcast_arrays(features, steps)
    left, right = seed & WORD, seed >> 32
    a, b, c, d = steps & _WORD, steps >> _HALF, features & _WORD, features >> _HALF
    for _ in range(ROUNDS):
        first, second = np.uint64(MULTIPLIERS[0]) * a, np.uint64(MULTIPLIERS[1]) * c
        a, b = second >> _HALF ^ b ^ np.uint64(left), second & _WORD
        c, d = first >> _HALF ^ d ^ np.uint64(right), first & _WORD
        left, right = left + WEYL[0] & WORD, right + WEYL[1] & WORD
    return b << _HALF | a
