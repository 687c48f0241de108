"""What an exact sum is kept as: a sign and an integer of 124 bits times a power of two, and how that is rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.error_free import fast_two_sum, scaled

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

WORD = 62
"""Bits of a word of `Sums`."""

FIXED_POINT = 2400
"""Python's integers count units of 2^−FIXED_POINT, below the product of any two float64."""


def bit_lengths(a: Integers) -> Integers:
    """Of numbers in [0, 2⁶²), put right where the conversion to float64 rounded up to a power of two."""
    lengths = np.frexp(a.astype(np.float64))[1].astype(np.int64)
    return np.asarray(lengths - ((a >> np.maximum(lengths - 1, 0) == 0) & (a != 0)))


@dataclass(frozen=True, eq=False)
class Sums:
    """R exact sums as ±(head + tail·2⁻⁶² + a little if `more`)·2^exponent, all arrays of shape (R,).

    `heads` and `tails` are in [0, 2⁶²). A head has 62 bits unless tail and the rest are zero.
    """

    signs: NDArray[np.int8]
    heads: Integers
    tails: Integers
    more: NDArray[np.bool_]
    exponents: Integers

    def sign(self) -> NDArray[np.int8]:
        """−1, 0 or 1 of each sum, exactly."""
        return self.signs

    def nearest(self) -> Reals:
        """Each sum rounded once to float64, to nearest even, subnormals too; +0 for a zero, ±inf beyond the range."""
        surplus, shift = self._surplus()
        kept = self.heads >> shift
        twice = (self.heads - (kept << shift)) * 2 - (np.int64(1) << shift)
        beyond = (self.tails != 0) | self.more
        up = (surplus == shift) & (shift > 0) & ((twice > 0) | ((twice == 0) & (beyond | (kept % 2 == 1))))
        return scaled((kept + up).astype(np.float64), self.exponents + surplus) * self.signs + 0.0

    def odd(self) -> Reals:
        """Each sum rounded to odd in float64: truncated, its last bit set if that lost anything; +0 for a zero.

        Rounding this to a format of 51 bits or fewer, in any mode, rounds the exact sum once (Boldo and Melquiond,
        Emulation of FMA and correctly rounded sums, 2008). Beyond float64's range: ± its largest number, which is odd.
        Only dot products of less than 2⁻¹⁰²² may be inexact among the subnormals; they are rounded to odd there too.
        """
        surplus, shift = self._surplus()
        kept = self.heads >> shift
        lost = (kept << shift != self.heads) | (self.tails != 0) | self.more
        size = scaled((kept | lost).astype(np.float64), self.exponents + surplus)
        return np.asarray(np.minimum(size, np.finfo(np.float64).max) * self.signs + 0.0)

    def pair(self) -> Pair:
        """Each sum as a double-double within 2⁻¹⁰⁵ of it, relatively; ±inf where high overflows.

        The head's remainder r is at most half an ulp of its float64, r + tail·2⁻⁶² rounds by 2⁻⁵³ of that twice at
        most, and what lies beyond the tail is below 2⁻¹²⁰ of the head. Below 2⁻⁹⁶⁰ low may underflow, by 2⁻¹⁰⁷⁵; below
        2⁻¹⁰²², where only dot products are inexact, high may round twice (`nearest` does not).
        """
        top = self.heads.astype(np.float64)
        rest = (self.heads - top.astype(np.int64)).astype(np.float64)
        high, low = fast_two_sum(top, rest + scaled(self.tails.astype(np.float64), -WORD))
        return Pair(high * self.signs + 0.0, low * self.signs + 0.0).scaled(self.exponents)

    def put(self, rows: Integers, other: Sums, /) -> None:
        """Overwrite these rows with the other sums, one for each."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def _surplus(self) -> tuple[Integers, Integers]:
        """How many of a head's last bits float64 has no place for, and by how much to shift: by no more than 62."""
        surplus = np.maximum(np.maximum(bit_lengths(self.heads) - 53, -1074 - self.exponents), 0)
        return surplus, np.minimum(surplus, WORD)


def joined(some: Sequence[Sums], /) -> Sums:
    """The rows of several sums, one after the other."""
    return Sums(*(np.concatenate([getattr(sums, field.name) for sums in some]) for field in fields(Sums)))


def sums_of_fractions(rows: Sequence[Iterable[Fraction]], /) -> Sums:
    """The sums of rows of products of two float64, in Python's integers: slow, and right whatever their sizes."""
    columns = list(zip(*map(_sum_of_fractions, rows), strict=True)) if len(rows) else [()] * 5
    dtypes = (np.int8, np.int64, np.int64, np.bool_, np.int64)
    return Sums(*(np.array(column, dtype=dtype) for column, dtype in zip(columns, dtypes, strict=True)))


def _sum_of_fractions(numbers: Iterable[Fraction]) -> tuple[int, int, int, bool, int]:
    """The fields of a `Sums` of one row."""
    total = sum(number * 2**FIXED_POINT for number in numbers)
    size = abs(int(total))
    shift = max(0, size.bit_length() - WORD)
    rest = (size & (1 << shift) - 1) << WORD
    tail = rest >> shift
    return (total > 0) - (total < 0), size >> shift, tail, tail << shift != rest, shift - FIXED_POINT
