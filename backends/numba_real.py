r"""Linear layers on activations as they are: float64 sums over panels, a proven bound, and exact sums for the rest.

    y[row, o] = Σₖ x[row, k]·w[o, k] + b[o], rounded once

A call has two parts. `prepare_rows` copies rows of x to float64 (or cuts them into digits: `numba_real_digits`) and
measures their lengths; `real_linear` multiplies some panels by all rows. Threads share both by rows and by panels.

Few rows are taken one by one, the weights streaming past. More go through register tiles, `numba_real_tile`: two panels
are decoded to float64, some hundred columns at a time, and multiplied by six rows at a time.

Bound. A chain of n fused multiply-adds errs by γₙ·Σ |xₖ·wₖ| (Higham, Accuracy and Stability, §3.1); adding m parts and
a bias passes m roundings more, so the value is within γₙ₊ₘ·(‖x‖·‖w‖ + |b|) of the exact one, Σ |xₖ·wₖ| ≤ ‖x‖·‖w‖. Four
units more cover the rounding test, the lengths and the bound's own arithmetic. Neither float32 products nor their sums
leave float64's range. A length that is no number leaves everything open; so does a zero whose sign is in doubt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_bytes import prefetch
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_real_dense import dense_dot, dense_unpack
from lepton_ref.backends.numba_real_blocks import unpack_block
from lepton_ref.backends.numba_real_digits import cut
from lepton_ref.backends.numba_real_exact import add_products, add_term, decide, load_f64
from lepton_ref.backends.numba_real_kinds import store_some
from lepton_ref.backends.numba_real_quantised import quantised_dot, roundings, whole_length
from lepton_ref.backends.numba_real_tile import BREADTH, HEIGHT, tile
from lepton_ref.backends.numba_rounding import as_bits, round_once, splat_f64, to_f32, to_f64
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_types import F32X16, F64X16
from lepton_ref.backends.numba_vectors import absolute, bits_of, fma, lane, loader, select, storer, total

COLUMNS = 128
"""Columns that are decoded at a time."""

ROWS = 132
"""Rows that are taken together in tiles."""

TILE_ROWS = 4
"""So many rows and more go through tiles."""

UNIT = 2.0**-53
UPWARD = 1 + 2.0**-20
load_f32, store_f64 = loader(F32X16), storer(F64X16)


@njit(nogil=True, cache=True)
def length_of(F: Any, x: Any, width: Any) -> Any:
    """At least ‖x‖, by less than a part in 10⁶; NaN where there is none."""
    a = splat_f64(0.0)
    b = splat_f64(0.0)
    whole = width - width % 32
    for k in range(0, whole, 32):
        v = to_f64(load_f32(F, x + k))
        a = fma(v, v, a)
        v = to_f64(load_f32(F, x + k + 16))
        b = fma(v, v, b)
    rest = total(a + b)
    for k in range(whole, width):
        rest += np.float64(F[x + k]) ** 2
    length = np.sqrt(rest) * UPWARD
    return length if length < np.inf else np.nan


@njit(nogil=True, cache=True)
def prepare_rows(
    kind: Any, F: Any, x0: Any, xstride: Any, rows: Any, width: Any, first: Any, last: Any,
    P: Any, p0: Any, D: Any, d0: Any,
) -> None:  # fmt: skip
    """Lengths of the rows [first, last), P[p0 + row], and behind all lengths their numbers in float64.

    Few rows lie one after the other; more in tiles, [width / 128][rows / 6][128][6], what is behind the last row being 0.
    """
    padded = (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    body = p0 + padded
    for row in range(first, last):
        P[p0 + row] = length_of(F, x0 + row * xstride, width)
    if rows < TILE_ROWS:
        blocks = (width + 31) // 32
        for row in range(first, last):
            if kind < F32:
                left = cut(F, x0 + row * xstride, width, D, d0 + 160 * blocks * row, P, body + 3 * blocks * row)
                P[p0 + row] = whole_length(P[p0 + row], left, blocks)
                continue
            for k in range(width):
                P[body + row * width + k] = F[x0 + row * xstride + k]
        return
    for row in range(first, padded if last == rows else last):
        for start in range(0, width, COLUMNS):
            count = min(COLUMNS, width - start)
            at = body + padded * start + row // HEIGHT * HEIGHT * count + row % HEIGHT
            for k in range(count):
                P[at + HEIGHT * k] = F[x0 + row * xstride + start + k] if row < rows else 0.0


@njit(nogil=True, cache=True)
def lengths_of(kind: Any, W: Any, at: Any, panel: Any) -> Any:
    """The lengths of sixteen rows of the weight; infinite ones as NaN."""
    length = to_f64(load_f32(W, at + (128 if kind < F32 else 64) * panel))
    good = length < splat_f64(np.inf)
    if kind < F32:
        good = good & (length > splat_f64(0.0))
    return select(good, length, splat_f64(np.nan))


@njit(nogil=True, cache=True)
def tested(value: Any, bound: Any, form: Any) -> Any:
    """`(f64, f64, format) -> (f32, int64)`: `round_once`, its common case emitted where it is used."""
    if form != 0:
        return round_once(value, bound, form)
    low, high = to_f32(value - bound), to_f32(value + bound)
    return low, bits_of(as_bits(low) != as_bits(high)) | bits_of(bound != bound)


@njit(nogil=True, cache=True)
def bias_of(B: Any, start: Any, live: Any, S: Any, s0: Any) -> Any:
    """Sixteen biases, or fewer and zeros, as float64."""
    if live == 16:
        return to_f64(load_f32(B, start))
    for i in range(16):
        S[s0 + i] = np.float64(B[start + i]) if i < live else 0.0
    return load_f64(S, s0)


@njit(nogil=True, cache=True, inline="never")
def settle(
    open_: Any, bias: Any, bias0: Any, kind: Any, W: Any, w0: Any, at: Any, F: Any, x: Any, y: Any, row: Any,
    panel: Any, width: Any, form: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """The second stage of the open lanes: see `numba_real_exact`; what it leaves open is noted in `stuck`."""
    sums = (splat_f64(-0.0), splat_f64(-0.0), splat_f64(0.0))
    for first in range(0, width, COLUMNS):
        last = min(first + COLUMNS, width)
        unpack(kind, W, w0, at, panel, width, first, last, S, s0)
        sums = add_products(S, s0, last - first, F, x + first, sums)
    if bias0 >= 0:
        sums = add_term(bias, sums)
    rounded, still = decide(sums, form)
    for i in range(16):
        if open_ >> i & 1:
            F[y + i] = lane(rounded, i)
            if still >> i & 1:
                push(stuck, row, 16 * panel + i)


@njit(nogil=True, cache=True)
def unpack(kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, first: Any, last: Any, S: Any, s: Any) -> None:
    """Columns [first, last) of a panel as float64: S[s + 32·(k − first) + r]."""
    if kind >= F32:
        dense_unpack(kind, W, w0 + at[0], panel, width, first, last, S, s)
        return
    for b in range(first // 32, (last + 31) // 32):
        unpack_block(kind, W, w0, at, panel, width, b, S, s + 32 * (32 * b - first))


@njit(nogil=True, cache=True)
def real_linear(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, F: Any, x0: Any, xstride: Any, rows: Any, y0: Any, ystride: Any,
    first_panel: Any, last_panel: Any, outputs: Any, width: Any, B: Any, bias0: Any, form: Any,
    P: Any, p0: Any, D: Any, d0: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """Panels [first_panel, last_panel) times all rows: F[y0 + row·ystride + o]; see the top of the page.

    Args:
        isa: the instruction set.
        kind: of the panels.
        W: uint8, the weights' bytes from w0 on; `at` has the offsets of the panels' parts behind that.
        w0: see W.
        at: see W.
        F: float32, x and y.
        x0: place of x's first row.
        xstride: from one row of x to the next.
        rows: of x and y.
        y0: place of y's first row.
        ystride: from one row of y to the next.
        first_panel: the share's first panel of sixteen outputs.
        last_panel: the panel behind its last.
        outputs: of the whole weight.
        width: inputs.
        B: float32, biases.
        bias0: place of the first bias; −1 for none.
        form: format of y, by number.
        P: float64, what `prepare_rows` made, from p0 on.
        p0: see P.
        D: int8, digits likewise, from d0 on.
        d0: see D.
        S: float64, this thread's scratch of `scratch_size`, from s0 on.
        s0: see S.
        stuck: where elements are noted that nothing here settles.
    """
    if rows >= TILE_ROWS:
        _by_tiles(
            isa, kind, W, w0, at, F, x0, xstride, rows, y0, ystride, first_panel, last_panel, outputs, width,
            B, bias0, form, P, p0, S, s0, stuck,
        )  # fmt: skip
        return
    body = p0 + (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    blocks = (width + 31) // 32
    unit = (roundings(blocks) if kind < F32 else width // 4 + 10) * UNIT * UPWARD
    bias, more = splat_f64(0.0), splat_f64(0.0)
    for panel in range(first_panel, last_panel):
        column = 16 * panel
        live = min(16, outputs - column)
        mask = (1 << live) - 1
        lengths = lengths_of(kind, W, w0 + at[4], panel)
        if bias0 >= 0:
            bias = bias_of(B, bias0 + column, live, S, s0)
            more = absolute(bias) * splat_f64(unit)
        for row in range(rows):
            if kind < F32:
                digits, place = d0 + 160 * blocks * row, body + 3 * blocks * row
                value = quantised_dot(isa, kind, W, w0, at, panel, width, D, digits, P, place)
            else:
                value = dense_dot(kind, W, w0 + at[0], panel, P, body + row * width, width)
            if bias0 >= 0:
                value = value + bias
            rounded, opened = tested(value, fma(lengths, splat_f64(P[p0 + row] * unit), more), form)
            opened &= mask
            y = y0 + row * ystride + column
            store_some(F, y, live, rounded)
            if opened != 0:
                x = x0 + row * xstride
                settle(opened, bias, bias0, kind, W, w0, at, F, x, y, row, panel, width, form, S, s0, stuck)


@njit(nogil=True, cache=True)
def _by_tiles(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, F: Any, x0: Any, xstride: Any, rows: Any, y0: Any, ystride: Any,
    first_panel: Any, last_panel: Any, outputs: Any, width: Any, B: Any, bias0: Any, form: Any,
    P: Any, p0: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """Pairs of panels, some columns at a time; while they are multiplied, the bytes that come next are asked for."""
    padded = (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    body, sums = p0 + padded, s0 + BREADTH * COLUMNS
    unit = (min(width, COLUMNS) + width // COLUMNS + 7) * UNIT * UPWARD
    codes, column = w0 + at[0], bytes_of_column(kind)
    for top in range(0, padded, ROWS):
        count = min(ROWS, padded - top)
        for panel in range(first_panel, last_panel, 2):
            both = panel + 1 < last_panel
            for i in range(0, count * BREADTH, 16):
                store_f64(S, sums + i, splat_f64(-0.0))
            for first in range(0, width, COLUMNS):
                last = min(first + COLUMNS, width)
                unpack(kind, W, w0, at, panel, width, first, last, S, s0)
                if both:
                    unpack(kind, W, w0, at, panel + 1, width, first, last, S, s0 + 16)
                ahead = codes + (panel * width + last if last < width else (panel + 2) * width) * column
                lines = (COLUMNS * column // 64 * HEIGHT + count - 1) // count
                for row in range(0, count, HEIGHT):
                    for _ in range(lines):
                        prefetch(W, ahead)
                        prefetch(W, ahead + width * column)
                        ahead += 64
                    x = body + padded * first + (top + row) * (last - first)
                    tile(isa, P, x, S, s0, S, sums + row * BREADTH, last - first)
            for half in range(2 if both else 1):
                _round_panel(
                    kind, W, w0, at, F, x0 + top * xstride, xstride, top, min(count, rows - top), y0 + top * ystride,
                    ystride, panel + half, outputs, width, B, bias0, form, P, p0, unit, sums + 16 * half, S, s0, stuck,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def bytes_of_column(kind: Any) -> Any:
    """Bytes of a panel's codes in one column."""
    if kind < F32:
        return 16 if kind == 0 or kind == 8 else 8
    return 64 if kind == F32 else 32


