"""Linear layers by backend, precision, storage format and number of tokens.

asv calls `setup` before every sample, so what it needs is made once in a process and looked up from then on.
"""

from __future__ import annotations

from functools import cache

from benchmarks.cases import BACKENDS, Case, linear
from benchmarks.operands import WORKING_SET, bandwidth, best, cores, random_weight

SHAPE = (1024, 1024)
COLUMNS = 4096
FORMATS_OF = {"reference": ("F32", "Q8_0"), "bf16": ("BF16",), "w8a8": ("Q8_0",), "w4a8": ("Q4_0", "Q4_1", "Q4_K")}
KINDS = [f"{precision} {stored}" for precision, formats in FORMATS_OF.items() for stored in formats]


@cache
def made(backend: str, kind: str, tokens: int) -> Case:
    """The layer, which has run once."""
    precision, stored = kind.split()
    case = linear(backend, precision, stored, (tokens, *SHAPE))
    case.run()
    return case


class Linear:
    """A matrix of 1024 × 1024, once with one token and once with 64."""

    params = (list(BACKENDS), KINDS, [1, 64])
    param_names = ("backend", "precision and format", "tokens")
    repeat, rounds, warmup_time = (3, 200, 0.3), 1, 0.1

    def setup(self, backend: str, kind: str, tokens: int) -> None:
        """Look the layer up."""
        self.case = made(backend, kind, tokens)

    def time_linear(self, *_: object) -> None:
        """Seconds of one layer."""
        self.case.run()

    def peakmem_linear(self, *_: object) -> None:
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


class Work:
    """What a layer must move and do, whoever runs it."""

    params = (KINDS, [1, 64])
    param_names = ("precision and format", "tokens")

    def setup(self, kind: str, tokens: int) -> None:
        """Make the operands."""
        precision, stored = kind.split()
        self.case = linear("numpy", precision, stored, (tokens, *SHAPE))

    def track_bytes(self, *_: object) -> int:
        """Bytes of operands and result."""
        return self.case.nbytes

    def track_operations(self, *_: object) -> int:
        """Additions and multiplications."""
        return self.case.operations

    track_bytes.unit = "bytes"
    track_operations.unit = "operations"


class LargeMatrix:
    """A matrix of 128 MiB, which no cache holds, times a vector, against a plain reading in the same process."""

    params = (list(BACKENDS), ["w8a8 Q8_0", "w4a8 Q4_0", "w4a8 Q4_1", "reference Q8_0", "reference F32"])
    param_names = ("backend", "precision and format")
    timeout = 600

    def setup(self, backend: str, kind: str) -> None:
        """Make the operands, and run once."""
        precision, stored = kind.split()
        rows = WORKING_SET // random_weight(stored, 1, COLUMNS).nbytes
        self.case = linear(backend, precision, stored, (1, rows, COLUMNS))
        self.case.run()

    def track_roofline(self, *_: object) -> float:
        """Share of the bytes a second that a plain reading by as many threads has."""
        return self.case.nbytes / best(self.case.run) / bandwidth(cores())

    track_roofline.unit = "of the bandwidth"


class Reading:
    """A plain reading of memory, by number of threads: what shares are of."""

    params = ([1, 2],)
    param_names = ("threads",)

    def track_bandwidth(self, threads: int) -> float:
        """GB a second."""
        return bandwidth(threads) / 1e9

    track_bandwidth.unit = "GB/s"
