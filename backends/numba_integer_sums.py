"""The shapes of tiles, and a tile's sums: sixteen float64 for each row and panel, in an order of their own.

A dot becomes float64 by an interleaving and a subtraction, since the processor's conversion would compete with the dots
for their ports: with 2³¹ added it is an unsigned word, and as the lower word of 2⁵² it makes 2⁵² + 2³¹ + dot. Words are
interleaved within 128 bits, which leaves sixteen of them in `ORDER`; scales and minima lie in that order too, and what
is stored is put back.
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

from lepton_ref.backends.numba_types import F32X16, F64X16, I32, I32X16, I64

ORDER = (0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
"""The sixteen dots as they lie once their words are interleaved."""

BACK = tuple(int(place) for place in np.argsort(ORDER))
"""Where each of the sixteen lies in `ORDER`."""

HIGH_WORD = 0x43300000
"""The upper half of 2⁵²."""

LOWEST = -(1 << 31)
"""Added to a dot, modulo 2³², it makes an unsigned word of it that is 2³¹ more."""


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
            builder.store(picked(builder, builder.extract_value(args[1], i), BACK), place).align = 1
        return context.get_dummy_value()

    return types.none(tile, sums, types.int64), emit


@intrinsic
def rounded_sums(typing: Any, tile: Any, sums: Any) -> Any:
    """`(tile, sums) -> rounded`: to float32."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [builder.extract_value(args[1], i) for i in range(tile.rows * tile.panels)]
        return cgutils.pack_array(
            builder, [picked(builder, builder.fptrunc(value, F32X16.llvm), BACK) for value in values]
        )

    return types.UniTuple(F32X16, tile.rows * tile.panels)(tile, sums), emit


@intrinsic
def zeros_among(typing: Any, tile: Any, rounded: Any) -> Any:
    """`(tile, rounded) -> int64`: not 0 if one of them is."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(F32X16.llvm, None)
        values = [builder.extract_value(args[1], i) for i in range(tile.rows * tile.panels)]
        zeros = functools.reduce(builder.or_, [builder.fcmp_ordered("==", value, nothing) for value in values])
        return builder.zext(builder.bitcast(zeros, ir.IntType(16)), I64)

    return types.int64(tile, rounded), emit


@intrinsic
def store_rounded(typing: Any, tile: Any, rounded: Any, place: Any, step: Any) -> Any:
    """`(tile, rounded, address, step)`: a row every `step` bytes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i in range(tile.rows * tile.panels):
            row, panel = divmod(i, tile.panels)
            ahead = builder.add(builder.mul(args[3], ir.Constant(I64, row)), ir.Constant(I64, 64 * panel))
            where = builder.inttoptr(builder.add(args[2], ahead), F32X16.llvm.as_pointer())
            builder.store(builder.extract_value(args[1], i), where).align = 1
        return context.get_dummy_value()

    return types.none(tile, rounded, types.int64, types.int64), emit


@intrinsic
def rows_of(typing: Any, tile: Any) -> Any:
    """`(tile) -> int64`: how many rows it has."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(I64, tile.rows)

    return types.int64(tile), emit


@intrinsic
def in_order(typing: Any, vector: Any) -> Any:
    """`(v) -> v` of sixteen float64: as a tile wants scales and minima."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return picked(builder, args[0], ORDER)

    return F64X16(F64X16), emit


def picked(builder: Any, value: Any, lanes: tuple[int, ...]) -> Any:
    """The lanes of those numbers."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def to_double(builder: Any, raised: Any) -> Any:
    """Sixteen dots that are 2³¹ too large, exactly, in `ORDER`."""
    high = ir.Constant(I32X16.llvm, [HIGH_WORD] * 16)
    mask = ir.Constant(ir.VectorType(I32, 32), [lane for place in ORDER for lane in (place, 16 + place)])
    whole = builder.bitcast(builder.shuffle_vector(raised, high, mask), F64X16.llvm)
    return builder.fsub(whole, ir.Constant(F64X16.llvm, [2.0**52 + 2.0**31] * 16))


def lowest() -> Any:
    """Sixteen times `LOWEST`, as a constant of LLVM."""
    return ir.Constant(I32X16.llvm, [LOWEST] * 16)
