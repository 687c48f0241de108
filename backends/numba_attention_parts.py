"""Attention of one token for each sequence, its slots spread evenly over the threads of a team.

The slots of all units, a key/value head of a sequence each, lie one after the other on a line, which is cut into a
piece for each thread. A unit that is cut is computed in parts, each with its own largest score; when all threads are
done with theirs, the thread that has the unit's first slots, its owner, joins them: weights and weighed values of a
part times e^d, d from the part's largest score to the unit's. A thread owns one such unit at most, which lies in the
second half of its scratch, with the weights and addresses of all parts, for what the rounding leaves open; in the first
half are its whole units, one after the other, and then its part of a unit that another one owns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_attention import (
    BATCH,
    FIELDS,
    HEADS,
    KV_HEADS,
    SEEN,
    WIDTH,
    attention,
    find_places,
    round_rows,
    unit_at,
    weigh_slots,
)  # fmt: skip
from lepton_ref.backends.numba_attention_rows import Unit, load, store
from lepton_ref.backends.numba_functions import exp
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import splat_f64
from lepton_ref.backends.numba_vectors import lane

GRAIN = 4096
"""Numbers of keys that are not worth a part of their own: a cut so near to a unit's end is made there."""


@njit(nogil=True, cache=True)
def _slots(I: Any, shape: Any, b: Any) -> Any:
    """How many slots the token of sequence b sees, from the first to the last."""
    return max(I[shape[SEEN] + 2 * b + 1] - I[shape[SEEN] + 2 * b], 0)


@njit(nogil=True, cache=True)
def cut(t: Any, team: Any, I: Any, shape: Any) -> Any:
    """-> the unit with which the piece of thread t begins, and how many sixteens of its slots come before."""
    kv_heads, total = shape[KV_HEADS], np.int64(0)
    for b in range(shape[BATCH]):
        total += (_slots(I, shape, b) + 15) // 16 * kv_heads
    place, grain = total * t // team, max(GRAIN // (16 * shape[WIDTH]), 1)
    if t == 0:
        return np.int64(0), np.int64(0)
    for b in range(shape[BATCH]):
        each = (_slots(I, shape, b) + 15) // 16
        if place >= each * kv_heads:
            place -= each * kv_heads
            continue
        unit, before = b * kv_heads + place // each, place % each
        if min(before, each - before) >= grain and shape[WIDTH] % 16 == 0:
            return unit, before
        return unit + (1 if 2 * before >= each else 0), np.int64(0)
    return shape[BATCH] * kv_heads, np.int64(0)


@njit(nogil=True, cache=True)
def pieces(
    t: Any, team: Any, F: Any, keys: Any, values: Any, I: Any, at: Any, M: Any, scale: Any, cap: Any, W: Any,
    size: Any, form: Any, stuck: Any,
) -> Any:  # fmt: skip
    """This thread's piece -> whether any unit is cut, so that the team has to meet and then to call `join`.

    Args:
        t, team: this thread's number, and how many there are.
        F, keys, values, I, at, M, scale, cap, form, stuck: as in `numba_attention.attention`, one token a sequence.
        W: scratch of all threads, `size` numbers each, at least `scratch_size`.
        size: see W.
    """
    shape = I[at : at + FIELDS]
    (unit, before), (last, end) = cut(t, team, I, shape), cut(t + 1, team, I, shape)
    whole = unit + (1 if before > 0 else 0)
    if whole < last:
        attention(F, keys, values, I, at, M, scale, cap, whole, last, W, t * size, form, stuck)
    if end > 0 and whole <= last:
        _part(t, team, F, keys, values, I, M, shape, scale, cap, W, size, last, 0, end)
    if before > 0:
        _part(t, team, F, keys, values, I, M, shape, scale, cap, W, size, unit, before, end if last == unit else -1)
    cuts = 0
    for other in range(1, team):
        cuts += cut(other, team, I, shape)[1]
    return cuts > 0


