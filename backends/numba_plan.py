"""From a program to a table of integers: what `lepton_ref.backends.numba_step` interprets.

Every value of the program gets a range of columns in one float32 arena, and gives it back after its last use. With N
the rows of a run, the value whose range begins at column c and whose width is w lies at c·N as (N, w). Linear ops that
read the same value, q, k and v as a rule, become one record with several segments. An op without a kernel becomes a
record at which the step stops, for Python to compute it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

(
    OUTSIDE, QUANTISE, PREPARE, INTEGER, REAL, RMS_NORM, LAYER_NORM, ROPE, APPEND, ATTENTION, ADD, GATED, ACTIVATE,
    SOFTCAP, PICK, EMBED,
) = range(16)  # fmt: skip
"""Kinds of records.

QUANTISE and PREPARE make a value ready for INTEGER and REAL linear layers; PICK takes rows of a value, EMBED a table's.
"""

COLUMNS = (
    "KIND", "ROWS", "IN0", "IN1", "IN2", "OUT", "WIDTH", "OUT_WIDTH", "HEADS", "KV_HEADS", "SEGMENT", "SEGMENTS", "W",
    "B", "FORM", "WHICH", "OP",
)  # fmt: skip
"""Columns of a record. WHICH is an activation, a rope, or a layer of the cache; OP the op's number in the program."""

KIND, ROWS, IN0, IN1, IN2, OUT, WIDTH, OUT_WIDTH, HEADS, KV_HEADS, SEGMENT, SEGMENTS, W, B, FORM, WHICH, OP = range(17)

EPS, OFFSET, SCALE, CAP = range(4)
"""Columns of a record's numbers. A cap of 0 is none."""

ALL, PICKED = 0, 1
"""What ROWS may be: every token, or those that are picked."""

ACTIVATIONS = ("relu", "relu2", "sigmoid", "tanh", "silu", "quick_gelu", "gelu", "gelu_tanh")
"""Activations in the order of their numbers."""


@dataclass(frozen=True)
class Value:
    """Where a value lies: its first column, its width, and which rows it has."""

    column: int
    width: int
    rows: int


class Columns:
    """Ranges of columns: first fit, and neighbours that are free are one."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []
        self.end = 0

    def take(self, width: int) -> int:
        """The first column of a free range of this width."""
        for number, (start, room) in enumerate(self.free):
            if room >= width:
                self.free[number : number + 1] = [(start + width, room - width)] if room > width else []
                return start
        self.end += width
        return self.end - width

    def give(self, start: int, width: int) -> None:
        """A range is free again."""
        merged: list[tuple[int, int]] = []
        for at, room in sorted([*self.free, (start, width)]):
            if merged and merged[-1][0] + merged[-1][1] == at:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((at, room))
        self.free = merged


@dataclass
class Segment:
    """One linear op of a record: its packed weight, its bias's number or −1, and its output's place."""

    panels: Any
    bias: int
    column: int
    width: int


@dataclass
class Plan:
    """What a program has become.

    Attributes:
        records: (R, 17) int64.
        numbers: (R, 4) float64.
        segments: linear ops and tables, in the order in which records count them.
        columns: the arena's columns.
        values: where each op's output lies, by name.
        vectors: names of the vectors that records refer to by number.
        ropes: the rotations that records refer to by number.
        outside: names of ops that have no kernel.
    """

    rows: list[list[int]] = field(default_factory=list)
    reals: list[list[float]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    columns: int = 0
    values: dict[str, Value] = field(default_factory=dict)
    vectors: list[str] = field(default_factory=list)
    ropes: list[Any] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def records(self) -> NDArray[np.int64]:
        """The table."""
        return np.array(self.rows, dtype=np.int64)

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The numbers that go with it."""
        return np.array(self.reals, dtype=np.float64)
