"""Generation as callers ask for it: all at once or token by token, for one prompt or a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.runtime.decoding import jobs
from lepton_ref.runtime.fingerprint import is_proven
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.prompts import one_or_many, require_language_model
from lepton_ref.runtime.rows import Options
from lepton_ref.runtime.sampling import WORD, Sampling, require_integer

if TYPE_CHECKING:
    from lepton_ref.runtime.cache import KVCache
    from lepton_ref.runtime.decoding import Job
    from lepton_ref.runtime.model import Model
    from lepton_ref.text import Tokenizer


def generate(
    model: Model,
    /,
    prompt: Any,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    sequence: int = 0,
    stop_ids: Iterable[int] | None = None,
    stop_strings: str | Sequence[str] = (),
    chunk: int = 512,
    cache: KVCache | None = None,
    reuse: bool = False,
    speculate: int = 0,
    on_token: Callable[[Token], object] | None = None,
    progress: bool = False,
) -> Generation | list[Generation]:
    """Continue a prompt, or each prompt of a batch.

    Args:
        model: a decoder with a language model's head.
        prompt: text, a flat list of ids, or a batch: a list of texts, of lists of ids, or an array (B, T).
        max_new_tokens: the most new tokens of each sequence.
        temperature: 0 takes the likeliest token each time; above 0 tokens are drawn: `runtime.sampling` says how.
        top_k: draw among the k likeliest.
        top_p: draw among the fewest whose probabilities sum to p.
        min_p: draw among those at least min-p times as likely as the likeliest.
        repetition_penalty: above 1, ids of the prompt and of what was generated become less likely. What a given cache
            held before does not count.
        seed: with the number of the sequence and of the step, all that a draw depends on.
        sequence: the number of the first sequence. `generate(batch[b], sequence=b)` repeats sequence b of a batch.
        stop_ids: ids that end a sequence; None for the model's own, () for none.
        stop_strings: texts that end a sequence; they are left out of its text.
        chunk: tokens of the prompt fed at a time.
        cache: from `model.new_cache`; what it holds stands before the prompt. When a sequence ends it holds all but the
            last new id: begin the next prompt with that. None for a cache of its own.
        reuse: take the cache's sequences for beginnings of these prompts: what they have in common stays, the rest is
            dropped, and only what is new is read. The same answers as without a cache, sooner.
        speculate: the most tokens to guess at a time from what came before, verified in one run: the same answers,
            sooner where a text repeats itself. 0 guesses nothing. A batch takes a paged cache, or one of its own.
        on_token: called with each `Token` when it is chosen.
        progress: draw a bar while the prompt is read, where `rich` is installed.

    Returns:
        A `Generation`, or a list of them for a batch. Where RoPE depends on the length, it takes that of the prompt and
        max_new_tokens together, and the sequences of a batch run one after the other.

    Raises:
        ValueError: an encoder, an empty prompt, ids outside the vocabulary, an option outside its range, logits that
            are NaN, speculation under a precision whose bits are not proven, reuse without a cache.
        TypeError: a prompt that is neither text nor integers, or an argument of another type than it is said to have.
        ContextOverflowError: a prompt that does not fit; found before anything runs.
    """
    if on_token is not None and not callable(on_token):
        raise TypeError(f"on_token must be a function of one Token, got {on_token!r}; leave it out for none")
    found_jobs, single = prepare(
        model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, sequence=sequence, stop_ids=stop_ids,
        stop_strings=stop_strings, chunk=chunk, cache=cache, reuse=reuse, speculate=speculate, progress=progress,
    )  # fmt: skip
    found: list[Generation] = []
    for job in found_jobs:
        for token in job.tokens():
            if on_token is not None:
                on_token(token)
        found += [row.result(job.started_s, job.first_s) for row in job.rows]
    return found[0] if single else found


def stream(
    model: Model,
    /,
    prompt: Any,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    sequence: int = 0,
    stop_ids: Iterable[int] | None = None,
    stop_strings: str | Sequence[str] = (),
    chunk: int = 512,
    cache: KVCache | None = None,
    reuse: bool = False,
    speculate: int = 0,
    progress: bool = False,
) -> Iterator[Token]:
    """Continue one prompt, token by token: the arguments and errors of `generate`.

    What is wrong with the arguments is raised at once; nothing runs until the first token is asked for. The texts of
    all tokens, joined, are the text that `generate` gives.
    """
    found_jobs, single = prepare(
        model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, sequence=sequence, stop_ids=stop_ids,
        stop_strings=stop_strings, chunk=chunk, cache=cache, reuse=reuse, speculate=speculate, progress=progress,
    )  # fmt: skip
    if not single:
        raise ValueError(f"stream continues one prompt, got a batch of {len(prompt)}; use generate with on_token")
    return found_jobs[0].tokens()


def prepare(
    model: Model,
    prompt: Any,
    *,
    max_new_tokens: int = 128,
    sequence: int = 0,
    stop_ids: Iterable[int] | None = None,
    stop_strings: str | Sequence[str] = (),
    chunk: int = 512,
    cache: KVCache | None = None,
    reuse: bool = False,
    speculate: int = 0,
    progress: bool = False,
    **sampling: Any,
) -> tuple[list[Job], bool]:
    """What `generate` runs, and whether the prompt was but one. All that can be wrong is found here."""
    how = Sampling(**sampling)
    require_language_model(model, "generate")
    require_integer("max_new_tokens", max_new_tokens, low=1, remedy="it counts new tokens, without the prompt's")
    require_integer("chunk", chunk, low=1, remedy="it counts tokens of the prompt")
    require_integer("sequence", sequence, low=0, high=WORD - 1, remedy="it is one word of a key")
    require_integer("speculate", speculate, low=0, remedy="it counts guessed tokens, and 0 guesses none")
    if speculate > 0 and not is_proven(model.precision):
        raise ValueError(
            f"speculate is {speculate}, but under {model.precision.name!r} a token's bits depend on how many are run "
            "together; leave it out, or take a proven precision"
        )
    if reuse and cache is None:
        raise ValueError("reuse takes a cache that holds the beginning of the prompt; give one, or leave reuse out")
    stops = _stop_strings(stop_strings)
    prompts, single = one_or_many(model, prompt)
    tokenizer = _tokenizer(model, needed=len(stops) > 0)
    ends = _own_stop_ids(model, tokenizer) if stop_ids is None else _stop_ids(stop_ids, model.config.vocab_size)
    options = Options(how, max_new_tokens, ends, stops, chunk, sequence, progress, speculate, reuse)
    return jobs(model, prompts, options, cache=cache, tokenizer=tokenizer), single


def _stop_strings(given: Any) -> tuple[str, ...]:
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(f"stop_strings must be a text or a list of texts, got {given!r}; () is none")
    stops = (given,) if isinstance(given, str) else tuple(given)
    for stop in stops:
        if not isinstance(stop, str) or stop == "":
            raise ValueError(f"stop_strings holds {stop!r}; give texts of at least one character")
    return stops


def _stop_ids(given: Any, vocab_size: int) -> frozenset[int]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise TypeError(f"stop_ids must be a list of ids, got {given!r}; None is the model's own, () is none")
    ends = list(given)
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | np.integer):
            raise TypeError(f"stop_ids holds {end!r}; give integers")
        if not 0 <= end < vocab_size:
            raise ValueError(
                f"stop_ids holds {end}, outside the vocabulary of {vocab_size}; no sequence would end by it"
            )
    return frozenset(map(int, ends))


def _tokenizer(model: Model, *, needed: bool) -> Tokenizer | None:
    """The model's tokenizer; None where its files hold none that can be built, and no text was asked about."""
    try:
        return model.tokenizer
    except (ImportError, OSError, ValueError):
        if needed:
            raise
        return None


def _own_stop_ids(model: Model, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The tokenizer's ends of sequence and turn; without one what the config says."""
    if tokenizer is not None:
        return tokenizer.stop_ids
    fields = model.parts.fields
    given = fields.get("tokenizer.ggml.eos_token_id" if model.parts.file.kind == "gguf" else "eos_token_id")
    values = given if isinstance(given, list | tuple) else [given]
    return frozenset(value for value in values if isinstance(value, int) and not isinstance(value, bool))
