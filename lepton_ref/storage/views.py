"""Weights seen through a choice of rows: how a fused or permuted tensor of a file serves a model's own layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight


class RowView(Weight):
    """The rows of another weight, in a given order: row r is the base's row index[r]. Nothing is copied.

    Raises:
        ValueError: an index that is not one-dimensional or leaves the base's rows.
    """

    def __init__(self, base: Weight, index: NDArray[np.int64]) -> None:
        index = np.asarray(index, dtype=np.int64)
        if index.ndim != 1 or (index.size and (index.min() < 0 or index.max() >= base.shape[0])):
            raise ValueError(f"row index of shape {index.shape} leaves a weight of {base.shape[0]} rows")
        self.base = base
        self.index = index
        self.format = base.format
        self.shape = (len(index), *base.shape[1:])
        self.nbytes = base.nbytes * len(index) // max(1, base.shape[0])

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis."""
        return self.base.take(self.index[start:stop])

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded."""
        return self.base.take(self.index[index])

    def blocks(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """`(N,) -> (N, blocks, bytes)` the stored blocks of the rows of these numbers."""
        return self.base.blocks(self.index[index])

    def unrounded(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, ...)` float64, the closed form of the rows of these numbers."""
        return self.base.unrounded(self.index[index])
