"""Generation: float64's greedy ids, a loop without cache or batch, batches as alone, streams, stops, room, bad input."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from talking_model import END, SMILE, ids_of, talking
from tiny_models import GONE, changed, load

from lepton_ref import Model
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.plain.ops import log_softmax, rounded
from lepton_ref.runtime import decoding, generate, stops
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.sampling import Sampling, choose_scalar, uniform

DECODERS = [name for name in golden_cases.names() if golden_cases.case(name).is_decoder]
KINDS = ("llama", "gpt2", "opt", "mistral", "gemma3", "llama_rope_dynamic", "phi3_longrope")
"""RoPE, learned positions, learned positions with an offset, windows, two kinds of layers, RoPE by the length."""

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14], [15, 16, 17, 18, 19]]
HOT: dict[str, Any] = {
    "temperature": 0.9,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.01,
    "repetition_penalty": 1.3,
    "seed": 11,
}


@cache
def model(name: str = "llama") -> Model:
    return load(golden_cases.GOLDEN / "tiny" / name)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(talking(tmp_path_factory.mktemp("talker") / "talker.gguf"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], None]:
    """Let generation choose these ids, one after the other, whatever the logits say."""

    def follow(ids: Sequence[int]) -> None:
        following = iter(ids)
        monkeypatch.setattr(decoding, "choose", lambda *arguments, **options: next(following))

    return follow


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_the_greedy_ids_are_those_of_float64(name: str) -> None:
    expected = golden_cases.case(name).expected
    found = model(name).generate(expected["greedy_prompt"], max_new_tokens=12, stop_ids=())
    assert list(found) == expected["greedy_ids"].tolist()
    assert found.finish_reason == "length"
    assert found.prompt_ids == tuple(expected["greedy_prompt"].tolist())


def alone(
    tested: Model, prompt: list[int], steps: int, sequence: int = 0, **options: Any
) -> tuple[list[int], list[float]]:
    """The oracle: the whole text through the model for each token, no cache, no batch, sampling as specified."""
    how, ids, logprobs = Sampling(**options), list(prompt), []
    for step in range(steps):
        logits = [float(x) for x in tested.forward([ids])[0, -1]]
        ids.append(choose_scalar(logits, how, seen=ids, u=uniform(how.seed, sequence, step)))
        logprobs.append(rounded(log_softmax(logits)[ids[-1]], "fp32"))
    return ids[len(prompt) :], logprobs


def agrees_with_the_loop(name: str = "llama") -> None:
    """Ids and the bits of their log-probabilities."""
    for options in ({}, HOT, {"repetition_penalty": 3.0}):
        found = model(name).generate(PROMPTS[0], max_new_tokens=9, stop_ids=(), sequence=2, **options)
        ids, logprobs = alone(model(name), PROMPTS[0], 9, 2, **options)
        assert found.ids == tuple(ids)
        assert list(found.logprobs) == logprobs


def a_batch_is_its_sequences_alone(name: str = "llama") -> None:
    """Sequences of unequal lengths that end at unequal times: ids, log-probabilities bit by bit, and reasons."""
    for options in ({}, HOT):
        free = model(name).generate(PROMPTS, max_new_tokens=7, stop_ids=(), **options)
        ends = {free[1][0], free[0][3]}
        batch = model(name).generate(PROMPTS, max_new_tokens=7, stop_ids=ends, **options)
        single = [
            model(name).generate(prompt, max_new_tokens=7, stop_ids=ends, sequence=b, **options)
            for b, prompt in enumerate(PROMPTS)
        ]
        assert batch == single
        assert len({len(found) for found in batch}) > 1, "all sequences ended at the same time"
        assert free[1][0] == batch[1][-1]


def chunks_change_nothing(name: str = "llama") -> None:
    whole = model(name).generate(PROMPTS, max_new_tokens=5, stop_ids=())
    for chunk in (1, 2, 3, 7):
        assert model(name).generate(PROMPTS, max_new_tokens=5, stop_ids=(), chunk=chunk) == whole


@pytest.mark.parametrize("check", [agrees_with_the_loop, a_batch_is_its_sequences_alone, chunks_change_nothing])
@pytest.mark.parametrize("name", KINDS)
def test_generation_is_right(check: Callable[[str], None], name: str) -> None:
    if check is agrees_with_the_loop and name in ("llama_rope_dynamic", "phi3_longrope"):
        name = "llama_rope_linear"  # the loop has another length at each step
    check(name)


BUGS: list[tuple[Callable[[], None], str, str]] = [
    (agrees_with_the_loop, "options.sequence + row.sequence, len(row.ids)", "row.sequence, len(row.ids)"),
    (agrees_with_the_loop, "options.sequence + row.sequence, len(row.ids)", "options.sequence + row.sequence, len(row.ids) + 1"),
    (agrees_with_the_loop, "[*row.prompt, *row.ids]", "row.ids"),
    (agrees_with_the_loop, "[*row.prompt, *row.ids]", "row.prompt"),
    (agrees_with_the_loop, "np.array([[row.ids[-1]] for row in self.rows])", "np.array([[row.ids[0]] for row in self.rows])"),
    (agrees_with_the_loop, "log_probability(logits_v, index, backend", "log_probability(logits_v / 0.9, index, backend"),
    (a_batch_is_its_sequences_alone, "mask[row.number, longest - len(row.rest) :] = True", "mask[row.number] = True"),
    (a_batch_is_its_sequences_alone, "self._choose(row, logits_bv[row.number])", "self._choose(row, logits_bv[0])"),
    (a_batch_is_its_sequences_alone, "options.sequence + row.sequence, len(row.ids)", "options.sequence, len(row.ids)"),
    (a_batch_is_its_sequences_alone, "going = [row for row in self.rows if row.finish is None]", "going = self.rows if any(row.finish is None for row in self.rows) else []"),
    (chunks_change_nothing, "range(0, longest, self.options.chunk)", "range(0, longest - 1, self.options.chunk)"),
    (chunks_change_nothing, "slice(start, start + self.options.chunk)", "slice(start, start + self.options.chunk + 1)"),
]  # fmt: skip
"""(the check, a place in decoding.py, the bug that is planted there)."""


@pytest.mark.parametrize(("check", "place", "bug"), BUGS)
def test_a_planted_bug_is_caught(
    check: Callable[[], None], place: str, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "jobs", mutated(decoding, place, bug).jobs)
    with pytest.raises(AssertionError):
        check()


def test_rope_by_the_length_makes_each_sequence_its_own_run() -> None:
    """In one run the longest prompt's length would count for all: with 12 + 8 tokens it is beyond the limit of 16."""
    tested = model("llama_rope_dynamic")
    prompts = [list(range(3, 15)), [5, 6]]
    found = tested.generate(prompts, max_new_tokens=8, stop_ids=())
    assert found == [tested.generate(prompt, max_new_tokens=8, stop_ids=()) for prompt in prompts]
    together = tested.generate(prompts, max_new_tokens=8, stop_ids=(), cache=tested.new_cache(2, capacity=20))
    assert together[1].logprobs != found[1].logprobs


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=1, max_size=3), st.integers(1, 5))
def test_any_batch_is_its_sequences_alone(prompts: list[list[int]], chunk: int) -> None:
    batch = model().generate(prompts, max_new_tokens=3, temperature=1.0, chunk=chunk)
    single = [model().generate(p, max_new_tokens=3, temperature=1.0, sequence=b) for b, p in enumerate(prompts)]
    assert batch == single


