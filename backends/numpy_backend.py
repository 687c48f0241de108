"""The NumPy backend: the only one that needs nothing but the core's own dependency."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.interface import Array, HostArray, Kernel


class NumpyBackend:
    """NumPy on the CPU; contractions by NumPy's BLAS."""

    name = "numpy"
    xp: Any = np
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
        """`(…, M, K), (…, K, N) -> (…, M, N)` in float64, in whatever order BLAS takes."""
        _require_float64(accumulate)
        return np.matmul(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False))

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        """Sum along one axis in float64."""
        _require_float64(accumulate)
        return np.sum(a, axis=axis, keepdims=keepdims, dtype=np.float64)


def _require_float64(accumulate: str) -> None:
    if accumulate != "float64":
        raise ValueError(f"the NumPy backend accumulates in float64 only, got {accumulate!r}")
