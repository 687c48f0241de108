"""The end of a linear layer: the rounding test, and the second stage for what it leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_real_blocks import unpack_block
from lepton_ref.backends.numba_real_dense import dense_unpack
from lepton_ref.backends.numba_real_exact import add_products, add_term, bits64, decide, load_f64, splat_i64
from lepton_ref.backends.numba_real_kinds import store_some
from lepton_ref.backends.numba_real_rows import COLUMNS, length_of, load_f32
from lepton_ref.backends.numba_rounding import as_bits, round_once, splat_f64, to_f32, to_f64
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import absolute, bits_of, fma, lane, select


@njit(nogil=True, cache=True, _nrt=False)
def lengths_of(kind: Any, W: Any, at: Any, panel: Any) -> Any:
    """The lengths of sixteen rows of the weight; infinite ones as NaN."""
    length = to_f64(load_f32(W, at + (128 if kind < F32 else 64) * panel))
    good = length < splat_f64(np.inf)
    if kind < F32:
        good = good & (length > splat_f64(0.0))
    return select(good, length, splat_f64(np.nan))


@njit(nogil=True, cache=True, _nrt=False)
def tested(value: Any, bound: Any, form: Any) -> Any:
    """`(f64, f64, format) -> (f32, int64)`: `round_once`, its common case emitted where it is used."""
    if form != 0:
        return round_once(value, bound, form)
    low, high = to_f32(value - bound), to_f32(value + bound)
    return low, bits_of(as_bits(low) != as_bits(high)) | bits_of(bound != bound)


@njit(nogil=True, cache=True, _nrt=False)
def bias_of(B: Any, start: Any, live: Any, S: Any, s0: Any) -> Any:
    """Sixteen biases, or fewer and zeros, as float64."""
    if live == 16:
        return to_f64(load_f32(B, start))
    for i in range(16):
        S[s0 + i] = np.float64(B[start + i]) if i < live else 0.0
    return load_f64(S, s0)


@njit(nogil=True, cache=True, _nrt=False)
def unpack(kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, first: Any, last: Any, S: Any, s: Any) -> None:
    """Columns [first, last) of a panel as float64: S[s + 32·(k − first) + r]."""
    if kind >= F32:
        dense_unpack(kind, W, w0, at, panel, width, first, last, S, s)
        return
    for b in range(first // 32, (last + 31) // 32):
        unpack_block(kind, W, w0, at, panel, width, b, S, s + 32 * (32 * b - first))


@njit(nogil=True, cache=True, _nrt=False)
def only_zeros(kind: Any, W: Any, at: Any, panel: Any, F: Any, x: Any, width: Any) -> Any:
    """`-> int64`: the lanes all of whose products are zeros, of one sign or the other."""
    length, mine = to_f64(load_f32(W, at + (128 if kind < F32 else 64) * panel)), length_of(F, x, width)
    if mine == 0.0:
        return bits_of(length < splat_f64(np.inf))
    return bits_of(length == splat_f64(0.0)) if mine == mine else np.int64(0)


@njit(nogil=True, cache=True, inline="never", _nrt=False)
def settle(
    open_: Any, bias: Any, bias0: Any, kind: Any, W: Any, w0: Any, at: Any, F: Any, x: Any, y: Any, row: Any,
    panel: Any, width: Any, form: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """The second stage of the open lanes: see `numba_real_exact`; what it leaves open is noted in `stuck`."""
    sums = (splat_f64(-0.0), splat_f64(-0.0), splat_f64(0.0))
    nothing = open_ & ~only_zeros(kind, W, w0 + at[4], panel, F, x, width) == 0
    step = 32 if nothing else COLUMNS
    for first in range(0, width, step):
        last = min(first + step, width)
        unpack(kind, W, w0, at, panel, width, first, last, S, s0)
        sums = add_products(S, s0, last - first, F, x + first, sums)
        if nothing and bits_of(bits64(sums[0]) < splat_i64(np.int64(0))) & open_ == 0:
            break  # +0 stays +0, whatever zeros come
    if bias0 >= 0:
        sums = add_term(bias, sums)
    rounded, still = decide(sums, form)
    for i in range(16):
        if open_ >> i & 1:
            F[y + i] = lane(rounded, i)
            if still >> i & 1:
                push(stuck, row, 16 * panel + i)


@njit(nogil=True, cache=True, _nrt=False)
def round_panel(
    kind: Any, W: Any, w0: Any, at: Any, F: Any, x: Any, xstride: Any, top: Any, count: Any, y: Any, ystride: Any,
    panel: Any, outputs: Any, width: Any, B: Any, bias0: Any, form: Any, P: Any, p0: Any, unit: Any,
    place: Any, stride: Any, S: Any, s0: Any, stuck: Any,
) -> None:  # fmt: skip
    """Round the sums of a panel, S[place + stride·row …]; x, y and `top` belong to the first of `count` rows."""
    column = 16 * panel
    live = min(16, outputs - column)
    mask = (1 << live) - 1
    lengths = lengths_of(kind, W, w0 + at[4], panel)
    bias, more = splat_f64(0.0), splat_f64(0.0)
    if bias0 >= 0:
        bias = bias_of(B, bias0 + column, live, S, s0)
        more = absolute(bias) * splat_f64(unit)
    for row in range(count):
        value = load_f64(S, place + row * stride)
        if bias0 >= 0:
            value = value + bias
        rounded, opened = tested(value, fma(lengths, splat_f64(P[p0 + top + row] * unit), more), form)
        opened &= mask
        here = y + row * ystride + column
        store_some(F, here, live, rounded)
        if opened != 0:
            settle(
                opened, bias, bias0, kind, W, w0, at, F, x + row * xstride, here, top + row, panel, width, form,
                S, s0, stuck,
            )  # fmt: skip
