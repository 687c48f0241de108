"""Weights as a kernel reads them: what is stored, as sixteen float64 numbers at a time.

Each format has a value whose type alone says which it is, made inside a kernel by `f32()`, `four()` and so on, so that
one source serves them all and the choice costs nothing at run time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from lepton_ref.backends.numba_types import F64X16, I32, pointer

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
