"""Tiles of rows times two panels, one after the other, and their sums to float32 while they are in registers.

A tile has as many rows as the registers hold sums for; with fewer rows than that, each is a tile of its own.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_bytes import one_f64_at
from lepton_ref.backends.numba_integer_finish import EXACT
from lepton_ref.backends.numba_integer_sums import (
    Tile,
    no_sums,
    rounded_sums,
    rows_of,
    store_rounded,
    store_sums,
    zeros_among,
)
from lepton_ref.backends.numba_integer_tile import add_block, ask_for_eight
from lepton_ref.backends.numba_integer_unpack import has_minimum, has_zero
from lepton_ref.backends.numba_jit import njit

MANY_PLAIN, MANY_ZERO, MANY_MINIMUM, MANY_HALVES = (
    Tile(4, 2, "plain"), Tile(4, 2, "zero"), Tile(4, 2, "minimum"), Tile(2, 2, "halves"),
)  # fmt: skip
ONE_PLAIN, ONE_ZERO, ONE_MINIMUM, ONE_HALVES = (
    Tile(1, 2, "plain"), Tile(1, 2, "zero"), Tile(1, 2, "minimum"), Tile(1, 2, "halves"),
)  # fmt: skip
SUMS = 128 * 2 * 4
"""Bytes of the sums of the largest tile."""


@njit(nogil=True)
def tile_height(kind: Any, rows: Any) -> Any:
    """How many rows a tile has, of so many in all."""
    most = 2 if kind == 7 else 4
    return most if rows >= most else 1


@njit(nogil=True)
def tiles(isa: Any, kind: Any, row: Any, rows: Any, places: Any) -> Any:
    """What `tile_rows` gives for a kind of weights. places: its arguments from C on."""
    many = tile_height(kind, rows) > 1
    if kind == 7:
        if many:
            return tile_rows(isa, MANY_HALVES, row, rows, *places)
        return tile_rows(isa, ONE_HALVES, row, rows, *places)
    if has_minimum(kind):
        if many:
            return tile_rows(isa, MANY_MINIMUM, row, rows, *places)
        return tile_rows(isa, ONE_MINIMUM, row, rows, *places)
    if has_zero(kind):
        return tile_rows(isa, MANY_ZERO, row, rows, *places) if many else tile_rows(isa, ONE_ZERO, row, rows, *places)
    return tile_rows(isa, MANY_PLAIN, row, rows, *places) if many else tile_rows(isa, ONE_PLAIN, row, rows, *places)


@njit(nogil=True)
def tile_rows(
    isa: Any, tile: Any, row: Any, rows: Any, C: Any, codes: Any, width: Any, S: Any, stride: Any, scales: Any, Q: Any,
    D: Any, blocks: Any, starts: Any, step: Any, weighted: Any, lengths: Any, reach: Any, out: Any, y: Any, y_step: Any,
    line: Any, end: Any, eights: Any,
) -> Any:  # fmt: skip
    """Tiles of rows from `row` on, for as long as their sums are exact and none is 0; see `add_block`.

    Args:
        isa, tile: the instruction set, and the tile.
        row, rows: the first row, and the end of all. The last tile begins early enough to have all its rows.
        C, codes, width: the first panel's codes, and how far the next one's are.
        S, scales, stride: the first panel's scales, and how far the next one's are; what the mode asks for is behind
            each panel's scales.
        Q, D: codes and scales of row 0.
        blocks: of a row.
        starts, step: in S what dots of row 0 start from, and its size for a block.
        weighted: in S d·Σq of row 0.
        lengths: the address of the rows' lengths, as `quantise_rows` leaves them.
        reach: the largest length in grains of the panels' rows; infinite where no sum is to be taken for exact.
        out: in S the sums of a tile that is left to the caller.
        y, y_step: where row 0 is rounded to, and how far the next one is.
        line, end, eights: cache lines that are wanted later, and how often eight of them are asked for in a tile.

    Returns:
        The first row of the tile that is left, or `rows`; and the line that is next.
    """
    count = rows_of(tile)
    extra = scales + 128 * blocks
    while row < rows:
        row = min(row, rows - count)
        before = row * blocks
        if line >= end:
            eights = 0
        sums = no_sums(tile)
        for b in range(blocks):
            if b < eights:  # two branches, since beside a loop LLVM does not keep the sums in registers
                ask_for_eight(line)
                line += 512
            if b < eights - blocks:
                ask_for_eight(line)
                line += 512
            at = before + b
            sums = add_block(
                isa, tile, sums, C, codes + 512 * b, width, S, stride, scales + 128 * b, extra + 128 * b, Q, 32 * at, D,
                8 * at, blocks, starts + step * at, weighted + 8 * at,
            )  # fmt: skip
        length = one_f64_at(lengths + 16 * row + 8)
        for i in range(1, count):
            length = max(length, one_f64_at(lengths + 16 * (row + i) + 8))
        rounded = rounded_sums(tile, sums)
        if not length * reach < EXACT or zeros_among(tile, rounded):
            store_sums(tile, sums, S + out)
            return row, line
        store_rounded(tile, rounded, y + y_step * row, y_step)
        row += count
    return rows, line
