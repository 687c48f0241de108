"""Round once in a kernel: float64 vectors to a format of activations, and the test whether a bound leaves it open.

Formats are numbers here: 0 fp32, 1 bf16, 2 fp16; all are held as float32. To bf16 and fp16 the way leads through
float32 rounded to odd, whose 24 bits are two more than either's and one spare: the second rounding is then the only one
(Boldo and Melquiond 2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_vectors import (
    F32X16,
    F64X16,
    I32X16,
    Vector,
    absolute,
    bits_of,
    converter,
    select,
    shifted_left,
    shifted_right,
    splatter,
)  # fmt: skip

FORMATS = {"fp32": 0, "bf16": 1, "fp16": 2}
"""Format of activations → its number in kernels."""

HALF = Vector("i16", 16)
splat_f64, splat_f32, splat_i32 = splatter(F64X16), splatter(F32X16), splatter(I32X16)


def _through_half(builder: Any, value: Any, target: Any) -> Any:
    return builder.fpext(builder.fptrunc(value, ir.VectorType(ir.HalfType(), 16)), target)


to_f32 = converter(F64X16, F32X16, lambda builder, value, target: builder.fptrunc(value, target))
to_f64 = converter(F32X16, F64X16, lambda builder, value, target: builder.fpext(value, target))
as_bits = converter(F32X16, I32X16, lambda builder, value, target: builder.bitcast(value, target))
as_f32 = converter(I32X16, F32X16, lambda builder, value, target: builder.bitcast(value, target))
through_fp16 = converter(F32X16, F32X16, _through_half)


@njit(inline="never")
def to_odd(value: Any) -> Any:
    """`(f64) -> f32`: the exact ones as they are, of the others the neighbour whose last bit is 1."""
    near = to_f32(value)
    bits = as_bits(near)
    back = to_f64(near)
    one = splat_i32(np.int32(1))
    moved = select(absolute(value) > absolute(back), bits + one, bits - one)
    even = (bits & one) == splat_i32(np.int32(0))
    return as_f32(select(even, select(back != value, moved, bits), bits))


@njit(inline="never")
def round_to(value: Any, form: Any) -> Any:
    """`(f64, format) -> f32`: rounded once, to nearest even; NaN as the one quiet NaN."""
    if form == 0:
        near = to_f32(value)
    elif form == 1:
        bits = as_bits(to_odd(value))
        last = shifted_right(bits, 16) & splat_i32(np.int32(1))
        near = as_f32(shifted_left(shifted_right(bits + splat_i32(np.int32(0x7FFF)) + last, 16), 16))
    else:
        near = through_fp16(to_odd(value))
    return select(value == value, near, splat_f32(np.float32(np.nan)))


@njit(inline="never")
def round_once(value: Any, bound: Any, form: Any) -> Any:
    """`(f64, f64, format) -> (f32, int64)`: the lower end of value ± bound, rounded, and the lanes that it leaves open.

    The bound covers the test's own two roundings: see `lepton_ref.numerics.rounding`. A bound that is NaN or infinite
    leaves its lane open; a bound of 0 leaves none, though −0 + 0 is +0.
    """
    low, high = round_to(value - bound, form), round_to(value + bound, form)
    return low, bits_of((as_bits(low) != as_bits(high)) & (bound != splat_f64(0.0))) | bits_of(bound != bound)
