"""Exact sums of float64, many rows at once: the sign, a float64 rounded to odd, or a double-double of each.

Every term is cut into slices on a grid that its whole row shares (Rump, Ogita and Oishi, Accurate floating-point
summation, 2008): adding and subtracting σ = 1.5·2^(g+52) rounds p to a multiple of 2^g, and the difference is exact.
Of n terms below 2^E the first slice has multiples of 2^(E−B), the next of 2^(E−2B), and so on with
B = min(50, 51 − ⌈log₂ n⌉), so each slice's sum is an integer below 2⁵² and exact in any order of summation. These
integers are the digits, base 2^B, of the sum. No order, no rounding: the result is a function of the sum alone.

A row of huge numbers is first scaled by a power of two; rows for which that would lose bits, and dot products that
leave `two_product`'s range, are summed in Python's integers. So the result is right for all finite numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.error_free import (
    fast_two_sum,
    products_in_range,
    scaled,
    split,
    two_product,
    two_sum,
)

__all__ = ["Sums", "dot_sums", "dot_terms", "exact_sums", "fast_two_sum", "split", "two_product", "two_sum"]

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

WORD = 62
"""Bits of a word of `Sums`."""

CHUNK = 2**15
"""Terms that are cut at a time, so that the slices stay in a core's cache."""

HUGE, SCALED_BY = 960, 128
"""Rows with a term of 2^HUGE or more are scaled by 2^−SCALED_BY, so that σ is finite."""

FIXED_POINT = 2400
"""Python's integers count units of 2^−FIXED_POINT, below the product of any two float64."""


@dataclass(frozen=True)
class Sums:
    """R exact sums as ±(head + tail·2⁻⁶² + a little if `more`)·2^exponent, all arrays of shape (R,).

    `heads` and `tails` are in [0, 2⁶²). A head has 60 bits at least, unless tail and the rest are zero.
    """

    signs: NDArray[np.int8]
    heads: Integers
    tails: Integers
    more: NDArray[np.bool_]
    exponents: Integers

    def sign(self) -> NDArray[np.int8]:
        """−1, 0 or 1 of each sum, exactly."""
        return self.signs

    def odd(self) -> Reals:
        """Each sum rounded to odd in float64: truncated, its last bit set if that lost anything; +0 for a zero.

        Rounding this to a format of 51 bits or fewer, in any mode, rounds the exact sum once (Boldo and Melquiond,
        Emulation of FMA and correctly rounded sums, 2008). Beyond float64's range: ± its largest number, which is odd.
        Only dot products of less than 2⁻¹⁰²² may be inexact among the subnormals; they are rounded to odd there too.
        """
        surplus = np.maximum(_bit_lengths(self.heads) - 53, -1074 - self.exponents)
        surplus = np.clip(surplus, 0, WORD + 1)
        kept = self.heads >> surplus
        lost = (kept << surplus != self.heads) | (self.tails != 0) | self.more
        size = scaled((kept | lost).astype(np.float64), self.exponents + surplus)
        return np.asarray(np.minimum(size, np.finfo(np.float64).max) * self.signs + 0.0)

    def pair(self) -> Pair:
        """Each sum as a double-double with high = RN(sum), within 2⁻¹⁰⁵ of it relatively; ±inf where that overflows.

        The head's remainder r is at most half an ulp of its float64, r + tail·2⁻⁶² rounds by 2⁻⁵³ of that twice at
        most, and what lies beyond the tail is below 2⁻¹²⁰ of the head. Below 2⁻⁹⁶⁰ low may
        underflow, by 2⁻¹⁰⁷⁵; below 2⁻¹⁰²², where only dot products are inexact, high may round twice.
        """
        top = self.heads.astype(np.float64)
        rest = (self.heads - top.astype(np.int64)).astype(np.float64)
        high, low = fast_two_sum(top, rest + scaled(self.tails.astype(np.float64), -WORD))
        return Pair(high * self.signs + 0.0, low * self.signs + 0.0).scaled(self.exponents)


