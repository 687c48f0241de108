"""Pages of mapped files that a weight was read from: they count as this process's memory until it lets them go."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from lepton_ref.storage.base import Weight


def release(*weights: Weight) -> None:
    """Let go of the pages that lie in memory of the files in which the weights are mapped; nothing where none is.

    They stay in the system's cache of files, and come back when they are read again.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for found in {id(one): one for weight in weights for one in _maps(weight)}.values():
        found.madvise(mmap.MADV_DONTNEED)


def _maps(value: Any) -> Iterator[mmap.mmap]:
    """The read-only maps behind a weight's arrays, or behind those of the weights that it is made of."""
    if isinstance(value, Weight):
        for part in vars(value).values():
            yield from _maps(part)
    elif isinstance(value, np.ndarray):
        yield from _maps(value.base)
    elif isinstance(value, memoryview):
        yield from _maps(value.obj)
    elif isinstance(value, mmap.mmap) and memoryview(value).readonly:  # a private map that was written would lose it
        yield value
