"""Some rows of activations times two panels at once: every vector of codes and every broadcast serves several sums.

A tile keeps rows × panels sums of sixteen float64 in registers. For one block of 32 inputs it makes as many exact
int32 dots, then adds d·scale·dot to each sum, and what its mode asks for:

    plain      the dot starts at −offset·Σq
    zero       the dot starts at −zero·Σq, zero being of each weight row
    minimum    the dot starts at 0, and minimum·(d·Σq) is added to the sum before it
    halves     the dots of either half start at −offset·Σq, are multiplied by factors, and added as integers

C, S, Q and D are addresses, and places in them count bytes. Panels lie as `numba_integer_unpack` leaves them. Each term
is exact and is added by one fused multiply-add, in the same order whatever the tile, so that a row's sums do not depend
on its neighbours.

How a dot becomes float64, and why sums are in an order of their own, is `numba_integer_sums`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lepton_ref.backends.numba_dot import IsaType, dotted
from lepton_ref.backends.numba_integer_sums import TileType, lowest, to_double
from lepton_ref.backends.numba_types import F64X16, I8X64, I32, I32X16, I64, ask_for, declared, splatted


@intrinsic
def ask_for_eight(typing: Any, place: Any) -> Any:
    """`(address)`: the cache lines from there on."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i in range(8):
            at = builder.add(args[0], ir.Constant(I64, 64 * i))
            ask_for(builder, builder.inttoptr(at, ir.IntType(8).as_pointer()), 2)
        return context.get_dummy_value()

    return types.none(types.int64), emit


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
        out = [builder.extract_value(self.args[2], n) for n in range(tile.rows * tile.panels)]
        if tile.mode == "minimum":  # first, while registers are free
            self.add(out, self.extra, 6, self.weighted)
        dots = self.halves() if tile.mode == "halves" else self.dots(self.started(0), 0, 8)
        self.add(out, self.scales, 12, self.d, dots)
        return cgutils.pack_array(builder, out)

    def add(self, out: list[Any], places: Any, number: int, index: Any, dots: list[Any] | None = None) -> None:
        """Add to the sums numbers of panels in S times one of each row, and times dots."""
        builder, tile = self.builder, self.tile
        fma = declared(builder, "llvm.fma.v16f64", F64X16.llvm, [F64X16.llvm] * 3)
        of_panels = [self.read.at(6, places, F64X16.llvm, more) for more in self.of_panel]
        for i in range(tile.rows):
            factor = splatted(builder, self.read.at(number, index, ir.DoubleType(), self.of_row(i, 8)), 16)
            for j in range(tile.panels):
                n = i * tile.panels + j
                one, other = of_panels[j], factor
                if dots is not None:
                    one, other = builder.fmul(one, factor), to_double(builder, dots[n])
                out[n] = builder.call(fma, [one, other, out[n]])

    def started(self, half: int) -> list[Any]:
        """What the dots start from."""
        builder, tile = self.builder, self.tile
        if tile.mode == "minimum":
            return [lowest()] * (tile.rows * tile.panels)
        step = 8 if tile.mode == "halves" else 4
        rows = [
            self.read.at(6, self.starts, I32, builder.add(self.of_row(i, step), ir.Constant(I64, 4 * half)))
            for i in range(tile.rows)
        ]
        whole = [splatted(builder, one, 16) for one in rows]
        if tile.mode != "zero":
            return [one for one in whole for _ in range(tile.panels)]
        zeros = [self.read.at(6, self.extra, I32X16.llvm, more) for more in self.of_panel]
        return [builder.add(builder.mul(one, zero), lowest()) for one in whole for zero in zeros]

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
        return [builder.add(builder.add(one, other), lowest()) for one, other in zip(*both, strict=True)]