def exact_sums(terms: Reals, /) -> Sums:
    """(R, N) -> (R) sums of float64 rows, exact whatever the terms' sizes.

    Raises:
        ValueError: terms that are not two-dimensional, or not finite.
    """
    array: Reals = np.asarray(terms, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"terms have shape {array.shape}; give (rows, terms of a row)")
    if array.shape[1] == 0:
        return exact_sums(np.zeros((len(array), 1), dtype=np.float64))
    bits = 51 - max(1, (array.shape[1] - 1).bit_length())
    step = max(1, CHUNK // array.shape[1])
    chunks = [_slices(array[at : at + step], bits) for at in range(0, len(array), step)]
    depth = max((len(digits) for digits, _, _ in chunks), default=1)
    digits = np.zeros((depth, len(array)), dtype=np.int64)
    for at, (some, _, _) in enumerate(chunks):
        digits[: len(some), at * step : at * step + some.shape[1]] = some
    tops = np.concatenate([tops for _, tops, _ in chunks] or [np.zeros(0, dtype=np.int64)])
    sums = _assemble(digits, tops, bits)
    whole = np.concatenate([whole for _, _, whole in chunks] or [np.ones(0, dtype=bool)])
    rows = np.flatnonzero(~whole).tolist()
    return _replace(sums, {row: _by_integers(map(Fraction, array[row].tolist())) for row in rows})


def dot_terms(x: Reals, w: Reals, /) -> Reals:
    """(R, K), (R, K) -> (R, K) or (R, 2·K): terms whose exact sums are the dot products of the rows.

    The second half, the products' low parts, is there only if some product is inexact; none is where all numbers have
    26 bits or fewer, as float32's do.

    Raises:
        ValueError: two shapes, or a product that leaves `two_product`'s range; `dot_sums` takes those.
    """
    _check_factors(x, w)
    if not np.all(products_in_range(x, w)):
        raise ValueError("a product of x and w lies outside 2^-960 … 2^1000; use dot_sums")
    if _short(x) and _short(w):
        return x * w
    high, low = two_product(x, w)
    return np.concatenate([high, low], axis=1) if low.any() else high


def dot_sums(x: Reals, w: Reals, plus: Reals | None = None, /) -> Sums:
    """(R, K), (R, K), (R, M) -> (R): the exact sums Σₖ x·w + Σₘ plus, for all finite numbers.

    With plus = −midpoint, its sign tells on which side of a midpoint a dot product lies.

    Raises:
        ValueError: shapes that do not fit, or a number that is not finite.
    """
    _check_factors(x, w)
    more = np.zeros((len(x), 0)) if plus is None else plus
    if more.ndim != 2 or len(more) != len(x):
        raise ValueError(f"plus has shape {more.shape}; give ({len(x)}, any)")
    outside = np.flatnonzero(~products_in_range(x, w).all(axis=1)).tolist()
    if not (np.isfinite(x[outside]).all() and np.isfinite(w[outside]).all()):
        raise ValueError("x or w has NaN or infinity, of which there is no exact sum; take such rows out")
    rows = {}
    for row in outside:
        products = [Fraction(a) * Fraction(b) for a, b in zip(x[row].tolist(), w[row].tolist(), strict=True)]
        rows[row] = _by_integers([*products, *map(Fraction, more[row].tolist())])
    if outside:
        x, w = x.copy(), w.copy()
        x[outside] = w[outside] = 0.0
    return _replace(exact_sums(np.concatenate([dot_terms(x, w), more], axis=1)), rows)


def _check_factors(x: Reals, w: Reals) -> None:
    if x.ndim != 2 or x.shape != w.shape:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}; give both as (rows, terms of a row)")


def _short(a: Reals) -> bool:
    """Whether all have 26 significant bits or fewer: the last 27 of the 52 stored ones are zero."""
    return not (np.ascontiguousarray(a).view(np.uint64) & np.uint64(2**27 - 1)).any()


def _bit_lengths(a: Integers) -> Integers:
    """Of numbers in [0, 2⁶²), put right where the conversion to float64 rounded up to a power of two."""
    lengths = np.frexp(a.astype(np.float64))[1].astype(np.int64)
    return np.asarray(lengths - ((a >> np.maximum(lengths - 1, 0) == 0) & (a != 0)))