@njit(nogil=True, cache=True)
def _owned(shape: Any, slots: Any, t: Any, size: Any) -> Any:
    """-> the unit that thread t owns, and its row of repairs."""
    w = t * size + size // 2
    unit, repair, _, _ = unit_at(shape[HEADS] // shape[KV_HEADS], 1, shape[WIDTH], slots, w)
    return unit, repair


@njit(nogil=True, cache=True)
def _helped(shape: Any, slots: Any, t: Any, size: Any) -> Any:
    """-> the unit of which thread t has a part that is not the first."""
    return unit_at(shape[HEADS] // shape[KV_HEADS], 1, shape[WIDTH], slots, t * size)[0]


@njit(nogil=True, cache=True)
def _part(
    t: Any, team: Any, F: Any, keys: Any, values: Any, I: Any, M: Any, shape: Any, scale: Any, cap: Any, W: Any,
    size: Any, number: Any, before: Any, end: Any,
) -> None:  # fmt: skip
    """Sixteens [before, end) of a unit, or all from `before` on where the end is −1."""
    owner = t
    while owner > 0:
        unit, others = cut(owner, team, I, shape)
        if unit < number or others == 0:
            break
        owner -= 1
    b, head = number // shape[KV_HEADS], number % shape[KV_HEADS]
    slots, low = _slots(I, shape, b), I[shape[SEEN] + 2 * b] + 16 * before
    count = (slots if end < 0 else min(16 * end, slots)) - 16 * before
    common, _ = _owned(shape, slots, owner, size)
    own = common if owner == t else _helped(shape, slots, t, size)
    part = Unit(
        own.rows, own.each, own.width, own.padded, count, common.stride, own.many, own.queries,
        common.scores + 16 * before, own.results, own.keys, own.maxima, common.places + 16 * before, own.totals,
        own.tops, own.opens,
    )  # fmt: skip
    find_places(W.view(np.int64), part.places, I, shape, b, head, low, count)
    weigh_slots(F, keys, values, I, M, shape, head, b, low, scale, cap, W, part)


@njit(nogil=True, cache=True)
def join(
    t: Any, team: Any, F: Any, keys: Any, values: Any, I: Any, at: Any, M: Any, scale: Any, cap: Any, W: Any,
    size: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Join the parts of the unit that this thread owns, if it does; arguments are those of `pieces`."""
    shape = I[at : at + FIELDS]
    (first, before), (number, end) = cut(t, team, I, shape), cut(t + 1, team, I, shape)
    if end == 0 or (first == number and before > 0):
        return
    b, head = number // shape[KV_HEADS], number % shape[KV_HEADS]
    slots, low = _slots(I, shape, b), I[shape[SEEN] + 2 * b]
    whole, repair = _owned(shape, slots, t, size)
    behind = t + 1  # the last thread with a part is before this one
    while behind < team and cut(behind, team, I, shape)[0] == number and cut(behind, team, I, shape)[1] > 0:
        behind += 1
    ints, longest = W.view(np.int32), 2 * whole.padded
    for other in range(t + 1, behind):
        own = _helped(shape, slots, other, size)
        for c in range(longest):
            ints[whole.maxima + c] = max(ints[whole.maxima + c], ints[own.maxima + c])
    for row in range(whole.rows):
        _join_row(t, behind, team, I, shape, W, size, whole, slots, row)
    round_rows(
        F, keys, values, I, M, shape, head, b, low, scale, cap, W, whole, behind - t, repair, form, stuck
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _join_row(
    t: Any, behind: Any, team: Any, I: Any, shape: Any, W: Any, size: Any, whole: Any, slots: Any, row: Any
) -> None:
    """A row's weights, their sum and its weighed values, of threads [t, behind), from the largest score of all."""
    top, total, at = -np.inf, -1.0, whole.scores + row * whole.stride
    for other in range(t, behind):
        own = whole if other == t else _helped(shape, slots, other, size)
        if not W[own.totals + row] < 0.0:
            top = max(top, W[own.tops + row])
    for other in range(t, behind):
        own = whole if other == t else _helped(shape, slots, other, size)
        sees, none, to = not W[own.totals + row] < 0.0, splat_f64(0.0), whole.results + row * whole.padded
        by = exp(splat_f64(W[own.tops + row] - top)) if sees else none
        if sees:
            total = max(total, 0.0) + W[own.totals + row] * lane(by, 0)
        for c in range(0, whole.padded, 16):
            value = load(W, own.results + row * own.padded + c) * by if sees else none
            store(W, to + c, value if other == t else load(W, to + c) + value)
        before = 16 * cut(other, team, I, shape)[1] if other > t else 0
        end = 16 * cut(other + 1, team, I, shape)[1] if other + 1 < behind else (slots + 15) // 16 * 16
        for s in range(before, end, 16):
            store(W, at + s, load(W, at + s) * by if sees else none)
    W[whole.totals + row] = total
