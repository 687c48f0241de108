"""Dense panels times one row of float64: chains of fused multiply-adds, four for each output.

So are panels of numbers of one byte with scales, which are multiplied in float32 on the way: see
`lepton_ref.backends.numba_panels_scaled`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from lepton_ref.backends.numba_bytes import load_bytes16, load_f32
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_dense import BF16, E5M2, F16, F32, OVER, TIMES
from lepton_ref.backends.numba_real_kinds import bf16, bytes_of, f16, f32, prefetch, weights
from lepton_ref.backends.numba_rounding import splat_f32, splat_f64, to_f64
from lepton_ref.backends.numba_types import F32X16, F64X16, I8X16, I16X16
from lepton_ref.backends.numba_vectors import converter, fma, shifted_left, splatter, storer

AHEAD = 4096
"""Bytes between what is read and what is asked for beside it."""


def _of_half(builder: Any, value: Any, target: Any) -> Any:
    return builder.fpext(builder.bitcast(value, ir.VectorType(ir.HalfType(), 16)), target)


store_f64, splat_i16 = storer(F64X16), splatter(I16X16)
widened = converter(I8X16, I16X16, lambda builder, value, target: builder.sext(value, target))
half_to_f32 = converter(I16X16, F32X16, _of_half)


@njit(nogil=True, cache=True, _nrt=False)
def _dot(stored: Any, W: Any, start: Any, X: Any, x: Any, width: Any) -> Any:
    a = b = c = d = splat_f64(-0.0)
    whole = width - width % 4
    size = bytes_of(stored)
    for k in range(0, whole, 4):
        for line in range(size):
            prefetch(W, start + 16 * size * k + AHEAD + 64 * line)
        a = fma(weights(stored, W, start, 16 * k), splat_f64(X[x + k]), a)
        b = fma(weights(stored, W, start, 16 * k + 16), splat_f64(X[x + k + 1]), b)
        c = fma(weights(stored, W, start, 16 * k + 32), splat_f64(X[x + k + 2]), c)
        d = fma(weights(stored, W, start, 16 * k + 48), splat_f64(X[x + k + 3]), d)
    for k in range(whole, width):
        a = fma(weights(stored, W, start, 16 * k), splat_f64(X[x + k]), a)
    return (a + b) + (c + d)


@njit(nogil=True, cache=True, _nrt=False)
def placed(kind: Any) -> Any:
    """How far a code is shifted into its fp16 number, and the bits that it has there."""
    return (8, np.int16(-1)) if kind == E5M2 else (7, np.int16(~0x4000))


@njit(nogil=True, cache=True, _nrt=False)
def factor_of(kind: Any, W: Any, scales: Any, width: Any, shared: Any) -> Any:
    """The number that multiplies or divides all of a row; it lies behind its scales."""
    if kind < TIMES:
        return splat_f32(np.float32(1.0))
    return load_f32(W, scales + 64 * ((width + shared - 1) // shared))


@njit(nogil=True, cache=True, _nrt=False)
def _rounded(kind: Any, W: Any, place: Any, scale: Any, factor: Any) -> Any:
    """Sixteen codes times their rows' scales, rounded to float32 as decoding does; as float64."""
    shift, mask = placed(kind)
    value = half_to_f32(shifted_left(widened(load_bytes16(W, place)), shift) & splat_i16(mask)) * scale
    if kind == TIMES:
        value = value * factor
    elif kind == OVER:
        value = value / factor
    return to_f64(value)


