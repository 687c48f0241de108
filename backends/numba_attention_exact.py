r"""Attention's second stage: elements that float64 leaves open, in double-double, one row of queries at a time.

Products of float32 numbers are exact in float64; sums are kept in two parts, what a sum loses (two-sum) being added up
beside it. With u = 2⁻⁵³ and D = Σₖ |q|·maxₛ |key|:

    a score errs by (n·u)²·2·|scale|·D, n = K/16 + 8 additions a lane, and by 2u² of itself for the scale
    a distance of two scores by twice that and 3u² of itself; below −700 its weight is less than what is lost anyway
    a weight by ε = 2·(2n² + 8)·u²·|scale|·D + 2⁻⁹⁴, exp's 2⁻⁹⁶ and 708·3u² included; it must be below 2⁻²⁰
    numerator and denominator by ε and by (3S + 8)²·u² of Σ p·|v|; the quotient by 2⁻⁹⁹

so y by A·(2ε + 2·(3S + 8)²·u² + 2⁻⁹⁸)·(1 + 2⁻⁴) + 2⁻⁹⁰⁰, A = Σ p·|v|/Σ p. What both ends of that do not round alike,
and rows that hold NaN or infinities, is left to Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_double import (
    add,
    exp,
    fast_two_sum,
    fused,
    lanes_turned,
    quotient,
    round_pair,
    times,
    two_sum,
)  # fmt: skip
from lepton_ref.backends.numba_rounding import splat_f64, to_f64
from lepton_ref.backends.numba_vectors import F32X16, F64X16, lane, loader, storer

load, store, load_floats = loader(F64X16), storer(F64X16), loader(F32X16)

U = 2.0**-53

LOST = 2.0**-900


@njit(nogil=True, cache=True)
def totals(high: Any, low: Any) -> Any:
    """Sixteen lanes of high and low parts -> one pair, in the first lane."""
    for distance in (8, 4, 2, 1):
        high, rest = two_sum(high, lanes_turned(high, distance))
        low = (low + lanes_turned(low, distance)) + rest
    return fast_two_sum(high, low)


@njit(nogil=True, cache=True)
def _score(W: Any, q: Any, padded: Any, keys: Any, place: Any) -> Any:
    """Σₖ q·key as a pair in the first lane; W[q …] holds the query."""
    high, low = splat_f64(0.0), splat_f64(0.0)
    for k in range(0, padded, 16):
        high, rest = two_sum(high, load(W, q + k) * to_f64(load_floats(keys, place + k)))
        low = low + rest
    return totals(high, low)


@njit(nogil=True, cache=True)
def row_weights(
    W: Any, at: Any, F: Any, q: Any, unit: Any, keys: Any, longs: Any, low: Any, high: Any, mask: Any, M: Any,
    scale: Any, cap: Any,
) -> Any:  # fmt: skip
    """The weights of the query at F[q …], in scratch from `at` on -> their sum as a pair, NaN where it does not know.

    After the query, filled up to sixteens, come the weights' high parts, their low parts, and which slots are seen.
    """
    p, slots = at + unit.padded, (unit.slots + 15) // 16 * 16
    lower, marks = p + slots, p + 2 * slots
    for k in range(unit.padded):
        W[at + k] = F[q + k] if k < unit.width else 0.0
    top, rest, factor = -np.inf, 0.0, splat_f64(scale)
    for s in range(slots):
        seen = low <= s < high and (mask < 0 or M[mask + s] != 0)
        W[p + s], W[lower + s], W[marks + s] = 0.0, 0.0, 1.0 if seen else 0.0
        if seen:
            pair = times(_score(W, at, unit.padded, keys, longs[unit.places + s]), factor)
            W[p + s], W[lower + s] = lane(pair[0], 0), lane(pair[1], 0)
            if not abs(W[p + s]) < np.inf:
                return np.nan, np.nan
            if W[p + s] > top:
                top, rest = W[p + s], W[lower + s]
    if top == -np.inf or cap > 0.0:
        return np.nan, np.nan
    minus = splat_f64(-top), splat_f64(-rest)
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
    if zeros:
        return np.float32(-0.0 if minus else 0.0), True
    additions = unit.padded / 16.0 + 8.0
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