def test_an_array_is_a_batch_and_its_row_is_none() -> None:
    ids = np.array([[5, 6, 7], [8, 9, 10]], dtype=np.uint8)
    found = model().generate(ids, max_new_tokens=2)
    assert found == model().generate(ids.tolist(), max_new_tokens=2)
    assert found[0] == model().generate(ids[0], max_new_tokens=2)
    assert isinstance(found[0], Generation)


def test_a_cache_goes_on_where_it_stopped() -> None:
    tested = model("mistral")
    whole = tested.generate(PROMPTS[0], max_new_tokens=8, stop_ids=())
    cache = tested.new_cache()
    first = tested.generate(PROMPTS[0], max_new_tokens=3, stop_ids=(), cache=cache)
    assert cache.length == len(PROMPTS[0]) + 2
    rest = tested.generate([first[-1]], max_new_tokens=5, stop_ids=(), cache=cache)
    assert (*first, *rest) == whole.ids
    assert first.logprobs + rest.logprobs == whole.logprobs


def test_a_generation_is_the_sequence_of_its_ids() -> None:
    found = model().generate([5, 6], max_new_tokens=4, stop_ids=())
    assert len(found) == 4
    assert tuple(found) == found.ids == found[:]
    assert found[-1] == found.ids[3]
    assert np.asarray(found).tolist() == list(found.ids)
    assert found == model().generate([5, 6], max_new_tokens=4, stop_ids=()), "timings are no part of equality"
    assert found.prefill_s > 0
    assert found.decode_s > 0
    assert found.prompt_tokens_per_second == 2 / found.prefill_s
    assert found.tokens_per_second == 3 / found.decode_s
    assert model().generate([5], max_new_tokens=1).tokens_per_second is None


