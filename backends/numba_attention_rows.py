"""The rows of a unit of attention, in scratch: queries as float64, scores, weights and their sums, weighed values.

W is scratch; `longs` and `ints` are the same memory as int64 and int32. Row i of a unit is head i mod `each` of query
i div `each`; there may be more rows in scratch than there are, up to a multiple of eight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lepton_ref.backends.numba_attention_few import added, scores
from lepton_ref.backends.numba_attention_tiles import maxima, packed, turned, weighed
from lepton_ref.backends.numba_functions import exp, tanh
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_f32, splat_f64, to_f64
from lepton_ref.backends.numba_vectors import (
    F32X16,
    F64X16,
    I32X16,
    absolute,
    fma,
    lane,
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
VALUES_PART, FEW_VALUES_PART = 64, 128
"""Slots whose weighed values are summed before they join the rest: for many rows, and for few."""
KEYS_BLOCK = 64
"""Slots of which the largest numbers are found just before their products, while they are near."""

maxima_4, maxima_1 = maxima(4), maxima(1)
scores_1, scores_2, scores_3, scores_4 = scores(1), scores(2), scores(3), scores(4)
added_1, added_2, added_3, added_4 = added(1), added(2), added(3), added(4)
packed_8, weighed_8 = packed(8), weighed(8)


class Unit(NamedTuple):
    """Sizes of a unit, and offsets of its parts in W (`maxima` in ints; `places` and `opens` in longs).

    Maxima are the keys', then the values'. Of each row: the sum of its weights, and the score (`tops`) from which
    distances are taken.
    """

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
    totals: int
    tops: int
    opens: int


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
def scores_of(unit: Any, keys: Any, values: Any, W: Any, longs: Any, ints: Any) -> None:
    """Products of all rows with all slots, unscaled, and the keys' maxima; the first values are asked for."""
    if not unit.many:
        _few_scores(unit, keys, values, W, longs, ints)
        return
    for start in range(0, unit.slots, KEYS_BLOCK):
        count = min(KEYS_BLOCK, unit.slots - start)
        largest_of(unit, keys, longs, ints, unit.maxima, start, count)
        for s in range(start, start + count, 16):
            _turned_scores(unit, keys, W, longs, s)


@njit(nogil=True, cache=True)
def _few_scores(unit: Any, keys: Any, values: Any, W: Any, longs: Any, ints: Any) -> None:
    q, by, place, y, n, m = unit.queries, unit.padded, unit.places, unit.scores, unit.slots, unit.maxima
    then = longs[place]
    if unit.rows == 1:
        scores_1(W, q, by, keys, longs, place, n, n, by, W, y, unit.stride, ints, m, values, then)
    elif unit.rows == 2:
        scores_2(W, q, by, keys, longs, place, n, n, by, W, y, unit.stride, ints, m, values, then)
    elif unit.rows == 3:
        scores_3(W, q, by, keys, longs, place, n, n, by, W, y, unit.stride, ints, m, values, then)
    else:
        scores_4(W, q, by, keys, longs, place, n, n, by, W, y, unit.stride, ints, m, values, then)


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
    """A row's weights in place of its scores -> their sum, and the number from which distances were taken.

    That is the largest score times the scale, rounded; each distance from it is rounded once. The sum is −1 where the
    row sees nothing, NaN where scores are no numbers.

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
                return np.nan, most
        return -1.0, most
    from_ = splat_f64(most) * factor
    sums, shift = none, none - from_
    for s in range(begin, stop, 16):
        z = load(W, at + s)
        p = select(z > minus, exp(fma(z, factor, shift)), none)
        store(W, at + s, p)
        sums = sums + p
    return total(sums), lane(from_, 0)


@njit(nogil=True, cache=True)
def weigh(unit: Any, values: Any, keys: Any, then: Any, W: Any, longs: Any, ints: Any) -> None:
    """Weights times values for all rows, and the values' maxima; keys[then …], which come next, are asked for."""
    if not unit.many:
        _few_weighed(unit, values, keys, then, W, longs, ints)
        return
    for s in range(0, unit.slots, VALUES_PART):
        count, fresh = min(VALUES_PART, unit.slots - s), 1 if s == 0 else 0
        place, p, by = unit.places + s, unit.scores + s, unit.padded
        largest_of(unit, values, longs, ints, unit.maxima + unit.padded, s, count)
        for c in range(0, unit.padded, 16):
            for i in range(0, unit.rows, 8):
                y = unit.results + c + i * by
                weighed_8(W, p + i * unit.stride, unit.stride, values, c, longs, place, count, W, y, by, fresh)


@njit(nogil=True, cache=True)
def _few_weighed(unit: Any, values: Any, keys: Any, then: Any, W: Any, longs: Any, ints: Any) -> None:
    by, row, m = unit.padded, unit.stride, unit.maxima + unit.padded
    size, part = unit.rows * by, unit.results + unit.rows * by
    for s in range(0, unit.slots, FEW_VALUES_PART):
        y = unit.results if s == 0 else part
        W[y : y + size] = 0.0
        place, p, left = unit.places + s, unit.scores + s, unit.slots - s
        count = min(FEW_VALUES_PART, left)
        if unit.rows == 1:
            added_1(W, p, row, values, longs, place, count, left, by, W, y, by, ints, m, keys, then)
        elif unit.rows == 2:
            added_2(W, p, row, values, longs, place, count, left, by, W, y, by, ints, m, keys, then)
        elif unit.rows == 3:
            added_3(W, p, row, values, longs, place, count, left, by, W, y, by, ints, m, keys, then)
        else:
            added_4(W, p, row, values, longs, place, count, left, by, W, y, by, ints, m, keys, then)
        if s > 0:
            for c in range(0, size, 16):
                store(W, unit.results + c, load(W, unit.results + c) + load(W, part + c))


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
