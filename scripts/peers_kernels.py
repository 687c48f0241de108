"""Single operations that scripts/peers.py measures: reading memory, a matrix times a vector, a matrix product.

`prepared(name, arguments)` makes the operands once and gives the function that is timed. Operands are those of
asv_bench/benchmarks/operands.py, the same for all engines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers_engines import our_versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "asv_bench"))

from benchmarks.operands import inputs, random_weight, reading

Run = Callable[[], Any]


def backend_of(name: str, threads: int) -> Any:
    """The backend, whose ops on their own use so many threads; BLAS's are what the process was started with."""
    from lepton_ref import registry
    from lepton_ref.backends.numba_backend import NumbaBackend

    return NumbaBackend(threads=threads) if name == NumbaBackend.name else registry.get(name)


def linear(chosen: Any, precision: str, format: str, shape: tuple[int, int, int]) -> Run:
    """lepton_ref's linear layer by a backend: (M, I) times a matrix (O, I) in that format."""
    from lepton_ref.numerics import get_precision
    from lepton_ref.ops import linear as op
    from lepton_ref.storage.encoded import as_operand

    m, rows, columns = shape
    how = get_precision(precision)
    weight = as_operand(random_weight(format, rows, columns), how.operands)
    x = chosen.from_numpy(inputs(1, m, columns))
    return lambda: op(x, weight, backend=chosen, precision=how)


def sgemm(shape: tuple[int, int, int]) -> Run:
    """NumPy's float32 product of operands of the same shapes."""
    m, rows, columns = shape
    w, x, out = inputs(rows, columns), inputs(m, columns), np.empty((m, rows), dtype=np.float32)
    return lambda: np.matmul(x, w.T, out=out)


class Kernels:
    """lepton_ref's ops by a backend, NumPy's float32 product, and reading alone."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        self.backend = backend_of(options.get("backend", "numpy"), threads)
        self.threads = threads
        self.made: dict[str, Run] = {}

    def versions(self) -> dict[str, str]:
        """What the figures are of."""
        return our_versions()

    def prepared(self, name: str, arguments: dict[str, Any]) -> Run:
        """The function to time; its operands are made once, and it has run once.

        Raises:
            ValueError: an unknown name.
        """
        key = f"{name} {sorted(arguments.items())}"
        if key not in self.made:
            self.made[key] = self._make(name, arguments)
            self.made[key]()
        return self.made[key]

    def _make(self, name: str, arguments: dict[str, Any]) -> Run:
        shape = tuple(arguments.get("shape", ()))
        if name == "read":
            return reading(arguments["bytes"], self.threads)
        if name == "sgemm":
            return sgemm(shape)
        if name == "linear":
            return linear(self.backend, arguments["precision"], arguments["format"], shape)
        raise ValueError(f"unknown operation {name!r}; known: read, sgemm, linear")
