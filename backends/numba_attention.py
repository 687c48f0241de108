r"""Attention in kernels: a unit of work is a key/value head, with all its query heads, for a few queries of a sequence.

Scores, weights and sums are float64. A few rows (a row is one head of one query) multiply keys where they lie, lanes
along the head; many rows do so with keys turned sixteen at a time. With u = 2⁻⁵³ and, for each row,
D = Σₖ |q|·maxₛ |key| over the unit's slots:

    a score errs by δ = γₙ·|scale|·D, n = K/8 + 3 or, in parts of 32, 32 + K/32, and one for the scale; the cap adds
        its tanh's 10 units and 3 to cap
    a weight errs by δ + (|d| + 1.75)·u, d its distance to the largest score, and Σ p·|d| ≤ ln S for weights of sum 1
    the sums err by γ of 128 + S/64 (values, in parts of 64 or 128) and of S/16 + 5 (weights), an inverse and a product
        by 2u; where N threads have parts of the slots, each times e^d once more, both by 1.75u, u and γ of N − 1 too

so y by max |value|·(2δ + 2·(ln S + 1.75)·u + γ + γ + u)·(1 + 2⁻⁷) where δ < 2⁻¹⁰, and two units for the rounding test;
weights below e^−708 are taken for that, which is lost beside S·2⁻¹⁰⁰⁰ of the largest value. Maxima are of float32's
bits, so that NaN is the largest, and its rows go the other way: `numba_attention_exact`, then Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ref.backends.numba_attention_exact import U, round_row, settle_row
from lepton_ref.backends.numba_attention_rows import (
    FEW_VALUES_PART,
    QUERIES_PART,
    VALUES_PART,
    Unit,
    largest_products,
    queries_of,
    scores_of,
    weigh,
    weights_of,
)  # fmt: skip
from lepton_ref.backends.numba_functions import EXP, TANH
from lepton_ref.backends.numba_jit import njit

(
    BATCH, TOKENS, HEADS, KV_HEADS, WIDTH, QUERIES, Q, Q_STRIDE, Y, Y_STRIDE, TABLE, TABLE_STRIDE, BLOCK, STRIDE_BLOCK,
    STRIDE_HEAD, STRIDE_SLOT, SEEN, MASK, MASK_STRIDE,
) = range(19)  # fmt: skip
"""Where a shape has what: sizes, QUERIES of a unit, offsets and strides of q and y in the arena (a row for each query,
its heads one after the other), the table of blocks in I and its stride, the cache's layout, and the slots that each
query sees: two numbers at I[SEEN + 2·row …], from and to, and a byte each at M[MASK + row·MASK_STRIDE …], unless MASK
is −1."""

FIELDS = 19

MANY = 4
"""More rows than this go by turned keys."""

AT_ONCE = 1 << 16
"""Scores of a unit that lie in scratch at once, about."""


def queries_at_once(tokens: int, heads: int, kv_heads: int, slots: int) -> int:
    """How many queries a unit should have: 1 where there is one, otherwise rows by eights as scratch allows."""
    if tokens == 1:
        return 1
    each = heads // kv_heads
    most = max(8, min(96, AT_ONCE // max(slots, 1)))
    return min(tokens, max(1, most // each))


def scratch_size(queries: int, heads: int, kv_heads: int, width: int, slots: int) -> int:
    """How many float64 a thread needs for units of so many queries that see slots from a range of so many.

    Where units have one query it is twice that: `numba_attention_parts` has units of which threads compute parts.
    """
    return int(unit_at(heads // kv_heads, queries, width, slots, 0)[-1]) * (2 if queries == 1 else 1)


@njit(nogil=True, cache=True)
def units(tokens: Any, batch: Any, kv_heads: Any, queries: Any) -> Any:
    """How many units of work there are."""
    return batch * ((tokens + queries - 1) // queries) * kv_heads


@njit(nogil=True, cache=True)
def unit_at(each: Any, queries: Any, width: Any, slots: Any, w: Any) -> Any:
    """-> a unit whose parts lie in scratch from w on, the row of repairs, the copies and the end."""
    rows = each * queries
    padded, stride = (width + 15) // 16 * 16, (slots + 15) // 16 * 16 + 8
    room = (rows + 15) // 16 * 16
    scores = w + room * padded
    results = scores + room * stride
    keys = results + room * padded
    maxima = keys + 16 * padded
    places = maxima + padded
    totals = places + stride
    opens = totals + 2 * room
    repair = opens + padded
    copies = repair + padded + 3 * stride + 256
    end = copies + (0 if width == padded else slots * padded)
    unit = Unit(
        rows, each, width, padded, slots, stride, rows > MANY, w, scores, results, keys, 2 * maxima, places, totals,
        totals + room, opens,
    )  # fmt: skip
    return unit, repair, copies, end


@njit(nogil=True, cache=True)
def attention(
    F: Any, keys: Any, values: Any, I: Any, at: Any, M: Any, scale: Any, cap: Any, first: Any, last: Any, W: Any,
    w: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Units [first, last) of attention.

    Args:
        F: the arena, with q and y.
        keys: float32 buffer.
        values: another, in which a slot has the same place.
        I: int64: the shape at `at`, the table, and what is seen.
        at: see I.
        M: uint8, masks.
        scale: of the scores.
        cap: of the scores; 0 is none.
        first: see above.
        last: see above.
        W: scratch from w on, `scratch_size` numbers.
        w: see W.
        form: format of activations.
        stuck: elements left open.
    """
    shape = I[at : at + FIELDS]
    tokens, kv_heads, queries = shape[TOKENS], shape[KV_HEADS], shape[QUERIES]
    each, width = shape[HEADS] // kv_heads, shape[WIDTH]
    blocks = (tokens + queries - 1) // queries
    longs, floats = W.view(np.int64), W.view(np.float32)
    for number in range(first, last):
        head, n = number % kv_heads, number // kv_heads
        b, block = n // blocks, n % blocks
        block = block // 2 if block % 2 == 0 else blocks - 1 - block // 2  # halves weigh the same
        begin, end = b * tokens + block * queries, b * tokens + min((block + 1) * queries, tokens)
        low, high = np.int64(1) << 60, np.int64(0)
        for row in range(begin, end):
            seen = shape[SEEN] + 2 * row
            if I[seen] < I[seen + 1]:
                low, high = min(low, I[seen]), max(high, I[seen + 1])
        if low >= high:
            _nothing(F, shape, head, begin, end)
            continue
        unit, repair, copies, _ = unit_at(each, end - begin, width, high - low, w)
        find_places(longs, unit.places, I, shape, b, head, low, unit.slots)
        if width == unit.padded:
            _attend(F, keys, values, I, M, shape, head, begin, low, scale, cap, W, unit, repair, form, stuck)
            continue
        copy, size = 2 * copies, unit.slots * unit.padded
        _copy(floats, copy, keys, longs, unit)
        _copy(floats, copy + size, values, longs, unit)
        for s in range((unit.slots + 15) // 16 * 16):
            longs[unit.places + s] = copy + min(s, unit.slots - 1) * unit.padded
        _attend(
            F, floats, floats[size:], I, M, shape, head, begin, low, scale, cap, W, unit, repair, form, stuck
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _nothing(F: Any, shape: Any, head: Any, begin: Any, end: Any) -> None:
    """Queries that see nothing give zeros."""
    many = shape[HEADS] // shape[KV_HEADS] * shape[WIDTH]
    for row in range(begin, end):
        y = shape[Y] + row * shape[Y_STRIDE] + head * many
        F[y : y + many] = np.float32(0.0)


@njit(nogil=True, cache=True)
def find_places(longs: Any, places: Any, I: Any, shape: Any, b: Any, head: Any, low: Any, slots: Any) -> None:
    """The address of each slot's first number; the last stands for those that fill up sixteen."""
    table, block = shape[TABLE] + b * shape[TABLE_STRIDE], shape[BLOCK]
    number, inside = low // block, low % block
    place = np.int64(0)
    for s in range(slots):
        if inside == block:
            number, inside = number + 1, 0
        if s == 0 or inside == 0:
            place = I[table + number] * shape[STRIDE_BLOCK] + head * shape[STRIDE_HEAD] + inside * shape[STRIDE_SLOT]
        longs[places + s] = place
        place += shape[STRIDE_SLOT]
        inside += 1
    for s in range(slots, (slots + 15) // 16 * 16):
        longs[places + s] = longs[places + slots - 1]


@njit(nogil=True, cache=True)
def _copy(floats: Any, copy: Any, buffer: Any, longs: Any, unit: Any) -> None:
    """Heads whose width is no multiple of sixteen, filled up with zeros."""
    for s in range(unit.slots):
        to, place = copy + s * unit.padded, longs[unit.places + s]
        for k in range(unit.width):
            floats[to + k] = buffer[place + k]
        floats[to + unit.width : to + unit.padded] = np.float32(0.0)


@njit(nogil=True, cache=True)
def _seen(I: Any, M: Any, shape: Any, t: Any, low: Any) -> Any:
    """-> the slots that query t sees, counted from `low`, and where its mask has slot `low`, or −1."""
    seen = shape[SEEN] + 2 * t
    mask = shape[MASK] + t * shape[MASK_STRIDE] + low if shape[MASK] >= 0 else np.int64(-1)
    return I[seen] - low, I[seen + 1] - low, mask


@njit(nogil=True, cache=True)
def _attend(
    F: Any, keys: Any, values: Any, I: Any, M: Any, shape: Any, head: Any, begin: Any, low: Any, scale: Any, cap: Any,
    W: Any, unit: Any, repair: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """One unit; slots count from `low`."""
    weigh_slots(F, keys, values, I, M, shape, head, begin, low, scale, cap, W, unit)
    round_rows(F, keys, values, I, M, shape, head, begin, low, scale, cap, W, unit, 1, repair, form, stuck)


@njit(nogil=True, cache=True)
def weigh_slots(
    F: Any, keys: Any, values: Any, I: Any, M: Any, shape: Any, head: Any, begin: Any, low: Any, scale: Any, cap: Any,
    W: Any, unit: Any,
) -> None:  # fmt: skip
    """Weights, their sums and weighed values of a unit's slots, which count from `low`."""
    longs, ints = W.view(np.int64), W.view(np.int32)
    ints[unit.maxima : unit.maxima + 2 * unit.padded] = np.int32(0)
    q = shape[Q] + begin * shape[Q_STRIDE] + head * unit.each * unit.width
    queries_of(unit, F, q, shape[Q_STRIDE], W)
    scores_of(unit, keys, values, W, longs, ints)
    for row in range(unit.rows):
        from_, to, mask = _seen(I, M, shape, begin + row // unit.each, low)
        W[unit.totals + row], W[unit.tops + row] = weights_of(
            unit, W, row, max(from_, 0), min(to, unit.slots), mask, M, scale, cap
        )
    then = longs[unit.places] + (shape[STRIDE_HEAD] if head + 1 < shape[KV_HEADS] else 0)
    weigh(unit, values, keys, then, W, longs, ints)


@njit(nogil=True, cache=True)
def round_rows(
    F: Any, keys: Any, values: Any, I: Any, M: Any, shape: Any, head: Any, begin: Any, low: Any, scale: Any, cap: Any,
    W: Any, unit: Any, parts: Any, repair: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Divide a unit's weighed values, which are of so many parts, by the sums of weights, and round them."""
    longs, ints, inside = W.view(np.int64), W.view(np.int32), head * unit.each * unit.width
    distances = 1.02 * math.log(unit.slots) * U
    for row in range(unit.rows):
        t, column = begin + row // unit.each, inside + row % unit.each * unit.width
        y, q = shape[Y] + t * shape[Y_STRIDE] + column, shape[Q] + t * shape[Q_STRIDE] + column
        sums = W[unit.totals + row]
        if sums < 0.0:
            F[y : y + unit.width] = np.float32(0.0)
            continue
        products = largest_products(unit, F, q, ints) * abs(scale)
        relative = _relative(unit, products, cap, distances, parts)
        if round_row(F, y, unit, W, longs, ints, row, 1.0 / sums, relative, form):
            from_, to, mask = _seen(I, M, shape, t, low)
            settle_row(
                F, y, q, unit, W, longs, ints, row, 1.0 / sums, relative, form, keys, values, from_, to, mask, M, scale,
                cap, products, distances, repair, stuck, t, column,
            )  # fmt: skip


@njit(nogil=True, cache=True)
def _relative(unit: Any, products: Any, cap: Any, distances: Any, parts: Any) -> Any:
    """The bound of the page above, relative to the largest value; infinite where nothing is promised."""
    steps = min(unit.padded, QUERIES_PART) + unit.padded // QUERIES_PART + 1 if unit.many else unit.padded // 8 + 3
    delta = products * ((steps + 1) * U) * (1 + 2.0**-20) + 2.0**-1000
    if cap > 0.0:
        delta += cap * ((TANH + 3.0) * U)
    if not delta < 2.0**-10:
        return np.inf
    sums = min(unit.slots, FEW_VALUES_PART) + unit.slots // VALUES_PART + 1 + unit.slots // 16 + 6
    if parts > 1:
        sums += 2.0 * (EXP + parts)
    return (2.0 * (delta + distances) + (2.0 * EXP + sums + 7.0) * U) * (1 + 2.0**-7)
