"""The ops besides linear layers, by backend and precision; and decoding by storage format."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import BACKENDS, OPS
from benchmarks.operands import random_weight
from lepton_ref.storage.encoders import ENCODERS

TOKENS = 16


class Ops:
    """One op on 16 tokens."""

    params = (list(OPS), list(BACKENDS), ["reference", "bf16"])
    param_names = ("op", "backend", "precision")

    def setup(self, op: str, backend: str, precision: str) -> None:
        """Make the operands, and run once."""
        self.case = OPS[op](backend, precision, TOKENS)

    def time_op(self, *_: object) -> None:
        """Seconds of one call."""
        self.case.run()

    def peakmem_op(self, *_: object) -> None:
        """Bytes of the whole process."""
        self.case.run()

    def track_bytes(self, *_: object) -> int:
        """Bytes of operands and result."""
        return self.case.nbytes

    def track_operations(self, *_: object) -> int:
        """Additions, multiplications and exponentials."""
        return self.case.operations

    def track_error_over_bound(self, *_: object) -> float:
        """Worst error ÷ bound."""
        return self.case.error_over_bound()

    def track_ambiguous(self, *_: object) -> float:
        """Share of elements that the rounding test left open."""
        return self.case.ambiguous_share()

    track_bytes.unit = "bytes"
    track_operations.unit = "operations"
    track_error_over_bound.unit = "of the bound"
    track_ambiguous.unit = "of the elements"


class Decoding:
    """A matrix of 256 × 4096 from its blocks to float32."""

    params = (sorted(ENCODERS),)
    param_names = ("format",)

    def setup(self, format: str) -> None:
        """Encode some rows."""
        self.weight = random_weight(format, 256, 4096)

    def time_decode(self, format: str) -> None:
        """Seconds of the whole matrix."""
        with np.errstate(all="ignore"):
            self.weight.decode()
