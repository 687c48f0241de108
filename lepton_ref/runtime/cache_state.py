"""What caches know of a sequence, and how a backend finds what they keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array


def require_size(batch: object, capacity: object) -> None:
    """Raise ValueError for a batch or a capacity that is not an integer of at least 1; a capacity may be None."""
    for name, value in (("batch", batch), ("capacity", capacity)):
        if name == "capacity" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def first_seen(count: int, window: int | None) -> int:
    """The first token that the next query of a sequence of so many tokens sees."""
    return 0 if window is None else max(0, count + 1 - window)


@dataclass
class SequenceState:
    """What a cache knows of one sequence.

    Attributes:
        capacity: the most slots that it may ask for, or None.
        rope_length: the length that length-dependent RoPE takes, for the sequence's whole life.
        limit: tokens beyond which RoPE would depend on the length; None where it has no end.
        count: unmasked tokens so far.
        ids: those tokens; None once some joined whose ids or positions only the caller knows.
    """

    capacity: int | None
    rope_length: int
    limit: int | None
    count: int = 0
    ids: list[int] | None = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Where one layer's keys and values lie during a run, for a backend that reads and writes them in place.

    Column s of `order` is slot `start + s`; the numbers of a slot of sequence b and head g begin at

        table[b, slot // block] · strides[0] + g · strides[1] + (slot mod block) · strides[2]

    Attributes:
        keys, values: the buffers.
        table: (B, n) what stands for each block of slots of each sequence.
        block: slots of a block.
        strides: numbers from one block, head and slot to the next.
        start: the first slot.
        order: (B, S), the number of each slot's token in its sequence: those in use and the new ones.
        valid: (B, S), False for what is no token, or let go of.
        new: (B, T), the columns of the run's tokens, to be written before they are read; −1 for padding.
    """

    keys: Array
    values: Array
    table: NDArray[np.int64]
    block: int
    strides: tuple[int, int, int]
    start: int
    order: NDArray[np.int64]
    valid: NDArray[np.bool_]
    new: NDArray[np.int64]
