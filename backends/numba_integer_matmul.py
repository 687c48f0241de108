"""Many rows of activations times panels: two panels at a time are unpacked once, then tiles of rows pass by.

Scratch, in bytes: what dots start from (int32 [rows][blocks][2]), d·Σq (float64 [rows][blocks]), the sums of one tile,
and two panels as `numba_integer_unpack` has them, each in 768 bytes for a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import (
    address,
    f64_at,
    i32_at,
    int_to_f64,
    pair_sums,
    prefetch_to_second,
    put_f64,
    put_i32,
    store_f64,
    store_i32,
)
from lepton_ref.backends.numba_integer_finish import finish, reach_of
from lepton_ref.backends.numba_integer_repair import repair_open
from lepton_ref.backends.numba_integer_sums import LOWEST
from lepton_ref.backends.numba_integer_tiles import SUMS, tile_height, tiles
from lepton_ref.backends.numba_integer_unpack import has_zero, unpack_codes, unpack_scales
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import OFFSETS
from lepton_ref.backends.numba_rounding import splat_i32


@njit(nogil=True, cache=True)
def scratch_bytes(width: Any, rows: Any) -> Any:
    """Bytes that `integer_linear` needs for itself."""
    blocks = (width + 31) // 32
    return 16 * rows * blocks + SUMS + 2 * 768 * blocks + 64


@njit(nogil=True)
def prepare(kind: Any, d: Any, sums: Any, rows: Any, blocks: Any, S: Any, starts: Any, weighted: Any) -> None:
    """What dots start from, and d·Σq."""
    factor = -np.int64(1 if has_zero(kind) else OFFSETS[kind])
    raised = np.int64(0 if has_zero(kind) else LOWEST)  # see `numba_integer_sums`
    many, more = splat_i32(np.int32(factor)), splat_i32(np.int32(raised))
    N, D = address(sums), address(d)
    count = rows * blocks
    for i in range(0, count // 16 * 16, 16):
        one, two = i32_at(N + 8 * i), i32_at(N + 8 * i + 64)
        both = pair_sums(one, two)
        if kind == 7:
            store_i32(S, starts + 8 * i, one * many)
            store_i32(S, starts + 8 * i + 64, two * many)
        else:
            store_i32(S, starts + 4 * i, both * many + more)
        store_f64(S, weighted + 8 * i, int_to_f64(both) * f64_at(D + 8 * i))
    for i in range(count // 16 * 16, count):
        both_ = np.int64(sums[2 * i]) + sums[2 * i + 1]
        if kind == 7:
            put_i32(S, starts + 8 * i, np.int32(factor * sums[2 * i]))
            put_i32(S, starts + 8 * i + 4, np.int32(factor * sums[2 * i + 1]))
        else:
            put_i32(S, starts + 4 * i, np.int32(factor * both_ + raised))
        put_f64(S, weighted + 8 * i, d[i] * np.float64(both_))


@njit(nogil=True)
def many_rows(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, q: Any, d: Any, sums: Any, lengths: Any, rows: Any, F: Any,
    y0: Any, ystride: Any, first_panel: Any, last_panel: Any, outputs: Any, width: Any, bias: Any, bias0: Any,
    form: Any, unit: Any, S: Any, stuck: Any,
) -> None:  # fmt: skip
    """As `numba_integer.integer_linear`."""
    blocks = (width + 31) // 32
    starts, weighted = 0, 8 * rows * blocks
    out = weighted + 8 * rows * blocks
    unpacked = (address(S) + out + SUMS + 63) // 64 * 64 - address(S)  # no vector of codes lies in two cache lines
    stride, wide, step = 256 * blocks, 512 * blocks, 8 if kind == 7 else 4
    scales = unpacked + 2 * wide
    bytes_ = kind in (0, 8)
    C, scratch = address(W) if bytes_ else address(S), address(S)
    Q, D, ys, biases, lengths_of = address(q), address(d), address(F), address(bias), address(W) + w0 + at[4]
    prepare(kind, d, sums, rows, blocks, S, starts, weighted)
    base, all_ = address(W) + w0, (outputs + 15) // 16
    size = 512 * blocks if bytes_ else 256 * blocks
    count = tile_height(kind, rows)
    times = (rows + count - 1) // count
    eights = (2 * size // 512 + times - 1) // times
    plain = form == 0 and bias0 < 0
    for panel in range(first_panel, last_panel, 2):
        for part in range(1, 4):
            some = (at[part + 1] - at[part]) // all_
            for line in range(some * (panel + 2), some * (panel + 4), 64):
                prefetch_to_second(base + at[part] + line)
        both = min(2, last_panel - panel)
        codes = w0 + at[0] + wide * panel if bytes_ else unpacked
        for j in range(both):
            here = scales + j * stride
            unpack_scales(kind, W, w0, at, blocks, panel + j, S, here, here + 128 * blocks, here + 128 * blocks, True)
            if not bytes_:
                unpack_codes(kind, W, w0, at, blocks, panel + j, S, unpacked + j * wide)
        far = lengths_of + 128 * panel
        reach, second = reach_of(far), reach_of(far + 128) if both == 2 else np.inf
        exact = max(reach, second) if plain and 16 * panel + 32 <= outputs else np.inf
        done, line = np.int64(0), base + at[0] + size * (panel + 2)  # of the next two panels, while these are used
        end = line + 2 * size
        while done < rows:
            # a panel that is not there has the codes of the one before it
            places = (
                C, codes, wide if both == 2 else 0, scratch, stride, scales, Q, D, blocks, starts, step, weighted,
                address(lengths), exact, out, ys + 4 * (y0 + 16 * panel), 4 * ystride, line, end, eights,
            )  # fmt: skip
            row, line = tiles(isa, kind, done, rows, places)
            if row == rows:
                break
            done += (row - done + count - 1) // count * count  # the last tile has rows of the one before it
            for i in range(done - row, count):
                length, grains = lengths[2 * (row + i)], lengths[2 * (row + i) + 1]
                for j in range(both):
                    column = 16 * (panel + j)
                    some, y = min(np.int64(16), outputs - column), y0 + (row + i) * ystride + column
                    bias_at = bias0 + column if bias0 >= 0 else np.int64(-1)
                    bias_place = biases + 4 * bias_at if bias0 >= 0 else np.int64(0)
                    opened = finish(
                        f64_at(scratch + out + 128 * (2 * i + j)), unit, length, grains, far + 128 * j,
                        second if j else reach, bias_place, ys + 4 * y, some, form,
                    )  # fmt: skip
                    if opened:
                        repair_open(
                            opened, kind, W, w0, at, q, d, sums, row + i, column, width, bias, bias_at, form, F, y,
                            stuck,
                        )  # fmt: skip
            done = row + count
