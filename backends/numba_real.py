r"""Linear layers on activations as they are: float64 sums over panels, a proven bound, and exact sums for the rest.

    y[row, o] = Σₖ x[row, k]·w[o, k] + b[o], rounded once

A call has two parts: `prepare_rows` of `lepton_ref.backends.numba_real_rows`, then `real_linear`, which multiplies some
panels by all rows. Threads share the one by rows, the other by panels.

Quantised panels are multiplied in digits, block by block: see `numba_real_quantised`. Of dense ones few rows are taken
one by one, the weights streaming past; more go through register tiles, `numba_real_tile`: two panels are decoded to
float64, some columns at a time, and multiplied by six rows at a time.

Bound. A chain of n fused multiply-adds errs by γₙ·Σ |xₖ·wₖ| (Higham, Accuracy and Stability, §3.1); adding m parts and
a bias passes m roundings more, so the value is within γₙ₊ₘ·(‖x‖·‖w‖ + |b|) of the exact one, Σ |xₖ·wₖ| ≤ ‖x‖·‖w‖. Four
units more cover the rounding test, the lengths and the bound's own arithmetic. Neither float32 products nor their sums
leave float64's range. A length that is no number leaves everything open; so does a zero whose sign is in doubt.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_real_dense import column_bytes, dense_dot, store_f64
from lepton_ref.backends.numba_real_kinds import prefetch
from lepton_ref.backends.numba_real_quantised import quantised_dot, roundings
from lepton_ref.backends.numba_real_round import round_panel, unpack
from lepton_ref.backends.numba_real_rows import COLUMNS, TILE_ROWS, UPWARD, prepare_rows
from lepton_ref.backends.numba_real_tile import BREADTH, HEIGHT, tile
from lepton_ref.backends.numba_real_unpacked import unpack_panel, unpacked_dots
from lepton_ref.backends.numba_rounding import splat_f64

__all__ = ["prepare_rows", "real_linear"]

ROWS = 132
"""Rows that are taken together in tiles."""

UNIT = 2.0**-53


@njit(nogil=True, cache=True, _nrt=False)
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
    if kind >= F32 and rows >= TILE_ROWS:
        _by_tiles(
            isa, kind, W, w0, at, F, x0, xstride, rows, y0, ystride, first_panel, last_panel, outputs, width,
            B, bias0, form, P, p0, S, s0, stuck,
        )  # fmt: skip
        return
    body, blocks = p0 + (rows + HEIGHT - 1) // HEIGHT * HEIGHT, (width + 31) // 32
    sums, codes = s0 + BREADTH * COLUMNS, s0 + BREADTH * COLUMNS + 16 * rows
    unit = (roundings(blocks) if kind < F32 else width // 4 + 10) * UNIT * UPWARD
    for panel in range(first_panel, last_panel):
        if kind >= F32:
            for row in range(rows):
                value = dense_dot(kind, W, w0, at, panel, P, body + row * width, width)
                store_f64(S, sums + 16 * row, value)
        elif rows == 1:
            store_f64(S, sums, quantised_dot(isa, kind, W, w0, at, panel, width, D, d0, P, body))
        else:
            unpack_panel(kind, W, w0, at, panel, blocks, S, codes)
            unpacked_dots(isa, kind, S, codes, blocks, rows, D, d0, P, body, sums)
        round_panel(
            kind, W, w0, at, F, x0, xstride, 0, rows, y0, ystride, panel, outputs, width, B, bias0, form, P, p0, unit,
            sums, 16, S, s0, stuck,
        )  # fmt: skip


@njit(nogil=True, cache=True, _nrt=False)
def _by_tiles(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, F: Any, x0: Any, xstride: Any, rows: Any, y0: Any, ystride: Any,
    first_panel: Any, last_panel: Any, outputs: Any, width: Any, B: Any, bias0: Any, form: Any,
    P: Any, p0: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """Pairs of panels, some columns at a time; while they are multiplied, the bytes that come next are asked for."""
    padded = (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    body, sums = p0 + padded, s0 + BREADTH * COLUMNS
    unit = (min(width, COLUMNS) + width // COLUMNS + 7) * UNIT * UPWARD
    codes, column = w0 + at[0], column_bytes(kind)
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
                round_panel(
                    kind, W, w0, at, F, x0 + top * xstride, xstride, top, min(count, rows - top), y0 + top * ystride,
                    ystride, panel + half, outputs, width, B, bias0, form, P, p0, unit, sums + 16 * half, BREADTH,
                    S, s0, stuck,
                )  # fmt: skip
