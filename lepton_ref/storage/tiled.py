"""What the formats here share that keep a matrix of codes in one array and the scales of its tiles in another.

The closed form of every one of them is exact in float64, or is the float64 quotient where a format divides; its one
rounding to float32 is the last step. What overflows float32 is infinite, as IEEE 754 has it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight
from lepton_ref.storage.layout import Part
from lepton_ref.storage.scales import Scales, tiles

Floats = NDArray[np.float64]


class Tiled(Weight):
    """A matrix of codes, and what its tiles share.

    Attributes:
        tile: rows and columns of a tile.
        formula: an element's value in terms of the parts that `read` gives.
        tensors: a part of the formula → the name, behind the weight's own, of the array whose bytes hold it.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    formula: str
    tensors: Mapping[str, str]

    @abstractmethod
    def unrounded(self, index: NDArray[np.int64], /) -> Floats:
        """`(N,) -> (N, I)` float64, the closed form of the rows of these numbers."""

    @abstractmethod
    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The parts of one element; the bits of each are counted from the first byte of the array that holds it.

        Raises:
            ValueError: no such element.
        """

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, I)` float32, the rows of these numbers, each value rounded once."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return self.unrounded(index).astype(np.float32)

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, I)` float32."""
        return self.take(np.arange(*slice(start, stop).indices(self.shape[0])))

    def _require(self, row: int, column: int) -> None:
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise ValueError(f"element ({row}, {column}) of a matrix {self.shape}; both count from 0")


def require_tiles(what: str, scales: Scales | HostArray, shape: tuple[int, int], tile: tuple[int, int]) -> None:
    """There is one scale for each tile.

    Raises:
        ValueError: another number of them, or a tile below 1.
    """
    got = scales.array.shape if isinstance(scales, Scales) else scales.shape
    if min(tile) < 1:
        raise ValueError(f"{what}: tiles of {tile}; give rows and columns of at least 1")
    if got != tiles(shape, tile):
        raise ValueError(
            f"{what}: {shape} in tiles of {tile} has {tiles(shape, tile)} of them, got scales {got}; "
            "the last tiles of a row and a column count, however small"
        )
