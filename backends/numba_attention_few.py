"""Attention's products for a few rows of queries, as loops of LLVM that read keys and values as fast as memory is.

Slots are taken four at a time, sixteen numbers of each, so that what is read moves through memory evenly; with each
sixteen the cache lines are asked for that come `AHEAD` bytes later, in the order in which they lie. Without that a
processor's own prefetching follows neither the strides nor the beginning of a head, and reads at a third of the speed.

Keys and values are float32 where the cache has them; `places` holds the address of each slot's first number, and past
the last slot fills up with it to a multiple of four.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lepton_ref.backends.numba_attention_tiles import (
    F32,
    F64X8,
    I32,
    I32X16,
    I64,
    LONG,
    at_place,
    fused,
    larger,
    load,
    number,
    picked,
    rows_of,
    sizes,
    store,
    widened,
    zeros,
)  # fmt: skip
from lepton_ref.backends.numba_types import ask_for, pointer, splatted

AHEAD = 8192
"""How far behind what is read lies what is asked for, in bytes: as measured, and 6 to 12 thousand are all the same."""


class _Fours:
    """A loop over slots, four at a time, inside it one over their numbers, sixteen at a time.

    Past the `reach` slots that there are, lines are asked for from `beyond` on.

    Args:
        builder: of LLVM.
        buffer: where addresses count from.
        addresses: of slots.
        reach: see above.
        width: numbers of a slot.
        beyond: see above.
        most: where the largest |x| of each column lie, as float32's bits.
    """

    def __init__(
        self, builder: Any, buffer: Any, addresses: Any, reach: Any, width: Any, beyond: Any, most: Any
    ) -> None:
        self.builder, self.buffer, self.addresses, self.most = builder, buffer, addresses, most
        self.reach, self.width, self.beyond = reach, width, beyond
        slots = builder.udiv(number(AHEAD // 4), width)
        self.ahead = builder.select(builder.icmp_signed("<", slots, number(4)), number(4), slots)

    def begin(self, slot: Any) -> None:
        """Look up four slots, and the one that lies ahead."""
        builder = self.builder
        addresses = [builder.load(builder.gep(self.addresses, [builder.add(slot, number(j))])) for j in range(4)]
        self.places = [builder.gep(self.buffer, [address]) for address in addresses]
        later = builder.add(slot, self.ahead)
        inside = builder.icmp_signed("<", later, self.reach)
        address = builder.load(builder.gep(self.addresses, [builder.select(inside, later, slot)]))
        past = builder.mul(builder.sub(later, self.reach), self.width)
        self.later = builder.select(inside, builder.gep(self.buffer, [address]), builder.gep(self.beyond, [past]))

    def take(self, column: Any) -> None:
        """Ask for four lines, and raise the maxima to sixteen columns of the four slots."""
        builder = self.builder
        for line in range(4):
            place = builder.gep(self.later, [builder.add(builder.mul(column, number(4)), number(16 * line))])
            ask_for(builder, builder.bitcast(place, ir.IntType(8).as_pointer()))
        one, two, three, four = (sizes(builder, at_place(builder, place, column, I32X16)) for place in self.places)
        end = at_place(builder, self.most, column, I32X16)
        most = larger(builder, larger(builder, one, two), larger(builder, three, four))
        store(builder, larger(builder, most, load(builder, end)), end)

    def numbers(self, column: Any) -> list[Any]:
        """Eight columns of the four slots as float64."""
        return [widened(self.builder, self.builder.gep(place, [column]), 8) for place in self.places]


def _tile(rows: int, body: Any) -> Any:
    """`(A, a, a_row, B, places, first, slots, reach, width, Y, y, y_row, M, m, T, beyond)`; see `scores`, `added`."""

    @intrinsic
    def tile(
        typing: Any, A: Any, a: Any, a_row: Any, B: Any, places: Any, first: Any, slots: Any, reach: Any, width: Any,
        Y: Any, y: Any, y_row: Any, M: Any, m: Any, T: Any, beyond: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            A_, a_, a_row_, B_, places_, first_, slots_, reach_, width_, Y_, y_, y_row_, M_, m_, T_, beyond_ = args
            kinds = signature.args

            fours = _Fours(
                builder, pointer(context, builder, kinds[3], B_, number(0), F32),
                pointer(context, builder, kinds[4], places_, first_, I64), reach_, width_,
                pointer(context, builder, kinds[14], T_, beyond_, F32),
                pointer(context, builder, kinds[12], M_, m_, I32),
            )  # fmt: skip
            count = builder.udiv(builder.add(slots_, number(3)), number(4))
            given = rows_of(context, builder, kinds[0], A_, a_, a_row_, rows)
            body(builder, fours, count, given, rows_of(context, builder, kinds[9], Y_, y_, y_row_, rows))
            return context.get_dummy_value()

        return types.none(
            A, LONG, LONG, B, places, LONG, LONG, LONG, LONG, Y, LONG, LONG, M, LONG, T, LONG
        ), emit  # fmt: skip

    return tile


def scores(rows: int) -> Any:
    """`(Q, q, q_row, K, places, first, slots, reach, width, Y, y, y_row, M, m, T, beyond)`: rows of Q times slots of K.

    Y[y + i·y_row + j] = Q[q + i·q_row …]·K[places[first + j] …], j < slots and on to a multiple of four; width, the
    numbers of each, is a multiple of 16. M[m + c] is raised to |K[… + c]|, as float32's bits, so that NaN is the
    largest. Of `reach` slots, or more than are taken, lines are asked for ahead, and then from T[beyond] on.
    """

    def body(builder: Any, fours: _Fours, count: Any, queries: list[Any], out: list[Any]) -> None:
        sums = zeros(builder, rows * 4, F64X8)
        with cgutils.for_range(builder, count) as group:
            slot = builder.mul(group.index, number(4))
            fours.begin(slot)
            for one in sums:
                builder.store(ir.Constant(F64X8, None), one)
            with cgutils.for_range(builder, builder.udiv(fours.width, number(16))) as loop:
                column = builder.mul(loop.index, number(16))
                fours.take(column)
                for half in (column, builder.add(column, number(8))):
                    wide = fours.numbers(half)
                    for i, row in enumerate(queries):
                        query = load(builder, at_place(builder, row, half, F64X8))
                        for one, key in zip(sums[4 * i : 4 * i + 4], wide, strict=True):
                            builder.store(fused(builder, query, key, builder.load(one)), one)
            for i, row in enumerate(out):
                four = _four_totals(builder, [builder.load(one) for one in sums[4 * i : 4 * i + 4]])
                store(builder, four, at_place(builder, row, slot, four.type))

    return _tile(rows, body)


def added(rows: int) -> Any:
    """`(P, p, p_row, V, places, first, slots, reach, width, Y, y, y_row, M, m, T, beyond)`: Y += P @ V.

    P[p + i·p_row + j] weighs slot first + j, j < slots and on to a multiple of four; Y[y + i·y_row + c] is column c.
    The rest is as in `scores`.
    """

    def body(builder: Any, fours: _Fours, count: Any, weights: list[Any], out: list[Any]) -> None:
        with cgutils.for_range(builder, count) as group:
            slot = builder.mul(group.index, number(4))
            fours.begin(slot)
            index = [builder.add(slot, number(j)) for j in range(4)]
            by = [[splatted(builder, builder.load(builder.gep(row, [j])), 8) for j in index] for row in weights]
            with cgutils.for_range(builder, builder.udiv(fours.width, number(16))) as loop:
                column = builder.mul(loop.index, number(16))
                fours.take(column)
                for half in (column, builder.add(column, number(8))):
                    wide = fours.numbers(half)
                    for row, four in zip(out, by, strict=True):
                        end = at_place(builder, row, half, F64X8)
                        total = load(builder, end)
                        for weight, value in zip(four, wide, strict=True):
                            total = fused(builder, weight, value, total)
                        store(builder, total, end)

    return _tile(rows, body)


def _four_totals(builder: Any, sums: list[Any]) -> Any:
    """Four vectors of eight -> one of their totals, in three steps that halve all four at once."""

    def pairs(a: Any, b: Any, even: list[int], odd: list[int]) -> Any:
        return builder.fadd(picked(builder, a, b, even), picked(builder, a, b, odd))

    even, odd = [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]
    first, second = pairs(sums[0], sums[1], even, odd), pairs(sums[2], sums[3], even, odd)
    both = pairs(first, second, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    return builder.fadd(picked(builder, both, both, [0, 1, 2, 3]), picked(builder, both, both, [4, 5, 6, 7]))
