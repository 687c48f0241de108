"""What the property tests draw: axis sizes that differ, and float32 numbers of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Fill = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Gives an array of that shape; called once for each input, in a fixed order."""

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1e-38, 3.4028235e38, -3.4028235e38, 1e30, -1e30, np.inf, -np.inf, np.nan],
    dtype=np.float32,
)
"""±0, subnormals, the largest numbers, huge ones, infinities, NaN."""

FINITE_SPECIAL = SPECIAL[np.isfinite(SPECIAL)]

FEW_BITS = np.array([-3.0, -2.0, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0], dtype=np.float32)
"""Sums and products of these are often exactly zero, or equal to one another."""

TIES = np.array([0.5, 1.0, 1.5, 2.0**7, 2.0**8, 2.0**10, 2.0**11, 2.0**12, 2.0**23, 2.0**24, 2.0**25], dtype=np.float32)
TIES = np.concatenate([TIES, -TIES])
"""Sums of these often lie on a midpoint of bf16, fp16 or fp32, 8, 11 or 24 bits apart, or next to one."""


def sizes(letters: str, *, largest: int = 7) -> st.SearchStrategy[dict[str, int]]:
    """One size for each letter, all different, 1 among what may be drawn: a swap of two axes cannot hide."""
    drawn = st.lists(st.integers(1, largest), min_size=len(letters), max_size=len(letters), unique=True)
    return drawn.map(lambda numbers: dict(zip(letters, numbers, strict=True)))


def filled(seed: int, spread: float, specials: NDArray[np.float32], share: float) -> Fill:
    rng = np.random.default_rng(seed)

    def fill(shape: tuple[int, ...]) -> NDArray[np.float32]:
        plain = rng.standard_normal(shape) * np.exp2(rng.uniform(-spread, spread, shape))
        chosen = rng.random(shape) < share
        return np.where(chosen, rng.choice(specials, shape), plain.astype(np.float32)).astype(np.float32)

    return fill


def moderate() -> st.SearchStrategy[Fill]:
    """Numbers of a few binary orders of magnitude, and zeros: nothing overflows or underflows in float64."""
    zeros = FINITE_SPECIAL[:2]
    return st.builds(filled, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0, 12.0]), st.just(zeros), st.just(0.1))


def wild() -> st.SearchStrategy[Fill]:
    """As `moderate`, with every special value in between."""
    return st.builds(filled, st.integers(0, 2**32 - 1), st.just(3.0), st.just(SPECIAL), st.sampled_from([0.05, 0.3]))


def extreme() -> st.SearchStrategy[Fill]:
    """Numbers from all of float32's exponents, every special finite value in between."""
    share = st.sampled_from([0.05, 0.3])
    return st.builds(filled, st.integers(0, 2**32 - 1), st.just(120.0), st.just(FINITE_SPECIAL), share)


def few_bits() -> st.SearchStrategy[Fill]:
    """Small numbers of two significant bits, or powers of two far apart: exact ties and exact zeros abound."""
    seeds, lists = st.integers(0, 2**32 - 1), st.sampled_from([FEW_BITS, TIES])
    return st.builds(filled, seeds, st.just(0.0), lists, st.just(1.0))


def any_numbers() -> st.SearchStrategy[Fill]:
    """All of these."""
    return st.one_of(moderate(), wild(), extreme(), few_bits())
