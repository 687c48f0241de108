"""Some rows of activations times two panels at once: every vector of codes and every broadcast serves several sums.

A tile keeps rows × panels sums of sixteen float64 in registers. For one block of 32 inputs it makes as many exact
int32 dots, then adds d·scale·dot to each sum, and what its mode asks for:

    plain      the dot starts at −offset·Σq
    zero       the dot starts at −zero·Σq, zero being of each weight row
    minimum    the dot starts at 0, and minimum·(d·Σq) is added to the sum
    halves     the dots of either half start at −offset·Σq, are multiplied by factors, and added as integers

C, S, Q and D are addresses, and places in them count bytes. Panels lie as `numba_integer_unpack` leaves them. Each term
is exact and is added by one fused multiply-add, in the same order whatever the tile, so that a row's sums do not depend
on its neighbours.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_constant
from numba.extending import intrinsic, models, register_model, typeof_impl

from lepton_ref.backends.numba_bytes import prefetch_to_second
from lepton_ref.backends.numba_dot import IsaType, dotted
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_types import F32X16, F64X16, I8X64, I32, I32X16, I64, declared, splatted


class Tile:
    """The shape and mode of a tile, as a value that kernels take."""

    def __init__(self, rows: int, panels: int, mode: str) -> None:
        self.rows, self.panels, self.mode = rows, panels, mode


class TileType(types.Type):  # Numba has no type hints
    """The type of one tile: all of it is in the type."""

    def __init__(self, rows: int, panels: int, mode: str) -> None:
        self.rows, self.panels, self.mode = rows, panels, mode
        super().__init__(name=f"Tile({rows}, {panels}, {mode})")

    @property
    def sums(self) -> Any:
        """The type of its sums."""
        return types.UniTuple(F64X16, self.rows * self.panels)


@register_model(TileType)
class TileModel(models.OpaqueModel):
    """Nothing at run time."""


@typeof_impl.register(Tile)
def _type_of_tile(value: Tile, context: Any) -> TileType:
    return TileType(value.rows, value.panels, value.mode)


@lower_constant(TileType)
def _nothing(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()


@intrinsic
def no_sums(typing: Any, tile: Any) -> Any:
    """`(tile) -> sums`: zeros."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = tile.rows * tile.panels
        return cgutils.pack_array(builder, [ir.Constant(F64X16.llvm, None)] * count)

    return tile.sums(tile), emit


@intrinsic
def store_sums(typing: Any, tile: Any, sums: Any, place: Any) -> Any:
    """`(tile, sums, address)`: all of them, row by row."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i in range(tile.rows * tile.panels):
            place = builder.inttoptr(builder.add(args[2], ir.Constant(I64, 128 * i)), F64X16.llvm.as_pointer())
            builder.store(builder.extract_value(args[1], i), place).align = 1
        return context.get_dummy_value()

    return types.none(tile, sums, types.int64), emit


@intrinsic
def store_rounded(typing: Any, tile: Any, sums: Any, place: Any, step: Any) -> Any:
    """`(tile, sums, address, step) -> int64`: rounded to float32 at the address, a row every `step` bytes.

    What it gives is not 0 if one of the sums is.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing, zeros = ir.Constant(F64X16.llvm, None), []
        for i in range(tile.rows * tile.panels):
            row, panel = divmod(i, tile.panels)
            ahead = builder.add(builder.mul(args[3], ir.Constant(I64, row)), ir.Constant(I64, 64 * panel))
            value = builder.extract_value(args[1], i)
            where = builder.inttoptr(builder.add(args[2], ahead), F32X16.llvm.as_pointer())
            builder.store(builder.fptrunc(value, F32X16.llvm), where).align = 1
            zeros.append(builder.bitcast(builder.fcmp_ordered("==", value, nothing), ir.IntType(16)))
        return builder.zext(functools.reduce(builder.or_, zeros), I64)

    return types.int64(tile, sums, types.int64, types.int64), emit