@njit(nogil=True, cache=True, _nrt=False)
def _scaled_dot(kind: Any, W: Any, codes: Any, scales: Any, shared: Any, X: Any, x: Any, width: Any) -> Any:
    """Groups of columns are whole fours but for the last, so that a chain is as long as in `_dot`."""
    a = b = c = d = splat_f64(-0.0)
    factor = factor_of(kind, W, scales, width, shared)
    for first in range(0, width, shared):
        scale = load_f32(W, scales + 64 * (first // shared))
        last = min(first + shared, width)
        whole = last - (last - first) % 4
        for k in range(first, whole, 4):
            place = codes + 16 * k
            prefetch(W, place + AHEAD)
            a = fma(_rounded(kind, W, place, scale, factor), splat_f64(X[x + k]), a)
            b = fma(_rounded(kind, W, place + 16, scale, factor), splat_f64(X[x + k + 1]), b)
            c = fma(_rounded(kind, W, place + 32, scale, factor), splat_f64(X[x + k + 2]), c)
            d = fma(_rounded(kind, W, place + 48, scale, factor), splat_f64(X[x + k + 3]), d)
        for k in range(whole, last):
            a = fma(_rounded(kind, W, codes + 16 * k, scale, factor), splat_f64(X[x + k]), a)
    return (a + b) + (c + d)


@njit(nogil=True, cache=True, _nrt=False)
def _scaled_unpack(
    kind: Any, W: Any, codes: Any, scales: Any, shared: Any, width: Any, first: Any, last: Any, S: Any, s: Any
) -> None:
    factor = factor_of(kind, W, scales, width, shared)
    start = first
    while start < last:
        scale = load_f32(W, scales + 64 * (start // shared))
        end = min(last, (start // shared + 1) * shared)
        for k in range(start, end):
            store_f64(S, s + 32 * (k - first), _rounded(kind, W, codes + 16 * k, scale, factor))
        start = end


@njit(nogil=True, cache=True, _nrt=False)
def column_bytes(kind: Any) -> Any:
    """Bytes of a column of a panel."""
    return 64 if kind == F32 else 32 if kind <= F16 else 16


@njit(nogil=True, cache=True, _nrt=False)
def scales_at(kind: Any, w0: Any, at: Any, panel: Any, width: Any) -> Any:
    """Where the scales of a panel of scaled numbers begin."""
    groups = (width + at[5] - 1) // at[5]
    return w0 + at[1] + 64 * panel * (groups + 1 if kind >= TIMES else groups)


@njit(nogil=True, cache=True, _nrt=False)
def dense_dot(kind: Any, W: Any, w0: Any, at: Any, panel: Any, X: Any, x: Any, width: Any) -> Any:
    """`-> f64`: sixteen outputs, each within γ_{width/4 + 5} of Σ |x·w|; a sum of zeros alone has its sign."""
    codes = w0 + at[0] + column_bytes(kind) * panel * width
    if kind == F32:
        return _dot(f32(), W, codes, X, x, width)
    if kind == BF16:
        return _dot(bf16(), W, codes, X, x, width)
    if kind == F16:
        return _dot(f16(), W, codes, X, x, width)
    return _scaled_dot(kind, W, codes, scales_at(kind, w0, at, panel, width), at[5], X, x, width)


@njit(nogil=True, cache=True, _nrt=False)
def _unpack(stored: Any, W: Any, start: Any, first: Any, last: Any, S: Any, s: Any) -> None:
    for k in range(first, last):
        store_f64(S, s + 32 * (k - first), weights(stored, W, start, 16 * k))


@njit(nogil=True, cache=True, _nrt=False)
def dense_unpack(
    kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, first: Any, last: Any, S: Any, s: Any
) -> None:
    """Columns [first, last) of a panel as float64: S[s + 32·(k − first) + r]."""
    codes = w0 + at[0] + column_bytes(kind) * panel * width
    if kind == F32:
        _unpack(f32(), W, codes, first, last, S, s)
    elif kind == BF16:
        _unpack(bf16(), W, codes, first, last, S, s)
    elif kind == F16:
        _unpack(f16(), W, codes, first, last, S, s)
    else:
        _scaled_unpack(kind, W, codes, scales_at(kind, w0, at, panel, width), at[5], width, first, last, S, s)
