"""SIMD vectors as Numba values: a type whose LLVM form is a vector, and the operations on it.

A kernel is written once, for vectors of sixteen rows. LLVM cuts them to what the processor has: one register of
AVX-512, two of AVX2, four of NEON. Only the dot product of bytes needs the processor's own instruction, which LLVM
does not find by itself: `lepton_ref.backends.numba_dot`.

Operators on vectors are those of IEEE 754 and of two's complement, lane by lane; nothing is contracted or reordered,
and a fused multiply-add is one only where `fma` is written. Comparisons give masks. An index counts elements of the
flat array that is loaded from or stored to; nothing checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_types import (
    ELEMENTS,
    F32X8,
    F32X16,
    F64X8,
    F64X16,
    I8X16,
    I8X32,
    I8X64,
    I16X16,
    I32,
    I32X16,
    I64,
    I64X16,
    SCALARS,
    Vector,
    declared,
    pointer,
    splatted,
)  # fmt: skip

__all__ = [
    "ELEMENTS",
    "F32X8",
    "F32X16",
    "F64X8",
    "F64X16",
    "I8X16",
    "I8X32",
    "I8X64",
    "I16X16",
    "I32",
    "I32X16",
    "I64",
    "I64X16",
    "SCALARS",
    "Vector",
    "absolute",
    "bits_of",
    "converter",
    "copysign",
    "declared",
    "floor",
    "fma",
    "lane",
    "largest",
    "loader",
    "pointer",
    "rint",
    "select",
    "shifted_left",
    "shifted_right",
    "splatted",
    "splatter",
    "sqrt",
    "storer",
    "total",
]  # fmt: skip


def _is_flat(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1


def loader(vector: Vector) -> Any:
    """`(array, index) -> vector`: consecutive elements of a flat array, at any alignment."""

    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        if not _is_flat(array):
            return None

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], vector.llvm))
            value.align = 1
            return value

        return vector(array, types.int64), emit

    return load


def storer(vector: Vector) -> Any:
    """`(array, index, vector)`: into consecutive elements of a flat array, at any alignment."""

    @intrinsic
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        if not _is_flat(array) or value != vector:
            return None

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = pointer(context, builder, signature.args[0], args[0], args[1], vector.llvm)
            builder.store(args[2], place).align = 1
            return context.get_dummy_value()

        return types.none(array, types.int64, vector), emit

    return store


def splatter(vector: Vector) -> Any:
    """`(number) -> vector`: the number in all lanes."""
    scalar = SCALARS[vector.element]

    @intrinsic
    def splat(typing: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return splatted(builder, args[0], vector.lanes)

        return vector(scalar), emit

    return splat


def converter(source: Vector, target: Vector, how: Callable[[Any, Any, Any], Any]) -> Any:
    """`(source) -> target` by a function of LLVM's builder, the value, and the target's LLVM type."""

    @intrinsic
    def convert(typing: Any, value: Any) -> Any:
        if value != source:
            return None

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return how(builder, args[0], target.llvm)

        return target(source), emit

    return convert


def _named(name: str, arity: int) -> Any:
    """A function of vectors that LLVM has under this name for every width: `(v, …) -> v`."""

    def typed(vector: Any, *others: Any) -> Any:
        if not isinstance(vector, Vector) or any(other != vector for other in others):
            return None
        full = f"llvm.{name}.v{vector.lanes}{vector.element}"

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.call(declared(builder, full, vector.llvm, [vector.llvm] * arity), args)

        return vector(*[vector] * arity), emit

    return typed


_SQRT, _FMA, _ABS, _RINT = _named("sqrt", 1), _named("fma", 3), _named("fabs", 1), _named("rint", 1)
_FLOOR, _SIGN = _named("floor", 1), _named("copysign", 2)


@intrinsic
def sqrt(typing: Any, a: Any) -> Any:
    """`(v) -> v`, rounded once."""
    return _SQRT(a)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """`(a, b, c) -> a·b + c`, rounded once."""
    return _FMA(a, b, c)


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """`(v) -> |v|`."""
    return _ABS(a)


@intrinsic
def rint(typing: Any, a: Any) -> Any:
    """`(v) -> v` to integers, ties to even."""
    return _RINT(a)


@intrinsic
def floor(typing: Any, a: Any) -> Any:
    """`(v) -> v` to integers, downwards."""
    return _FLOOR(a)


@intrinsic
def copysign(typing: Any, size: Any, sign: Any) -> Any:
    """`(a, b) -> v`: the size of a with the sign of b."""
    return _SIGN(size, sign)


@intrinsic
def select(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """`(mask, a, b) -> v`: a where the mask is set, b elsewhere."""
    if not isinstance(a, Vector) or a != b or mask != Vector("i1", a.lanes):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return a(mask, a, b), emit


@intrinsic
def bits_of(typing: Any, mask: Any) -> Any:
    """`(mask) -> int64`: lane i as bit i."""
    if not isinstance(mask, Vector) or mask.element != "i1":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return whole if mask.lanes == 64 else builder.zext(whole, I64)

    return types.int64(mask), emit


@intrinsic
def lane(typing: Any, vector: Any, index: Any) -> Any:
    """`(v, index) -> number`: one lane."""
    if not isinstance(vector, Vector):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], I32))

    return SCALARS[vector.element](vector, types.int64), emit


def _shifted(vector: Any, how: str) -> Any:
    """The signature and the code of a shift of all lanes by one count: `(v, count) -> v`."""
    if not isinstance(vector, Vector) or vector.is_float:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = builder.trunc(args[1], ELEMENTS[vector.element]) if vector.element != "i64" else args[1]
        return getattr(builder, how)(args[0], splatted(builder, count, vector.lanes))

    return vector(vector, types.int64), emit


@intrinsic
def shifted_right(typing: Any, vector: Any, count: Any) -> Any:
    """`(v, count) -> v`: each lane's bits moved down, zeros from above."""
    return _shifted(vector, "lshr")


@intrinsic
def shifted_left(typing: Any, vector: Any, count: Any) -> Any:
    """`(v, count) -> v`: each lane's bits moved up."""
    return _shifted(vector, "shl")


def halves(how: str) -> Any:
    """`(v, v) -> number`: lanes reduced in the order of a tree, which is the same on every processor."""

    @intrinsic
    def reduce(typing: Any, vector: Any) -> Any:
        if not isinstance(vector, Vector):
            return None

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, lanes = args[0], vector.lanes
            while lanes > 1:
                undefined = ir.Constant(value.type, ir.Undefined)
                picks = [list(range(lanes // 2)), list(range(lanes // 2, lanes))]
                low, high = (
                    builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(I32, lanes // 2), pick))
                    for pick in picks
                )
                if how == "add":
                    value = builder.fadd(low, high) if vector.is_float else builder.add(low, high)
                else:
                    larger = (builder.fcmp_ordered if vector.is_float else builder.icmp_signed)(">", low, high)
                    value = builder.select(larger, low, high)
                lanes //= 2
            return builder.extract_element(value, ir.Constant(I32, 0))

        return SCALARS[vector.element](vector), emit

    return reduce


total, largest = halves("add"), halves("max")
