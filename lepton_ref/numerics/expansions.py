"""Exact products of several float64 numbers as sums of float64: with `exact_sums`, the sign of a polynomial.

Every product of two float64 is the sum of two (`two_product`), so a product of several sums is a sum, all of whose
terms are found by multiplying out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.exact_sum import WORD, Sums, two_product

Reals = NDArray[np.float64]


def products(first: Reals, /, *others: Reals) -> Reals:
    """(R, A), (R, B), … -> (R, N): in each row, terms whose exact sum is the product of the factors' sums.

    Columns that are zero throughout are left out. The caller sees to it that `two_product` stays in its range.
    """
    terms = first
    for factor in others:
        rows = len(terms)
        left, right = np.broadcast_arrays(terms[:, :, None], factor[:, None, :])
        high, low = two_product(left.reshape(rows, -1), right.reshape(rows, -1))
        terms = np.concatenate([high, low[:, low.any(axis=0)]], axis=1)
    return terms


def parts(sums: Sums, /) -> tuple[Reals, NDArray[np.bool_]]:
    """(R) sums -> (R, 4) float64 with the same sums, and (R) where that is exact: the sum has 124 bits or fewer."""
    columns = []
    for words, shift in ((sums.heads, 0), (sums.tails, WORD)):
        low = words & (2**31 - 1)
        exponents = (sums.exponents - shift).astype(np.int32)
        columns += [np.ldexp(part.astype(np.float64), exponents) * sums.signs for part in (words - low, low)]
    return np.stack(columns, axis=1), ~sums.more
