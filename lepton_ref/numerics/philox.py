"""Random bits for whole arrays: the vectorised twin of `lepton_ref.plain.philox`, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain.philox import MULTIPLIERS, ROUNDS, WEYL, WORD

Bits = NDArray[np.uint64]

_HALF = np.uint64(32)
_MASK = np.uint64(WORD)
_BLOCK = 1 << 13
"""Elements at a time: the few arrays of a round, 64 KiB each, then stay in the second-level cache."""


def stochastic_bits(seed: int, features: Bits, steps: Bits | int = 0, /) -> Bits:
    """`(...), (...) -> (...)` 64 random bits for each rounding: `random_bits(seed, feature, step)` of each element.

    uint64 in and out; features and steps broadcast. An element's bits depend on its own seed, feature and step alone,
    so neither the order nor the shape of an array, nor what else it holds, changes a rounding. For `round_array(…,
    mode="stochastic", bits=…)`.

    Raises:
        TypeError: features or steps that are not uint64; a step given as an int is taken as it is.
        ValueError: a seed or a step that is no integer of 64 bits.
    """
    for name, value in (("seed", seed), ("step", steps)):
        if not isinstance(value, np.ndarray) and (type(value) is not int or not 0 <= value < 1 << 64):
            raise ValueError(f"{name} {value!r}; give an integer of 0 … 2⁶⁴ − 1")
    steps = np.array(steps, dtype=np.uint64) if isinstance(steps, int) else steps
    for name, array in (("features", features), ("steps", steps)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint64:
            raise TypeError(f"{name} are {getattr(array, 'dtype', type(array).__name__)}; give a NumPy array of uint64")
    shape = np.broadcast_shapes(features.shape, steps.shape)
    rows, columns = (np.broadcast_to(array, shape).ravel() for array in (features, steps))
    bits = np.empty(rows.shape, np.uint64)
    for start in range(0, bits.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        bits[part] = _bits(seed, rows[part], columns[part])
    return bits.reshape(shape)


def _bits(seed: int, features: Bits, steps: Bits) -> Bits:
    """`(N,), (N,) -> (N,)` the rounds of Philox; a product of two words of 32 bits is exact in uint64."""
    a, b, c, d = steps & _MASK, steps >> _HALF, features & _MASK, features >> _HALF
    left, right = seed & WORD, seed >> 32
    for _ in range(ROUNDS):
        first, second = np.uint64(MULTIPLIERS[0]) * a, np.uint64(MULTIPLIERS[1]) * c
        a, b = second >> _HALF ^ b ^ np.uint64(left), second & _MASK
        c, d = first >> _HALF ^ d ^ np.uint64(right), first & _MASK
        left, right = left + WEYL[0] & WORD, right + WEYL[1] & WORD
    return b << _HALF | a
