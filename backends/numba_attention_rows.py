"""The rows of a unit of attention, in scratch: queries as float64, scores, weights and their sums, weighed values.

W is scratch; `longs` and `ints` are the same memory as int64 and int32. Row i of a unit is head i mod `each` of query
i div `each`; there may be more rows in scratch than there are, up to a multiple of eight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lepton_ref.backends.numba_attention_tiles import maxima, packed, scores, turned, weighed
from lepton_ref.backends.numba_functions import exp, tanh
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_f32, splat_f64, to_f64
from lepton_ref.backends.numba_vectors import (
    F32X16,
    F64X16,
    I32X16,
    absolute,
    fma,
    largest,
    loader,
    select,
    storer,
    total,
)  # fmt: skip

load, store = loader(F64X16), storer(F64X16)
load_floats, load_ints = loader(F32X16), loader(I32X16)

QUERIES_PART = 32
"""Numbers of a head whose products with turned keys are summed before they join the rest."""
VALUES_PART = 64
"""Slots whose weighed values are summed before they join the rest."""
KEYS_BLOCK = 64
"""Slots of which the largest numbers are found just before their products, while they are near."""

maxima_4, maxima_1 = maxima(4), maxima(1)
scores_1, scores_2, scores_3, scores_4 = scores(1), scores(2), scores(3), scores(4)
packed_8 = packed(8)
weighed_8, weighed_4_1, weighed_4 = weighed(8, 1), weighed(4, 1, raise_maxima=True), weighed(4, 2, raise_maxima=True)
weighed_3, weighed_2 = weighed(3, 2, raise_maxima=True), weighed(2, 2, raise_maxima=True)
weighed_1 = weighed(1, 4, raise_maxima=True)


class Unit(NamedTuple):
    """Sizes of a unit, and offsets of its parts in W (`maxima` in ints, `places` in longs)."""

    rows: int
    each: int
    width: int
    padded: int
    slots: int
    stride: int
    many: bool
    queries: int
    scores: int
    results: int
    keys: int
    maxima: int
    places: int


@njit(nogil=True, cache=True)
def largest_of(unit: Any, buffer: Any, longs: Any, ints: Any, m: Any, s: Any, count: Any) -> None:
    """Raise the maxima at ints[m …] to |x| of each column of slots s … s + count − 1."""
    c = 0
    while c + 64 <= unit.padded:
        maxima_4(buffer, c, longs, unit.places + s, count, ints, m + c)
        c += 64
    while c < unit.padded:
        maxima_1(buffer, c, longs, unit.places + s, count, ints, m + c)
        c += 16


@njit(nogil=True, cache=True)
def queries_of(unit: Any, F: Any, q: Any, q_stride: Any, W: Any) -> None:
    """Queries to float64: sixteen rows interleaved for turned keys, or row by row; filled up with zeros.

    Query t's heads begin at F[q + t·q_stride].
    """
    if not unit.many:
        for i in range(unit.rows):
            to, source = unit.queries + i * unit.padded, q + i // unit.each * q_stride + i % unit.each * unit.width
            for k in range(unit.padded):
                W[to + k] = F[source + k] if k < unit.width else 0.0
        return
    longs = W.view(np.int64)
    for i in range(0, unit.rows, 16):
        to, number = unit.queries + i * unit.padded, unit.keys
        for j in range(16):
            row = min(i + j, unit.rows - 1)
            longs[number + j] = q + row // unit.each * q_stride + row % unit.each * unit.width
        if unit.width == unit.padded:
            for c in range(0, unit.padded, 16):
                turned(F, c, longs, number, W, to + 16 * c)
            continue
        for j in range(16):
            for k in range(unit.padded):
                W[to + 16 * k + j] = F[longs[number + j] + k] if k < unit.width else 0.0


@njit(nogil=True, cache=True)
def scores_of(unit: Any, keys: Any, W: Any, longs: Any, ints: Any) -> None:
    """Products of all rows with all slots, unscaled, and the keys' maxima."""
    for start in range(0, unit.slots, KEYS_BLOCK):
        count = min(KEYS_BLOCK, unit.slots - start)
        if unit.many:
            largest_of(unit, keys, longs, ints, unit.maxima, start, count)
            for s in range(start, start + count, 16):
                _turned_scores(unit, keys, W, longs, s)
        else:
            for s in range(start, start + count, 4):
                _few_scores(unit, keys, W, longs, ints, s)


@njit(nogil=True, cache=True)
def _few_scores(unit: Any, keys: Any, W: Any, longs: Any, ints: Any, s: Any) -> None:
    q, width, place, y = unit.queries, unit.padded, unit.places + s, unit.scores + s
    if unit.rows == 1:
        scores_1(W, q, width, keys, longs, place, width, W, y, unit.stride, ints, unit.maxima)
    elif unit.rows == 2:
        scores_2(W, q, width, keys, longs, place, width, W, y, unit.stride, ints, unit.maxima)
    elif unit.rows == 3:
        scores_3(W, q, width, keys, longs, place, width, W, y, unit.stride, ints, unit.maxima)
    else:
        scores_4(W, q, width, keys, longs, place, width, W, y, unit.stride, ints, unit.maxima)


@njit(nogil=True, cache=True)
def _turned_scores(unit: Any, keys: Any, W: Any, longs: Any, s: Any) -> None:
    for c in range(0, unit.padded, 16):
        turned(keys, c, longs, unit.places + s, W, unit.keys + 16 * c)
    for i in range(0, unit.rows, 8):
        q, y = unit.queries + i // 16 * 16 * unit.padded + i % 16, unit.scores + i * unit.stride + s
        for c in range(0, unit.padded, QUERIES_PART):
            count = min(QUERIES_PART, unit.padded - c)
            packed_8(W, q + 16 * c, W, unit.keys + 16 * c, count, W, y, unit.stride, 1 if c == 0 else 0)


