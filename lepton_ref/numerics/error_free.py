"""Error-free transformations: sums and products of float64 as two float64 that hold them exactly.

Source: Knuth, The Art of Computer Programming 2, §4.2.2 (two_sum); Dekker, A floating-point technique for extending
the available precision, 1971 (fast_two_sum, split, two_product). Each operation below is a NumPy call of its own, so
that none can be fused with another. Whatever leaves the stated ranges gives NaN or a wrong low part, without a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

SPLITTER = 2.0**27 + 1
"""Veltkamp's constant: it cuts 53 bits into 26 and 26, the sign of the lower part being the 53rd."""

LARGEST_FACTOR = 2.0**995
"""No factor of `two_product` may exceed it: SPLITTER times it is finite."""

LEAST_PRODUCT = 2.0**-960
"""`two_product`'s low part is a multiple of 2⁻¹⁰⁶ of the product, which must not lie below 2⁻¹⁰⁷⁴."""

LARGEST_PRODUCT = 2.0**1000
"""Above it (with room to spare) `two_product` may overflow inside."""


def two_sum(a: Reals, b: Reals, /) -> tuple[Reals, Reals]:
    """(s, e) with s = RN(a + b) and s + e = a + b exactly, for any finite a and b whose sum is finite.

    Arrays of float64 of shapes that broadcast; so in all functions here.
    """
    with np.errstate(all="ignore"):
        total = a + b
        of_b = total - a
        return total, (a - (total - of_b)) + (b - of_b)


def fast_two_sum(a: Reals, b: Reals, /) -> tuple[Reals, Reals]:
    """As `two_sum`, where |a| ≥ |b| or a = 0."""
    with np.errstate(all="ignore"):
        total = a + b
        return total, b - (total - a)


def split(a: Reals, /) -> tuple[Reals, Reals]:
    """(h, l) with h + l = a exactly, each of 26 bits at most; |a| ≤ `LARGEST_FACTOR`."""
    with np.errstate(all="ignore"):
        return _split(a)


def two_product(a: Reals, b: Reals, /) -> tuple[Reals, Reals]:
    """(p, e) with p = RN(a·b) and p + e = a·b exactly.

    Valid where |a|, |b| ≤ `LARGEST_FACTOR`, and a factor is 0 or `LEAST_PRODUCT` ≤ |a·b| ≤ `LARGEST_PRODUCT`.
    """
    with np.errstate(all="ignore"):
        product = a * b
        a_high, a_low = _split(a)
        b_high, b_low = _split(b)
        rest = ((a_high * b_high - product) + a_high * b_low) + a_low * b_high
        return product, rest + a_low * b_low


def _split(a: Reals) -> tuple[Reals, Reals]:
    scaled_up = SPLITTER * a
    high = scaled_up - (scaled_up - a)
    return high, a - high


def scaled(a: Reals, exponents: NDArray[Any] | int, /) -> Reals:
    """a·2^exponents, exactly unless it leaves float64's range; exponents within ±2³¹."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(a, np.asarray(exponents).astype(np.intc)), dtype=np.float64)  # ldexp takes C's int


def products_in_range(a: Reals, b: Reals, /) -> NDArray[np.bool_]:
    """Where `two_product` is valid, for two arrays of one shape."""
    if all_products_in_range(a, b):
        return np.ones(a.shape, dtype=bool)
    with np.errstate(all="ignore"):
        size = np.abs(a * b)
        inside = (a == 0) | (b == 0) | (size >= LEAST_PRODUCT) & (size <= LARGEST_PRODUCT)
        return np.asarray(inside & (np.maximum(np.abs(a), np.abs(b)) <= LARGEST_FACTOR))


def all_products_in_range(a: Reals, b: Reals, /) -> bool:
    """Whether `two_product` is valid for any number of a and any of b, which may have any shapes."""
    with np.errstate(all="ignore"):
        (least_a, most_a), (least_b, most_b) = _sizes(a), _sizes(b)
        within = most_a * most_b <= LARGEST_PRODUCT and least_a * least_b >= LEAST_PRODUCT
        return bool(within and max(most_a, most_b) <= LARGEST_FACTOR)


def _sizes(a: Reals) -> tuple[np.float64, np.float64]:
    """The least magnitude that is not zero and the largest one; NaN if there is one; 1 if there is nothing."""
    size = np.abs(a)
    least, most = size.min(initial=1.0), size.max(initial=1.0)
    return (least if least != 0 else np.where(size == 0, 1.0, size).min()), most
