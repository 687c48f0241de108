"""Vectors out of bytes and into arrays, for the kernels of linear layers: fp16 scales, integers, ends of rows.

An index into bytes is a byte's, whatever is read there; one into another array counts its elements.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_types import (
    ELEMENTS,
    F32X16,
    F64X16,
    I8X16,
    I8X64,
    I16X16,
    I32,
    I32X16,
    SCALARS,
    Vector,
    ask_for,
    declared,
    pointer,
    splatted,
)  # fmt: skip
from lepton_ref.backends.numba_vectors import converter, loader, storer

load_bytes, store_bytes = loader(I8X64), storer(I8X64)
load_halves, load_bytes16 = loader(I16X16), loader(I8X16)
load_f32, store_f32 = loader(F32X16), storer(F32X16)
load_f64, store_f64 = loader(F64X16), storer(F64X16)
load_i32, store_i32 = loader(I32X16), storer(I32X16)


def _half(builder: Any, value: Any, target: Any) -> Any:
    return builder.fpext(builder.bitcast(value, ir.VectorType(ir.HalfType(), 16)), target)


def _half_by_single(builder: Any, value: Any, target: Any) -> Any:
    return builder.fpext(_half(builder, value, F32X16.llvm), target)


half_to_f64 = converter(I16X16, F64X16, _half_by_single)
int_to_f64 = converter(I32X16, F64X16, lambda builder, value, target: builder.sitofp(value, target))
f64_to_int = converter(F64X16, I32X16, lambda builder, value, target: builder.fptosi(value, target))
unsigned_to_i32 = converter(I8X16, I32X16, lambda builder, value, target: builder.zext(value, target))
signed_to_i32 = converter(I8X16, I32X16, lambda builder, value, target: builder.sext(value, target))
to_i8 = converter(I32X16, I8X16, lambda builder, value, target: builder.trunc(value, target))


def loader_at(vector: Vector) -> Any:
    """`(address) -> vector`."""

    @intrinsic
    def load(typing: Any, place: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(builder.inttoptr(args[0], vector.llvm.as_pointer()))
            value.align = 1
            return value

        return vector(types.int64), emit

    return load


f32_at, f64_at, i32_at = loader_at(F32X16), loader_at(F64X16), loader_at(I32X16)
bytes_at, bytes16_at, halves_at = loader_at(I8X64), loader_at(I8X16), loader_at(I16X16)


def scalar_at(element: str) -> Any:
    """`(address) -> number`."""

    @intrinsic
    def load(typing: Any, place: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(builder.inttoptr(args[0], ELEMENTS[element].as_pointer()))
            value.align = 1
            return value

        return SCALARS[element](types.int64), emit

    return load


one_f64_at, one_i64_at, one_i32_at = (scalar_at(element) for element in ("f64", "i64", "i32"))


@intrinsic
def four_at(typing: Any, place: Any) -> Any:
    """`(address) -> vector`: four consecutive bytes, sixteen times."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.load(builder.inttoptr(args[0], I32.as_pointer()))
        word.align = 1
        return builder.bitcast(splatted(builder, word, 16), I8X64.llvm)

    return I8X64(types.int64), emit


@intrinsic
def pair_sums(typing: Any, one: Any, two: Any) -> Any:
    """`(v, v) -> v` of int32: the sums of neighbours, the first vector's in the lower half."""
    if one != I32X16 or two != I32X16:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        picks = [ir.Constant(ir.VectorType(I32, 16), list(range(start, 32, 2))) for start in (0, 1)]
        return builder.add(*(builder.shuffle_vector(args[0], args[1], pick) for pick in picks))

    return I32X16(I32X16, I32X16), emit


def scalar_loader(element: str) -> Any:
    """`(array, index) -> number`: one number of the element type at a place of a flat array, at any alignment."""

    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], ELEMENTS[element]))
            value.align = 1
            return value

        return SCALARS[element](array, types.int64), emit

    return load