@njit(nogil=True, cache=True)
def weights_of(unit: Any, W: Any, row: Any, low: Any, high: Any, mask: Any, M: Any, scale: Any, cap: Any) -> Any:
    """A row's weights in place of its scores, and their sum; −1 where it sees nothing, NaN where scores are no numbers.

    The largest score times the scale, rounded, is the number that distances are taken from, in one rounding each.

    Slots [low, high) are seen, less those where M[mask + slot] is 0, where mask is not negative.
    """
    at, end = unit.scores + row * unit.stride, (unit.slots + 15) // 16 * 16
    begin, stop = low // 16 * 16, (high + 15) // 16 * 16
    if high <= low:
        begin, stop = np.int64(0), np.int64(0)
    none, minus = splat_f64(0.0), splat_f64(-np.inf)
    for s in range(0, begin, 16):
        store(W, at + s, none)
    for s in range(stop, end, 16):
        store(W, at + s, none)
    for s in range(begin, low):
        W[at + s] = -np.inf
    for s in range(high, stop):
        W[at + s] = -np.inf
    if mask >= 0:
        for s in range(low, high):
            if M[mask + s] == 0:
                W[at + s] = -np.inf
    factor = splat_f64(scale)
    if cap > 0.0 or scale <= 0.0:
        by = splat_f64(cap if cap > 0.0 else 1.0)
        for s in range(begin, stop, 16):
            raw = load(W, at + s)
            z = raw * factor
            if cap > 0.0:
                z = tanh(z / by) * by
            store(W, at + s, select(raw > minus, z, minus))
        factor = splat_f64(1.0)
    top = minus
    for s in range(begin, stop, 16):
        z = load(W, at + s)
        top = select(z > top, z, top)
    most = largest(top)
    if most == -np.inf:
        for s in range(low, high):
            if mask < 0 or M[mask + s] != 0:
                return np.nan
        return -1.0
    sums, shift = none, none - splat_f64(most) * factor
    for s in range(begin, stop, 16):
        z = load(W, at + s)
        p = select(z > minus, exp(fma(z, factor, shift)), none)
        store(W, at + s, p)
        sums = sums + p
    return total(sums)


@njit(nogil=True, cache=True)
def weigh(unit: Any, values: Any, W: Any, longs: Any, ints: Any) -> None:
    """Weights times values for all rows, and the values' maxima."""
    for s in range(0, unit.slots, VALUES_PART):
        count, fresh = min(VALUES_PART, unit.slots - s), 1 if s == 0 else 0
        m = unit.maxima + unit.padded
        if unit.many:
            largest_of(unit, values, longs, ints, m, s, count)
        place, p, c = unit.places + s, unit.scores + s, 0
        while c < unit.padded:
            y, by, wide = unit.results + c, unit.padded, unit.padded - c
            if unit.many:
                for i in range(0, unit.rows, 8):
                    to = y + i * unit.padded
                    weighed_8(
                        W, p + i * unit.stride, unit.stride, values, c, longs, place, count, W, to, by, fresh, ints, m
                    )
                c += 16
            elif unit.rows == 1 and wide >= 64:
                weighed_1(W, p, unit.stride, values, c, longs, place, count, W, y, by, fresh, ints, m + c)
                c += 64
            elif unit.rows == 1 or wide < 32:
                weighed_4_1(W, p, unit.stride, values, c, longs, place, count, W, y, by, fresh, ints, m + c)
                c += 16
            elif unit.rows == 2:
                weighed_2(W, p, unit.stride, values, c, longs, place, count, W, y, by, fresh, ints, m + c)
                c += 32
            elif unit.rows == 3:
                weighed_3(W, p, unit.stride, values, c, longs, place, count, W, y, by, fresh, ints, m + c)
                c += 32
            else:
                weighed_4(W, p, unit.stride, values, c, longs, place, count, W, y, by, fresh, ints, m + c)
                c += 32


@njit(nogil=True, cache=True)
def largest_products(unit: Any, F: Any, q: Any, ints: Any) -> Any:
    """At least Σₖ |q|·maxₛ |key| for the query at F[q …]; NaN or infinite where a number is."""
    sums, k = splat_f64(0.0), 0
    while k + 16 <= unit.width:
        size = absolute(to_f64(load_floats(F, q + k)))
        sums = fma(size, to_f64(as_f32(load_ints(ints, unit.maxima + k))), sums)
        k += 16
    found = total(sums)
    floats = ints.view(np.float32)
    while k < unit.width:
        found += abs(np.float64(F[q + k])) * np.float64(floats[unit.maxima + k])
        k += 1
    return found * (1 + 2.0**-20)


@njit(nogil=True, cache=True)
def sizes_of(unit: Any, values: Any, W: Any, longs: Any, row: Any, c: Any) -> Any:
    """Σ p·|value| of sixteen columns from c on, with a row's weights."""
    p, first, second = unit.scores + row * unit.stride, splat_f64(0.0), splat_f64(0.0)
    for s in range(0, unit.slots - 1, 2):
        one, two = longs[unit.places + s] + c, longs[unit.places + s + 1] + c
        first = fma(splat_f64(W[p + s]), absolute(to_f64(load_floats(values, one))), first)
        second = fma(splat_f64(W[p + s + 1]), absolute(to_f64(load_floats(values, two))), second)
    if unit.slots % 2:
        last = unit.slots - 1
        size = absolute(to_f64(load_floats(values, longs[unit.places + last] + c)))
        first = fma(splat_f64(W[p + last]), size, first)
    return first + second
