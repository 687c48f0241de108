"""A weight that stays decoded once it has been used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.storage.base import PANEL_BYTES, Weight


class Kept(Weight):
    """Another weight, whose float64 values stay on the backend from the first time they are multiplied by.

    Rows that are looked up are decoded from the stored form: an embedding that is no output head costs nothing here.

    Args:
        base: the weight as stored.
        backend: where the values stay.
        room: float64 memory of the weight's shape to decode into, not touched before the first use.

    Raises:
        ValueError: room of another shape or dtype.
    """

    def __init__(self, base: Weight, *, backend: Backend, room: NDArray[np.float64]) -> None:
        if room.shape != base.shape or room.dtype != np.float64:
            raise ValueError(f"room must be float64 {base.shape}, got {room.dtype} {room.shape}")
        self.base = base
        self.backend = backend
        self._room = room
        self.format = base.format
        self.shape = base.shape
        self.nbytes = base.nbytes
        self._decoded: Array | None = None
        self._lock = threading.Lock()  # two threads that use it first at the same time decode it once

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis."""
        return self.base.rows(start, stop)

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded."""
        return self.base.take(index)

    def panels(self, *, backend: Backend) -> Iterator[tuple[int, int, Array]]:
        """Yield the whole as one panel.

        Raises:
            ValueError: a backend other than the one that keeps it.
        """
        if backend is not self.backend:
            raise ValueError(f"this weight is kept on backend {self.backend.name!r}, not on {backend.name!r}")
        with self._lock:
            values = self._values()
        yield 0, self.shape[0], values

    def _values(self) -> Array:
        if self._decoded is None:
            step = max(1, PANEL_BYTES * self.shape[0] // max(1, self._room.nbytes))
            for start in range(0, self.shape[0], step):
                stop = min(start + step, self.shape[0])
                with np.errstate(invalid="ignore"):  # a signalling NaN is a value too
                    self._room[start:stop] = self.base.rows(start, stop)
            self._decoded = self.backend.from_numpy(self._room)
        return self._decoded
