"""Exact products of several float64 numbers as sums of float64: with `exact_sums`, the sign of a polynomial.

Every product of two float64 is the sum of two (`two_product`), so a product of several sums is a sum, all of whose
terms are found by multiplying out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.exact_sum import exact_sums, two_product

Reals = NDArray[np.float64]


def products(first: Reals, /, *others: Reals) -> Reals:
    """(R, A), (R, B), … -> (R, N): in each row, terms whose exact sum is the product of the factors' sums.

    Columns that are zero throughout are left out. The caller sees to it that `two_product` stays in its range.
    """
    terms = _without_zeros(first)
    for factor in others:
        rows = len(terms)
        left, right = np.broadcast_arrays(terms[:, :, None], _without_zeros(factor)[:, None, :])
        high, low = two_product(left.reshape(rows, -1), right.reshape(rows, -1))
        terms = np.concatenate([high, _without_zeros(low)], axis=1)
    return terms


def _without_zeros(terms: Reals) -> Reals:
    """(R, N) -> (R, M): the columns that hold anything."""
    kept = terms.any(axis=0)
    return terms if kept.all() else terms[:, kept]


def expansion(terms: Reals, /) -> Reals:
    """(R, N) -> (R, P): in each row, few float64 with the same exact sum, each the rounded rest of those before it.

    P is at most 41: a sum of float64 has fewer than 2200 bits, and each number takes 53 of them.
    """
    parts: list[Reals] = []
    rest = terms
    while True:
        part = exact_sums(rest).nearest()
        if not part.any():
            return np.stack(parts, axis=1) if parts else np.zeros((len(terms), 1))
        parts.append(part)
        rest = np.concatenate([rest, -part[:, None]], axis=1)
