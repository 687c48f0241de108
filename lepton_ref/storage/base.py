"""What every stored weight is: a shape, a format, bytes, and rows that decode to float32."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.numerics.lengths import lengths

PANEL_BYTES = 8 << 20
"""Decoded float64 bytes of one panel: what a weight that is not kept decoded costs in memory."""


@dataclass(eq=False)
class Panel:
    """Some rows of a matrix, as a linear layer multiplies by them.

    Attributes:
        start: the first row.
        stop: the row behind the last.
        rows: (stop - start, I) on the backend, float64; float32 where a weight is kept so.
        backend: whose array it is.
    """

    start: int
    stop: int
    rows: Array
    backend: Backend

    @cached_property
    def lengths(self) -> Array:
        """`(1, stop - start)` the Euclidean lengths of the rows, rounded up: see `lepton_ref.numerics.lengths`."""
        count, width = self.rows.shape
        step = max(1, PANEL_BYTES // max(1, 8 * width))  # no square of the whole matrix at once
        ends = [(at, min(at + step, count)) for at in range(0, max(count, 1), step)]
        parts = [lengths(self.rows[start:stop, :], backend=self.backend) for start, stop in ends]
        whole = parts[0] if len(parts) == 1 else self.backend.xp.concat(parts, axis=0)
        return self.backend.xp.permute_dims(whole, (1, 0))


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

    @property
    def operand_width(self) -> int:
        """How many numbers a row has as `operand` and `panels` give it: I, or more for some of ggml's formats."""
        return math.prod(self.shape[1:])

    @abstractmethod
    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis."""

    @abstractmethod
    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded."""

    def decode(self) -> HostArray:
        """The whole weight, decoded."""
        return self.rows(0, self.shape[0])

    def unrounded(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, ...)` float64: the format's closed form itself, where `take` rounds it to float32."""
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return self.take(index).astype(np.float64)

    def blocks(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """`(N,) -> (N, blocks, bytes)` the stored blocks of the rows of these numbers.

        Raises:
            ValueError: the weight is not stored in blocks.
        """
        raise ValueError(f"a weight in {self.format} is not stored in blocks of bytes; ask for its values")

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` float64: these rows, as `panels` gives them."""
        with np.errstate(invalid="ignore"):
            return self.take(index).astype(np.float64)

    def panels(self, *, backend: Backend) -> Iterator[Panel]:
        """Yield all rows that a linear layer multiplies by, each panel at most `PANEL_BYTES` or one row."""
        row = 8 * self.operand_width
        step = max(1, PANEL_BYTES // max(1, row))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            yield Panel(start, stop, backend.from_numpy(self.operand(np.arange(start, stop))), backend)

    def __repr__(self) -> str:
        from lepton_ref.storage.show import text

        return text(self)

    def _repr_html_(self) -> str:
        from lepton_ref.storage.show import html

        return html(self)