def scalar_storer(element: str) -> Any:
    """`(array, index, number)`: one number of the element type to a place of a flat array, at any alignment."""

    @intrinsic
    def store(typing: Any, array: Any, index: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = pointer(context, builder, signature.args[0], args[0], args[1], ELEMENTS[element])
            builder.store(args[2], place).align = 1
            return context.get_dummy_value()

        return types.none(array, types.int64, SCALARS[element]), emit

    return store


put_f64, put_i32 = scalar_storer("f64"), scalar_storer("i32")
one_f32, one_f64, one_i64, one_i32 = (scalar_loader(element) for element in ("f32", "f64", "i64", "i32"))


@intrinsic
def one_half(typing: Any, array: Any, index: Any) -> Any:
    """`(bytes, index) -> float64`: one fp16 number."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(16)))
        half.align = 1
        few = builder.insert_element(ir.Constant(ir.VectorType(half.type, 8), None), half, ir.Constant(I32, 0))
        wide = builder.fpext(builder.bitcast(few, ir.VectorType(ir.HalfType(), 8)), ir.VectorType(ir.FloatType(), 8))
        return builder.fpext(builder.extract_element(wide, ir.Constant(I32, 0)), ir.DoubleType())

    return types.float64(array, types.int64), emit


@intrinsic
def fma1(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """`(a, b, c) -> a·b + c` of float64 numbers, rounded once."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        return builder.call(declared(builder, "llvm.fma.f64", double, [double] * 3), args)

    return types.float64(types.float64, types.float64, types.float64), emit


@intrinsic
def address(typing: Any, array: Any) -> Any:
    """`(array) -> int64`: where its first element lies, for functions called so often that counting owners costs."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), emit


def prefetcher(nearness: int) -> Any:
    """`(address)`: ask for the cache line there; one outside of all arrays does no harm. 3 is the nearest cache."""

    @intrinsic
    def prefetch(typing: Any, place: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            ask_for(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), nearness)
            return context.get_dummy_value()

        return types.none(types.int64), emit

    return prefetch


prefetch_at, prefetch_to_second = prefetcher(3), prefetcher(2)


def _first(builder: Any, count: Any) -> Any:
    """A mask of the first `count` of sixteen lanes."""
    numbers = ir.Constant(I32X16.llvm, list(range(16)))
    return builder.icmp_signed("<", numbers, splatted(builder, builder.trunc(count, I32), 16))


@intrinsic
def some_at(typing: Any, place: Any, count: Any) -> Any:
    """`(address, count) -> vector` of float32: the first of sixteen, zeros behind; nothing behind is touched."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], F32X16.llvm.as_pointer())
        kinds = [place.type, I32, ir.VectorType(ir.IntType(1), 16), F32X16.llvm]
        function = declared(builder, "llvm.masked.load.v16f32.p0v16f32", F32X16.llvm, kinds)
        nothing = ir.Constant(F32X16.llvm, None)
        return builder.call(function, [place, ir.Constant(I32, 4), _first(builder, args[1]), nothing])

    return F32X16(types.int64, types.int64), emit


@intrinsic
def put_some(typing: Any, place: Any, count: Any, value: Any) -> Any:
    """`(address, count, vector)` of float32: the first `count` of sixteen; nothing behind is touched."""
    if value != F32X16:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], F32X16.llvm.as_pointer())
        kinds = [F32X16.llvm, place.type, I32, ir.VectorType(ir.IntType(1), 16)]
        function = declared(builder, "llvm.masked.store.v16f32.p0v16f32", ir.VoidType(), kinds)
        builder.call(function, [args[2], place, ir.Constant(I32, 4), _first(builder, args[1])])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, F32X16), emit


@intrinsic
def with_bits45(typing: Any, vector: Any, plane: Any, which: Any) -> Any:
    """`(bytes, bytes, number) -> bytes`: bits 4 and 5 from bits 2n and 2n + 1 of each byte of the plane."""
    if vector != I8X64 or plane != I8X64:
        return None
    words = Vector("i16", 32)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        doubled = builder.shl(builder.trunc(args[2], ir.IntType(16)), ir.Constant(ir.IntType(16), 1))
        up = builder.shl(
            builder.lshr(builder.bitcast(args[1], words.llvm), splatted(builder, doubled, 32)),
            splatted(builder, ir.Constant(ir.IntType(16), 4), 32),
        )
        kept = builder.and_(builder.bitcast(up, I8X64.llvm), splatted(builder, ir.Constant(ir.IntType(8), 48), 64))
        return builder.or_(args[0], kept)

    return I8X64(I8X64, I8X64, types.int64), emit
