r"""How probable a model finds a text: the log-probability of each token, and perplexity.

    perplexity = exp(−(1/N)·Σ log p(xₜ | what the window shows before xₜ))

The protocol is the strided one that transformers' documentation describes: windows of W tokens begin every S tokens,
each is run on its own with positions from 0, and scores the tokens that no earlier window has scored. So each token but
the first is scored once, and sees at least W − S tokens before it once the first window is full. Smaller strides give
more context and cost more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.numerics import Precision, get_precision
from lepton_ref.runtime.progress import track
from lepton_ref.runtime.prompts import checked_ids, learned_positions, require_language_model, text_ids
from lepton_ref.runtime.sampling import require_integer

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model

LONGEST_WINDOW = 2048
"""The default window where the model takes more."""

LOGITS_AT_ONCE = 2**22
"""Logits computed in one run, at most: 32 MB of float64."""


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text, and by what protocol: see the module's page.

    Attributes:
        value: e to the power of nll.
        nll: the mean negative natural logarithm of the scored tokens' probabilities.
        tokens: how many tokens were scored: all but the first.
        window: the most tokens that the model saw at once.
        stride: tokens from one window's beginning to the next one's.
    """

    value: float
    nll: float
    tokens: int
    window: int
    stride: int


def scoring(precision: Precision) -> Precision:
    """What logarithms of probabilities are rounded to: float32 and proven, or float64 where logits may be float64."""
    return get_precision("float64" if precision.widest == np.float64 else "reference")


def log_probabilities(model: Model, /, ids: Any) -> NDArray[np.float64]:
    """(T) -> (T − 1), the natural logarithm of the probability of each token given all before it.

    Args:
        model: a decoder with a language model's head.
        ids: text, or a flat list of at least two ids.

    Returns:
        float64 numbers: log-softmax of the logits, a second op, so rounded once more, to float32.

    Raises:
        ValueError: an encoder, fewer than two tokens, or ids outside the vocabulary.
        TypeError: ids that are not integers.
        ContextOverflowError: more tokens than the model has learned positions for.
    """
    tokens = _tokens(model, ids)
    learned = learned_positions(model.program)
    if learned is not None and len(tokens) > learned:
        raise ContextOverflowError(
            f"{len(tokens)} tokens overflow the {learned} positions that the model has learned; "
            "shorten them, or take perplexity, which uses windows"
        )
    return _scored(model, tokens, 1)


def perplexity(
    model: Model, /, text: Any, *, window: int | None = None, stride: int | None = None, progress: bool = False
) -> Perplexity:
    """Perplexity of a text by strided windows: see the module's page.

    Args:
        model: a decoder with a language model's head.
        text: text, or a flat list of at least two ids.
        window: tokens that the model sees at once; None for as many as its config names, at most 2048.
        stride: tokens from one window's beginning to the next one's, below the window; None for half of the window.
        progress: draw a bar, where `rich` is installed.

    Raises:
        ValueError: as `log_probabilities`, a window or a stride outside its range.
        TypeError: ids, a window or a stride that are not integers.
    """
    tokens = _tokens(model, text)
    learned = learned_positions(model.program)
    longest = min(model.config.max_position_embeddings, math.inf if learned is None else learned)
    window = int(min(longest, LONGEST_WINDOW)) if window is None else window
    require_integer("window", window, low=2, high=math.inf if learned is None else learned, remedy="counts tokens")
    stride = window // 2 if stride is None else stride
    remedy = "a window shares a token with the one before, or its first would have nothing to be told from"
    require_integer("stride", stride, low=1, high=window - 1, remedy=remedy)
    parts = [
        _scored(model, tokens[begin:end], first - begin)
        for begin, first, end in track(list(_windows(len(tokens), window, stride)), "perplexity", wanted=progress)
    ]
    nll = -math.fsum(np.concatenate(parts)) / (len(tokens) - 1)
    try:
        value = math.exp(nll)
    except OverflowError:
        value = math.inf
    return Perplexity(value, nll, len(tokens) - 1, window, stride)


def _windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(where it begins, the first token that it scores, where it ends) of each window."""
    first = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        yield begin, first, end
        if end == length:
            return
        first = end


def _tokens(model: Model, given: Any) -> list[int]:
    require_language_model(model, "score tokens")
    ids = text_ids(model, given, "the text") if isinstance(given, str) else checked_ids(model, given, "ids")
    if len(ids) < 2:
        raise ValueError(f"got {len(ids)} token, but each is scored by those before it; give at least two")
    return ids


def _scored(model: Model, ids: list[int], first: int) -> NDArray[np.float64]:
    """Log-probabilities of ids[first:], given all before each."""
    cache = model.new_cache(capacity=len(ids))
    if first > 1:
        model.forward([ids[: first - 1]], cache=cache, last_only=True)
    room = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    found = []
    for start in range(first - 1, len(ids) - 1, room):
        fed = ids[start : min(start + room, len(ids) - 1)]
        logits_tv = model.backend.from_numpy(model.forward([fed], cache=cache)[0])
        following = np.array(ids[start + 1 : start + 1 + len(fed)], dtype=np.int64)
        y_t = ops.log_softmax_at(logits_tv, following, backend=model.backend, precision=scoring(model.precision))
        found.append(model.backend.to_numpy(y_t).astype(np.float64))
    return np.concatenate(found)
