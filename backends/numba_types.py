"""The type of SIMD vectors as Numba values, and the operators on two of them.

Operators are those of IEEE 754 and of two's complement, lane by lane; nothing is contracted or reordered. Comparisons
give masks, vectors of "i1".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

INTEGERS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
ELEMENTS: dict[str, Any] = {
    **{name: ir.IntType(width) for name, width in INTEGERS.items()},
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
}
SCALARS: dict[str, Any] = {
    "i8": types.int8, "i16": types.int16, "i32": types.int32, "i64": types.int64,
    "f32": types.float32, "f64": types.float64,
}  # fmt: skip
I32, I64 = ir.IntType(32), ir.IntType(64)


class Vector(types.Type):  # Numba has no type hints
    """A vector of `lanes` elements, "i1" to "f64"."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element}x{lanes})")

    @property
    def key(self) -> tuple[str, int]:
        """What makes two of these types equal."""
        return (self.element, self.lanes)

    @property
    def llvm(self) -> Any:
        """The vector as LLVM has it."""
        return ir.VectorType(ELEMENTS[self.element], self.lanes)

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.element in ("f32", "f64")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager: Any, front_end: Vector) -> None:
        super().__init__(manager, front_end, front_end.llvm)


I8X64, I8X32, I8X16 = Vector("i8", 64), Vector("i8", 32), Vector("i8", 16)
I16X16, I32X16, F32X16, F64X16, F64X8, F32X8 = (
    Vector("i16", 16), Vector("i32", 16), Vector("f32", 16), Vector("f64", 16), Vector("f64", 8), Vector("f32", 8),
)  # fmt: skip
I64X16 = Vector("i64", 16)


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, llvm: Any) -> Any:
    """The address of an element of a flat array, as a pointer to `llvm`."""
    data = context.make_array(array_type)(context, builder, array).data
    element = context.get_data_type(array_type.dtype)
    typed = builder.bitcast(data, element.as_pointer())
    return builder.bitcast(builder.gep(typed, [index]), llvm.as_pointer())


def declared(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """The LLVM intrinsic of that name."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def splatted(builder: Any, value: Any, lanes: int) -> Any:
    """One value in all lanes."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def ask_for(builder: Any, place: Any, nearness: int = 3) -> None:
    """Ask for the cache line at a pointer to bytes; one outside of all arrays does no harm. 3 is the nearest cache."""
    ask = declared(builder, "llvm.prefetch.p0i8", ir.VoidType(), [place.type, I32, I32, I32])
    builder.call(ask, [place, *(ir.Constant(I32, number) for number in (0, nearness, 1))])


def _operator(function: Any, emit: Callable[[Any, Any, Any, Vector], Any], result: Callable[[Vector], Any]) -> Any:
    """Give an operator its meaning for two vectors of one type."""

    class Template(AbstractTemplate):
        """What its result is."""

        def generic(self, args: Any, kws: Any) -> Any:
            """A signature, or None where this is not for two vectors."""
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(result(args[0]), *args)
            return None

    infer_global(function)(Template)

    def lowered(context: Any, builder: Any, signed: Any, args: Any) -> Any:
        return emit(builder, args[0], args[1], signed.args[0])

    lower_builtin(function, Vector, Vector)(lowered)
    return function


def _arithmetic(function: Any, of_floats: str | None, of_integers: str | None) -> Any:
    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        name = of_floats if vector.is_float else of_integers
        if name is None:
            raise TypeError(f"{function.__name__} is not defined for {vector}")
        return getattr(builder, name)(a, b)

    return _operator(function, emit, lambda vector: vector)


def _comparison(function: Any, sign: str) -> Any:
    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        if not vector.is_float:
            return builder.icmp_signed(sign, a, b)
        return (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b)

    return _operator(function, emit, lambda vector: Vector("i1", vector.lanes))


OPERATORS = (
    _arithmetic(operator.add, "fadd", "add"),
    _arithmetic(operator.sub, "fsub", "sub"),
    _arithmetic(operator.mul, "fmul", "mul"),
    _arithmetic(operator.truediv, "fdiv", None),
    _arithmetic(operator.and_, None, "and_"),
    _arithmetic(operator.or_, None, "or_"),
    _arithmetic(operator.xor, None, "xor"),
    _comparison(operator.lt, "<"),
    _comparison(operator.le, "<="),
    _comparison(operator.gt, ">"),
    _comparison(operator.ge, ">="),
    _comparison(operator.eq, "=="),
    _comparison(operator.ne, "!="),
)
"""The operators that two vectors of one type have."""
