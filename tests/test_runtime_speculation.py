"""Speculation: the look-up against a search by hand, and the same answers as without under every option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from talking_model import talking
from test_runtime_generate import DECODERS, HOT, KINDS, PROMPTS, model
from tiny_models import load

from lepton_ref import Model
from lepton_ref.numerics import PRECISIONS, get_precision
from lepton_ref.runtime import decoding, generate, lookup
from lepton_ref.runtime.chat import Conversation
from lepton_ref.runtime.generation import Generation

REPEATING = [prompt * 3 for prompt in PROMPTS]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(talking(tmp_path_factory.mktemp("talker") / "talker.gguf"))


# --- the look-up ------------------------------------------------------------------------------------------------------


def by_hand(ids: list[int], count: int) -> list[int]:
    """The longest end that occurs earlier, at its latest place; then one id after the other is copied."""
    best, after = 1, 0
    for start in range(1, len(ids)):  # an occurrence that ends before this id
        length = 0
        while length < min(start, lookup.LONGEST) and ids[start - 1 - length] == ids[-1 - length]:
            length += 1
        if length >= max(best, lookup.SHORTEST):
            best, after = length, start
    if after == 0:
        return []
    whole = list(ids)
    for at in range(count):
        whole.append(whole[after + at])
    return whole[len(ids) :]


IDS = st.one_of(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 1), max_size=90))


@given(IDS, st.integers(0, 9))
def test_the_look_up_is_the_search_by_hand(ids: list[int], count: int) -> None:
    assert lookup.propose(ids, count) == by_hand(ids, count)


@pytest.mark.parametrize(
    ("ids", "count", "guess"),
    [
        ([], 4, []),
        ([1, 2], 4, []),
        ([1, 2, 3], 4, []),
        ([3, 1, 3], 4, []),
        ([1, 2, 3, 1, 2], 2, [3, 1]),
        ([1, 2, 3, 1, 2], 5, [3, 1, 2, 3, 1]),
        ([7, 7, 7], 4, [7, 7, 7, 7]),
        ([1, 2, 3, 1, 2, 4, 1, 2], 2, [4, 1]),
        ([5, 1, 2, 3, 1, 2, 4, 5, 1, 2], 2, [3, 1]),
        ([1, 2, 3, 1, 2], 0, []),
        ([1, 2, 3, 1, 2], -1, []),
    ],
)
def test_guesses_that_are_known(ids: list[int], count: int, guess: list[int]) -> None:
    assert lookup.propose(ids, count) == guess


@pytest.mark.parametrize(
    ("place", "bug"),
    [
        ("x[:-1] == x[-1]", "x == x[-1]"),
        ("int(ends[-1]) + 1", "int(ends[0]) + 1"),
        ("ends[ends >= length]", "ends[ends > length]"),
        ("x[-1 - length]]", "x[-length]]"),
        ("at % period", "min(at, period - 1)"),
        ("length < SHORTEST", "length < 1"),
        ("while length < LONGEST", "while length < 40"),
    ],
)
def test_a_planted_bug_of_the_look_up_is_caught(place: str, bug: str) -> None:
    wrong = mutated(lookup, place, bug)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 1 + n % 3, int(rng.integers(90))).tolist() for n in range(300)]
    # Of many zeros the latest place is the same however far one looks; here 50 differ from 41.
    drawn.append([8, *[1] * 45, 2, 3, 9, *[1] * 41, 2, 4, 8, *[1] * 45, 2])

    def agrees(propose: Callable[[list[int], int], list[int]]) -> bool:
        return all(propose(ids, 5) == by_hand(ids, 5) for ids in drawn)

    assert agrees(lookup.propose)
    try:
        assert not agrees(wrong.propose)
    except (IndexError, ZeroDivisionError):
        return


# --- the answers ------------------------------------------------------------------------------------------------------

KNOWN: list[tuple[int, ...]] = []
"""What sequences will be, for `prophet`."""


def prophet(ids: list[int], count: int) -> list[int]:
    """Guesses of random length that are right for a while: a model with random weights hardly repeats itself."""
    rng = np.random.default_rng([len(ids), *ids])
    truth = next((whole for whole in KNOWN if whole[: len(ids)] == tuple(ids)), ())
    guess = truth[len(ids) : len(ids) + max(0, min(count, int(rng.integers(0, 15))))]
    return [index if rng.random() < 0.85 else (index + 1) % 59 for index in guess]


@pytest.fixture
def foresight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "propose", prophet)  # which a module that is read anew imports
    monkeypatch.setattr(decoding, "propose", prophet)


def the_same_as_without(name: str = "llama", speculate: int = 5, **more: Any) -> tuple[int, int]:
    """Ids, log-probabilities, reasons and what the cache holds, of a batch and alone -> guesses, and right ones."""
    tested = model(name)
    proposed = accepted = 0
    for options in ({}, HOT, {"temperature": 0.3, "seed": 3, "sequence": 5}, {"repetition_penalty": 1.5}):
        how: dict[str, Any] = {"max_new_tokens": 14, "stop_ids": (), **options, **more}
        plain = tested.generate(REPEATING, **how)
        KNOWN[:] = [(*prompt, *found.ids) for prompt, found in zip(REPEATING, plain, strict=True)]
        batch = tested.generate(REPEATING, speculate=speculate, **how)
        assert batch == plain
        ends = {"stop_ids": {plain[0][7], plain[3][4]}}
        stopped = tested.generate(REPEATING, **{**how, **ends})
        assert tested.generate(REPEATING, speculate=speculate, **{**how, **ends}) == stopped
        for paged in (False, True):
            cache = tested.new_cache(capacity=len(REPEATING[0]) + how["max_new_tokens"] - 1, paged=paged)
            own = tested.new_cache(capacity=len(REPEATING[0]) + how["max_new_tokens"] - 1, paged=paged)
            plain_one = tested.generate(REPEATING[0], cache=own, **how)
            KNOWN[:] = [(*REPEATING[0], *plain_one.ids)]
            found = tested.generate(REPEATING[0], speculate=speculate, cache=cache, **how)
            assert found == plain_one
            assert cache.ids == own.ids == ((*REPEATING[0], *found.ids)[:-1],)
            assert cache.length == own.length
            proposed, accepted = proposed + found.proposed, accepted + found.accepted
    return proposed, accepted


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("foresight")
def test_speculation_changes_nothing(name: str) -> None:
    proposed, accepted = the_same_as_without(name)
    assert proposed >= accepted > 20


@pytest.mark.usefixtures("foresight")
def test_long_guesses_and_small_windows() -> None:
    proposed, accepted = the_same_as_without("mistral", 20, max_new_tokens=36)
    assert proposed > accepted > 50


def test_some_guesses_are_right_and_some_are_wrong() -> None:
    found = [model(name).generate(REPEATING[0], max_new_tokens=40, stop_ids=(), speculate=6) for name in DECODERS]
    assert sum(each.accepted for each in found) > 100
    assert sum(each.proposed - each.accepted for each in found) > 100


@pytest.mark.parametrize("precision", ["bf16", "w8a8", "w4a8", "fp8"])
def test_other_precisions_too(precision: str) -> None:
    tested = load(model().parts.path, precision=precision, kv_cache="int8")
    for options in ({}, HOT):
        how: dict[str, Any] = {"max_new_tokens": 12, "stop_ids": (), **options}
        assert tested.generate(REPEATING, speculate=4, **how) == tested.generate(REPEATING, **how)


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(1, 12),
    st.sampled_from(["llama", "mistral", "gpt2"]),
)
def test_any_batch_is_what_it_is_without(
    prompts: list[list[int]], speculate: int, temperature: float, most: int, name: str
) -> None:
    how: dict[str, Any] = {"max_new_tokens": most, "temperature": temperature, "stop_ids": (1, 2, 3)}
    assert model(name).generate(prompts, speculate=speculate, **how) == model(name).generate(prompts, **how)


def test_right_guesses_save_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = Model.forward
    monkeypatch.setattr(Model, "forward", lambda *a, **k: (runs.append(1), real(*a, **k))[1])
    monkeypatch.setattr(decoding, "choose", lambda logits, how, seen, u: seen[-7])  # what repeats for ever
    found = model().generate(REPEATING[0], max_new_tokens=31, stop_ids=(), speculate=5)
    assert list(found) == (REPEATING[0] * 2)[:31]
    assert (found.proposed, found.accepted) == (25, 25)
    assert len(runs) == 1 + 30 / 6


@pytest.mark.parametrize("options", [{}, {"stop_strings": ["y", "b3"]}, HOT, {"temperature": 0.2}])
def test_texts_streams_and_stops_are_the_same(talker: Model, options: dict[str, Any]) -> None:
    for text in ("hello hello hello", "a a a a a", "x"):
        plain = talker.generate(text, max_new_tokens=30, **options)
        assert talker.generate(text, max_new_tokens=30, speculate=4, **options) == plain
        tokens = list(talker.stream(text, max_new_tokens=30, speculate=4, **options))
        assert tokens == list(talker.stream(text, max_new_tokens=30, **options))


def test_a_conversation_is_the_same(talker: Model) -> None:
    plain, sooner = Conversation(talker, max_new_tokens=12), Conversation(talker, max_new_tokens=12, speculate=4)
    for said in ("hello hello", "hello hello", "hello"):
        assert sooner.ask(said) == plain.ask(said)


def test_the_room_of_a_cache_and_of_learned_positions_ends_it_the_same_way() -> None:
    for name in ("gpt2", "opt", "llama"):
        tested = model(name)
        for size in (10, 11, 12, 13):
            found = []
            for speculate in (0, 5):
                cache = tested.new_cache(capacity=size)
                more: dict[str, Any] = {"max_new_tokens": 40, "stop_ids": (), "cache": cache, "speculate": speculate}
                found.append((tested.generate([5, 6, 7] * 3, **more), cache.length))
            assert found[0] == found[1]
            assert found[0][1] == size
            assert found[0][0].finish_reason == "context"
    learned = model("gpt2").config.max_position_embeddings
    long = [5, 6] * (learned // 2 - 1)
    plain = model("gpt2").generate(long, max_new_tokens=40, stop_ids=())
    assert model("gpt2").generate(long, max_new_tokens=40, stop_ids=(), speculate=7) == plain


def test_a_stream_that_is_left_leaves_only_right_tokens_in_the_cache() -> None:
    tested = model()
    cache = tested.new_cache()
    stream = tested.stream(REPEATING[0], max_new_tokens=20, stop_ids=(), speculate=5, cache=cache)
    next(stream)
    next(stream)
    whole = (*REPEATING[0], *tested.generate(REPEATING[0], max_new_tokens=20, stop_ids=()).ids)
    held = cache.ids[0]
    assert held == whole[: len(held or ())]


def test_a_choice_that_fails_leaves_no_guess_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    tested, real, calls = model(), decoding.choose, []

    def choose(*arguments: Any, **options: Any) -> int:
        calls.append(1)
        if len(calls) == 4:
            raise ValueError("planted")
        return real(*arguments, **options)

    cache = tested.new_cache()
    monkeypatch.setattr(decoding, "choose", choose)
    with pytest.raises(ValueError, match="planted"):
        tested.generate([5, 6, 7, 5, 6, 7], max_new_tokens=20, stop_ids=(), speculate=5, cache=cache)
    held = cache.ids[0] or ()
    monkeypatch.setattr(decoding, "choose", real)
    whole = tested.generate([5, 6, 7, 5, 6, 7], max_new_tokens=20, stop_ids=())
    assert held == (5, 6, 7, 5, 6, 7, *whole.ids)[: len(held)]


PLACES = [
    ("self.cache.truncate(counts)", "pass"),
    ("counts[row.number] += len(found)", "counts[row.number] += len(found) + 1"),
    ("counts[row.number] += len(found)", "counts[row.number] += 1"),
    ("or found[t].id not in guess[t : t + 1]", ""),
    ("found[t].id not in guess[t : t + 1]", "found[t].id in guess[t : t + 1]"),
    ("found[t].id not in guess[t : t + 1]", "found[t].id not in guess"),
    ("row.finish is not None or found", "found"),
    ("enumerate(logits_tv[: len(guess) + 1])", "enumerate(logits_tv[: len(guess) + 1][::-1])"),
    ("row.more(self.options) - 1, ", ""),
    ("fed = [row.ids[-1], *guesses[row.number]]", "fed = [*guesses[row.number], row.ids[-1]]"),
    ("self._verify(row, logits_btv[row.number]", "self._verify(row, logits_btv[0]"),
    (", *(window - 1 for window in windows)", ", *(2 * window for window in windows)"),
]
"""(a place in decoding.py, the bug that is planted there)."""


@pytest.mark.parametrize(("place", "bug"), PLACES)
@pytest.mark.usefixtures("foresight")
def test_a_planted_bug_is_caught(place: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "jobs", mutated(decoding, place, bug).jobs)
    with pytest.raises((AssertionError, ValueError, IndexError)):
        _ = the_same_as_without(), the_same_as_without("mistral", 20, max_new_tokens=36)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_speculated_is_refused() -> None:
    with pytest.raises(ValueError, match="speculate is -1, but must be at least 0; it counts guessed tokens, and 0"):
        model().generate([5], speculate=-1)
    with pytest.raises(TypeError, match=r"speculate must be an integer, got 2\.5"):
        model().stream([5], speculate=2.5)
    with pytest.raises(ValueError, match=r"speculation on 2 sequences takes a paged cache, .*; make it with new_cache"):
        model().generate([[5], [6]], speculate=2, cache=model().new_cache(2))
    how = get_precision("reference").override({"head": "fast"})
    for precision in ("fast", "float64", how):
        tested = load(model().parts.path, precision=precision)
        with pytest.raises(
            ValueError, match=r"speculate is 2, but under '.*' a token's bits depend on how many are run"
        ):
            tested.generate([5], speculate=2)
        assert tested.generate([5], max_new_tokens=2, speculate=0).proposed == 0
    assert not PRECISIONS["fast"].proven


def test_the_counts_are_no_part_of_equality() -> None:
    one = Generation((1,), None, (0.0,), "stop", (2,), 0.0, 0.0, proposed=3, accepted=2)
    assert one == Generation((1,), None, (0.0,), "stop", (2,), 1.0, 1.0)
