"""What benchmarks are given: matrices in any storage format, inputs, and how fast this process reads memory.

Everything is drawn by generators of fixed seeds, so that all backends and all commits have the same operands.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage import FORMATS, BlockQuantised, Dense, Weight, encode
from lepton_ref.storage.dense import FORMATS as DENSE

SOME = 64
"""Rows of a matrix that are encoded; they are repeated below, as an encoder is slower than what is measured."""
LARGE = 256 << 20
"""Bytes of an array that no cache holds."""
WORKING_SET = 128 << 20
"""Bytes of a matrix that no cache holds."""


def random_weight(format: str, rows: int, columns: int) -> Weight:
    """(rows, columns) of normal numbers in a dense or a block format.

    Raises:
        ValueError: an unknown format, or columns that are no whole blocks of it.
    """
    if format not in FORMATS and format not in DENSE:
        raise ValueError(f"unknown format {format!r}; known: {', '.join([*DENSE, *FORMATS])}")
    values = np.random.default_rng(0).standard_normal((min(rows, SOME), columns)).astype(np.float32)
    raw = np.tile(encode(format, values), (-(-rows // SOME), 1))[:rows]
    if format in DENSE:
        return Dense(np.ascontiguousarray(raw).view(DENSE[format]), format=format)
    return BlockQuantised(np.ascontiguousarray(raw), format=FORMATS[format])


def inputs(*shape: int) -> NDArray[np.float32]:
    """Normal numbers, float32."""
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def cores() -> int:
    """How many this process may use: as many threads compute where no number is given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reading(nbytes: int, threads: int) -> Callable[[], object]:
    """A function that adds up an array of so many bytes, each thread a part of it.

    Numba's loop is taken where Numba is there: it keeps more loads under way than NumPy's, and reads a fifth faster.

    Raises:
        ValueError: no byte, or no thread.
    """
    if nbytes < 8 or threads < 1:
        raise ValueError(f"at least 8 bytes and 1 thread are read, got {nbytes} and {threads}")
    array = np.ones(nbytes // 8, dtype=np.uint64)
    add: Callable[[NDArray[np.uint64]], Any] = np.add.reduce
    if importlib.util.find_spec("numba") is not None:
        add = _compiled()
        add(array[:8])
    parts = np.array_split(array, threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: sum(int(part) for part in pool.map(add, parts))


def _compiled() -> Callable[[NDArray[np.uint64]], Any]:
    from numba import njit

    @njit(nogil=True)
    def add(part: NDArray[np.uint64]) -> Any:
        total = np.uint64(0)
        for number in range(part.shape[0]):
            total += part[number]
        return total

    return add


def bandwidth(threads: int, nbytes: int = LARGE, repeat: int = 5) -> float:
    """Bytes a second that so many threads read, the best of several times."""
    run = reading(nbytes, threads)
    return nbytes / best(run, repeat)


def best(run: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
