"""The numbers that cases are made of: moderate, wild, few bits, and whole binades; seeded, with NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics import round_array
from lepton_ref.numerics.cast import float_format

Floats = NDArray[np.float64]
Generator = np.random.Generator

SPECIAL = np.array(
    [0.0, -0.0, 2.0**-149, -(2.0**-149), 1e-38, 3.4028234e38, -3.4028234e38, 1e30, -1e30, np.inf, -np.inf, np.nan]
)
"""±0, subnormals, the largest numbers, huge ones, infinities, NaN."""


def moderate(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Numbers of a few binary orders of magnitude, and one zero of either sign in ten."""
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-3, 4, shape))
    return np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL[:2], shape), x)


def wild(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Moderate numbers, one in eight of them special."""
    return np.where(rng.random(shape) < 0.125, rng.choice(SPECIAL, shape), moderate(rng, shape))


def few_bits(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Small integers times a power of two: sums that tie, cancel and vanish."""
    return rng.integers(-4, 5, shape).astype(np.float64) * 2.0 ** int(rng.integers(-4, 3))


def scattered(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Numbers from all binades between 2⁻¹⁴⁹ and 2¹²⁷, each as likely: subnormal results, and overflow."""
    size: Floats = np.ldexp(rng.uniform(1, 2, shape), rng.integers(-149, 127, shape))
    return np.asarray(size * rng.choice([-1.0, 1.0], shape))


def huge(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Numbers around a hundred: as scores, they are far apart."""
    return rng.standard_normal(shape) * 100


NUMBERS: Mapping[str, Callable[[Generator, tuple[int, ...]], Floats]] = MappingProxyType(
    {"moderate": moderate, "wild": wild, "few bits": few_bits, "scattered": scattered, "huge": huge}
)
"""Name → generator of float64 arrays, not yet rounded to a format."""


def held(x: Any, format: str, dtype: np.dtype[Any] | type[Any] = np.float32) -> NDArray[Any]:
    """The numbers as a format of activations holds them, in an array of the dtype that holds the format."""
    with np.errstate(all="ignore"):
        return round_array(np.asarray(x, dtype=np.float64), float_format(format)).astype(dtype)


def sizes(rng: Generator, count: int, *, largest: int = 6) -> list[int]:
    """`count` different sizes from 1 to `largest`: a swap of two axes cannot hide."""
    return [int(size) for size in rng.permutation(np.arange(1, largest + 1))[:count]]
