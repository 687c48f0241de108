r"""RoPE in kernels: pairs of a head's numbers turned by angles whose cosines and sines come in double-double.

    (y₀, y₁) = (x₀·cos − x₁·sin, x₀·sin + x₁·cos)

Bound as in `lepton_ref.ops.rope`: 8·factor·(|x₀| + |x₁|)·u, u = 2⁻⁵³; 0 where the sine is 0 and the cosine 1. What that
leaves open is computed with both halves of the tables, which are within 2⁻⁹⁷ of the factor: products by high parts are
exact in two parts, so that together they err by less than 2⁻⁹⁵ of the same size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_double import fast_two_sum, round_pair, splat_f64, two_product, two_sum
from lepton_ref.backends.numba_rounding import round_once, splat_f32, to_f64
from lepton_ref.backends.numba_rows import inside, load_columns, store_columns, with_double, with_lane
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import F64X16, absolute, bits_of, fma, lane, loader, select

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
    step = 2 if interleaved else 1
    second = 1 if interleaved else half
    for row in range(first, last):
        for head in range(heads):
            at, out = x + row * x_stride + head * width, y + row * y_stride + head * width
            for j in range(0, half, 16):
                angle = table + row * half + j
                _turn(
                    F, at + j * step, out + j * step, step, second, half - j, T, angle, plane, factor, form, stuck, row,
                    head * width + j * step,
                )  # fmt: skip
            if rotary < width:
                rest = width - rotary
                for k in range(0, rest, 16):
                    value = load_columns(F, at + rotary + k, rest - k)
                    rounded, open_ = round_once(value, splat_f64(0.0), form)
                    for i in range(min(rest - k, 16)):
                        F[out + rotary + k + i] = lane(rounded, i)
                        if open_ >> i & 1:
                            push(stuck, row, head * width + rotary + k + i)


@njit(nogil=True, cache=True)
def _turn(
    F: Any, at: Any, out: Any, step: Any, second: Any, count: Any, T: Any, angle: Any, plane: Any, factor: Any,
    form: Any, stuck: Any, row: Any, column: Any,
) -> None:  # fmt: skip
    """Up to sixteen pairs, at `at + i·step` and `second` further."""
    one, other = _numbers(F, at, step, count), _numbers(F, at + second, step, count)
    cos, sin = _angles(T, angle, count), _angles(T, angle + plane, count)
    none = splat_f64(0.0)
    exact = (sin == none) & (cos == splat_f64(1.0))
    bound = (absolute(one) + absolute(other)) * splat_f64(8.0 * U * factor)
    bound = select(exact, none, bound)
    turned = one * cos - other * sin
    rounded, open_ = round_once(turned, bound, form)
    raised = one * sin + other * cos
    above, open_above = round_once(raised, bound, form)
    _store(F, out, rounded, step, count)
    _store(F, out + second, above, step, count)
    unusual = bits_of((absolute(one) < splat_f64(MOST)) & (absolute(other) < splat_f64(MOST))) ^ 0xFFFF
    open_, open_above = (open_ | unusual) & inside(count), (open_above | unusual) & inside(count)
    if open_ | open_above == 0:
        return
    more, less = _angles(T, angle + 2 * plane, count), _angles(T, angle + 3 * plane, count)
    for which in range(2):
        sign, left = splat_f64(-1.0 if which == 0 else 1.0), open_ if which == 0 else open_above
        better, unknown = _better(
            one, other * sign, select(sign < none, cos, sin), select(sign < none, sin, cos),
            select(sign < none, more, less), select(sign < none, less, more), factor, form,
        )  # fmt: skip
        unknown |= unusual
        for i in range(min(count, 16)):
            if left >> i & 1:
                if unknown >> i & 1:
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
def _numbers(F: Any, at: Any, step: Any, count: Any) -> Any:
    """The first `count` of sixteen numbers that are `step` apart, as float64."""
    if step == 1:
        return load_columns(F, at, count)
    value = splat_f32(np.float32(0.0))
    for i in range(min(count, 16)):
        value = with_lane(value, i, F[at + i * step])
    return to_f64(value)


@njit(nogil=True, cache=True)
def _store(F: Any, at: Any, value: Any, step: Any, count: Any) -> None:
    if step == 1:
        store_columns(F, at, value, count)
        return
    for i in range(min(count, 16)):
        F[at + i * step] = lane(value, i)


@njit(nogil=True, cache=True)
def _angles(T: Any, at: Any, count: Any) -> Any:
    """The first `count` of sixteen numbers of a table."""
    if count >= 16:
        return load(T, at)
    value = splat_f64(0.0)
    for i in range(count):
        value = with_double(value, i, T[at + i])
    return value
