"""The loop of generation: prefill, then one token after the other, for one prompt or a batch of unequal lengths.

A batch is padded at the left, so that all sequences end in the same slot; what a sequence gives is what it gives alone.
One that has ended takes part as padding until the last has.

Speculation feeds each sequence's latest token and the guesses of `lepton_ref.runtime.lookup` in one run, which gives
the logits behind each of them. The token behind the latest is chosen from its logits as it would be without; where it
is the first guess, the next is chosen behind that, and so on to the first guess that is wrong. A choice depends on the
logits, the ids before and the number of the step, all of which are what they would be without: so every token, its
log-probability and the reason of the end are the same. What was fed behind the last right guess leaves the cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.generation import Token
from lepton_ref.runtime.lookup import propose
from lepton_ref.runtime.paged_cache import PagedCache
from lepton_ref.runtime.progress import track
from lepton_ref.runtime.prompts import has_length_dependent_rope, learned_positions
from lepton_ref.runtime.rows import Options, Row, log_probability
from lepton_ref.runtime.sampling import choose, uniform
from lepton_ref.runtime.stops import Writer

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model
    from lepton_ref.text import Tokenizer


def next_token(model: Model, row: Row, logits_v: HostArray, options: Options) -> Token:
    """(V) -> the next token of a sequence, which joins it."""
    sampling = options.sampling
    u = 0.0
    if sampling.temperature > 0:
        u = uniform(sampling.seed, options.sequence + row.sequence, len(row.ids))
    index = choose(logits_v, sampling, seen=[*row.prompt, *row.ids], u=u)
    logprob = log_probability(logits_v, index, backend=model.backend, precision=model.precision)
    return row.accept(index, logprob, options)


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
            paged = self.options.speculate > 0 and len(self.rows) > 1
            self.cache = self.model.new_cache(batch=len(self.rows), capacity=self.capacity, paged=paged)
        logits_bv = self._prefill()
        self.first_s = time.perf_counter()
        while True:
            going = [row for row in self.rows if row.finish is None]
            if len(going) == 0:
                return
            if going[0].ids and self.options.speculate > 0:
                yield from self._speculate(going)
                continue
            if going[0].ids:
                logits_bv = self._step()
            for row in going:
                yield self._choose(row, logits_bv[row.number])

    def _prefill(self) -> HostArray:
        """(B, V), after the prompts, padded at the left and fed in chunks."""
        longest = max(len(row.rest) for row in self.rows)
        ids = np.zeros((len(self.rows), longest), dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for row in self.rows:
            ids[row.number, longest - len(row.rest) :] = row.rest
            mask[row.number, longest - len(row.rest) :] = True
        starts = range(0, longest, self.options.chunk)
        for start in track(starts, "prefill", wanted=self.options.progress):
            part = slice(start, start + self.options.chunk)
            logits = self._forward(ids[:, part], mask[:, part])
        return logits[:, -1]

    def _step(self) -> HostArray:
        """(B, V), after each sequence's latest token; sequences that have ended are padding."""
        going = np.array([[row.finish is None] for row in self.rows])
        mask = None if going.all() else going
        return self._forward(np.array([[row.ids[-1]] for row in self.rows]), mask)[:, -1]

    def _speculate(self, going: list[Row]) -> list[Token]:
        """The next tokens, at least one of each sequence, by one run over the latest and what is guessed behind it."""
        assert self.cache is not None, "the prompt was read into it"
        guesses = {row.number: propose(row.whole, self._most_guesses(row)) for row in going}
        ids = np.zeros((len(self.rows), 1 + max(map(len, guesses.values()))), dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for row in going:
            fed = [row.ids[-1], *guesses[row.number]]
            ids[row.number, : len(fed)], mask[row.number, : len(fed)] = fed, True
        counts = self.cache.counts
        logits_btv = self._forward(ids, mask, last_only=False)
        tokens = []
        try:
            for row in going:
                found = self._verify(row, logits_btv[row.number], guesses[row.number])
                counts[row.number] += len(found)
                tokens += found
        finally:  # where no token can be chosen too, no guess stays
            self.cache.truncate(counts)
        return tokens

    def _most_guesses(self, row: Row) -> int:
        """The last token is never fed; and what a window has let go of in a run could not be gone back to."""
        windows = [spec.window for spec in self.model.program.caches() if spec.window is not None]
        return min([self.options.speculate, row.more(self.options) - 1, *(window - 1 for window in windows)])

    def _verify(self, row: Row, logits_tv: HostArray, guess: list[int]) -> list[Token]:
        found: list[Token] = []
        for t, logits_v in enumerate(logits_tv[: len(guess) + 1]):
            found.append(self._choose(row, logits_v))
            if row.finish is not None or found[t].id not in guess[t : t + 1]:
                break
        row.proposed += len(guess)
        row.accepted += sum(token.id == index for token, index in zip(found, guess, strict=False))
        return found

    def _forward(self, ids_bt: HostArray, mask_bt: HostArray | None, *, last_only: bool = True) -> HostArray:
        return self.model.forward(ids_bt, attention_mask=mask_bt, cache=self.cache, last_only=last_only)

    def _choose(self, row: Row, logits_v: HostArray) -> Token:
        return next_token(self.model, row, logits_v, self.options)


def go_back(cache: KVCache, prompts: list[list[int]]) -> list[int]:
    """Truncate each sequence to what it has in common with its prompt, without the prompt's last id -> the counts.

    A sequence whose windows have let go of what they would see there is emptied, to be read again.
    """
    kept = cache.counts
    for b, (held, prompt) in enumerate(zip(cache.ids, prompts, strict=True)):
        same = [one == other for one, other in zip(held or (), prompt[:-1], strict=False)]
        wanted = kept.copy()
        wanted[b] = [*same, False].index(False)
        kept[b] = wanted[b] if cache.can_truncate(wanted) else 0
    cache.truncate(kept)
    found: list[int] = kept.tolist()
    return found


def jobs(
    model: Model, prompts: list[list[int]], options: Options, *, cache: KVCache | None, tokenizer: Tokenizer | None
) -> list[Job]:
    """The prompts as one job; one each where RoPE depends on the length, which would be the longest prompt's.

    Raises:
        ContextOverflowError: a prompt that does not fit.
        ValueError: a cache for another number of sequences, or one in which they cannot go at their own pace.
        TypeError: a cache that is none.
    """
    if cache is not None and not isinstance(cache, KVCache):
        raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}; make one with this model's new_cache()")
    if cache is not None and cache.batch != len(prompts):
        raise ValueError(f"the cache holds {cache.batch} sequences, got {len(prompts)} prompts; make another cache")
    if cache is not None and options.speculate > 0 and cache.batch > 1 and not isinstance(cache, PagedCache):
        raise ValueError(
            f"speculation on {cache.batch} sequences takes a paged cache, for they go on at their own pace; "
            f"make it with new_cache({cache.batch}, paged=True)"
        )
    held = [0] * len(prompts) if cache is None or not options.reuse else go_back(cache, prompts)
    apart = cache is None and has_length_dependent_rope(model.program)
    found = []
    for group in [[number] for number in range(len(prompts))] if apart else [list(range(len(prompts)))]:
        longest = max(len(prompts[number]) - held[number] for number in group)
        rows = []
        for row, sequence in enumerate(group):
            name = "the prompt" if len(prompts) == 1 else f"prompt[{sequence}]"
            room = _room(model, cache, row, len(prompts[sequence]) - held[sequence], longest, name)
            writer = None if tokenizer is None else Writer(tokenizer, options.stop_strings)
            rows.append(Row(row, sequence, prompts[sequence], room, writer, held=held[sequence]))
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
