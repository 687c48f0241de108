"""The step: one compiled function that interprets a plan's records, all threads of a team together.

Every thread goes through all records and computes its share of each. Records that treat each row by itself follow one
another without a barrier as long as a thread keeps its rows; before and after all others the team meets. A thread whose
kernel leaves elements open for exact repair stops there, the others at the next barrier: the step returns the number of
the earliest such record, or of one that it cannot compute itself, or of the end. It can be entered again anywhere.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_activation import activate, gated, softcap
from lepton_ref.backends.numba_attention import (
    BATCH,
    BLOCK,
    FIELDS,
    QUERIES,
    STRIDE_BLOCK,
    STRIDE_HEAD,
    STRIDE_SLOT,
    TABLE_STRIDE,
    TOKENS,
    attention,
    units,
)  # fmt: skip
from lepton_ref.backends.numba_attention import KV_HEADS as KV_HEADS_OF
from lepton_ref.backends.numba_attention import TABLE as TABLE_AT
from lepton_ref.backends.numba_attention import WIDTH as WIDTH_OF
from lepton_ref.backends.numba_attention_parts import join, pieces
from lepton_ref.backends.numba_embed import embed
from lepton_ref.backends.numba_integer import integer_linear, quantise_rows
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_memory import bytes_at, doubles_at, floats_at
from lepton_ref.backends.numba_norm import layer_norm, rms_norm
from lepton_ref.backends.numba_plan import (
    ACTIVATE,
    ADD,
    APPEND,
    ATTENTION,
    CAP,
    EMBED,
    EPS,
    FORM,
    GATED,
    HEADS,
    IN0,
    IN1,
    IN2,
    INTEGER,
    KIND,
    LAYER_NORM,
    OFFSET,
    OUT,
    OUTSIDE,
    PICK,
    PICKED,
    PREPARE,
    QUANTISE,
    RMS_NORM,
    ROPE,
    ROWS,
    SCALE,
    SEGMENT,
    SEGMENTS,
    SOFTCAP,
    WHICH,
    WIDTH,
    B,
    W,
)  # fmt: skip
from lepton_ref.backends.numba_real import prepare_rows, real_linear
from lepton_ref.backends.numba_residual import add
from lepton_ref.backends.numba_rope import rope
from lepton_ref.backends.numba_threads import atomic_load, atomic_store, barrier

SEGMENT_KIND, ADDRESS, BYTES, OUTPUTS, INPUTS, BIAS, COLUMN, BEFORE = range(8)
"""Columns of a segment. BEFORE counts the outputs of the record's earlier segments."""

KEYS, VALUES, COUNT, SHAPE, NEW = range(5)
"""Columns of a layer of the cache: two addresses, the buffers' length, its shape in I, its run's columns in I."""

TABLE, ROTARY, INTERLEAVED, PLANE = range(4)
"""Columns of a rope."""

FAR = 1 << 60


@njit(nogil=True, _nrt=False)
def by_row(kind: Any) -> Any:
    """Whether a record of this kind computes each row from the same row alone."""
    return kind in (EMBED, QUANTISE, PREPARE, RMS_NORM, LAYER_NORM, ROPE, APPEND, ADD, GATED, ACTIVATE, SOFTCAP)