class _Reader:
    """Loads at places of arrays, while code is emitted."""

    def __init__(self, builder: Any, args: Any) -> None:
        self.builder, self.args = builder, args

    def at(self, number: int, index: Any, llvm: Any, more: Any) -> Any:
        """What lies `more` bytes behind `index` in argument `number`, an address."""
        place = self.builder.add(self.args[number], self.builder.add(index, more))
        value = self.builder.load(self.builder.inttoptr(place, llvm.as_pointer()))
        value.align = 1
        return value


@intrinsic
def add_block(
    typing: Any, isa: Any, tile: Any, sums: Any, C: Any, codes: Any, width: Any, S: Any, stride: Any, scales: Any,
    extra: Any, Q: Any, q: Any, D: Any, d: Any, blocks: Any, starts: Any, weighted: Any,
) -> Any:  # fmt: skip
    """The sums with one block more.

    `(isa, tile, sums, C, codes, width, S, stride, scales, extra, Q, q, D, d, blocks, starts, weighted) -> sums`: of the
    first panel's block the codes in C, in S the scales and the minima, zeros or factors; of the first row the codes at
    Q[q], the scale at D[d], and in S what its dots start from (int32) and d·Σq (float64). Rows follow one another by
    `blocks`, panels by `width` in C and by `stride` in S.
    """
    if not isinstance(isa, IsaType) or not isinstance(tile, TileType):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _Block(builder, args, isa, tile).sums()

    return tile.sums(isa, tile, sums, *[types.int64] * 14), emit


