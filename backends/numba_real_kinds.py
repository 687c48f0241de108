"""Weights as a kernel reads them: what is stored, as sixteen float64 numbers at a time.

Each format has a value whose type alone says which it is, made inside a kernel by `f32()`, `four()` and so on, so that
one source serves them all and the choice costs nothing at run time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from lepton_ref.backends.numba_types import F32X16, F64X16, I32, I32X16, ask_for, declared, pointer, splatted

LLVM = {"f32": ir.FloatType(), "bf16": ir.IntType(16), "f16": ir.HalfType(), "f64": ir.DoubleType()}
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}


class StoredType(types.Type):  # Numba has no type hints
    """How numbers are stored; the value is empty."""

    def __init__(self, stored: str) -> None:
        self.stored = stored
        super().__init__(name=f"Stored({stored})")


@register_model(StoredType)
class StoredModel(models.OpaqueModel):
    """Nothing at run time."""


def _maker(stored: str) -> Any:
    @intrinsic
    def make(typing: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.get_dummy_value()

        return StoredType(stored)(), emit

    return make


f32, bf16, f16 = _maker("f32"), _maker("bf16"), _maker("f16")
eight, four, five = _maker("eight"), _maker("four"), _maker("five")
six_low, six_high = _maker("six_low"), _maker("six_high")
eight_low, eight_high = _maker("eight_low"), _maker("eight_high")
spread = _maker("spread")


@intrinsic
def bytes_of(typing: Any, stored: Any) -> Any:
    """`(stored) -> int64`: the bytes of a number."""
    if not isinstance(stored, StoredType):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), BYTES[stored.stored])

    return types.int64(stored), emit


@intrinsic
def weights(typing: Any, stored: Any, array: Any, start: Any, index: Any) -> Any:
    """`(stored, bytes, start, index) -> f64`: sixteen numbers, the first being number `index` behind byte `start`."""
    if not isinstance(stored, StoredType):
        return None
    name = stored.stored

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.add(args[2], builder.mul(args[3], ir.Constant(ir.IntType(64), BYTES[name])))
        vector = ir.VectorType(LLVM[name], 16)
        value = builder.load(pointer(context, builder, signature.args[1], args[1], place, vector))
        value.align = 1
        if name == "bf16":
            wide = ir.VectorType(I32, 16)
            value = builder.shl(builder.zext(value, wide), ir.Constant(wide, [16] * 16))
            value = builder.bitcast(value, ir.VectorType(ir.FloatType(), 16))
        elif name == "f16":
            value = builder.fpext(value, ir.VectorType(ir.FloatType(), 16))
        return builder.fpext(value, F64X16.llvm)

    return F64X16(stored, array, types.int64, types.int64), emit


def _first(builder: Any, count: Any) -> Any:
    """A mask of the first `count` of sixteen lanes."""
    numbers = ir.Constant(I32X16.llvm, list(range(16)))
    return builder.icmp_signed("<", numbers, splatted(builder, builder.trunc(count, I32), 16))


@intrinsic
def load_some(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """`(float32s, index, count) -> f32`: the first `count` of sixteen, zeros behind; nothing behind is touched."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = F32X16.llvm
        place = pointer(context, builder, signature.args[0], args[0], args[1], vector)
        kinds = [place.type, I32, ir.VectorType(ir.IntType(1), 16), vector]
        function = declared(builder, "llvm.masked.load.v16f32.p0v16f32", vector, kinds)
        mask = _first(builder, args[2])
        return builder.call(function, [place, ir.Constant(I32, 4), mask, ir.Constant(vector, None)])

    return F32X16(array, types.int64, types.int64), emit


@intrinsic
def store_some(typing: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """`(float32s, index, count, f32)`: the first `count` of sixteen; nothing behind is touched."""
    if value != F32X16:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(context, builder, signature.args[0], args[0], args[1], F32X16.llvm)
        kinds = [F32X16.llvm, place.type, I32, ir.VectorType(ir.IntType(1), 16)]
        function = declared(builder, "llvm.masked.store.v16f32.p0v16f32", ir.VoidType(), kinds)
        builder.call(function, [args[3], place, ir.Constant(I32, 4), _first(builder, args[2])])
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64, F32X16), emit


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """`(bytes, index)`: ask for the 64 bytes there; a place outside the array does no harm."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ask_for(builder, pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(8)))
        return context.get_dummy_value()

    return types.none(array, types.int64), emit