# --- where it ends ----------------------------------------------------------------------------------------------------


def test_a_stop_id_ends_the_sequence_and_is_its_last_id(talker: Model, script: Callable[..., None]) -> None:
    script([*ids_of("a", "b"), END, *ids_of("c")])
    found = talker.generate("x", max_new_tokens=9)
    assert found.ids == (*ids_of("a", "b"), END)
    assert found.text == "ab"
    assert (found.finish_reason, len(found.logprobs)) == ("stop", 3)


def test_a_stop_id_that_is_a_letter_has_no_text(talker: Model, script: Callable[..., None]) -> None:
    script(ids_of("a", "b"))
    found = talker.generate("x", max_new_tokens=9, stop_ids=ids_of("b"))
    assert (found.text, found.finish_reason) == ("a", "stop")


def test_no_stop_ids_go_on_over_the_end(talker: Model, script: Callable[..., None]) -> None:
    script([END, *ids_of("c")])
    found = talker.generate("x", max_new_tokens=2, stop_ids=())
    assert (found.ids, found.text, found.finish_reason) == ((END, *ids_of("c")), "c", "length")


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [({"eos_token_id": 3}, None, {3}), ({"eos_token_id": [3, 4]}, None, {3, 4}), ({"eos_token_id": None}, None, set())],
)
def test_without_a_tokenizer_the_config_says_what_ends(
    config: dict[str, Any], generation: None, ends: set[int], tmp_path: Path, script: Callable[..., None]
) -> None:
    tested = load(changed(tmp_path / "model", config=config))
    for end in range(2, 6):
        script([end, 9])
        assert len(tested.generate([5], max_new_tokens=2)) == (1 if end in ends else 2)


def test_stop_strings_are_cut_and_never_shown(talker: Model, script: Callable[..., None]) -> None:
    script(ids_of("a", "b", "c", "d", "e", "f"))
    shown: list[str] = []
    found = talker.generate(
        "x", max_new_tokens=9, stop_strings=["cde", "zz"], on_token=lambda token: shown.append(token.text)
    )
    assert shown == ["a", "b", "", "", ""]
    assert (found.text, found.finish_reason) == ("ab", "stop")
    assert found.ids == tuple(ids_of("a", "b", "c", "d", "e")), "the ids that spelt the stop string stay"


def test_what_only_looked_like_a_stop_string_is_shown(talker: Model, script: Callable[..., None]) -> None:
    script(ids_of("c", "d", "c", "d"))
    shown: list[str] = []
    found = talker.generate("x", max_new_tokens=4, stop_strings="cde", on_token=lambda token: shown.append(token.text))
    assert shown == ["", "", "cd", "cd"], "the second is held back until the last token"
    assert found.text == "cdcd"