@njit(nogil=True, cache=True)
def _round_panel(
    kind: Any, W: Any, w0: Any, at: Any, F: Any, x: Any, xstride: Any, top: Any, count: Any, y: Any, ystride: Any,
    panel: Any, outputs: Any, width: Any, B: Any, bias0: Any, form: Any, P: Any, p0: Any, unit: Any,
    place: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """Round the sums of a panel, S[place + 32·row …]; x, y and `top` belong to the first of `count` rows."""
    column = 16 * panel
    live = min(16, outputs - column)
    mask = (1 << live) - 1
    lengths = lengths_of(kind, W, w0 + at[4], panel)
    bias, more = splat_f64(0.0), splat_f64(0.0)
    if bias0 >= 0:
        bias = bias_of(B, bias0 + column, live, S, s0)
        more = absolute(bias) * splat_f64(unit)
    for row in range(count):
        value = load_f64(S, place + row * BREADTH)
        if bias0 >= 0:
            value = value + bias
        rounded, opened = tested(value, fma(lengths, splat_f64(P[p0 + top + row] * unit), more), form)
        opened &= mask
        here = y + row * ystride + column
        store_some(F, here, live, rounded)
        if opened != 0:
            settle(
                opened, bias, bias0, kind, W, w0, at, F, x + row * xstride, here, top + row, panel, width, form,
                S, s0, stuck,
            )  # fmt: skip
