r"""RoPE in kernels: pairs of a head's numbers turned by angles whose cosines and sines come in double-double.

    (y₀, y₁) = (x₀·cos − x₁·sin, x₀·sin + x₁·cos)

Bound as in `lepton_ref.ops.rope`: 8·factor·(|x₀| + |x₁|)·u, u = 2⁻⁵³. What that leaves open is exact where the sine
is 0 and the cosine 1, and otherwise is computed with both halves of the tables, which are within 2⁻⁹⁷ of the factor:
products by high parts are exact in two parts, so that together they err by less than 2⁻⁹⁵ of the same size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_double import fast_two_sum, round_pair, splat_f64, two_product, two_sum
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import round_once, splat_f32, to_f64
from lepton_ref.backends.numba_rows import inside, load_columns, rounded, store_columns, with_lane
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_types import I32, pointer
from lepton_ref.backends.numba_vectors import F32X16, F64X16, absolute, bits_of, fma, lane, loader, select

U = 2.0**-53
load = loader(F64X16)
MOST = 2.0**300


@njit(nogil=True, cache=True)
def rope(
    F: Any, x: Any, x_stride: Any, y: Any, y_stride: Any, heads: Any, width: Any, rotary: Any, interleaved: Any,
    factor: Any, T: Any, table: Any, plane: Any, first: Any, last: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last) of heads; row r's cosines begin at T[table + r·rotary/2], sines and low parts a plane on each.

    Pairs are j and j + rotary/2, or 2j and 2j + 1 where interleaved; numbers beyond rotary pass as they are.
    """
    half = rotary // 2
    for row in range(first, last):
        for head in range(heads):
            at, out = x + row * x_stride + head * width, y + row * y_stride + head * width
            angle, column = table + row * half, head * width
            if interleaved:
                for j in range(0, half, 16):
                    _turn(
                        F, at + 2 * j, out + 2 * j, 2, 1, half - j, T, angle + j, plane, factor, form, stuck, row,
                        column + 2 * j,
                    )  # fmt: skip
            else:
                for j in range(0, half, 16):
                    _turn(
                        F, at + j, out + j, 1, half, half - j, T, angle + j, plane, factor, form, stuck, row, column + j
                    )  # fmt: skip
            if rotary < width:
                rest = width - rotary
                for k in range(0, rest, 16):
                    value = load_columns(F, at + rotary + k, rest - k)
                    near, open_ = rounded(value, splat_f64(0.0), form)
                    for i in range(min(rest - k, 16)):
                        F[out + rotary + k + i] = lane(near, i)
                        if open_ >> i & 1:
                            push(stuck, row, head * width + rotary + k + i)


@njit(forceinline=True)
def _turn(
    F: Any, at: Any, out: Any, step: Any, second: Any, count: Any, T: Any, angle: Any, plane: Any, factor: Any,
    form: Any, stuck: Any, row: Any, column: Any,
) -> None:  # fmt: skip
    """Up to sixteen pairs, at `at + i·step` and `second` further."""
    if step == 1:
        one, other = load_columns(F, at, count), load_columns(F, at + second, count)
    elif count >= 16:
        one, other = to_f64(every_other(F, at, 0)), to_f64(every_other(F, at, 1))
    else:
        one, other = _few(F, at, count), _few(F, at + 1, count)
    cos, sin = _angles(T, angle, count), _angles(T, angle + plane, count)
    bound = (absolute(one) + absolute(other)) * splat_f64(8.0 * U * factor)
    turned, raised = one * cos - other * sin, one * sin + other * cos
    near, open_ = rounded(turned, bound, form)
    above, open_above = rounded(raised, bound, form)
    if step == 1:
        store_columns(F, out, near, count)
        store_columns(F, out + second, above, count)
    else:
        for i in range(min(count, 16)):
            F[out + 2 * i], F[out + 2 * i + 1] = lane(near, i), lane(above, i)
    open_, open_above = open_ & inside(count), open_above & inside(count)
    if open_ | open_above:
        _repair(
            F, out, step, second, count, T, angle, plane, factor, form, stuck, row, column, one, other, open_,
            open_above,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _repair(
    F: Any, out: Any, step: Any, second: Any, count: Any, T: Any, angle: Any, plane: Any, factor: Any, form: Any,
    stuck: Any, row: Any, column: Any, one: Any, other: Any, open_: Any, open_above: Any,
) -> None:  # fmt: skip
    none, most = splat_f64(0.0), splat_f64(MOST)
    cos, sin = _angles(T, angle, count), _angles(T, angle + plane, count)
    exact = bits_of((sin == none) & (cos == splat_f64(1.0)))
    unusual = bits_of((absolute(one) < most) & (absolute(other) < most)) ^ 0xFFFF
    more, less = _angles(T, angle + 2 * plane, count), _angles(T, angle + 3 * plane, count)
    for which in range(2):
        sign, left = splat_f64(-1.0 if which == 0 else 1.0), open_ if which == 0 else open_above
        better, unknown = _better(
            one, other * sign, select(sign < none, cos, sin), select(sign < none, sin, cos),
            select(sign < none, more, less), select(sign < none, less, more), factor, form,
        )  # fmt: skip
        plain, _ = round_once(one * cos - other * sin if which == 0 else one * sin + other * cos, none, form)
        for i in range(min(count, 16)):
            if left >> i & 1:
                if exact >> i & 1 and unusual >> i & 1 == 0:
                    F[out + i * step + which * second] = lane(plain, i)
                elif (unknown | unusual) >> i & 1:
                    push(stuck, row, column + i * step + which * second)
                else:
                    F[out + i * step + which * second] = lane(better, i)


@njit(nogil=True, cache=True)
def _better(a: Any, b: Any, by_a: Any, by_b: Any, more_a: Any, more_b: Any, factor: Any, form: Any) -> Any:
    """a·(by_a + more_a) + b·(by_b + more_b), rounded, and which lanes are open."""
    p, e = two_product(a, by_a)
    q, f = two_product(b, by_b)
    s, lost = two_sum(p, q)
    s, lost = fast_two_sum(s, lost + (e + f) + fma(a, more_a, b * more_b))
    return round_pair(s, lost, (absolute(a) + absolute(b)) * splat_f64(factor * 2.0**-95), form)


@njit(nogil=True, cache=True)
def _few(F: Any, at: Any, count: Any) -> Any:
    """The first `count` of sixteen numbers that are two apart, as float64."""
    value = splat_f32(np.float32(0.0))
    for i in range(count):
        value = with_lane(value, i, F[at + 2 * i])
    return to_f64(value)


@intrinsic
def every_other(typing: Any, array: Any, index: Any, second: Any) -> Any:
    """`(float32s, index, 0 | 1) -> v`: the first or the second of sixteen pairs."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.FloatType(), 32)
        wide = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], kind))
        wide.align = 4
        picks = [ir.Constant(ir.VectorType(I32, 16), list(range(start, 32, 2))) for start in (0, 1)]
        first, other = (builder.shuffle_vector(wide, wide, pick) for pick in picks)
        return builder.select(builder.trunc(args[2], ir.IntType(1)), other, first)

    return F32X16(array, types.int64, types.int64), emit


@njit(forceinline=True)
def _angles(T: Any, at: Any, count: Any) -> Any:
    """The first `count` of sixteen numbers of a table."""
    if count >= 16:
        return load(T, at)
    return _few_angles(T, at, count)


@njit(nogil=True, cache=True)
def _few_angles(T: Any, at: Any, count: Any) -> Any:
    value = splat_f64(0.0)
    for i in range(count):
        value = with_lane(value, i, T[at + i])
    return value
