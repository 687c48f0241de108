"""A backend over array-api-strict, on a device that is not the CPU: it refuses what a GPU's library would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_strict
import numpy as np

from lepton_ref.interface import Array, HostArray, Kernel


class StrictBackend:
    """Only the standard's functions, no implicit copy to the host, no mix of devices or dtypes."""

    name = "strict"
    xp: Any = array_api_strict
    ulps = 4.0  # it computes with NumPy
    kernels: Mapping[tuple[str, type], Kernel] = {}

    def __init__(self) -> None:
        self.device = array_api_strict.Device("device1")

    def from_numpy(self, array: HostArray, /) -> Array:
        return array_api_strict.asarray(array, device=self.device)

    def to_numpy(self, array: Array, /) -> HostArray:
        return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))

    def matmul(self, a: Array, b: Array, /, *, accumulate: str) -> Array:
        return self.xp.matmul(self._as(a, accumulate), self._as(b, accumulate))

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        return self.xp.sum(self._as(a, accumulate), axis=axis, keepdims=keepdims)

    def _as(self, a: Array, accumulate: str) -> Array:
        """What is summed in float64 must come as that; what is summed in float32 is rounded to it here."""
        assert accumulate == "float32" or a.dtype == self.xp.float64
        return self.xp.astype(a, getattr(self.xp, accumulate), copy=False)
