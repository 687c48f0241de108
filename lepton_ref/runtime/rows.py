"""One sequence in the making: its ids, its text, and why it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from lepton_ref import ops
from lepton_ref.interface import Backend, HostArray
from lepton_ref.numerics import Precision
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.sampling import Sampling
from lepton_ref.runtime.score import scoring
from lepton_ref.runtime.stops import Writer


@dataclass(frozen=True)
class Options:
    """How to generate; `lepton_ref.runtime.generate.generate` says what each is."""

    sampling: Sampling
    max_new_tokens: int
    stop_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    chunk: int
    sequence: int
    progress: bool = False
    speculate: int = 0
    reuse: bool = False


@dataclass
class Row:
    """One sequence in the making.

    Attributes:
        number: its row in the arrays of its job.
        sequence: its number among the caller's prompts.
        prompt: the ids of its prompt.
        room: the most new tokens that positions and cache allow.
        writer: its text, or None without a tokenizer.
        ids, logprobs, text: what there is so far.
        finish: why it ended; None while it goes on.
        ended_s: when it ended.
        held: how many ids of the prompt the cache holds already.
        proposed, accepted: ids that were guessed, and those of them that were right.
    """

    number: int
    sequence: int
    prompt: list[int]
    room: int | None
    writer: Writer | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    ended_s: float = 0.0
    held: int = 0
    proposed: int = 0
    accepted: int = 0

    @property
    def whole(self) -> list[int]:
        """The prompt and what was generated."""
        return self.prompt + self.ids

    @property
    def rest(self) -> list[int]:
        """What is to be read of the prompt."""
        return self.prompt[self.held :]

    def more(self, options: Options) -> int:
        """How many ids can still come."""
        most = options.max_new_tokens if self.room is None else min(options.max_new_tokens, self.room)
        return most - len(self.ids)

    def accept(self, index: int, logprob: float, options: Options) -> Token:
        """The next id joins; says why the sequence ends, where it does."""
        self.ids.append(index)
        self.logprobs.append(logprob)
        stop = index in options.stop_ids
        piece = "" if stop or self.writer is None else self.writer.push(index)
        if stop or (self.writer is not None and self.writer.stopped):
            self.finish = "stop"
        elif len(self.ids) == options.max_new_tokens:
            self.finish = "length"
        elif len(self.ids) == self.room:
            self.finish = "context"
        if self.finish is not None:
            self.ended_s = time.perf_counter()
            piece += "" if self.writer is None else self.writer.finish()
        self.text += piece
        return Token(index, None if self.writer is None else piece, logprob, self.sequence)

    def result(self, started_s: float, first_s: float) -> Generation:
        """The finished sequence."""
        assert self.finish is not None, "a row is asked for its result when it has ended"
        return Generation(
            tuple(self.ids), None if self.writer is None else self.text, tuple(self.logprobs), self.finish,
            tuple(self.prompt), prefill_s=first_s - started_s, decode_s=self.ended_s - first_s,
            proposed=self.proposed, accepted=self.accepted,
        )  # fmt: skip


def log_probability(logits_v: HostArray, index: int, *, backend: Backend, precision: Precision) -> float:
    """(V) -> the natural logarithm of one id's probability, rounded once: see `scoring`."""
    row = backend.from_numpy(logits_v[None])
    y = ops.log_softmax_at(row, np.array([index]), backend=backend, precision=scoring(precision))
    return float(backend.to_numpy(y)[0])
