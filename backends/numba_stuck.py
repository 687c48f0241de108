"""The list of elements that a kernel could not settle: `stuck[0]` counts them, `stuck[1 …]` names them.

An element is row · 2³² + column. When the list is full the count goes on: whoever reads it sees that some are missing
and computes the whole op another way.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_threads import atomic_add


@njit(nogil=True)
def push(stuck: Any, row: Any, column: Any) -> None:
    """Append an element, whatever other threads append at the same time. stuck: int64, its first element the count."""
    place = atomic_add(stuck, 0, 1) + 1
    if place < stuck.size:
        stuck[place] = row << 32 | column