@njit(nogil=True, _nrt=False)
def append(F: Any, record: Any, rows: Any, layer: Any, I: Any, first: Any, last: Any) -> None:
    """Write the run's keys and values of rows [first, last) where the cache keeps them."""
    keys, values = floats_at(layer[KEYS], layer[COUNT]), floats_at(layer[VALUES], layer[COUNT])
    shape = I[layer[SHAPE] : layer[SHAPE] + FIELDS]
    heads, width, block = shape[KV_HEADS_OF], shape[WIDTH_OF], shape[BLOCK]
    for row in range(first, last):
        slot = I[layer[NEW] + row]
        if slot < 0:
            continue
        number = I[shape[TABLE_AT] + row // shape[TOKENS] * shape[TABLE_STRIDE] + slot // block]
        place = number * shape[STRIDE_BLOCK] + slot % block * shape[STRIDE_SLOT]
        for head in range(heads):
            to, source = place + head * shape[STRIDE_HEAD], (row * heads + head) * width
            for k in range(width):
                keys[to + k] = F[record[IN1] * rows + source + k]
                values[to + k] = F[record[IN2] * rows + source + k]


@njit(nogil=True, _nrt=False)
def linear(
    t: Any, team: Any, isa: Any, record: Any, rows: Any, mine: Any, segments: Any, ats: Any, F: Any, V: Any,
    Q: Any, D: Any, N: Any, L: Any, P: Any, G: Any, bytes_: Any, doubles: Any, stuck: Any,
) -> None:  # fmt: skip
    """This thread's share of panels of all segments of a record."""
    total = 0
    for s in range(record[SEGMENT], record[SEGMENT] + record[SEGMENTS]):
        total += (segments[s, OUTPUTS] + 31) // 32
    begin, end, before = total * t // team, total * (t + 1) // team, 0
    for s in range(record[SEGMENT], record[SEGMENT] + record[SEGMENTS]):
        segment = segments[s]
        outputs, width = segment[OUTPUTS], segment[INPUTS]
        pairs = (outputs + 31) // 32
        first, last = max(begin - before, 0) * 2, min(min(end - before, pairs) * 2, (outputs + 15) // 16)
        before += pairs
        if first >= last:
            continue
        held = stuck[0]
        weights = bytes_at(segment[ADDRESS], segment[BYTES])
        y0 = segment[COLUMN] * rows
        if record[KIND] == INTEGER:
            integer_linear(
                isa, segment[SEGMENT_KIND], weights, 0, ats[s], Q, D, N, L, mine, F, y0, outputs, first, last, outputs,
                width, V, segment[BIAS], record[FORM], bytes_, stuck,
            )  # fmt: skip
        else:
            real_linear(
                isa, segment[SEGMENT_KIND], weights, 0, ats[s], F, record[IN0] * rows, width, mine, y0, outputs, first,
                last, outputs, width, V, segment[BIAS], record[FORM], P, 0, G, 0, doubles, 0, stuck,
            )  # fmt: skip
        for n in range(held, min(stuck[0], stuck.size - 1)):
            stuck[1 + n] += segment[BEFORE]


@njit(nogil=True, _nrt=False)
def row_by_row(
    record: Any, numbers: Any, rows: Any, mine: Any, first: Any, last: Any, segments: Any, ats: Any, ids: Any, F: Any,
    V: Any, ropes: Any, layers: Any, I: Any, Q: Any, D: Any, N: Any, L: Any, P: Any, G: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last) of a record that takes each by itself."""
    kind, width, form = record[KIND], record[WIDTH], record[FORM]
    x, y = record[IN0] * rows, record[OUT] * rows
    if kind == QUANTISE:
        quantise_rows(F, x, width, first, last, width, Q, D, N, L)
    elif kind == PREPARE:
        prepare_rows(record[WHICH], F, x, width, mine, width, first, last, P, 0, G, 0)
    elif kind == RMS_NORM:
        heads = record[HEADS]
        part = width // heads
        rms_norm(
            F, x, width, V, record[W], y, width, heads, part, numbers[EPS], numbers[OFFSET], first, last, form, stuck
        )
    elif kind == LAYER_NORM:
        layer_norm(F, x, width, V, record[W], record[B], y, width, width, numbers[EPS], first, last, form, stuck)
    elif kind == ROPE:
        heads, turn = record[HEADS], ropes[record[WHICH]]
        table = doubles_at(turn[TABLE], 4 * turn[PLANE])
        rope(
            F, x, width, y, width, heads, width // heads, turn[ROTARY], turn[INTERLEAVED], numbers[SCALE], table, 0,
            turn[PLANE], first, last, form, stuck,
        )  # fmt: skip
    elif kind == EMBED:
        table, at = segments[record[SEGMENT]], ats[record[SEGMENT]]
        held = bytes_at(table[ADDRESS], table[BYTES])
        embed(table[SEGMENT_KIND], held, at, I, ids, width, numbers[SCALE], F, y, first, last, form)
    elif kind == APPEND:
        append(F, record, rows, layers[record[WHICH]], I, first, last)
    elif kind == ADD:
        add(F, x, width, record[IN1] * rows, width, y, width, width, first, last, form)
    elif kind == GATED:
        gated(F, record[WHICH], x, width, record[IN1] * rows, width, y, width, width, first, last, form, stuck)
    elif kind == ACTIVATE:
        activate(F, record[WHICH], x, width, y, width, width, first, last, form, stuck)
    else:
        softcap(F, x, width, y, width, width, numbers[CAP], first, last, form, stuck)


@njit(nogil=True, _nrt=False)
def columns_of(t: Any, team: Any, record: Any, numbers: Any, rows: Any, F: Any, stuck: Any) -> None:
    """This thread's columns of the one row of a gated activation or a soft cap."""
    width, form = record[WIDTH], record[FORM]
    blocks = (width + 15) // 16
    c, end = blocks * t // team * 16, min(blocks * (t + 1) // team * 16, width)
    if c >= end:
        return
    held, x, y = stuck[0], record[IN0] * rows + c, record[OUT] * rows + c
    if record[KIND] == GATED:
        gated(F, record[WHICH], x, width, record[IN1] * rows + c, width, y, width, end - c, 0, 1, form, stuck)
    else:
        softcap(F, x, width, y, width, end - c, numbers[CAP], 0, 1, form, stuck)
    for n in range(held, min(stuck[0], stuck.size - 1)):
        stuck[1 + n] += c


@njit(inline="always")
def step(
    t: Any, team: Any, isa: Any, start: Any, rows: Any, picked: Any, records: Any, reals: Any, segments: Any, ats: Any,
    F: Any, V: Any, ropes: Any, layers: Any, I: Any, M: Any, Q: Any, D: Any, N: Any, L: Any, P: Any, G: Any,
    all_bytes: Any, all_doubles: Any, meeting: Any, stops: Any, all_stuck: Any,
) -> Any:  # fmt: skip
    """Compute records from `start` on; return the number of the one at which Python has to act, or of the end.

    Args:
        t, team: this thread's number, and how many there are.
        isa: the instruction set.
        start: the first record.
        rows, picked: N, and how many rows are picked; I begins with their numbers, and goes on with all rows' ids.
        records, reals, segments, ats, ropes, layers: see `lepton_ref.backends.numba_plan` and the top of this page.
        F, V: the arena, and all vectors.
        I, M: integers and masks of attention.
        Q, D, N, L: a linear layer's rows as integers, their scales, sums and lengths.
        P, G: a linear layer's rows as real numbers, and cut into digits.
        all_bytes, all_doubles: scratch of each thread.
        meeting, stops: the barrier; where each thread has stopped, as seen at one barrier and the next, and for good.
        all_stuck: each thread's elements that are left to Python.
    """
    stuck, meetings, local, stop = all_stuck[t], 0, False, FAR
    count = records.shape[0]
    for number in range(start, count + 1):
        at_end = number == count
        record = records[min(number, count - 1)]
        kind = record[KIND]
        mine = picked if record[ROWS] == PICKED else rows
        spread = team > 1 and mine == 1 and kind in (GATED, SOFTCAP)
        still_local = by_row(kind) and not spread and not at_end
        if number > start and not (local and still_local):
            atomic_store(stops, meetings % 2 * team + t, stop)
            if not barrier(meeting, team):
                return FAR
            earliest = FAR
            for other in range(team):
                earliest = min(earliest, atomic_load(stops, meetings % 2 * team + other))
            if earliest < FAR:
                return earliest
            meetings += 1
        if at_end or kind == OUTSIDE:
            return number
        local = still_local
        if stop < FAR:
            continue
        if still_local:
            first, last = mine * t // team, mine * (t + 1) // team
            if first < last:
                row_by_row(
                    record, reals[number], rows, mine, first, last, segments, ats, picked, F, V, ropes, layers, I, Q, D,
                    N, L, P, G, stuck,
                )  # fmt: skip
        elif spread:
            columns_of(t, team, record, reals[number], rows, F, stuck)
        elif kind == PICK:
            width = record[WIDTH]
            for row in range(mine * t // team, mine * (t + 1) // team):
                for k in range(width):
                    F[record[OUT] * rows + row * width + k] = F[record[IN0] * rows + I[row] * width + k]
        elif kind == ATTENTION:
            layer = layers[record[WHICH]]
            shape = I[layer[SHAPE] : layer[SHAPE] + FIELDS]
            keys, values = floats_at(layer[KEYS], layer[COUNT]), floats_at(layer[VALUES], layer[COUNT])
            scale, cap, form, at = reals[number][SCALE], reals[number][CAP], record[FORM], layer[SHAPE]
            if team > 1 and shape[TOKENS] == 1:
                size, every = all_doubles.shape[1], doubles_at(all_doubles.ctypes.data, all_doubles.size)
                if pieces(t, team, F, keys, values, I, at, M, scale, cap, every, size, form, stuck):
                    if not barrier(meeting, team):
                        return FAR
                    join(t, team, F, keys, values, I, at, M, scale, cap, every, size, form, stuck)
            else:
                work = units(shape[TOKENS], shape[BATCH], shape[KV_HEADS_OF], shape[QUERIES])
                first, last = work * t // team, work * (t + 1) // team
                attention(F, keys, values, I, at, M, scale, cap, first, last, all_doubles[t], 0, form, stuck)
        else:
            linear(
                t, team, isa, record, rows, mine, segments, ats, F, V, Q, D, N, L, P, G, all_bytes[t],
                all_doubles[t], stuck,
            )  # fmt: skip
        if stuck[0] > 0:
            stop = number
            stops[2 * team + t] = number
    return count
