"""Conversations: answers as without a cache, what is read again, what is forgotten, refusals."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import golden_cases
import pytest
from planted import mutated
from talking_model import END, ids_of, talking
from tiny_models import GONE, load

from lepton_ref import Model
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.runtime import chat, decoding
from lepton_ref.runtime.chat import Conversation

HOT: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(talking(tmp_path_factory.mktemp("talker") / "talker.gguf"))


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each run was fed."""
    counts: list[int] = []
    real = Model.forward

    def forward(self: Model, input_ids: Any, **options: Any) -> Any:
        counts.append(input_ids.shape[1])
        return real(self, input_ids, **options)

    monkeypatch.setattr(Model, "forward", forward)
    return counts


def read(talker: Model, turns: list[dict[str, str]]) -> list[int]:
    return talker.tokenizer.encode(talker.tokenizer.apply_chat_template(turns), add_special=False)


def answers_are_those_to_the_whole_conversation(
    m: ModuleType, talker: Model, options: dict[str, Any], system: str | None
) -> None:
    talk = m.Conversation(talker, system=system, **options)
    turns = [] if system is None else [{"role": "system", "content": system}]
    for turn, said in enumerate(["hi", "and then", "ab"]):
        answer = talk.ask(said)
        turns.append({"role": "user", "content": said})
        expected = talker.generate(read(talker, turns), sequence=turn, **options)
        assert (answer.ids, answer.logprobs) == (expected.ids, expected.logprobs)
        turns.append({"role": "assistant", "content": expected.text or ""})
        assert talk.turns == turns


@pytest.mark.parametrize("options", [{"max_new_tokens": 6}, HOT, {**HOT, "repetition_penalty": 1.5}])
@pytest.mark.parametrize("system", [None, "be terse"])
def test_each_answer_is_the_one_to_the_whole_conversation(
    talker: Model, options: dict[str, Any], system: str | None
) -> None:
    answers_are_those_to_the_whole_conversation(chat, talker, options, system)


@pytest.mark.parametrize(
    ("place", "bug", "penalty"),
    [
        ("ids[: len(held)] != held or len(ids) == len(held)", "False", 1.0),
        ("ids[len(held) :]", "ids", 1.0),
        ("[*ids, *answer.ids][: int(cache.counts[0])]", "ids", 1.0),
        ('options.get("repetition_penalty", 1.0) == 1 and', "", 1.5),
        ('"sequence": turn', '"sequence": 0', 1.0),
        ("[*asked, {", "[{", 1.0),
    ],
)
def test_a_planted_bug_is_caught(place: str, bug: str, penalty: float, talker: Model) -> None:
    options = {**HOT, "repetition_penalty": penalty}
    with pytest.raises(AssertionError):
        answers_are_those_to_the_whole_conversation(mutated(chat, place, bug), talker, options, "be terse")


def test_what_was_read_is_not_read_again(talker: Model, fed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter([*talker.tokenizer.encode("yes"), END, *talker.tokenizer.encode("no"), END])
    monkeypatch.setattr(decoding, "choose", lambda *arguments, **options: next(letters))
    talk = Conversation(talker)
    talk.ask("hi")
    first = sum(fed)
    assert first == len(read(talker, talk.turns[:1])) + 3
    talk.ask("ho")
    assert sum(fed) == len(read(talker, talk.turns[:3])) + 2, "all is fed once"
    assert [turn["content"] for turn in talk.turns] == ["hi", "yes", "ho", "no"]


def test_an_answer_that_reads_otherwise_is_read_anew(
    talker: Model, fed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The letters a, b are generated; their text is read as the one token ab."""
    letters = iter([*ids_of("a", "b"), END, *ids_of("c"), END])
    monkeypatch.setattr(decoding, "choose", lambda *arguments, **options: next(letters))
    talk = Conversation(talker)
    assert talk.ask("hi").text == "ab"
    fed.clear()
    talk.ask("ho")
    assert fed[0] == len(read(talker, talk.turns[:3]))


def test_a_penalty_is_for_all_ids_so_all_are_read(talker: Model, fed: list[int]) -> None:
    talk = Conversation(talker, max_new_tokens=2, repetition_penalty=1.5)
    talk.ask("hi")
    fed.clear()
    talk.ask("ho")
    assert fed[0] == len(read(talker, talk.turns[:3]))


def test_a_question_whose_answer_is_interrupted_is_forgotten(talker: Model) -> None:
    talk, other = Conversation(talker, **HOT), Conversation(talker, **HOT)
    assert talk.ask("hi") == other.ask("hi")

    def interrupt(token: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("what", on_token=interrupt)
    assert talk.turns == other.turns
    assert talk.ask("ho").ids == other.ask("ho").ids


def test_reset_keeps_what_the_model_was_told_first(talker: Model) -> None:
    talk = Conversation(talker, system="be terse", **HOT)
    first = talk.ask("hi")
    talk.ask("ho")
    talk.reset()
    assert talk.turns == [{"role": "system", "content": "be terse"}]
    assert talk.ask("hi") == first


def test_what_does_not_fit_is_refused_and_forgotten(talker: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(talker, **HOT)
    real = Model.new_cache
    monkeypatch.setattr(Model, "new_cache", lambda self: real(self, capacity=30))
    talk.ask("hi")
    before = list(talk.turns)
    with pytest.raises(ContextOverflowError, match="fit the cache's capacity of 30; shorten it"):
        talk.ask("so long a question that it has no room")
    assert talk.turns == before


def test_a_model_without_a_template_is_refused(tmp_path: Any) -> None:
    silent = load(talking(tmp_path / "silent.gguf", **{"tokenizer.chat_template": GONE}))
    with pytest.raises(ValueError, match="no chat template"):
        Conversation(silent).ask("hi")


def test_an_encoder_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="BertModel sees both ways and cannot chat"):
        Conversation(load(golden_cases.GOLDEN / "tiny" / "bert"))
