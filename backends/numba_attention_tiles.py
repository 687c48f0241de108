"""What attention of many rows spends its time in: register tiles of float64 products, as loops of LLVM.

Keys and values are float32 where the cache has them; `places` holds the address of each slot's first number.

    packed    sixteen keys, turned so that a lane is a key, against eight rows of queries
    weighed   rows of weights times values: a lane is a column of the result
    maxima    |x| of each column over some slots, by the order of float32's bits as integers
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lepton_ref.backends.numba_types import declared, pointer, splatted

F32, F64, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
F64X16, F64X8, I32X16 = ir.VectorType(F64, 16), ir.VectorType(F64, 8), ir.VectorType(I32, 16)
LONG = types.int64


def at_place(builder: Any, start: Any, index: Any, llvm: Any) -> Any:
    """The place `index` numbers after `start`, as a pointer to `llvm`."""
    return builder.bitcast(builder.gep(start, [index]), llvm.as_pointer())


def load(builder: Any, place: Any) -> Any:
    """What is there, where vectors lie as numbers do."""
    value = builder.load(place)
    value.align = 4
    return value


def store(builder: Any, value: Any, place: Any) -> None:
    """Put it there; see `load`."""
    builder.store(value, place).align = 4


def number(value: int) -> Any:
    """A constant of LLVM."""
    return ir.Constant(I64, value)


def widened(builder: Any, place: Any, lanes: int) -> Any:
    """float32 numbers as float64."""
    narrow = load(builder, builder.bitcast(place, ir.VectorType(F32, lanes).as_pointer()))
    return builder.fpext(narrow, ir.VectorType(F64, lanes))


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c of float64 vectors, rounded once."""
    function = declared(builder, f"llvm.fma.v{a.type.count}f64", a.type, [a.type] * 3)
    return builder.call(function, [a, b, c])


def sizes(builder: Any, place: Any) -> Any:
    """|x| of sixteen float32 numbers, as bits: in their order NaN is the largest."""
    return builder.and_(load(builder, place), ir.Constant(I32X16, [0x7FFFFFFF] * 16))


