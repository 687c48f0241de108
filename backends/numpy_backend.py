"""The NumPy backend: the only one that needs nothing but the core's own dependency."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.interface import Array, HostArray, Kernel

_MAX: Any = np.maximum.reduce  # NumPy's type stubs know keepdims as a literal only
_ANY: Any = np.logical_or.reduce
_ALL: Any = np.logical_and.reduce
_SUM: Any = np.add.reduce


class Namespace:
    """NumPy's own functions under the names of the Array API, without NumPy's Python wrappers around methods.

    A decode step is some 3,000 calls on arrays of a few hundred numbers, where a wrapper costs as much as the work.
    """

    float64, float32, bool = np.float64, np.float32, np.bool_
    exp, log, sqrt, tanh, abs, isfinite = np.exp, np.log, np.sqrt, np.tanh, np.abs, np.isfinite
    where, concat = np.where, np.concatenate

    @staticmethod
    def astype(x: Array, dtype: Any, /, *, copy: builtins.bool = True) -> Array:  # noqa: D102 — the Array API says what it does
        return x.astype(dtype, copy=copy)

    @staticmethod
    def reshape(x: Array, /, shape: tuple[int, ...]) -> Array:  # noqa: D102
        return x.reshape(shape)

    @staticmethod
    def permute_dims(x: Array, /, axes: tuple[int, ...]) -> Array:  # noqa: D102
        return x.transpose(axes)

    @staticmethod
    def expand_dims(x: Array, /, *, axis: int) -> Array:  # noqa: D102
        at = axis if axis >= 0 else axis + x.ndim + 1
        return x[(slice(None),) * at + (None,)]

    @staticmethod
    def take(x: Array, indices: Array, /, *, axis: int) -> Array:  # noqa: D102
        return x.take(indices, axis=axis)

    @staticmethod
    def max(x: Array, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Array:  # noqa: D102
        return np.asarray(_MAX(x, axis=axis, keepdims=keepdims))

    @staticmethod
    def any(x: Array, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Array:  # noqa: D102
        return np.asarray(_ANY(x, axis=axis, keepdims=keepdims))

    @staticmethod
    def all(x: Array, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Array:  # noqa: D102
        return np.asarray(_ALL(x, axis=axis, keepdims=keepdims))


class NumpyBackend:
    """NumPy on the CPU; contractions by NumPy's BLAS."""

    name = "numpy"
    xp: Any = Namespace
    ulps = 4.0  # NumPy's SIMD loops promise less, the C library's functions much less
    kernels: Mapping[tuple[str, type], Kernel] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"NumpyBackend(numpy {np.__version__})"

    def from_numpy(self, array: HostArray, /) -> Array:
        """Wrap the array as it is."""
        return np.asarray(array)

    def to_numpy(self, array: Array, /) -> HostArray:
        """Return the array as it is.

        Raises:
            TypeError: not a NumPy array; an array of another library would be converted in silence.
        """
        if not isinstance(array, np.ndarray):
            raise TypeError(f"expected a NumPy array, got {type(array).__name__}; use that array's own backend")
        return array

    def matmul(self, a: Array, b: Array, /, *, accumulate: str) -> Array:
        """`(…, M, K), (…, K, N) -> (…, M, N)` in float64 or float32, in whatever order BLAS takes."""
        dtype = _dtype(accumulate)
        return np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        """Sum along one axis in float64 or float32."""
        return _SUM(a, axis=axis, keepdims=keepdims, dtype=_dtype(accumulate))


def _dtype(accumulate: str) -> Any:
    if accumulate not in ("float64", "float32"):
        raise ValueError(f"the NumPy backend accumulates in float64 or float32, got {accumulate!r}")
    return np.float64 if accumulate == "float64" else np.float32
