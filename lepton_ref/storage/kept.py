"""A weight that stays decoded once it has been used."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Backend, HostArray
from lepton_ref.storage.base import PANEL_BYTES, Panel, Weight

ROOMS = (np.dtype(np.float64), np.dtype(np.float32))
"""What a weight may be kept as; float32 is for the precision that also sums in it."""


class Kept(Weight):
    """Another weight, whose rows stay on the backend from the first time they are multiplied by.

    Rows that are looked up are decoded from the stored form: an embedding that is no output head costs nothing here.

    Args:
        base: the weight as stored.
        backend: where the values stay.
        room: float64 or float32 memory of the weight's shape to decode into, not touched before the first use.

    Raises:
        ValueError: room of another shape or dtype.
    """

    def __init__(self, base: Weight, *, backend: Backend, room: HostArray) -> None:
        wanted = (base.shape[0], base.operand_width) if base.operand_width != math.prod(base.shape[1:]) else base.shape
        if room.shape != wanted or room.dtype not in ROOMS:
            raise ValueError(f"room must be float64 or float32 of shape {wanted}, got {room.dtype} {room.shape}")
        self.base = base
        self.backend = backend
        self.room = room
        self.format = base.format
        self.shape = base.shape
        self.nbytes = base.nbytes
        self._panel: Panel | None = None
        self._filled = False
        self._lock = threading.Lock()  # two threads that use it first at the same time decode it once

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis."""
        return self.base.rows(start, stop)

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded."""
        return self.base.take(index)

    @property
    def operand_width(self) -> int:
        """How many numbers a row of the room has."""
        return self.base.operand_width

    def unrounded(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, ...)` float64, the closed form of the rows of these numbers."""
        return self.base.unrounded(index)

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` float64, what is kept of the rows of these numbers."""
        self.fill()
        return self.room[index].astype(np.float64, copy=False)

    def panels(self, *, backend: Backend) -> Iterator[Panel]:
        """Yield the whole as one panel, the same at every call.

        Raises:
            ValueError: a backend other than the one that keeps it.
        """
        if backend is not self.backend:
            raise ValueError(f"this weight is kept on backend {self.backend.name!r}, not on {backend.name!r}")
        if self._panel is None:
            self.fill()
            self._panel = Panel(0, self.shape[0], backend.from_numpy(self.room), backend)
        yield self._panel

    def fill(self) -> None:
        """Decode into the room, the first time."""
        with self._lock:
            if self._filled:
                return
            step = max(1, PANEL_BYTES * self.shape[0] // max(1, self.room.nbytes))
            for start in range(0, self.shape[0], step):
                stop = min(start + step, self.shape[0])
                with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN is a value too
                    self.room[start:stop] = self.base.operand(np.arange(start, stop))
            self._filled = True


class Joined(Weight):
    """Kept weights of the same inputs that lie one after the other in one allocation: one product serves them all.

    Args:
        parts: the weights, in the order in which they lie; see `join`.
        room: all their rooms as one matrix.
    """

    def __init__(self, parts: Sequence[Kept], *, room: HostArray) -> None:
        self.parts = tuple(parts)
        self.backend = parts[0].backend
        self.format = "+".join(dict.fromkeys(part.format for part in parts))
        self.shape = (room.shape[0], parts[0].shape[1])
        self.nbytes = sum(part.nbytes for part in parts)
        self._room = room
        self._panel: Panel | None = None

    @property
    def operand_width(self) -> int:
        """How many numbers a row of the room has."""
        return int(self._room.shape[1])

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, I)` as it is multiplied."""
        return self.take(np.arange(start, stop))

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, I)` the rows of these numbers, as they are multiplied."""
        return self._rooms()[index, : self.shape[1]]

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, operand_width)` float64, what is kept of the rows of these numbers."""
        return self._rooms()[index].astype(np.float64, copy=False)

    def panels(self, *, backend: Backend) -> Iterator[Panel]:
        """Yield the whole as one panel, the same at every call.

        Raises:
            ValueError: a backend other than the one that keeps it.
        """
        if backend is not self.backend:
            raise ValueError(f"these weights are kept on backend {self.backend.name!r}, not on {backend.name!r}")
        if self._panel is None:
            self._panel = Panel(0, self.shape[0], backend.from_numpy(self._rooms()), backend)
        yield self._panel

    def _rooms(self) -> HostArray:
        for part in self.parts:
            part.fill()
        return self._room


def join(weights: Sequence[Weight]) -> Joined | None:
    """Several weights as one, where all are kept, of one width, and neighbours in one allocation; None where not."""
    parts = [weight for weight in weights if isinstance(weight, Kept)]
    if len(parts) != len(weights) or len({(id(part.room.base), part.room.shape[1]) for part in parts}) != 1:
        return None
    arena = parts[0].room.base
    starts = [part.room.ctypes.data for part in parts]
    ends = [part.room.ctypes.data + part.room.nbytes for part in parts]
    if not isinstance(arena, np.ndarray) or arena.ndim != 1 or starts[1:] != ends[:-1]:
        return None
    first, last = ((address - arena.ctypes.data) // arena.itemsize for address in (starts[0], ends[-1]))
    return Joined(parts, room=arena[first:last].reshape(-1, parts[0].room.shape[1]))