class _Block:
    """One block's code."""

    def __init__(self, builder: Any, args: Any, isa: Any, tile: Any) -> None:
        self.builder, self.isa, self.tile, self.args = builder, isa, tile, args
        self.read = _Reader(builder, args)
        self.codes, width, _, stride, self.scales, self.extra, _, self.q, _, self.d = args[4:14]
        self.blocks, self.starts, self.weighted = args[14:]
        self.of_panel, self.codes_of_panel = (
            [builder.mul(each, ir.Constant(I64, j)) for j in range(tile.panels)] for each in (stride, width)
        )

    def of_row(self, i: int, size: int) -> Any:
        """How far row i is from the first, where a row takes `size` for each block."""
        return self.builder.mul(self.blocks, ir.Constant(I64, i * size))

    def sums(self) -> Any:
        """The tuple of sums."""
        builder, tile = self.builder, self.tile
        dots = self.halves() if tile.mode == "halves" else self.dots(self.started(0), 0, 8)
        double = ir.DoubleType()
        fma = declared(builder, "llvm.fma.v16f64", F64X16.llvm, [F64X16.llvm] * 3)
        scales = [self.read.at(6, self.scales, F64X16.llvm, more) for more in self.of_panel]
        out = []
        for i in range(tile.rows):
            factor = splatted(builder, self.read.at(12, self.d, double, self.of_row(i, 8)), 16)
            for j in range(tile.panels):
                n = i * tile.panels + j
                whole = builder.sitofp(dots[n], F64X16.llvm)
                value = builder.extract_value(self.args[2], n)
                out.append(builder.call(fma, [builder.fmul(scales[j], factor), whole, value]))
        if tile.mode == "minimum":
            minima = [self.read.at(6, self.extra, F64X16.llvm, more) for more in self.of_panel]
            for i in range(tile.rows):
                factor = splatted(builder, self.read.at(6, self.weighted, double, self.of_row(i, 8)), 16)
                for j in range(tile.panels):
                    n = i * tile.panels + j
                    out[n] = builder.call(fma, [minima[j], factor, out[n]])
        return cgutils.pack_array(builder, out)

    def started(self, half: int) -> list[Any]:
        """What the dots start from."""
        builder, tile = self.builder, self.tile
        if tile.mode == "minimum":
            return [ir.Constant(I32X16.llvm, None)] * (tile.rows * tile.panels)
        step = 8 if tile.mode == "halves" else 4
        rows = [
            self.read.at(6, self.starts, I32, builder.add(self.of_row(i, step), ir.Constant(I64, 4 * half)))
            for i in range(tile.rows)
        ]
        whole = [splatted(builder, one, 16) for one in rows]
        if tile.mode != "zero":
            return [one for one in whole for _ in range(tile.panels)]
        zeros = [self.read.at(6, self.extra, I32X16.llvm, more) for more in self.of_panel]
        return [builder.mul(one, zero) for one in whole for zero in zeros]

    def dots(self, sums: list[Any], first: int, last: int) -> list[Any]:
        """The dots of vectors [first, last) of a block: straight code, or a loop where a dot is many instructions."""
        if self.isa.isa == "vnni":
            for k in range(first, last):
                sums = self.step(sums, ir.Constant(I64, k))
            return sums
        places = [cgutils.alloca_once_value(self.builder, one) for one in sums]
        for place, one in zip(places, sums, strict=True):
            self.builder.store(one, place)
        with cgutils.for_range_slice(
            self.builder, ir.Constant(I64, first), ir.Constant(I64, last), ir.Constant(I64, 1)
        ) as (k, _):
            for place, one in zip(places, self.step([self.builder.load(place) for place in places], k), strict=True):
                self.builder.store(one, place)
        return [self.builder.load(place) for place in places]

    def step(self, sums: list[Any], k: Any) -> list[Any]:
        """Four inputs more."""
        builder, tile = self.builder, self.tile
        place = builder.mul(k, ir.Constant(I64, 64))
        codes = [self.read.at(3, self.codes, I8X64.llvm, builder.add(more, place)) for more in self.codes_of_panel]
        four = builder.mul(k, ir.Constant(I64, 4))
        out = list(sums)
        for i in range(tile.rows):
            word = self.read.at(10, self.q, I32, builder.add(self.of_row(i, 32), four))
            x = builder.bitcast(splatted(builder, word, 16), I8X64.llvm)
            for j in range(tile.panels):
                out[i * tile.panels + j] = dotted(self.isa, builder, out[i * tile.panels + j], codes[j], x)
        return out

    def halves(self) -> list[Any]:
        """The dots of both halves times their factors."""
        builder, tile = self.builder, self.tile
        both = []
        for half in range(2):
            dots = self.dots(self.started(half), 4 * half, 4 * half + 4)
            factors = [
                self.read.at(6, self.extra, I32X16.llvm, builder.add(more, ir.Constant(I64, 64 * half)))
                for more in self.of_panel
            ]
            both.append([builder.mul(dot, factors[n % tile.panels]) for n, dot in enumerate(dots)])
        return [builder.add(one, other) for one, other in zip(*both, strict=True)]


@njit(nogil=True)
def tile_sums(
    isa: Any, tile: Any, C: Any, codes: Any, width: Any, S: Any, stride: Any, scales: Any, extra: Any, Q: Any,
    q: Any, D: Any, d: Any, blocks: Any, starts: Any, step: Any, weighted: Any, out: Any, y: Any, y_step: Any,
    line: Any, lines: Any,
) -> Any:  # fmt: skip
    """All blocks of a tile, its sums into S at `out`; arguments as of `add_block`, for the first block.

    Where y is an address, the sums are exact: they are also rounded to float32 there, a row every `y_step` bytes. What
    is returned is 0 if nothing more is to be done. With each block `lines` cache lines are asked for, from `line` on.
    """
    sums = no_sums(tile)
    for b in range(blocks):
        for _ in range(lines):
            prefetch_to_second(line)
            line += 64
        sums = add_block(
            isa, tile, sums, C, codes + 512 * b, width, S, stride, scales + 128 * b, extra + 128 * b, Q, q + 32 * b, D,
            d + 8 * b, blocks, starts + step * b, weighted + 8 * b,
        )  # fmt: skip
    store_sums(tile, sums, S + out)
    return store_rounded(tile, sums, y, y_step) if y else np.int64(-1)