def _slices(terms: Reals, bits: int) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """(digits (S, R), exponents (R), whole (R)): row = Σⱼ digits[j]·2^(exponent − bits·(j+1)) where whole is true."""
    largest = np.abs(terms).max(axis=1)
    if not np.isfinite(largest).all():
        raise ValueError("a term is NaN or infinite, of which there is no exact sum; take such rows out")
    tops = np.frexp(largest)[1].astype(np.int64)  # |term| < 2^top
    scales = np.where(tops > HUGE, SCALED_BY, 0)
    rest, whole = terms.copy(), np.ones(len(terms), dtype=bool)
    if scales.any():
        rest = scaled(terms, -scales[:, None])
        whole = (scaled(rest, scales[:, None]) == terms).all(axis=1)
        rest[~whole] = 0.0
    digits, live, grids = [], np.arange(len(terms)), tops - scales
    while live.size:
        grids = grids - bits
        sigmas = scaled(np.full(live.size, 1.5), grids + 52)[:, None]
        slices = rest + sigmas
        slices -= sigmas
        rest -= slices
        digit = np.zeros(len(terms), dtype=np.int64)
        digit[live] = scaled(slices.sum(axis=1), -grids).astype(np.int64)
        digits.append(digit)
        left = rest.any(axis=1)
        if 2 * np.count_nonzero(left) <= left.size:
            live, rest, grids = live[left], rest[left], grids[left]
    return np.stack(digits), tops, whole


def _assemble(digits: Integers, tops: Integers, bits: int) -> Sums:
    """Carry, take the sign off, and collect the first 124 bits of each sum. `digits` is used up."""
    _carry(digits, bits)
    below_zero = digits[0] < 0
    digits[:, below_zero] *= -1
    _carry(digits, bits)
    signs = np.where(below_zero, -1, digits.any(axis=0)).astype(np.int8)
    heads, tails = np.zeros_like(tops), np.zeros_like(tops)
    exponents, space = tops.copy(), np.full_like(tops, WORD)
    more = np.zeros(len(tops), dtype=bool)
    for digit in digits:
        heads, rest, left, taken = _append(heads, digit, np.full_like(tops, bits), WORD - _bit_lengths(heads))
        exponents -= taken
        tails, rest, left, taken = _append(tails, rest, left, space)
        space -= taken
        more |= rest != 0
    return Sums(signs, heads, tails << space, more, exponents)


def _carry(digits: Integers, bits: int) -> None:
    """Bring all digits but the first into [0, 2^bits), in place."""
    for j in range(len(digits) - 1, 0, -1):
        digits[j - 1] += digits[j] >> bits
        digits[j] &= (1 << bits) - 1


def _append(word: Integers, digit: Integers, length: Integers, space: Integers) -> tuple[Integers, ...]:
    """(word, digit, length, taken): as many of the digit's leading bits moved to the word's end as it has space for."""
    taken = np.minimum(length, space)
    left = length - taken
    top = digit >> left
    return (word << taken) + top, digit - (top << left), left, taken


def _by_integers(numbers: Iterable[Fraction]) -> tuple[int, int, int, bool, int]:
    """The fields of a `Sums` of one row, from Python's integers."""
    total = sum(number * 2**FIXED_POINT for number in numbers)
    size = abs(int(total))
    shift = max(0, size.bit_length() - WORD)
    rest = (size & (1 << shift) - 1) << WORD
    tail = rest >> shift
    return (total > 0) - (total < 0), size >> shift, tail, tail << shift != rest, shift - FIXED_POINT


def _replace(sums: Sums, rows: dict[int, tuple[int, int, int, bool, int]]) -> Sums:
    """The sums with these rows put in."""
    for row, (sign, head, tail, more, exponent) in rows.items():
        sums.signs[row], sums.heads[row], sums.tails[row] = sign, head, tail
        sums.more[row], sums.exponents[row] = more, exponent
    return sums
