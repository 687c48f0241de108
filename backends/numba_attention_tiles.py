"""What attention spends its time in: register tiles of float64 products, as loops of LLVM.

Keys and values are float32 where the cache has them; `places` holds the address of each slot's first number.

    scores    four keys against a few rows of queries, eight lanes along the head, added in a tree: for few rows
    packed    sixteen keys, turned so that a lane is a key, against eight rows: for many rows
    weighed   rows of weights times values, sixteen columns a vector: a lane is a column of the result
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
I32X8 = ir.VectorType(I32, 8)
LONG = types.int64


def _at(builder: Any, start: Any, index: Any, llvm: Any) -> Any:
    """The place `index` numbers after `start`, as a pointer to `llvm`."""
    return builder.bitcast(builder.gep(start, [index]), llvm.as_pointer())


def _load(builder: Any, place: Any) -> Any:
    value = builder.load(place)
    value.align = 4
    return value


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, place).align = 4


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _widened(builder: Any, place: Any, lanes: int) -> Any:
    """float32 numbers as float64."""
    narrow = _load(builder, builder.bitcast(place, ir.VectorType(F32, lanes).as_pointer()))
    return builder.fpext(narrow, ir.VectorType(F64, lanes))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    function = declared(builder, f"llvm.fma.v{a.type.count}f64", a.type, [a.type] * 3)
    return builder.call(function, [a, b, c])


def _zeros(builder: Any, count: int, kind: Any) -> list[Any]:
    """Registers of a loop, which LLVM makes of stack slots."""
    found = [cgutils.alloca_once(builder, kind) for _ in range(count)]
    for one in found:
        builder.store(ir.Constant(kind, None), one)
    return found


def _accumulated(builder: Any, sums: list[Any], places: list[Any], fresh: Any) -> None:
    """Store sums, or add them to what is there, where `fresh` is 0."""
    new = builder.icmp_signed("!=", fresh, _number(0))
    with builder.if_else(new) as (then, otherwise):
        with then:
            for one, place in zip(sums, places, strict=True):
                _store(builder, builder.load(one), place)
        with otherwise:
            for one, place in zip(sums, places, strict=True):
                _store(builder, builder.fadd(_load(builder, place), builder.load(one)), place)


class _Maxima:
    """Registers of a loop that hold the largest |x| of columns, as float32's bits."""

    def __init__(self, builder: Any, out: Any, vectors: int) -> None:
        self.builder = builder
        self.ends = [_at(builder, out, _number(16 * c), I32X16) for c in range(vectors)]
        self.registers = [cgutils.alloca_once(builder, I32X16) for _ in self.ends]
        for register, end in zip(self.registers, self.ends, strict=True):
            builder.store(_load(builder, end), register)

    def take(self, place: Any) -> None:
        """Raise them to the numbers at a place."""
        maximum = declared(self.builder, "llvm.smax.v16i32", I32X16, [I32X16] * 2)
        size = ir.Constant(I32X16, [0x7FFFFFFF] * 16)
        for c, register in enumerate(self.registers):
            bits = self.builder.and_(_load(self.builder, _at(self.builder, place, _number(16 * c), I32X16)), size)
            self.builder.store(self.builder.call(maximum, [bits, self.builder.load(register)]), register)

    def finish(self) -> None:
        """Store them where they came from."""
        for register, end in zip(self.registers, self.ends, strict=True):
            _store(self.builder, self.builder.load(register), end)


