"""Dense panels times one row of float64: chains of fused multiply-adds, four for each output."""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_dense import BF16, F32
from lepton_ref.backends.numba_real_kinds import bf16, bytes_of, f16, f32, prefetch, weights
from lepton_ref.backends.numba_rounding import splat_f64
from lepton_ref.backends.numba_types import F64X16
from lepton_ref.backends.numba_vectors import fma, storer

AHEAD = 4096
"""Bytes between what is read and what is asked for beside it."""

store_f64 = storer(F64X16)


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
def dense_dot(kind: Any, W: Any, codes: Any, panel: Any, X: Any, x: Any, width: Any) -> Any:
    """`-> f64`: sixteen outputs, each within γ_{width/4 + 5} of Σ |x·w|; a sum of zeros alone has its sign."""
    if kind == F32:
        return _dot(f32(), W, codes + 64 * panel * width, X, x, width)
    if kind == BF16:
        return _dot(bf16(), W, codes + 32 * panel * width, X, x, width)
    return _dot(f16(), W, codes + 32 * panel * width, X, x, width)


@njit(nogil=True, cache=True, _nrt=False)
def _unpack(stored: Any, W: Any, start: Any, first: Any, last: Any, S: Any, s: Any) -> None:
    for k in range(first, last):
        store_f64(S, s + 32 * (k - first), weights(stored, W, start, 16 * k))


@njit(nogil=True, cache=True, _nrt=False)
def dense_unpack(kind: Any, W: Any, codes: Any, panel: Any, width: Any, first: Any, last: Any, S: Any, s: Any) -> None:
    """Columns [first, last) of a panel as float64: S[s + 32·(k − first) + r]."""
    if kind == F32:
        _unpack(f32(), W, codes + 64 * panel * width, first, last, S, s)
    elif kind == BF16:
        _unpack(bf16(), W, codes + 32 * panel * width, first, last, S, s)
    else:
        _unpack(f16(), W, codes + 32 * panel * width, first, last, S, s)
