"""Continuous batching: requests that come and go between steps, each answered as if it were alone.

A step takes requests from the queue while there is room in the batch, reads one chunk of every prompt that is not read
yet, and chooses one token for every other sequence. What a sequence has is blocks of a paged cache, so it joins and
leaves without moving any other's keys; a prompt that begins as one that is there begins with its blocks.

An op's output does not depend on what else is in the batch, how a prompt is cut into chunks, or where keys lie, and a
draw depends on the request's own seed, sequence and step. So ids, log-probabilities, text and the reason of the end are
those of `model.generate` with the same options, whatever comes beside.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.runtime.decoding import Job, next_token
from lepton_ref.runtime.generate import prepare
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.paged_cache import PagedCache
from lepton_ref.runtime.prompts import require_language_model
from lepton_ref.runtime.rows import Options, Row
from lepton_ref.runtime.sampling import require_integer

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model

OPTIONS = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("seed", "sequence", "stop_ids", "stop_strings"),
)
"""What a request may say of itself: options of `Model.generate`."""

SHARED = 16
"""Ids that prompts must have in common to share blocks: fewer fill none."""


@dataclass
class Request:
    """One request in the batch.

    Attributes:
        number: what `submit` gave.
        row: its sequence.
        options: how its tokens are chosen.
        cache: its blocks.
        started_s, first_s: when it joined, and when the logits of its first new token were there.
    """

    number: int
    row: Row
    options: Options
    cache: PagedCache
    started_s: float
    first_s: float = 0.0

    @property
    def unread(self) -> list[int]:
        """What is to be read of the prompt; nothing from the first new token on."""
        return self.row.prompt[self.cache.states[0].count :] if len(self.row.ids) == 0 else []


class Server:
    """A queue of requests and the batch that answers them.

    Args:
        model: a decoder with a language model's head.
        batch: the most sequences that run together.
        chunk: tokens of each prompt read in a step.

    Raises:
        ValueError: an encoder, or a number below 1.
        TypeError: a number that is no integer.
    """

    def __init__(self, model: Model, *, batch: int = 8, chunk: int = 128) -> None:
        if not hasattr(model, "parts"):
            raise TypeError(f"a server needs a model, got {type(model).__name__}; lepton_ref.load gives one")
        require_language_model(model, "serve")
        require_integer("batch", batch, low=1, remedy="it counts sequences that run together")
        require_integer("chunk", chunk, low=1, remedy="it counts tokens of a prompt")
        self.model = model
        self.batch = batch
        self.chunk = chunk
        self._queue: deque[tuple[int, Job]] = deque()
        self._running: list[Request] = []
        self._finished: dict[int, Generation | ValueError] = {}
        self._numbers = 0
        root = model.new_cache(paged=True)
        assert isinstance(root, PagedCache), "a paged cache was asked for"
        self._root = root

    def __repr__(self) -> str:
        return f"Server({len(self._queue)} waiting, {len(self._running)} running, {len(self._finished)} finished)"

    @property
    def idle(self) -> bool:
        """Whether no request waits or runs."""
        return len(self._queue) == 0 and len(self._running) == 0

    @property
    def waiting(self) -> tuple[int, ...]:
        """The numbers of the requests in the queue, the next first."""
        return tuple(number for number, _ in self._queue)

    @property
    def running(self) -> tuple[int, ...]:
        """The numbers of the requests in the batch."""
        return tuple(request.number for request in self._running)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks of all sequences, free ones included."""
        return self._root.nbytes

    def submit(self, prompt: Any, **options: Any) -> int:
        """Put a request into the queue -> its number. What is wrong with it is raised at once.

        Args:
            prompt: text or a flat list of ids.
            options: `OPTIONS`, those of `Model.generate` that say what is answered.

        Raises:
            ValueError, TypeError, ContextOverflowError: what `Model.generate` refuses, or a batch of prompts.
        """
        for name in options.keys() - set(OPTIONS):
            raise TypeError(f"a request takes no {name!r}; it takes {', '.join(OPTIONS)}")
        found, single = prepare(self.model, prompt, **options, chunk=self.chunk)
        if not single:
            raise ValueError(f"a request has one prompt, got a batch of {len(prompt)}; submit them one by one")
        self._queue.append((self._numbers, found[0]))
        self._numbers += 1
        return self._numbers - 1

    def cancel(self, number: int, /) -> None:
        """Forget a request that waits or runs; what it would have given is lost.

        Raises:
            ValueError: no such request waits or runs.
        """
        if number not in (*self.waiting, *self.running):
            raise ValueError(f"request {number!r} neither waits nor runs; result({number!r}) has one that has ended")
        self._queue = deque(pair for pair in self._queue if pair[0] != number)
        self._running = [request for request in self._running if request.number != number]

    def result(self, number: int, /) -> Generation:
        """What a request that has ended gave; it is handed out once.

        Raises:
            ValueError: a request that waits or runs, was cancelled or handed out, or never was; or what ended it, such
                as logits that are NaN.
        """
        if not isinstance(number, int) or number not in self._finished:
            there = isinstance(number, int) and number in (*self.waiting, *self.running)
            why = "has not ended; step until it has" if there else "is unknown, cancelled or was handed out"
            raise ValueError(f"request {number!r} {why}")
        found = self._finished.pop(number)
        if isinstance(found, ValueError):
            raise found
        return found

    def step(self) -> list[Token]:
        """One step: the tokens it chose, `Token.sequence` being the request's number. None where nothing runs."""
        while len(self._queue) > 0 and len(self._running) < self.batch:
            self._running.append(self._joined(*self._queue.popleft()))
        reading = [request for request in self._running if len(request.unread) > 0]
        others = [request for request in self._running if len(request.unread) == 0]
        tokens = []
        for group in (reading, others):
            tokens += self._run(group) if len(group) > 0 else []
        self._running = [request for request in self._running if request.number not in self._finished]
        return tokens

    def tokens(self) -> Iterator[Token]:
        """Step until no request waits or runs, and yield each token; requests may be submitted in between."""
        while not self.idle:
            yield from self.step()

    def run(self, prompts: Iterable[Any], /, **options: Any) -> list[Generation]:
        """Submit prompts and answer them all, in their order; `options` are for each of them."""
        if not isinstance(prompts, Iterable) or isinstance(prompts, str):
            raise TypeError(f"run takes a list of prompts, got {prompts!r}")
        numbers = [self.submit(prompt, **options) for prompt in prompts]
        while not set(numbers) <= self._finished.keys():
            self.step()
        return [self.result(number) for number in numbers]

    def _joined(self, number: int, job: Job) -> Request:
        row = job.rows[0]
        cache = self._like(row.prompt) if job.capacity is None else None
        if cache is None:
            fresh = self.model.new_cache(capacity=job.capacity, paged=self._root)
            assert isinstance(fresh, PagedCache), "a paged cache was asked for"
            cache = fresh
        return Request(number, row, job.options, cache, time.perf_counter())

    def _like(self, prompt: list[int]) -> PagedCache | None:
        """The blocks of the running sequence that begins most like the prompt, as far as it does."""
        best, most = None, SHARED - 1
        for request in self._running:
            held = request.cache.ids[0] or ()
            same = [one == other for one, other in zip(held, prompt[:-1], strict=False)]
            common = [*same, False].index(False)
            if common > most and request.cache.can_truncate(common):
                best, most = request, common
        if best is None:
            return None
        cache = best.cache.fork()
        cache.truncate(most)
        return cache

    def _run(self, group: list[Request]) -> list[Token]:
        """A chunk of prompts, or the latest tokens; the next token of each sequence of which all is read then."""
        fed = [request.unread[: self.chunk] or request.row.ids[-1:] for request in group]
        longest = max(map(len, fed))
        ids = np.zeros((len(group), longest), dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for b, part in enumerate(fed):
            ids[b, longest - len(part) :], mask[b, longest - len(part) :] = part, True
        cache = PagedCache.together([request.cache for request in group])
        logits_bv = self.model.forward(ids, attention_mask=mask, cache=cache, last_only=True)[:, -1]
        chosen = zip(group, logits_bv, strict=True)
        return [token for request, logits_v in chosen for token in self._choose(request, logits_v)]

    def _choose(self, request: Request, logits_v: HostArray) -> list[Token]:
        """The next token, if all of the prompt is read. A request that fails ends, and no other does."""
        row = request.row
        if len(request.unread) > 0:
            return []
        if len(row.ids) == 0:
            request.first_s = time.perf_counter()
        try:
            token = next_token(self.model, row, logits_v, request.options)
        except ValueError as error:
            self._finished[request.number] = error
            return []
        if row.finish is not None:
            self._finished[request.number] = row.result(request.started_s, request.first_s)
        return [Token(token.id, token.text, token.logprob, request.number)]