def weighed(rows: int, vectors: int, *, raise_maxima: bool = False) -> Any:
    """`(P, p, p_row, V, column, places, first, count, Y, y, y_row, fresh, M, m)`: Y (+)= P @ V.

    P[p + i·p_row + j] weighs slot first + j; Y[y + i·y_row + c], c < 16·vectors, is column + c of the values. M as in
    `maxima`, where they are to be raised.
    """

    @intrinsic
    def tile(
        typing: Any, P: Any, p: Any, p_row: Any, V: Any, column: Any, places: Any, first: Any, count: Any, Y: Any,
        y: Any, y_row: Any, fresh: Any, M: Any, m: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            P_, p_, p_row_, V_, column_, places_, first_, count_, Y_, y_, y_row_, fresh_, M_, m_ = args
            kinds = signature.args

            def rows_of(kind: Any, array: Any, start: Any, step: Any) -> list[Any]:
                index = [builder.add(start, builder.mul(step, _number(i))) for i in range(rows)]
                return [pointer(context, builder, kind, array, one, F64) for one in index]

            weights, out = rows_of(kinds[0], P_, p_, p_row_), rows_of(kinds[8], Y_, y_, y_row_)
            values = pointer(context, builder, kinds[3], V_, column_, F32)
            addresses = pointer(context, builder, kinds[5], places_, first_, I64)
            sums = _zeros(builder, rows * vectors, F64X16)
            most = _Maxima(builder, pointer(context, builder, kinds[12], M_, m_, I32), vectors if raise_maxima else 0)
            with cgutils.for_range(builder, count_) as loop:
                place = builder.gep(values, [builder.load(builder.gep(addresses, [loop.index]))])
                most.take(place)
                wide = [_widened(builder, builder.gep(place, [_number(16 * c)]), 16) for c in range(vectors)]
                for i in range(rows):
                    weight = splatted(builder, builder.load(builder.gep(weights[i], [loop.index])), 16)
                    for c in range(vectors):
                        one = sums[i * vectors + c]
                        builder.store(_fma(builder, weight, wide[c], builder.load(one)), one)
            ends = [_at(builder, out[i], _number(16 * c), F64X16) for i in range(rows) for c in range(vectors)]
            _accumulated(builder, sums, ends, fresh_)
            most.finish()
            return context.get_dummy_value()

        return types.none(P, LONG, LONG, V, LONG, places, LONG, LONG, Y, LONG, LONG, LONG, M, LONG), emit

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
            sums = _zeros(builder, rows, F64X16)
            with cgutils.for_range(builder, count_) as loop:
                key = _load(builder, _at(builder, keys, builder.mul(loop.index, _number(16)), F64X16))
                row = builder.gep(queries, [builder.mul(loop.index, _number(16))])
                for i in range(rows):
                    number = splatted(builder, builder.load(builder.gep(row, [_number(i)])), 16)
                    builder.store(_fma(builder, number, key, builder.load(sums[i])), sums[i])
            index = [builder.add(y_, builder.mul(y_row_, _number(i))) for i in range(rows)]
            ends = [pointer(context, builder, kinds[5], Y_, one, F64X16) for one in index]
            _accumulated(builder, sums, ends, fresh_)
            return context.get_dummy_value()

        return types.none(Q, LONG, K, LONG, LONG, Y, LONG, LONG, LONG), emit

    return tile


def scores(rows: int) -> Any:
    """`(Q, q, q_row, K, places, first, count, Y, y, y_row, M, m)`: Y[y + i·y_row + j] = Q[q + i·q_row …]·K[place j …].

    j < 4; count, the numbers of a head, is a multiple of 8. M as in `maxima`.
    """

    @intrinsic
    def tile(
        typing: Any, Q: Any, q: Any, q_row: Any, K: Any, places: Any, first: Any, count: Any, Y: Any, y: Any,
        y_row: Any, M: Any, m: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            Q_, q_, q_row_, K_, places_, first_, count_, Y_, y_, y_row_, M_, m_ = args
            kinds = signature.args
            index = [builder.add(q_, builder.mul(q_row_, _number(i))) for i in range(rows)]
            queries = [pointer(context, builder, kinds[0], Q_, one, F64) for one in index]
            addresses = pointer(context, builder, kinds[4], places_, first_, I64)
            keys = [
                pointer(context, builder, kinds[3], K_, builder.load(builder.gep(addresses, [_number(j)])), F32)
                for j in range(4)
            ]
            sums = _zeros(builder, rows * 4, F64X8)
            most, size = pointer(context, builder, kinds[10], M_, m_, I32), ir.Constant(I32X8, [0x7FFFFFFF] * 8)
            maximum = declared(builder, "llvm.smax.v8i32", I32X8, [I32X8] * 2)
            with cgutils.for_range(builder, builder.udiv(count_, _number(8))) as loop:
                at = builder.mul(loop.index, _number(8))
                wide = [_widened(builder, builder.gep(key, [at]), 8) for key in keys]
                for i in range(rows):
                    query = _load(builder, _at(builder, queries[i], at, F64X8))
                    for j in range(4):
                        one = sums[4 * i + j]
                        builder.store(_fma(builder, query, wide[j], builder.load(one)), one)
                bits = [builder.and_(_load(builder, _at(builder, key, at, I32X8)), size) for key in keys]
                end = _at(builder, most, at, I32X8)
                pairs = [builder.call(maximum, bits[:2]), builder.call(maximum, bits[2:])]
                larger = builder.call(maximum, [builder.call(maximum, pairs), _load(builder, end)])
                _store(builder, larger, end)
            for i in range(rows):
                four = _four_totals(builder, [builder.load(one) for one in sums[4 * i : 4 * i + 4]])
                end = builder.add(y_, builder.mul(y_row_, _number(i)))
                _store(builder, four, pointer(context, builder, kinds[7], Y_, end, four.type))
            return context.get_dummy_value()

        return types.none(Q, LONG, LONG, K, places, LONG, LONG, Y, LONG, LONG, M, LONG), emit

    return tile


def _picked(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _four_totals(builder: Any, sums: list[Any]) -> Any:
    """Four vectors of eight -> one of their totals, in three steps that halve all four at once."""

    def pairs(a: Any, b: Any, even: list[int], odd: list[int]) -> Any:
        return builder.fadd(_picked(builder, a, b, even), _picked(builder, a, b, odd))

    even, odd = [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]
    first, second = pairs(sums[0], sums[1], even, odd), pairs(sums[2], sums[3], even, odd)
    both = pairs(first, second, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    return builder.fadd(_picked(builder, both, both, [0, 1, 2, 3]), _picked(builder, both, both, [4, 5, 6, 7]))


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
            most = _Maxima(builder, out, vectors)
            with cgutils.for_range(builder, count_) as loop:
                most.take(builder.gep(values, [builder.load(builder.gep(addresses, [loop.index]))]))
            most.finish()
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
            start = builder.add(builder.load(builder.gep(addresses, [_number(j)])), column_)
            rows.append(_load(builder, pointer(context, builder, kinds[0], K_, start, ir.VectorType(F32, 16))))
        distance = 8
        while distance:
            low = [lane for lane in range(16) if not lane & distance]
            turned_ = list(rows)
            for i in low:
                a, b = rows[i], rows[i + distance]
                first_half = [lane if not lane & distance else 16 + lane - distance for lane in range(16)]
                second_half = [lane + distance if not lane & distance else 16 + lane for lane in range(16)]
                turned_[i] = _picked(builder, a, b, first_half)
                turned_[i + distance] = _picked(builder, a, b, second_half)
            rows = turned_
            distance //= 2
        for k, row in enumerate(rows):
            end = pointer(context, builder, kinds[4], out_, builder.add(o_, _number(16 * k)), F64X16)
            _store(builder, builder.fpext(row, F64X16), end)
        return context.get_dummy_value()

    return types.none(K, LONG, places, LONG, out, LONG), emit
