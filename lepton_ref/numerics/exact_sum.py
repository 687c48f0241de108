"""Exact sums of float64, many rows at once: the sign, a float64 rounded to odd, or a double-double of each.

Every term is cut into slices on a grid that its whole row shares (Rump, Ogita and Oishi, Accurate floating-point
summation, 2008): adding and subtracting σ = 1.5·2^(g+52) rounds p to a multiple of 2^g, and the difference is exact.
Of n terms below 2^E the first slice has multiples of 2^(E−B), the next of 2^(E−2B), and so on with
B = min(50, 51 − ⌈log₂ n⌉), so each slice's sum is an integer below 2⁵² and exact in any order of summation. These
integers are the digits, base 2^B, of the sum. No order, no rounding: the result is a function of the sum alone.

A row of huge numbers, and products that leave `two_product`'s range, are first scaled by a power of two; rows for which
that would lose bits are summed in Python's integers. So the result is right for all finite numbers.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.error_free import (
    all_products_in_range,
    fast_two_sum,
    products_in_range,
    scaled,
    split,
    two_product,
    two_sum,
)
from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.sums import WORD, Integers, Reals, Sums, bit_lengths, joined, sums_of_fractions
from lepton_ref.plain.formats import FloatFormat, Format, get_format

__all__ = [
    "WORD",
    "Sums",
    "dot_sums",
    "dot_terms",
    "exact_sums",
    "fast_two_sum",
    "gathered_dot_sums",
    "split",
    "sums_to",
    "two_product",
    "two_sum",
]

CHUNK = 2**15
"""Terms that are cut at a time, so that the slices stay in a core's cache."""

BLOCK = 2**17
"""Products that `dot_sums` makes at a time."""

HUGE, SCALED_BY = 960, 128
"""Rows with a term of 2^HUGE or more are scaled by 2^−SCALED_BY, so that σ is finite."""

ODD_BITS = 51
"""A float64 rounded to odd decides every rounding to formats of so many bits or fewer."""


def exact_sums(terms: Reals, /) -> Sums:
    """(R, N) -> (R) sums of float64 rows, exact whatever the terms' sizes.

    Raises:
        ValueError: terms that are not two-dimensional, not finite, or of another dtype than float64 and what it holds.
    """
    array = _rows("terms", terms)
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
    if not whole.all():
        sums.put(np.flatnonzero(~whole), sums_of_fractions([map(Fraction, row) for row in array[~whole].tolist()]))
    return sums


def dot_terms(x: Reals, w: Reals, /) -> Reals:
    """(R, K), (R, K) -> (R, K) or (R, 2·K): terms whose exact sums are the dot products of the rows.

    The second half, the products' low parts, is there only if some product is inexact; none is where all numbers have
    26 bits or fewer, as float32's do.

    Raises:
        ValueError: two shapes, or a product that leaves `two_product`'s range; `dot_sums` takes those.
    """
    x, w = _factors(x, w)
    if not np.all(products_in_range(x, w)):
        raise ValueError("a product of x and w lies outside 2^-960 … 2^1000; use dot_sums")
    return _terms(x, w)


