"""A weight that stays decoded once it has been used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.storage.base import Weight


class Kept(Weight):
    """Another weight, whose float64 values stay on the backend from the first time they are multiplied by.

    Rows that are looked up are decoded from the stored form: an embedding that is no output head costs nothing here.
    """

    def __init__(self, base: Weight, *, backend: Backend) -> None:
        self.base = base
        self.backend = backend
        self.format = base.format
        self.shape = base.shape
        self.nbytes = base.nbytes
        self._decoded: Array | None = None

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
        if self._decoded is None:
            whole = np.empty(self.shape, dtype=np.float64)
            for start, stop, panel in self.base.panels(backend=backend):
                whole[start:stop] = backend.to_numpy(panel)
            self._decoded = backend.from_numpy(whole)
        yield 0, self.shape[0], self._decoded