def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger one in each lane of sixteen integers."""
    return builder.call(declared(builder, "llvm.smax.v16i32", I32X16, [I32X16] * 2), [a, b])


def zeros(builder: Any, count: int, kind: Any) -> list[Any]:
    """Registers of a loop, all zeros, which LLVM makes of stack slots."""
    found = [cgutils.alloca_once(builder, kind) for _ in range(count)]
    for one in found:
        builder.store(ir.Constant(kind, None), one)
    return found


def _accumulated(builder: Any, sums: list[Any], places: list[Any], fresh: Any) -> None:
    """Store sums, or add them to what is there, where `fresh` is 0."""
    new = builder.icmp_signed("!=", fresh, number(0))
    with builder.if_else(new) as (then, otherwise):
        with then:
            for one, place in zip(sums, places, strict=True):
                store(builder, builder.load(one), place)
        with otherwise:
            for one, place in zip(sums, places, strict=True):
                store(builder, builder.fadd(load(builder, place), builder.load(one)), place)


def rows_of(
    context: Any, builder: Any, kind: Any, array: Any, start: Any, step: Any, rows: int
) -> list[Any]:  # fmt: skip
    """The places of so many rows of float64, `step` numbers from one to the next."""
    index = [builder.add(start, builder.mul(step, number(i))) for i in range(rows)]
    return [pointer(context, builder, kind, array, one, F64) for one in index]


def weighed(rows: int) -> Any:
    """`(P, p, p_row, V, column, places, first, count, Y, y, y_row, fresh)`: Y (+)= P @ V for sixteen columns of V.

    P[p + i·p_row + j] weighs slot first + j; Y[y + i·y_row + c], c < 16, is column + c of the values.
    """

    @intrinsic
    def tile(
        typing: Any, P: Any, p: Any, p_row: Any, V: Any, column: Any, places: Any, first: Any, count: Any, Y: Any,
        y: Any, y_row: Any, fresh: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            P_, p_, p_row_, V_, column_, places_, first_, count_, Y_, y_, y_row_, fresh_ = args
            kinds = signature.args
            weights = rows_of(context, builder, kinds[0], P_, p_, p_row_, rows)
            out = rows_of(context, builder, kinds[8], Y_, y_, y_row_, rows)
            values = pointer(context, builder, kinds[3], V_, column_, F32)
            addresses = pointer(context, builder, kinds[5], places_, first_, I64)
            sums = zeros(builder, rows, F64X16)
            with cgutils.for_range(builder, count_) as loop:
                value = widened(builder, builder.gep(values, [builder.load(builder.gep(addresses, [loop.index]))]), 16)
                for one, row in zip(sums, weights, strict=True):
                    weight = splatted(builder, builder.load(builder.gep(row, [loop.index])), 16)
                    builder.store(fused(builder, weight, value, builder.load(one)), one)
            _accumulated(builder, sums, [at_place(builder, row, number(0), F64X16) for row in out], fresh_)
            return context.get_dummy_value()

        return types.none(P, LONG, LONG, V, LONG, places, LONG, LONG, Y, LONG, LONG, LONG), emit

    return tile


def packed(rows: int) -> Any:
    """`(Q, q, K, k, count, Y, y, y_row, fresh)`: Y (+)= Q @ K for one vector of keys.

    Q[q + 16·j + i] is number j of row i, K[k + 16·j + c] number j of key c, Y[y + i·y_row + c] their sum.
    """

    @intrinsic
    def tile(typing: Any, Q: Any, q: Any, K: Any, k: Any, count: Any, Y: Any, y: Any, y_row: Any, fresh: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            Q_, q_, K_, k_, count_, Y_, y_, y_row_, fresh_ = args
            kinds = signature.args
            queries = pointer(context, builder, kinds[0], Q_, q_, F64)
            keys = pointer(context, builder, kinds[2], K_, k_, F64)
            sums = zeros(builder, rows, F64X16)
            with cgutils.for_range(builder, count_) as loop:
                key = load(builder, at_place(builder, keys, builder.mul(loop.index, number(16)), F64X16))
                row = builder.gep(queries, [builder.mul(loop.index, number(16))])
                for i in range(rows):
                    query = splatted(builder, builder.load(builder.gep(row, [number(i)])), 16)
                    builder.store(fused(builder, query, key, builder.load(sums[i])), sums[i])
            index = [builder.add(y_, builder.mul(y_row_, number(i))) for i in range(rows)]
            ends = [pointer(context, builder, kinds[5], Y_, one, F64X16) for one in index]
            _accumulated(builder, sums, ends, fresh_)
            return context.get_dummy_value()

        return types.none(Q, LONG, K, LONG, LONG, Y, LONG, LONG, LONG), emit

    return tile


def picked(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Lanes of two vectors, those of the second counted on."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def maxima(vectors: int) -> Any:
    """`(V, column, places, first, count, M, m)`: M[m + c] = max(M[m + c], |V[place + column + c]|), c < 16·vectors.

    M is float32 held as its bits in int32 of which the sign is clear, so that NaN is the largest.
    """

    @intrinsic
    def tile(typing: Any, V: Any, column: Any, places: Any, first: Any, count: Any, M: Any, m: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            V_, column_, places_, first_, count_, M_, m_ = args
            kinds = signature.args
            values = pointer(context, builder, kinds[0], V_, column_, F32)
            addresses = pointer(context, builder, kinds[2], places_, first_, I64)
            out = pointer(context, builder, kinds[5], M_, m_, I32)
            ends = [at_place(builder, out, number(16 * c), I32X16) for c in range(vectors)]
            registers = zeros(builder, vectors, I32X16)
            for end, register in zip(ends, registers, strict=True):
                builder.store(load(builder, end), register)
            with cgutils.for_range(builder, count_) as loop:
                place = builder.gep(values, [builder.load(builder.gep(addresses, [loop.index]))])
                for c, register in enumerate(registers):
                    size = sizes(builder, at_place(builder, place, number(16 * c), I32X16))
                    builder.store(larger(builder, size, builder.load(register)), register)
            for end, register in zip(ends, registers, strict=True):
                store(builder, builder.load(register), end)
            return context.get_dummy_value()

        return types.none(V, LONG, places, LONG, LONG, M, LONG), emit

    return tile


@intrinsic
def turned(typing: Any, K: Any, column: Any, places: Any, first: Any, out: Any, o: Any) -> Any:
    """`(K, column, places, first, out, o)`: sixteen numbers of sixteen keys to float64, a vector for each number.

    out[o + 16·k + j] = K[place j + column + k].
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        K_, column_, places_, first_, out_, o_ = args
        kinds = signature.args
        addresses = pointer(context, builder, kinds[2], places_, first_, I64)
        rows = []
        for j in range(16):
            start = builder.add(builder.load(builder.gep(addresses, [number(j)])), column_)
            rows.append(load(builder, pointer(context, builder, kinds[0], K_, start, ir.VectorType(F32, 16))))
        distance = 8
        while distance:
            low = [lane for lane in range(16) if not lane & distance]
            turned_ = list(rows)
            for i in low:
                a, b = rows[i], rows[i + distance]
                first_half = [lane if not lane & distance else 16 + lane - distance for lane in range(16)]
                second_half = [lane + distance if not lane & distance else 16 + lane for lane in range(16)]
                turned_[i] = picked(builder, a, b, first_half)
                turned_[i + distance] = picked(builder, a, b, second_half)
            rows = turned_
            distance //= 2
        for k, row in enumerate(rows):
            end = pointer(context, builder, kinds[4], out_, builder.add(o_, number(16 * k)), F64X16)
            store(builder, builder.fpext(row, F64X16), end)
        return context.get_dummy_value()

    return types.none(K, LONG, places, LONG, out, LONG), emit
