r"""Matrix products that have the same bits on any BLAS, with any number of threads (Ozaki, Ogita, Oishi and Rump 2012).

Each row of A, and each column of B, is cut into slices on a grid of its own: with |a| < 2ᵉ along a row the first slice
holds multiples of 2^(e−β), the second of 2^(e−2β), the third of 2^(e−3β). With 2β + ⌈log₂ K⌉ ≤ 53 a product of two
slices is a sum of integers below 2⁵³ in units of its grid: exact in any order, fused or not. The six products of slices
i and j with i + j ≤ 4 are added in a fixed order, the smallest first.

    |computed − exact| ≤ u·|computed| + 2^(e_a + e_b)·K·(2^(1−β)·5u + 2^(1−3β)),    u = 2⁻⁵³

for every element; with K = 1536, β is 21, and the second term is 2⁻⁷⁰ of 2^(e_a + e_b)·K. The proof: slices are at most
2ᵉ, 2^(e−β−1) and 2^(e−2β−1), and 2^(e−3β−1) is left. What is left out is 2·2^(−3β−1) from the rest and 3·2^(−3β−2)
from the other products, below 2^(1−3β) of K·2^(e_a + e_b). Five additions round: the last by u·|computed|, the others
numbers of at most 2^(1−β)·K·2^(e_a + e_b).
"""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

SLICES = 3
WIDEST = 400
"""Exponents of the largest number of a row lie in ±WIDEST, so that nothing overflows or is lost below 2⁻¹⁰⁷⁴."""


def exact_sum(x: Reals, /) -> float:
    """`(M, N) -> ()` the sum of all, rounded once; of one row at a time as Python's floats, which are four times it.

    Raises:
        ValueError: another number of axes.
        OverflowError: a sum beyond float64.
    """
    if x.ndim != 2:
        raise ValueError(f"a sum over shape {x.shape}; give a matrix")
    return math.fsum(chain.from_iterable(map(np.ndarray.tolist, x)))


def product(a: Reals, b: Reals, /) -> Reals:
    """`(M, K), (K, N) -> (M, N)` float64: a·b, the same bits everywhere; see the module's page for the bound.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite or beyond 2^±400.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a product of {a.shape} and {b.shape}; give (M, K) and (K, N)")
    if a.shape[1] == 0:
        return np.zeros((a.shape[0], b.shape[1]))
    bits = slice_bits(a.shape[1])
    one, two = _cut(a, bits, axis=1), _cut(b, bits, axis=0)
    total = one[1] @ two[1]
    total += one[0] @ two[2]
    total += one[2] @ two[0]
    middle = one[0] @ two[1]
    middle += one[1] @ two[0]
    total += middle
    total += one[0] @ two[0]
    return total


def gram(x: Reals, /) -> Reals:
    """`(T, I) -> (I, I)` float64: xᵀ·x, exactly symmetric and the same bits everywhere.

    Raises:
        ValueError: not a matrix, or numbers that are not finite or beyond 2^±400.
    """
    if x.ndim != 2:
        raise ValueError(f"a Gram matrix of {x.shape}; give (T, I)")
    if len(x) == 0:
        return np.zeros((x.shape[1], x.shape[1]))
    first, second, third = _cut(x, slice_bits(len(x)), axis=0)
    total = second.T @ second
    for crossed in (first.T @ third, first.T @ second):
        total += crossed + crossed.T
    total += first.T @ first
    return total


def bound(a: Reals, b: Reals, /) -> Reals:
    """`(M, K), (K, N) -> (M, N)` what `product` may err by: the module's page says why."""
    terms = a.shape[1]
    bits = slice_bits(max(1, terms))
    sizes = np.ldexp(1.0, _tops(a, 1) + _tops(b, 0)) * terms
    return np.asarray(
        sizes * (2.0 ** (1 - bits) * 5 * 2.0**-53 + 2.0 ** (1 - 3 * bits)) + np.abs(product(a, b)) * 2**-53
    )


def slice_bits(terms: int, /) -> int:
    """β for sums of so many terms.

    Raises:
        ValueError: so many terms that three slices do not hold a float64.
    """
    bits = (53 - (terms - 1).bit_length()) // 2
    if SLICES * bits < 53:
        raise ValueError(f"sums of {terms} terms; at most 2^17 are cut into three slices: add them up in parts")
    return bits


def _tops(a: Reals, axis: int) -> NDArray[np.int64]:
    """The exponents e with |a| < 2ᵉ along an axis, which stays; 0 where all are zero."""
    largest = np.abs(a).max(axis=axis, keepdims=True, initial=0.0)
    if not np.isfinite(largest).all():
        raise ValueError("a matrix holds NaN or infinity; look for the layer whose numbers overflow")
    tops = np.where(largest > 0, np.frexp(largest)[1], 0).astype(np.int64)
    if np.abs(tops).max(initial=0) > WIDEST:
        worst = largest.ravel()[np.abs(tops).argmax()]
        raise ValueError(f"a matrix holds {worst:g}, beyond 2^±{WIDEST}; scale it by a power of two")
    return tops


def _cut(a: Reals, bits: int, *, axis: int) -> list[Reals]:
    """The slices, whose sum is `a` but for what is below the last one's grid."""
    rest = a.astype(np.float64)
    grid = _tops(rest, axis)
    out = []
    for _ in range(SLICES):
        grid = grid - bits
        sigma = np.ldexp(1.5, grid + 52)
        part = rest + sigma
        part -= sigma
        rest -= part
        out.append(part)
    return out
