"""Packing piece by piece: how the parts of a matrix in panels lie, and panels made from some rows at a time.

Every part is panel after panel, as `lepton_ref.backends.numba_panels` and `numba_panels_dense` describe it, so the
parts of a matrix are those of its pieces one behind the other. Nothing but one piece is then held beside the result,
and the pages of the file that a piece was read from are let go when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_memory import ALIGNED, aligned
from lepton_ref.backends.numba_panels import ROWS, Bytes, Panels
from lepton_ref.backends.numba_panels_dense import BF16, E4M3, E5M2, F16, F32, OVER, TIMES
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.encoded import Encoded, Unrounded
from lepton_ref.storage.kept import Kept
from lepton_ref.storage.resident import release
from lepton_ref.storage.views import RowView

PIECE = 1 << 20
"""Elements of a piece, about: as many rows as these are, in fours of panels, so that every part has whole vectors."""

DENSE = {F32: 4, BF16: 2, F16: 2}
"""Kinds of dense panels → bytes of an element."""

SCALED = (E4M3, E5M2, TIMES, OVER)
"""Kinds of panels of one byte an element, float32 scales, and rows' lengths alone."""

Pack = Callable[[Weight], Panels | None]


@dataclass(frozen=True)
class Layout:
    """How the parts of a matrix lie.

    Attributes:
        kind: of the panels.
        outputs: O.
        width: I.
        shared: blocks, or columns of scaled panels, that share a scale, as `Panels.at[5]`.
    """

    kind: int
    outputs: int
    width: int
    shared: int

    @property
    def panels(self) -> int:
        """How many there are."""
        return -(-self.outputs // int(ROWS))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of one panel's codes, scales, fine scales, high bits and lengths.

        Raises:
            ValueError: a kind that is not known.
        """
        return (*part_sizes(self.kind, self.width, self.shared), self._lengths)

    @property
    def _lengths(self) -> int:
        return int(ROWS) * (4 if self.kind >= F32 else 8)

    @property
    def at(self) -> NDArray[np.int64]:
        """(8), as `Panels.at`."""
        ends = np.cumsum([-(-self.panels * size // ALIGNED) * ALIGNED for size in self.sizes])
        at = np.array([0, *ends[:4], self.shared, 0, 0], dtype=np.int64)
        if self.kind in DENSE:
            at[1:4] = 0
        return at

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return int(self.at[4]) + self._lengths * self.panels


def part_sizes(kind: int, width: int, shared: int) -> tuple[int, int, int, int]:
    """Bytes of one panel's codes, scales, fine scales and high bits.

    Raises:
        ValueError: a kind that is not known.
    """
    if kind in DENSE:
        return int(ROWS) * width * DENSE[kind], 0, 0, 0
    if kind in SCALED:
        vectors = -(-width // max(1, shared)) + (kind >= TIMES)
        return int(ROWS) * width, 4 * int(ROWS) * vectors, 0, 0
    b = -(-width // 32)
    groups = -(-b // max(1, shared))
    known = {
        **{0: (512 * b, 32 * b, 0, 0), 1: (256 * b, 32 * b, 0, 0), 2: (256 * b, 64 * b, 0, 0)},
        **{3: (256 * b, 32 * b, 0, 64 * b), 4: (256 * b, 64 * b, 0, 64 * b)},
        **{5: (256 * b, 64 * groups, 32 * b, 0), 6: (256 * b, 64 * groups, 32 * b, 64 * b)},
        7: (256 * b, 32 * groups, 32 * b, 128 * b),
        **{8: (512 * b, 128 * groups, 0, 0), 9: (256 * b, 128 * groups, 0, 0)},
    }
    if kind not in known:
        raise ValueError(f"panels of kind {kind} have no known layout; pack the matrix as a whole")
    return known[kind]


def layout_of(panels: Panels, outputs: int) -> Layout | None:
    """The layout of a matrix whose first rows these panels are; None where it is not known how they lie."""
    own = Layout(panels.kind, panels.outputs, panels.width, int(panels.at[5]))
    try:
        known = bool((own.at == panels.at).all()) and own.nbytes == panels.data.size
    except ValueError:
        return None
    return Layout(own.kind, outputs, own.width, own.shared) if known else None


def pieces(weight: Weight) -> Iterator[Weight]:
    """The rows of a matrix some at a time, as stored; one piece where it cannot be cut."""
    while isinstance(weight, (Kept, Unrounded, Encoded)):
        weight = weight.base
    if not _cuts(weight):
        yield weight
        return
    outputs, width = weight.shape
    step = max(1, PIECE // (4 * ROWS * width)) * 4 * ROWS
    for first in range(0, outputs, step):
        yield _rows(weight, first, min(first + step, outputs))


def _cuts(weight: Weight) -> bool:
    base = weight.base if isinstance(weight, RowView) else weight
    return isinstance(base, (Dense, BlockQuantised)) and len(weight.shape) == 2 and 0 not in weight.shape


def _rows(weight: Weight, first: int, last: int) -> Weight:
    if isinstance(weight, Dense):
        return Dense(weight.array[first:last], format=weight.format)
    if isinstance(weight, BlockQuantised):
        return BlockQuantised(weight.raw[first:last], format=weight.block)
    assert isinstance(weight, RowView), "see `_cuts`"
    return RowView(weight.base, weight.index[first:last])


class Sink(Protocol):
    """Where the parts of one matrix go."""

    def begin(self, layout: Layout, /) -> None:
        """Make room."""

    def write(self, at: int, data: Any, /) -> None:
        """Take bytes that lie at this place of the room."""

    def drop(self) -> None:
        """Give the room back."""


def pack_into(weight: Weight, pack: Pack, sink: Sink) -> Panels | Layout | None:
    """Pack a matrix piece by piece.

    Args:
        weight: as a linear layer multiplies it.
        pack: rows as stored → their panels, or None where there is no kernel.
        sink: where they go.

    Returns:
        The layout of what the sink has; the panels themselves where their pieces do not make a whole, and nothing is in
        the sink; None where there is no kernel.
    """
    layout: Layout | None = None
    panel = 0
    for piece in pieces(weight):
        panels = pack(piece)
        release(piece)
        if panels is None:
            assert layout is None, "whether there is a kernel depends on the format alone"
            return None
        if layout is None:
            layout = layout_of(panels, weight.shape[0])
            if layout is None:
                break
            sink.begin(layout)
        if layout_of(panels, layout.outputs) != layout:
            sink.drop()
            break
        _put(panels, panel, layout, sink)
        panel += panels.panels
    else:
        return layout
    whole = pack(weight)
    release(weight)
    return whole


def _put(panels: Panels, panel: int, layout: Layout, sink: Sink) -> None:
    for size, source, target in zip(layout.sizes, panels.at, layout.at, strict=False):
        if size:
            sink.write(int(target) + panel * size, panels.data[source : source + panels.panels * size])


class Arena:
    """Room for many matrices in few large allocations: the system serves those with large pages.

    A panel that streams past at the speed of memory crosses a small page every hundred nanoseconds, each of which has
    to be looked up, and behind which the processor does not read ahead.
    """

    LEAST = 64 << 20
    """Bytes of an allocation; what is not written to takes no memory."""

    def __init__(self) -> None:
        self.left: Bytes = aligned(0)

    def take(self, count: int) -> Bytes:
        """Fresh bytes whose first lies at a multiple of 64."""
        if count > self.left.size:
            self.left = aligned(max(count, self.LEAST))
        taken, self.left = self.left[:count], self.left[-(-count // 64) * 64 :]
        return taken


class Memory:
    """Room in memory."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.data: Bytes = aligned(0)

    def begin(self, layout: Layout, /) -> None:
        """Make room."""
        self.data = self.arena.take(layout.nbytes)

    def write(self, at: int, data: Any, /) -> None:
        """Take bytes that lie at this place of the room."""
        self.data[at : at + len(data)] = data

    def drop(self) -> None:
        """Give the room back."""
        self.data = aligned(0)


def pack_in_memory(weight: Weight, pack: Pack, arena: Arena | None = None) -> Panels | None:
    """A matrix in panels, packed piece by piece; None where there is no kernel."""
    room = Memory(Arena() if arena is None else arena)
    found = pack_into(weight, pack, room)
    if isinstance(found, Layout):
        return Panels(found.kind, found.outputs, found.width, room.data, found.at)
    return found
