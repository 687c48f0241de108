"""A register tile of float64: the innermost loop of a matrix product.

    tile(isa, X, x, W, w, C, c, count):  C[c + 32·i + j] += Σₖ X[x + 6·k + i]·W[w + 32·k + j],  i < 6, j < 32, k < count

X and W are packed so that every step of k reads the next six and the next thirty-two numbers. Each sum is a chain of
`count` fused multiply-adds that starts at −0, and one addition to C: γ_count and one rounding more. −0 + −0 is −0, so
that a sum of zeros alone has its sign.

AVX-512 holds the whole tile in 24 of its 32 registers. Others take it in strips of eight columns, 12 of 16 registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_dot import IsaType
from lepton_ref.backends.numba_types import I64, declared, pointer, splatted

HEIGHT, BREADTH = 6, 32
"""Rows of x and outputs of a tile."""

STRIPS = {"vnni": (32, 8), "avx2": (8, 4), "plain": (8, 4)}
"""Instruction set → columns taken at a time, and lanes of a vector."""


@intrinsic
def tile(typing: Any, isa: Any, X: Any, x: Any, W: Any, w: Any, C: Any, c: Any, count: Any) -> Any:
    """See the top of the page; `count` is at least 1."""
    if not isinstance(isa, IsaType):
        return None
    columns, lanes = STRIPS[isa.isa]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        x, w, c = (pointer(context, builder, signature.args[i], args[i], args[i + 1], double) for i in (1, 3, 5))
        for strip in range(0, BREADTH, columns):
            _strip(builder, x, w, c, args[7], range(strip, strip + columns, lanes), lanes)
        return context.get_dummy_value()

    number = types.int64
    return types.none(isa, X, number, W, number, C, number, number), emit


def _strip(builder: Any, x: Any, w: Any, c: Any, count: Any, columns: range, lanes: int) -> None:
    """Columns of a tile: the loop over k, its sums in registers, then their addition to C."""
    vector = ir.VectorType(ir.DoubleType(), lanes)
    fma = declared(builder, f"llvm.fma.v{lanes}f64", vector, [vector] * 3)
    places = [(i, j) for i in range(HEIGHT) for j in columns]
    before, loop = builder.block, builder.append_basic_block("steps")
    after = builder.append_basic_block("sums")
    zero = ir.Constant(vector, [-0.0] * lanes)
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    step.add_incoming(ir.Constant(I64, 0), before)
    sums = []
    for _ in places:
        total = builder.phi(vector)
        total.add_incoming(zero, before)
        sums.append(total)
    weights = {
        j: _load(builder, w, builder.add(_times(builder, step, BREADTH), ir.Constant(I64, j)), vector) for j in columns
    }
    new = []
    for i in range(HEIGHT):
        at = builder.gep(x, [builder.add(_times(builder, step, HEIGHT), ir.Constant(I64, i))])
        number = splatted(builder, builder.load(at), lanes)
        new += [builder.call(fma, [number, weights[j], sums[i * len(columns) + n]]) for n, j in enumerate(columns)]
    following = builder.add(step, ir.Constant(I64, 1))
    end = builder.block
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    step.add_incoming(following, end)
    for total, value in zip(sums, new, strict=True):
        total.add_incoming(value, end)
    builder.position_at_end(after)
    for (i, j), value in zip(places, new, strict=True):
        at = ir.Constant(I64, BREADTH * i + j)
        held = builder.bitcast(builder.gep(c, [at]), vector.as_pointer())
        builder.store(builder.fadd(_load(builder, c, at, vector), value), held).align = 8


def _load(builder: Any, start: Any, index: Any, vector: Any) -> Any:
    value = builder.load(builder.bitcast(builder.gep(start, [index]), vector.as_pointer()))
    value.align = 8
    return value


def _times(builder: Any, number: Any, by: int) -> Any:
    return builder.mul(number, ir.Constant(I64, by))
