"""What every stored weight is: a shape, a format, bytes, and rows that decode to float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray

PANEL_BYTES = 8 << 20
"""Decoded float64 bytes of one panel: what a weight that is not kept decoded costs in memory."""


class Weight(ABC):
    """A weight as it lies in memory. Its value is what `rows` gives: float32, or float64 where float64 is stored.

    Attributes:
        format: the name of the storage format, such as "F32" or "Q4_K".
        shape: the logical shape, output features first: (O, I) for a matrix, (D,) for a vector.
        nbytes: the bytes that the stored form takes.
    """

    format: str
    shape: tuple[int, ...]
    nbytes: int

    @abstractmethod
    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis."""

    @abstractmethod
    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded."""

    def decode(self) -> HostArray:
        """The whole weight, decoded."""
        return self.rows(0, self.shape[0])

    def panels(self, *, backend: Backend) -> Iterator[tuple[int, int, Array]]:
        """Yield (start, stop, float64 rows on the backend), each panel at most `PANEL_BYTES` or one row."""
        row = 8 * int(np.prod(self.shape[1:], dtype=np.int64))
        step = max(1, PANEL_BYTES // max(1, row))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
                panel = self.rows(start, stop).astype(np.float64)
            yield start, stop, backend.from_numpy(panel)

    def __repr__(self) -> str:
        from lepton_ref.storage.show import text

        return text(self)

    def _repr_html_(self) -> str:
        from lepton_ref.storage.show import html

        return html(self)
