"""The ops besides linear layers, by backend and precision; and decoding by storage format."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.cases import BACKENDS, OPS, Case
from benchmarks.operands import random_weight
from lepton_ref.storage import Weight
from lepton_ref.storage.encoders import ENCODERS

TOKENS = 16


@cache
def made(op: str, backend: str, precision: str) -> Case:
    """The op, which has run once; made once in a process, since asv calls `setup` before every sample."""
    return OPS[op](backend, precision, TOKENS)


@cache
def encoded(format: str) -> Weight:
    """The matrix, encoded once in a process."""
    return random_weight(format, 256, 4096)


class Ops:
    """One op on 16 tokens."""

    params = (list(OPS), list(BACKENDS), ["reference", "bf16"])
    param_names = ("op", "backend", "precision")
    repeat, rounds, warmup_time = (3, 200, 0.3), 1, 0.1

    def setup(self, op: str, backend: str, precision: str) -> None:
        """Look the op up."""
        self.case = made(op, backend, precision)

    def time_op(self, *_: object) -> None:
        """Seconds of one call."""
        self.case.run()

    def peakmem_op(self, *_: object) -> None:
        """Bytes of the whole process."""
        self.case.run()

    def track_error_over_bound(self, *_: object) -> float:
        """Worst error ÷ bound."""
        return self.case.error_over_bound()

    def track_ambiguous(self, *_: object) -> float:
        """Share of elements that the rounding test left open."""
        return self.case.ambiguous_share()

    track_error_over_bound.unit = "of the bound"
    track_ambiguous.unit = "of the elements"


class OpsWork:
    """What an op on 16 tokens must move and do, whoever runs it."""

    params = (list(OPS),)
    param_names = ("op",)

    def setup(self, op: str) -> None:
        """Make the operands."""
        self.case = made(op, "numpy", "reference")

    def track_bytes(self, *_: object) -> int:
        """Bytes of operands and result."""
        return self.case.nbytes

    def track_operations(self, *_: object) -> int:
        """Additions, multiplications and exponentials."""
        return self.case.operations

    track_bytes.unit = "bytes"
    track_operations.unit = "operations"


class Decoding:
    """A matrix of 256 × 4096 from its blocks to float32."""

    params = (sorted(ENCODERS),)
    param_names = ("format",)
    repeat, rounds, warmup_time = (3, 100, 0.2), 1, 0.0

    def setup(self, format: str) -> None:
        """Look the matrix up."""
        self.weight = encoded(format)

    def time_decode(self, format: str) -> None:
        """Seconds of the whole matrix."""
        with np.errstate(all="ignore"):
            self.weight.decode()