def test_a_character_is_shown_when_it_is_whole(talker: Model, script: Callable[..., None]) -> None:
    script(ids_of("a", *SMILE, "b", *SMILE[:2]))
    pieces = [token.text for token in talker.stream("x", max_new_tokens=8)]
    assert pieces == ["a", "", "", "", "🙂", "b", "", "�"]


def test_a_row_without_a_token_has_no_text(talker: Model, script: Callable[..., None]) -> None:
    script([*ids_of("a"), 60, *ids_of("b")])
    assert talker.generate("x", max_new_tokens=3).text == "ab"


pieces = st.lists(st.text("abc", max_size=3), max_size=8)


def cut(text: str, stop_strings: tuple[str, ...]) -> str | None:
    """The oracle, letter by letter: what stands before the stop string that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


def stop_text_is_right(m: ModuleType, parts: list[str], stop_strings: tuple[str, ...]) -> None:
    tested = m.StopText(stop_strings)
    text = "".join(parts)
    expected = cut(text, stop_strings)
    shown = ""
    for piece in parts:
        shown += tested.push(piece)
        assert text.startswith(shown)
        assert expected is None or expected.startswith(shown), "a part of the stop string was shown"
    assert tested.stopped == (expected is not None)
    held = tested.finish()
    assert shown + held == (text if expected is None else expected)
    assert not held or any(stop.startswith(held) for stop in stop_strings) or len(stop_strings) > 1


@given(pieces, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple))
def test_stop_strings_cut_wherever_the_pieces_end(parts: list[str], stop_strings: tuple[str, ...]) -> None:
    stop_text_is_right(stops, parts, stop_strings)


@pytest.mark.parametrize(
    ("place", "bug", "parts", "stop_strings"),
    [
        ("text = self._held + piece", "text = piece", ["a", "b"], ("ab",)),
        ("len(stop) - 1)", "len(stop) - 2)", ["a", "b"], ("ab",)),
        ("range(longest, -1, -1)", "range(0, longest + 1)", ["a", "b"], ("ab",)),
        ("text[: min(found)[1]]", "text[: min(found)[0]]", ["ab"], ("ab",)),
        ("text[: min(found)[1]]", "text[: min(start for _, start in found)]", ["abca"], ("bc", "abca")),
        ('held, self._held = self._held, ""', 'held = ""', ["a"], ("ab",)),
    ],
)
def test_a_planted_bug_of_stop_strings_is_caught(
    place: str, bug: str, parts: list[str], stop_strings: tuple[str, ...]
) -> None:
    stop_text_is_right(stops, parts, stop_strings)
    with pytest.raises(AssertionError):
        stop_text_is_right(mutated(stops, place, bug), parts, stop_strings)


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_learned_positions_end_a_sequence_and_not_its_neighbours(name: str) -> None:
    """The last new token is not fed, so a prompt of P tokens leaves room for L − P + 1."""
    tested = model(name)
    learned = tested.config.max_position_embeddings
    long, short = [5] * (learned - 2), [6, 7]
    found = tested.generate([long, short], max_new_tokens=10, stop_ids=())
    assert [(len(each), each.finish_reason) for each in found] == [(3, "context"), (10, "length")]
    assert found == [
        tested.generate(each, max_new_tokens=10, stop_ids=(), sequence=b) for b, each in enumerate([long, short])
    ]
    exact = tested.generate(long, max_new_tokens=3, stop_ids=())
    assert exact.finish_reason == "length"
    full = tested.generate([5] * learned, max_new_tokens=10, stop_ids=())
    assert (len(full), full.finish_reason) == (1, "context")


def test_the_capacity_of_a_given_cache_ends_a_sequence() -> None:
    tested = model()
    cache = tested.new_cache(2, capacity=9)
    found = tested.generate([[5, 6, 7], [8]], max_new_tokens=20, stop_ids=(), cache=cache)
    assert [(len(each), each.finish_reason) for each in found] == [(7, "context")] * 2
    assert cache.length == 9


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    tested, learned = model("gpt2"), model("gpt2").config.max_position_embeddings
    monkeypatch.setattr(Model, "forward", lambda *arguments, **options: pytest.fail("it ran"))
    with pytest.raises(
        ContextOverflowError, match=rf"the prompt has {learned + 1} tokens, but {learned} fit the {learned} positions"
    ):
        tested.generate([5] * (learned + 1))
    with pytest.raises(ContextOverflowError, match=r"prompt\[1\] has 40 tokens, but 32 fit"):
        tested.generate([[5], [5] * 40])
    with pytest.raises(
        ContextOverflowError, match=r"the prompt has 5 tokens, but 4 fit the cache's capacity of 4; shorten it"
    ):
        model().generate([5] * 5, cache=model().new_cache(capacity=4))
    dynamic = model("llama_rope_dynamic")
    with pytest.raises(
        ContextOverflowError, match=r"the prompt has 17 tokens, but 16 fit the 16 tokens after which RoPE"
    ):
        dynamic.generate([5] * 17, cache=dynamic.new_cache())


def test_a_full_cache_says_that_nothing_fits() -> None:
    cache = model().new_cache(capacity=3)
    model().generate([5, 6, 7], max_new_tokens=1, cache=cache)
    with pytest.raises(ContextOverflowError, match="the prompt has 1 tokens, but 0 fit the cache's capacity of 3"):
        model().generate([8], cache=cache)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, HOT, {"stop_strings": ["D", "b"]}, {"chunk": 2}])
def test_a_stream_gives_what_generate_gives(talker: Model, options: dict[str, Any]) -> None:
    whole = talker.generate("hello", max_new_tokens=25, **options)
    tokens = list(talker.stream("hello", max_new_tokens=25, **options))
    assert tuple(token.id for token in tokens) == whole.ids
    assert tuple(token.logprob for token in tokens) == whole.logprobs
    assert "".join(token.text or "" for token in tokens) == whole.text


def test_a_stream_runs_when_it_is_asked_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = Model.forward
    monkeypatch.setattr(Model, "forward", lambda *a, **k: (runs.append(1), real(*a, **k))[1])
    tokens = model().stream([5, 6], stop_ids=())
    assert len(runs) == 0
    next(tokens)
    assert len(runs) == 1
    next(tokens)
    assert len(runs) == 2


def test_each_token_says_which_sequence_it_is_of() -> None:
    seen: list[Token] = []
    found = model("llama_rope_dynamic").generate(PROMPTS[:3], max_new_tokens=2, stop_ids=(), on_token=seen.append)
    for b, each in enumerate(found):
        assert tuple(token.id for token in seen if token.sequence == b) == each.ids


def test_a_batch_has_no_stream() -> None:
    with pytest.raises(ValueError, match="stream continues one prompt, got a batch of 2; use generate with on_token"):
        model().stream([[5], [6]])


# --- text or none -----------------------------------------------------------------------------------------------------


def test_without_a_tokenizer_ids_work_and_text_does_not() -> None:
    found = model().generate([5], max_new_tokens=2)
    assert found.text is None
    assert [token.text for token in model().stream([5], max_new_tokens=1)] == [None]
    with pytest.raises(FileNotFoundError):
        model().generate("text")
    with pytest.raises(FileNotFoundError):
        model().generate([5], stop_strings=["."])


def test_texts_are_prompts(talker: Model) -> None:
    assert talker.generate(["ab", "c"], max_new_tokens=3) == talker.generate(
        [ids_of("ab"), ids_of("c")], max_new_tokens=3
    )


def test_no_text_is_the_bos_where_there_is_one(talker: Model, tmp_path: Path) -> None:
    assert talker.generate("", max_new_tokens=2) == talker.generate([talker.tokenizer.bos_id], max_new_tokens=2)
    without = load(talking(tmp_path / "no_bos.gguf", **{"tokenizer.ggml.bos_token_id": GONE}))
    with pytest.raises(ValueError, match="the prompt is '', which has no tokens, and the model has no BOS"):
        without.generate("")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ValueError, "the prompt is empty; give at least one token"),
        ([[5], []], ValueError, r"prompt\[1\] is empty; give at least one token"),
        (np.zeros((0, 3), dtype=np.int64), ValueError, "the prompt is empty"),
        ([5, 61], ValueError, r"the prompt\[1\] is 61, outside the vocabulary of 61; is the tokenizer another"),
        ([[5], [6, -1]], ValueError, r"prompt\[1\]\[1\] is -1, outside the vocabulary"),
        ([0.5], TypeError, "the prompt must be text or integers, got float64"),
        ([True, False], TypeError, "the prompt must be text or integers, got bool"),
        (b"text", TypeError, "must be text, a list of ids, or a list of either, got bytes"),
        (7, TypeError, "must be text, a list of ids, or a list of either, got int"),
        (np.int64(7), TypeError, "got int64"),
        (np.array(7), TypeError, "got ndarray"),
        (None, TypeError, "got NoneType"),
        ([[[5]]], ValueError, r"prompt\[0\] must be a flat list of ids, got an array of shape \(1, 1\)"),
        ([[5, [6]]], ValueError, r"prompt\[0\] must be a flat list of ids, not a list of lists"),
        ({5: 6}, TypeError, "got dict"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model().generate(prompt)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0, but must be at least 1; it counts new tokens"),
        ({"max_new_tokens": 2.5}, TypeError, r"max_new_tokens must be an integer, got 2\.5"),
        ({"chunk": 0}, ValueError, "chunk is 0, but must be at least 1"),
        ({"sequence": -1}, ValueError, "sequence is -1"),
        ({"temperature": -1}, ValueError, "temperature is -1"),
        ({"stop_strings": [""]}, ValueError, "stop_strings holds ''; give texts of at least one character"),
        ({"stop_strings": [5]}, ValueError, "stop_strings holds 5"),
        ({"max_tokens": 5}, TypeError, "max_tokens"),
        ({"stop_ids": [2.5]}, TypeError, r"stop_ids holds 2\.5; give integers"),
        ({"stop_ids": 3}, TypeError, r"stop_ids must be a list of ids, got 3; None is the model's own, \(\) is none"),
        ({"stop_ids": [10**9]}, ValueError, "stop_ids holds 1000000000, outside the vocabulary of 61; no sequence"),
        ({"stop_ids": [-1]}, ValueError, "stop_ids holds -1, outside the vocabulary of 61"),
        ({"stop_strings": 3}, TypeError, r"stop_strings must be a text or a list of texts, got 3; \(\) is none"),
        ({"stop_strings": None}, TypeError, "stop_strings must be a text or a list of texts, got None"),
    ],
)
@pytest.mark.parametrize("way", ["generate", "stream"])
def test_an_option_that_is_wrong_is_refused_at_once(
    way: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(model(), way)([5], **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "BertModel sees both ways and cannot generate; it takes a decoder"),
        ("bert_masked_lm", "BertForMaskedLM sees both ways and cannot generate"),
        ("llama_bare", "LlamaModel gives base output and cannot generate; it takes a causal_lm"),
    ],
)
def test_a_model_that_cannot_go_on_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(name).generate([5])


def test_what_cannot_be_called_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Model, "forward")
    with pytest.raises(TypeError, match="on_token must be a function of one Token, got 3; leave it out for none"):
        model().generate([5], on_token=3)


def test_a_cache_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="the cache holds 2 sequences, got 1 prompts; make another cache"):
        model().generate([5], cache=model().new_cache(2))
    with pytest.raises(ValueError, match="the cache was made by another model"):
        model().generate([5], cache=model("gpt2").new_cache())
    with pytest.raises(TypeError, match="cache must be a KVCache, got dict"):
        model().generate([5], cache={})


def test_logits_that_are_nan_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Model.forward
    monkeypatch.setattr(Model, "forward", lambda *a, **k: real(*a, **k) * np.nan)
    with pytest.raises(ValueError, match=r"logits\[0\] is nan, one of 61 that no token can be drawn by"):
        model().generate([5])
