"""Scores: each token's log-probability and strided perplexity against a token-by-token loop, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from talking_model import talking
from tiny_models import load

from lepton_ref import Model
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.plain.ops import log_softmax, rounded
from lepton_ref.runtime import score

IDS = [5, 17, 3, 40, 40, 21, 9, 58, 12, 33, 7]


@cache
def model(name: str = "llama") -> Model:
    return load(golden_cases.GOLDEN / "tiny" / name)


def told(tested: Model, before: list[int], index: int) -> float:
    """The oracle: the log-probability of one token, the text before it fed whole, by the specification."""
    return rounded(log_softmax(tested.forward([before])[0, -1].tolist())[index], "fp32")


def brute(tested: Model, ids: list[int], window: int, stride: int) -> list[float]:
    """The oracle: each token is scored by the first window that reaches it, with what that window shows before it."""
    found = []
    for at in range(1, len(ids)):
        begin = next(begin for begin in range(0, len(ids), stride) if begin + window > at)
        found.append(told(tested, ids[begin:at], ids[at]))
    return found


def log_probabilities_are_right(m: ModuleType, name: str = "llama") -> None:
    found = m.log_probabilities(model(name), IDS)
    assert found.dtype == np.float64
    expected = [told(model(name), IDS[:at], IDS[at]) for at in range(1, len(IDS))]
    assert found.tolist() == expected


def perplexity_is_right(m: ModuleType, name: str = "llama") -> None:
    for window, stride in [(2, 1), (5, 1), (5, 2), (5, 4), (4, 3), (10, 9), (11, 3), (30, 7)]:
        found = m.perplexity(model(name), IDS, window=window, stride=stride)
        nll = -math.fsum(brute(model(name), IDS, window, stride)) / (len(IDS) - 1)
        assert (found.tokens, found.window, found.stride) == (len(IDS) - 1, window, stride)
        assert found.nll == nll
        assert found.value == math.exp(found.nll)


def few_logits_at_once_change_nothing(m: ModuleType) -> None:
    whole = score.log_probabilities(model(), IDS)
    m.LOGITS_AT_ONCE = 61 * 3 + 1
    assert (m.log_probabilities(model(), IDS) == whole).all()
    m.LOGITS_AT_ONCE = 1
    assert (m.log_probabilities(model(), IDS) == whole).all()


CHECKS: list[Callable[[ModuleType], None]] = [
    log_probabilities_are_right,
    perplexity_is_right,
    few_logits_at_once_change_nothing,
]

BUGS: list[tuple[Callable[[ModuleType], None], str, str]] = [
    (log_probabilities_are_right, "ids[start + 1 : start + 1 + len(fed)]", "ids[start : start + len(fed)]"),
    (log_probabilities_are_right, "precision=scoring(model.precision)", 'precision=get_precision("bf16")'),
    (log_probabilities_are_right, "precision=scoring(model.precision)", 'precision=get_precision("float64")'),
    (perplexity_is_right, "ids[: first - 1]", "ids[:first]"),
    (perplexity_is_right, "        first = end\n", "        first = begin + stride\n"),
    (perplexity_is_right, "tokens[begin:end], first - begin", "tokens[begin:end], 1"),
    (perplexity_is_right, "/ (len(tokens) - 1)\n", "/ len(tokens)\n"),
    (perplexity_is_right, "range(0, length, stride)", "range(0, length, window)"),
    (few_logits_at_once_change_nothing, "range(first - 1, len(ids) - 1, room)", "range(first - 1, len(ids) - 2, room)"),
    (few_logits_at_once_change_nothing, "model.forward([fed], cache=cache)", "model.forward([fed])"),
]  # fmt: skip
"""(the check, a place in score.py, the bug that is planted there)."""


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma3"])
def test_scores_are_right(name: str) -> None:
    log_probabilities_are_right(score, name)
    perplexity_is_right(score, name)


def test_few_logits_at_once_change_nothing() -> None:
    few_logits_at_once_change_nothing(mutated(score, "LOGITS_AT_ONCE = 2**22", "LOGITS_AT_ONCE = 2**22"))


@pytest.mark.parametrize(("check", "place", "bug"), BUGS)
def test_a_planted_bug_is_caught(check: Callable[[ModuleType], None], place: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(mutated(score, place, bug))


@given(st.integers(2, 40), st.integers(2, 45), st.data())
def test_each_token_but_the_first_is_scored_once(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window - 1))
    seen = [at for begin, first, end in score._windows(length, window, stride) for at in range(first, end)]
    assert seen == list(range(1, length))
    for begin, first, end in score._windows(length, window, stride):
        assert end - begin <= window
        assert first - begin >= (1 if begin == 0 else window - stride)
        assert first < end


def test_generation_says_the_same_log_probabilities() -> None:
    found = model().generate(IDS[:4], max_new_tokens=6, stop_ids=())
    assert tuple(model().log_probabilities([*IDS[:4], *found])[3:]) == found.logprobs


def test_a_window_over_all_is_the_mean_of_all() -> None:
    found = model().perplexity(IDS, window=len(IDS))
    assert found.nll == -math.fsum(model().log_probabilities(IDS)) / (len(IDS) - 1)


def test_the_defaults_are_the_models_own() -> None:
    assert (model().perplexity(IDS).window, model().perplexity(IDS).stride) == (64, 32)
    assert (model("gpt2").perplexity(IDS).window, model("gpt2").perplexity(IDS).stride) == (32, 16)
    assert model().perplexity(np.array(IDS), window=6).stride == 3


def test_windows_reach_beyond_learned_positions() -> None:
    long = (IDS * 5)[:50]
    found = model("gpt2").perplexity(long)
    assert found.tokens == 49
    assert found.nll == -math.fsum(brute(model("gpt2"), long, 32, 16)) / 49
    with pytest.raises(ContextOverflowError, match="50 tokens overflow the 32 positions that the model has learned"):
        model("gpt2").log_probabilities(long)


def test_text_is_scored_as_its_ids(tmp_path: Path) -> None:
    talker = load(talking(tmp_path / "talker.gguf"))
    text = "hello abc"
    assert talker.perplexity(text) == talker.perplexity(talker.tokenizer.encode(text))
    assert (talker.log_probabilities(text) == talker.log_probabilities(talker.tokenizer.encode(text))).all()
    with pytest.raises(ValueError, match="got 1 token, but each is scored by those before it; give at least two"):
        talker.perplexity("x")


def test_a_text_without_probability_has_infinite_perplexity(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Model.forward

    def without_token_3(*arguments: Any, **options: Any) -> Any:
        logits = real(*arguments, **options)
        logits[..., 3] = -np.inf
        return logits

    monkeypatch.setattr(Model, "forward", without_token_3)
    assert model().log_probabilities([5, 3]).tolist() == [-math.inf]
    assert (model().perplexity([5, 3]).nll, model().perplexity([5, 3]).value) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 1}, ValueError, "window is 1, but must be at least 2"),
        ({"window": 2.0}, TypeError, r"window must be an integer, got 2\.0"),
        ({"window": 4, "stride": 4}, ValueError, "stride is 4, but must be from 1 to 3; a window shares a token"),
        ({"stride": 0}, ValueError, "stride is 0, but must be from 1 to 63"),
    ],
)
def test_a_window_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model().perplexity(IDS, **options)


def test_a_window_beyond_learned_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 33, but must be from 2 to 32"):
        model("gpt2").perplexity(IDS, window=33)


@pytest.mark.parametrize("way", ["log_probabilities", "perplexity"])
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([5], ValueError, "got 1 token, but each is scored by those before it; give at least two"),
        ([], ValueError, "ids is empty; give at least one token"),
        ([5, 61], ValueError, r"ids\[1\] is 61, outside the vocabulary of 61"),
        ([[5, 6]], ValueError, r"ids must be a flat list of ids, got an array of shape \(1, 2\)"),
        ([0.5, 1.5], TypeError, "ids must be text or integers, got float64"),
    ],
)
def test_ids_that_are_none_are_refused(way: str, ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(model(), way)(ids)


@pytest.mark.parametrize("way", ["log_probabilities", "perplexity"])
def test_an_encoder_is_refused_by_name(way: str) -> None:
    with pytest.raises(ValueError, match="BertForMaskedLM sees both ways and cannot score tokens; it takes a decoder"):
        getattr(model("bert_masked_lm"), way)([5, 6])