def _terms(x: Reals, w: Reals) -> Reals:
    """As `dot_terms`, of products in range."""
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
    x, w = _factors(x, w)
    more = _rows("plus", np.zeros((len(x), 0)) if plus is None else plus)
    if len(more) != len(x):
        raise ValueError(f"plus has shape {more.shape}; give ({len(x)}, any)")
    block = max(1, BLOCK // max(1, x.shape[1]))
    if len(x) > block:
        return joined(
            [dot_sums(x[i : i + block], w[i : i + block], more[i : i + block]) for i in range(0, len(x), block)]
        )
    outside = np.asarray(~products_in_range(x, w).all(axis=1))
    if not outside.any():
        return exact_sums(np.concatenate([_terms(x, w), more], axis=1) if more.size else _terms(x, w))
    if not (np.isfinite(x[outside]).all() and np.isfinite(w[outside]).all() and np.isfinite(more).all()):
        raise ValueError("x, w or plus has NaN or infinity, of which there is no exact sum; take such rows out")
    rows, inside = np.flatnonzero(outside), np.asarray(~outside[:, None])
    sums = exact_sums(np.concatenate([_terms(x * inside, w * inside), more * inside], axis=1))
    sums.put(rows, _far_dot_sums(x[rows], w[rows], more[rows]))
    return sums


def gathered_dot_sums(x: Reals, w: Reals, rows: Integers, columns: Integers, plus: Reals | None = None, /) -> Sums:
    """(M, K), (U, K), (R), (R), (U, L) -> (R): the exact sums Σₖ x[row]·w[column] + Σₗ plus[column].

    As `dot_sums`, of rows that occur many times: they are looked at once, and gathered a block at a time.

    Raises:
        ValueError: shapes that do not fit, or a number that is not finite.
    """
    x, w = _rows("x", x), _rows("w", w)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}; give both as (rows, terms of a row)")
    for name, index in (("rows", rows), ("columns", columns)):
        if not np.issubdtype(np.asarray(index).dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {np.asarray(index).dtype}")
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(f"rows have shape {rows.shape} and columns {columns.shape}; give one of each for every sum")
    for name, index, array in (("row", rows, x), ("column", columns, w)):
        if index.size and not 0 <= index.min() <= index.max() < len(array):
            raise ValueError(
                f"{name} {index.min()} … {index.max()} of {len(array)}; give numbers of rows that there are"
            )
    more = np.zeros((len(w), 0)) if plus is None else _rows("plus", plus)
    if len(more) != len(w):
        raise ValueError(f"plus has shape {more.shape}; give ({len(w)}, any)")
    x, w = (np.ascontiguousarray(array, dtype=np.float64) for array in (x, w))
    easy = _short(x) and _short(w) and all_products_in_range(x, w)
    step = max(1, BLOCK // max(1, x.shape[1]))
    buffers = [np.empty((min(step, rows.size), x.shape[1])) for _ in range(2)]
    parts = []
    for at in range(0, rows.size, step):
        here = rows[at : at + step], columns[at : at + step]
        a, b = (
            np.take(array, index, axis=0, out=buffer[: index.size], mode="clip")
            for array, index, buffer in zip((x, w), here, buffers, strict=True)
        )
        if not easy:
            parts.append(dot_sums(a, b, more[here[1]]))
            continue
        terms = np.multiply(a, b, out=a)
        parts.append(exact_sums(np.concatenate([terms, more[here[1]]], axis=1) if more.size else terms))
    return joined(parts) if parts else exact_sums(np.zeros((0, 1)))


def sums_to(sums: Sums, format: str | Format, /, *, mode: str = "even", saturate: bool = False) -> Reals:
    """(R) -> (R) the sums rounded once to a format; an exact zero is +0, whose sign is the caller's matter.

    Raises:
        ValueError: an unknown format or mode; float64 in another mode than "even".
    """
    f = get_format(format)
    if not isinstance(f, FloatFormat) or f.precision <= ODD_BITS:
        return round_array(sums.odd(), f, mode=mode, saturate=saturate)
    if f.name != "fp64" or mode != "even" or saturate:
        raise ValueError(
            f"{f.name}, {mode}, saturate={saturate}: formats of more than {ODD_BITS} bits: only fp64, even"
        )
    return sums.nearest()


def _far_dot_sums(x: Reals, w: Reals, more: Reals) -> Sums:
    """As `dot_sums`, for any finite numbers: the fractions of [½, 1) are multiplied, and the exponents added apart.

    Each row is scaled so that its largest term is near 2⁹⁰⁰. Rows that hold terms 2¹⁸⁶⁰ times smaller go to integers.
    """
    (x_part, x_exponent), (w_part, w_exponent), (part, exponent) = (np.frexp(a) for a in (x, w, more))
    high, low = two_product(x_part, w_part)
    parts = np.concatenate([high, low, part], axis=1)
    exponents = np.concatenate([x_exponent + w_exponent, x_exponent + w_exponent, exponent], axis=1).astype(np.int64)
    shifts = np.where(parts != 0, exponents, -(2**15)).max(axis=1, initial=-(2**15)) - 900
    whole = ((parts == 0) | (exponents - shifts[:, None] >= -960)).all(axis=1)
    sums = exact_sums(scaled(parts, np.where(whole[:, None], exponents - shifts[:, None], -(2**15))))
    np.add(sums.exponents, shifts, out=sums.exponents)
    sums.put(np.flatnonzero(~whole), sums_of_fractions([*map(_fractions, x[~whole], w[~whole], more[~whole])]))
    return sums


def _fractions(x: Reals, w: Reals, more: Reals) -> list[Fraction]:
    """(K), (K), (M): the terms of one row."""
    products = [Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), w.tolist(), strict=True)]
    return [*products, *map(Fraction, more.tolist())]


def _rows(name: str, array: Reals) -> Reals:
    """The array, which must be two-dimensional, as float64."""
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; give (rows, terms of a row)")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} is {array.dtype}; give float64, and integers in parts that it holds exactly")
    return np.asarray(array, dtype=np.float64)


def _factors(x: Reals, w: Reals) -> tuple[Reals, Reals]:
    if x.shape != w.shape:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}; give both as (rows, terms of a row)")
    return _rows("x", x), _rows("w", w)


def _short(a: Reals) -> bool:
    """Whether all have 26 significant bits or fewer: the last 27 of the 52 stored ones are zero."""
    bits = np.bitwise_or.reduce(np.ascontiguousarray(a).view(np.uint64), axis=None)
    return int(bits) & (2**27 - 1) == 0


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
        heads, rest, left, taken = _append(heads, digit, np.full_like(tops, bits), WORD - bit_lengths(heads))
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
