r"""Attention's second stage: elements that float64 leaves open, in double-double, one row of queries at a time.

Products of float32 numbers are exact in float64; sums are kept in two parts, what a sum loses (two-sum) being added up
beside it. With u = 2⁻⁵³ and D = Σₖ |q|·maxₛ |key|:

    a score errs by (n·u)²·2·|scale|·D, n = K + 2 additions, and by 2u² of itself for the scale
    a distance of two scores by twice that and 3u² of itself; below −700 its weight is less than what is lost anyway
    a weight by ε = 2·(2n² + 8)·u²·|scale|·D + 2⁻⁹⁴, exp's 2⁻⁹⁶ and 708·3u² included; it must be below 2⁻²⁰
    numerator and denominator by ε and by (3S + 8)²·u² of Σ p·|v|; the quotient by 2⁻⁹⁹

so y by A·(2ε + 2·(3S + 8)²·u² + 2⁻⁹⁸)·(1 + 2⁻⁴) + 2⁻⁸⁵⁰, A = Σ p·|v|/Σ p. What both ends of that do not round alike,
and rows that hold NaN or infinities, is left to Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_attention_rows import load, load_ints, sizes_of, store
from lepton_ref.backends.numba_attention_tiles import turned
from lepton_ref.backends.numba_double import (
    add,
    exp,
    fast_two_sum,
    fused,
    quotient,
    round_pair,
    times,
    totals,
    two_sum,
)  # fmt: skip
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_f32, splat_f64, to_f64
from lepton_ref.backends.numba_rows import inside, rounded, store_columns
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import absolute, bits_of, fma, lane, largest, select

U = 2.0**-53

LOST = 2.0**-850


@njit(nogil=True, cache=True)
def row_weights(
    W: Any, at: Any, F: Any, q: Any, unit: Any, keys: Any, longs: Any, low: Any, high: Any, mask: Any, M: Any,
    scale: Any, cap: Any,
) -> Any:  # fmt: skip
    """The weights of the query at F[q …], in scratch from `at` on -> their sum as a pair, NaN where it does not know.

    After the query, filled up to sixteens, come the weights' high parts, their low parts, and which slots are seen.
    """
    p, slots = at + unit.padded, (unit.slots + 15) // 16 * 16
    lower, marks, tile = p + slots, p + 2 * slots, p + 3 * slots
    for k in range(unit.padded):
        W[at + k] = F[q + k] if k < unit.width else 0.0
    for s in range(slots):
        W[marks + s] = 1.0 if low <= s < high and (mask < 0 or M[mask + s] != 0) else 0.0
    none, factor, most, healthy = splat_f64(0.0), splat_f64(scale), splat_f64(-np.inf), True
    for s in range(0, slots, 16):
        total, rest = none, none
        for c in range(0, unit.padded, 16):
            turned(keys, c, longs, unit.places + s, W, tile)
            for k in range(16):
                total, lost = two_sum(total, splat_f64(W[at + c + k]) * load(W, tile + 16 * k))
                rest = rest + lost
        pair = times(fast_two_sum(total, rest), factor)
        seen = load(W, marks + s) > none
        healthy = healthy and bits_of(seen) == bits_of(seen & (absolute(pair[0]) < splat_f64(np.inf)))
        store(W, p + s, select(seen, pair[0], none))
        store(W, lower + s, select(seen, pair[1], none))
        most = select(seen & (pair[0] > most), pair[0], most)
    top = largest(most)
    if not healthy or top == -np.inf or cap > 0.0:
        return np.nan, np.nan
    minus = splat_f64(-top), splat_f64(0.0)
    sums, losses = splat_f64(0.0), splat_f64(0.0)
    for s in range(0, slots, 16):
        mark = load(W, marks + s)
        distance = add((load(W, p + s), load(W, lower + s)), minus)
        weight = exp(distance[0] * mark, distance[1] * mark)
        first, second = weight[0] * mark, weight[1] * mark
        store(W, p + s, first)
        store(W, lower + s, second)
        sums, lost = two_sum(sums, first)
        losses = losses + (second + lost)
    pair = totals(sums, losses)
    return lane(pair[0], 0), lane(pair[1], 0)


@njit(nogil=True, cache=True)
def settle(
    W: Any, at: Any, values: Any, longs: Any, unit: Any, column: Any, total: Any, products: Any, form: Any
) -> Any:
    """-> (float32, whether it is settled) for one column of a row whose weights `row_weights` has left.

    products: at least |scale|·D of the page.
    """
    p, slots = at + unit.padded, (unit.slots + 15) // 16 * 16
    high, low, size, terms, zeros, minus = 0.0, 0.0, 0.0, 0, True, True
    for s in range(unit.slots):
        weight = W[p + s]
        if weight != 0.0:
            v = np.float64(values[longs[unit.places + s] + column])
            product = weight * v
            lost = fused(weight, v, -product)
            whole = high + product
            of_product = whole - high
            lost += (high - (whole - of_product)) + (product - of_product)
            high = whole
            low += fused(W[p + slots + s], v, lost)
            size += abs(product)
            terms += 1
            zeros = zeros and v == 0.0
            minus = minus and np.signbit(v)
    if not (total[0] > 0.0 and size < np.inf):
        return np.float32(0.0), False
    if zeros:  # what is not weighed may be far away, or not seen: then Python tells whether it has a sign
        return np.float32(-0.0 if minus else 0.0), terms == unit.slots
    additions = unit.padded + 2.0
    epsilon = (4.0 * additions * additions + 16.0) * U * U * products + 2.0**-94
    if not epsilon < 2.0**-20:
        return np.float32(0.0), False
    top = fast_two_sum(splat_f64(high), splat_f64(low))
    y = quotient(top, (splat_f64(total[0]), splat_f64(total[1])))
    sums = (3.0 * terms + 8.0) * U
    error = size / total[0] * (2.0 * epsilon + 2.0 * sums * sums + 2.0**-98) * (1 + 2.0**-4) + LOST
    rounded, open_ = round_pair(y[0], y[1], splat_f64(error), form)
    return lane(rounded, 0), open_ & 1 == 0


@njit(nogil=True, cache=True)
def zero_of(values: Any, longs: Any, unit: Any, column: Any, low: Any, high: Any, mask: Any, M: Any) -> Any:
    """A column whose values are all zeros: −0 where all that are seen are."""
    for s in range(low, high):
        if (mask < 0 or M[mask + s] != 0) and not np.signbit(values[longs[unit.places + s] + column]):
            return np.float32(0.0)
    return np.float32(-0.0)


@njit(nogil=True, cache=True)
def round_row(
    F: Any, y: Any, unit: Any, W: Any, longs: Any, ints: Any, row: Any, inverse: Any, relative: Any, form: Any
) -> Any:  # fmt: skip
    """Round a row's weighed values times `inverse` -> whether the largest values' bound leaves any open.

    Which ones is told by bits at longs[unit.opens …], for sixteen columns each.
    """
    lost = unit.slots * 2.0**-1000
    factor, least, by, any_ = splat_f64(relative + lost), splat_f64(lost), splat_f64(inverse), np.int64(0)
    for c in range(0, unit.padded, 16):
        size = to_f64(as_f32(load_ints(ints, unit.maxima + unit.padded + c)))
        value = load(W, unit.results + row * unit.padded + c) * by
        near, open_ = rounded(value, fma(size, factor, least), form)
        store_columns(F, y + c, near, unit.width - c)
        open_ &= inside(unit.width - c)
        longs[unit.opens + c // 16] = open_
        any_ |= open_
    return any_ != 0


@njit(nogil=True, cache=True)
def settle_row(
    F: Any, y: Any, q: Any, unit: Any, W: Any, longs: Any, ints: Any, row: Any, inverse: Any, relative: Any, form: Any,
    keys: Any, values: Any, low: Any, high: Any, mask: Any, M: Any, scale: Any, cap: Any, products: Any,
    distances: Any, at: Any, stuck: Any, t: Any, column: Any,
) -> None:  # fmt: skip
    """What `round_row` left open: by a closer bound, from the sizes of values as they are weighed, then exactly."""
    lost, ready, pair = splat_f64(unit.slots * 2.0**-1000), False, (0.0, 0.0)
    for c in range(0, unit.padded, 16):
        open_ = longs[unit.opens + c // 16]
        if open_ == 0:
            continue
        size = to_f64(as_f32(load_ints(ints, unit.maxima + unit.padded + c)))
        if relative < np.inf:
            value = load(W, unit.results + row * unit.padded + c) * splat_f64(inverse)
            closer = sizes_of(unit, values, W, longs, row, c) * splat_f64(inverse * relative * (1 + 2.0**-9))
            near, still = rounded(value, closer + size * splat_f64(distances) + fma(size, lost, lost), form)
            store_columns(F, y + c, near, unit.width - c)
            open_ &= still
        for k in range(c, min(c + 16, unit.width)):
            if open_ >> (k - c) & 1 == 0:
                continue
            if lane(size, k - c) == 0.0 and relative < np.inf:
                F[y + k] = zero_of(values, longs, unit, k, low, high, mask, M)
                continue
            if not ready:
                pair = row_weights(W, at, F, q, unit, keys, longs, low, high, mask, M, scale, cap)
                ready = True
            settled, known = settle(W, at, values, longs, unit, k, pair, products, form)
            if known:
                F[y + k] = settled
            else:
                push(stuck, t, column + k)
