"""Rows of the arena in vectors of sixteen: a row's last one, which may not be full, is read and written in part."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_bits, round_once, splat_f32, splat_i32, to_f32, to_f64
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import (
    F32X16,
    F64X16,
    SCALARS,
    bits_of,
    converter,
    lane,
    loader,
    select,
    storer,
)  # fmt: skip

opposite = converter(F64X16, F64X16, lambda builder, value, target: builder.fneg(value))
load_floats, store_floats = loader(F32X16), storer(F32X16)


@intrinsic
def with_lane(typing: Any, vector: Any, index: Any, number: Any) -> Any:
    """`(v, index, number) -> v`: one lane replaced, of sixteen float32 or float64."""
    if vector not in (F32X16, F64X16):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[2], builder.trunc(args[1], ir.IntType(32)))

    return vector(vector, types.int64, SCALARS[vector.element]), emit


@njit(forceinline=True)
def load_columns(F: Any, at: Any, count: Any) -> Any:
    """Sixteen numbers of which the first `count` are F[at …], the others 0, as float64."""
    if count >= 16:
        return to_f64(load_floats(F, at))
    return _load_part(F, at, count)


@njit(nogil=True, cache=True)
def _load_part(F: Any, at: Any, count: Any) -> Any:
    value = splat_f32(np.float32(0.0))
    for k in range(count):
        value = with_lane(value, k, F[at + k])
    return to_f64(value)


@njit(forceinline=True)
def store_columns(F: Any, at: Any, value: Any, count: Any) -> None:
    """The first `count` of sixteen numbers to F[at …]."""
    if count >= 16:
        store_floats(F, at, value)
    else:
        _store_part(F, at, value, count)


@njit(nogil=True, cache=True)
def _store_part(F: Any, at: Any, value: Any, count: Any) -> None:
    for k in range(count):
        F[at + k] = lane(value, k)


@njit(forceinline=True)
def rounded(value: Any, bound: Any, form: Any) -> Any:
    """As `numba_rounding.round_once`, but NaN leaves its lane open; without a call where the format is fp32."""
    if form != 0:
        near, open_ = round_once(value, bound, form)
        return near, open_ | bits_of(value != value)
    low, high = to_f32(value - bound), to_f32(opposite(value) - bound)  # −high, so that −0 stays what it is
    low_bits = as_bits(low)
    open_ = bits_of((low_bits ^ splat_i32(np.int32(-(2**31)))) != as_bits(high)) | bits_of(low != low)
    return select(low == low, low, splat_f32(np.float32(np.nan))), open_


@njit(forceinline=True)
def inside(count: Any) -> Any:
    """The bits of those lanes that are among the first `count`."""
    return (np.int64(1) << min(count, 16)) - 1


@njit(nogil=True, cache=True)
def keep(
    F: Any, y: Any, value: Any, open_: Any, better: Any, unknown: Any, count: Any, stuck: Any, row: Any, column: Any
) -> None:  # fmt: skip
    """Store the first `count` lanes of value, but of `better` where the bits `open_` say so, and push those unknown."""
    store_columns(F, y, value, count)
    for k in range(min(count, 16)):
        if open_ >> k & 1:
            F[y + k] = lane(better, k)
            if unknown >> k & 1:
                push(stuck, row, column + k)
