"""The loop of generation: prefill, then one token after the other, for one prompt or a batch of unequal lengths.

A batch is padded at the left, so that all sequences end in the same slot; what a sequence gives is what it gives alone.
One that has ended takes part as padding until the last has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_ref import ops
from lepton_ref.interface import Backend, HostArray
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.numerics import Precision
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.progress import track
from lepton_ref.runtime.prompts import has_length_dependent_rope, learned_positions
from lepton_ref.runtime.sampling import Sampling, choose, uniform
from lepton_ref.runtime.score import scoring
from lepton_ref.runtime.stops import Writer

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model
    from lepton_ref.text import Tokenizer


@dataclass(frozen=True)
class Options:
    """How to generate; `lepton_ref.runtime.generate.generate` says what each is."""

    sampling: Sampling
    max_new_tokens: int
    stop_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    chunk: int
    sequence: int
    progress: bool


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
        )  # fmt: skip


def log_probability(logits_v: HostArray, index: int, *, backend: Backend, precision: Precision) -> float:
    """(V) -> the natural logarithm of one id's probability, rounded once: see `scoring`."""
    row = backend.from_numpy(logits_v[None])
    y = ops.log_softmax_at(row, np.array([index]), backend=backend, precision=scoring(precision))
    return float(backend.to_numpy(y)[0])


@dataclass
class Job:
    """The rows that run together, checked.

    Attributes:
        model: the model.
        rows: one a sequence.
        cache: the caller's; None for one of their own.
        capacity: that of their own.
        options: how.
        started_s: when it began.
        first_s: when the logits of the first new tokens were there.
    """

    model: Model
    rows: list[Row]
    cache: KVCache | None
    capacity: int | None
    options: Options
    started_s: float = 0.0
    first_s: float = 0.0

    def tokens(self) -> Iterator[Token]:
        """Run, and yield each token when it is chosen."""
        self.started_s = time.perf_counter()
        if self.cache is None:
            self.cache = self.model.new_cache(batch=len(self.rows), capacity=self.capacity)
        logits_bv = self._prefill()
        self.first_s = time.perf_counter()
        while True:
            going = [row for row in self.rows if row.finish is None]
            if len(going) == 0:
                return
            if going[0].ids:
                logits_bv = self._step()
            for row in going:
                yield self._choose(row, logits_bv[row.number])

    def _prefill(self) -> HostArray:
        """(B, V), after the prompts, padded at the left and fed in chunks."""
        longest = max(len(row.prompt) for row in self.rows)
        ids = np.zeros((len(self.rows), longest), dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for row in self.rows:
            ids[row.number, longest - len(row.prompt) :] = row.prompt
            mask[row.number, longest - len(row.prompt) :] = True
        starts = range(0, longest, self.options.chunk)
        for start in track(starts, "prefill", wanted=self.options.progress):
            part = slice(start, start + self.options.chunk)
            logits = self._forward(ids[:, part], mask[:, part])
        return logits

    def _step(self) -> HostArray:
        """(B, V), after each sequence's latest token; sequences that have ended are padding."""
        going = np.array([[row.finish is None] for row in self.rows])
        return self._forward(np.array([[row.ids[-1]] for row in self.rows]), going)

    def _forward(self, ids_bt: HostArray, mask_bt: HostArray) -> HostArray:
        logits: HostArray = self.model.forward(ids_bt, attention_mask=mask_bt, cache=self.cache, last_only=True)[:, -1]
        return logits

    def _choose(self, row: Row, logits_v: HostArray) -> Token:
        sampling = self.options.sampling
        u = 0.0
        if sampling.temperature > 0:
            u = uniform(sampling.seed, self.options.sequence + row.sequence, len(row.ids))
        index = choose(logits_v, sampling, seen=[*row.prompt, *row.ids], u=u)
        return row.accept(index, self._log_probability(logits_v, index), self.options)

    def _log_probability(self, logits_v: HostArray, index: int) -> float:
        return log_probability(logits_v, index, backend=self.model.backend, precision=self.model.precision)


def jobs(
    model: Model, prompts: list[list[int]], options: Options, *, cache: KVCache | None, tokenizer: Tokenizer | None
) -> list[Job]:
    """The prompts as one job; one each where RoPE depends on the length, which would be the longest prompt's.

    Raises:
        ContextOverflowError: a prompt that does not fit.
        ValueError: a cache for another number of sequences.
        TypeError: a cache that is none.
    """
    if cache is not None and not isinstance(cache, KVCache):
        raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}; make one with this model's new_cache()")
    if cache is not None and cache.batch != len(prompts):
        raise ValueError(f"the cache holds {cache.batch} sequences, got {len(prompts)} prompts; make another cache")
    apart = cache is None and has_length_dependent_rope(model.program)
    found = []
    for group in [[number] for number in range(len(prompts))] if apart else [list(range(len(prompts)))]:
        longest = max(len(prompts[number]) for number in group)
        rows = []
        for row, sequence in enumerate(group):
            name = "the prompt" if len(prompts) == 1 else f"prompt[{sequence}]"
            room = _room(model, cache, row, len(prompts[sequence]), longest, name)
            writer = None if tokenizer is None else Writer(tokenizer, options.stop_strings)
            rows.append(Row(row, sequence, prompts[sequence], room, writer))
        capacity = longest + options.max_new_tokens - 1 if apart else None
        found.append(Job(model, rows, cache, capacity, options))
    return found


def _room(model: Model, cache: KVCache | None, row: int, length: int, longest: int, name: str) -> int | None:
    """How many new tokens there is room for: one more than fit, since the last is never fed. None for no end."""
    before = 0 if cache is None else cache.states[row].count
    fit: dict[str, int] = {}
    learned = learned_positions(model.program)
    if learned is not None:
        fit[f"the {learned} positions that the model has learned"] = learned - before
    state = None if cache is None else cache.states[row]
    if cache is not None and state is not None and state.capacity is not None:
        fit[f"the cache's capacity of {state.capacity}"] = state.capacity - cache.used(row, longest - length)
    if state is not None and state.limit is not None:
        fit[f"the {state.limit} tokens after which RoPE depends on the length (give new_cache a capacity)"] = (
            state.limit - before
        )
    for what, left in fit.items():
        if length > left:
            raise ContextOverflowError(f"{name} has {length} tokens, but {max(left, 0)} fit {what}; shorten it")
    return None if len(fit) == 0 else min(fit.values()) - length + 1
