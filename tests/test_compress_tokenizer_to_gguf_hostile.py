"""Tokenizers that no tokenizer is: refused in one line, or of a GGUF that is read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated
from test_compress_tokenizer_to_gguf import tokenizer
from test_compress_tokenizer_to_gguf_kinds import json_changed
from tokenizer_folders import tokenizer_folder

from lepton_ref.compress import tokenizer_to_gguf_checks as page
from lepton_ref.compress.tokenizer_to_gguf import tokenizer_metadata
from lepton_ref.text import Tokenizer

Change = Callable[[dict[str, Any]], Any]


def added(**changes: Any) -> Change:
    """One more added token."""
    return lambda found: found["added_tokens"].append({"id": 1900, "content": "zz", "special": True, **changes})


def merged(*merges: Any) -> Change:
    return lambda found: found["model"].update(merges=list(merges))


def model(**changes: Any) -> Change:
    return lambda found: found["model"].update(changes)


def scored(score: Any) -> Change:
    return lambda found: found["model"]["vocab"].__getitem__(5).__setitem__(1, score)


def mapped(charsmap: Any) -> Change:
    """A first step of normalisation by that map."""

    def change(found: dict[str, Any]) -> None:
        steps = [step for step in found["normalizer"]["normalizers"] if step["type"] != "Precompiled"]
        first = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        found["normalizer"] = {"type": "Sequence", "normalizers": [first, *steps]}

    return change


HOSTILE: dict[str, tuple[str, Change, str]] = {
    "id below 0": ("gpt-2.json", added(id=-1), ".id: -1: must be an integer of 0 or more"),
    "half an id": ("gpt-2.json", added(id=5.5), ".id: 5.5: must be an integer of 0 or more"),
    "true for an id": ("gpt-2.json", added(id=True), ".id: True: must be an integer of 0 or more"),
    "no id": ("gpt-2.json", added(id=None), ".id: None: must be an integer of 0 or more"),
    "no text": ("gpt-2.json", added(content=7), ".content: 7: must be a text"),
    "half a surrogate": ("gpt-2.json", added(content="\ud800"), r".content: '\ud800': must be a text that UTF-8 can"),
    "no flag": ("gpt-2.json", added(lstrip=3), ".lstrip: 3: must be true or false"),
    "no entry": ("gpt-2.json", lambda f: f["added_tokens"].append("zz"), ": 'zz': must be an object with id and"),
    "no list": ("gpt-2.json", lambda f: f.update(added_tokens={}), "added_tokens: 'dict': must be a list of tokens"),
    "one id twice": ("gpt-2.json", lambda f: [added()(f), added(content="y")(f)], "id 1900 is both 'zz' and 'y'"),
    "an id of the vocabulary": ("gpt-2.json", added(id=5), "id 5 is both "),
    "one token twice": ("gpt-2.json", lambda f: [added()(f), added(id=1901)(f)], "'zz' is both id 1900 and id 1901"),
    "two of one id": ("gpt-2.json", lambda f: f["model"]["vocab"].update(zz=5), "model.vocab: id 5 is both "),
    "vocabulary's id": ("gpt-2.json", lambda f: f["model"]["vocab"].update(zz="5"), "model.vocab['zz']: '5': must be"),
    "vocabulary's text": (
        "gpt-2.json", lambda f: f["model"]["vocab"].update({"\udfff": 1900}), r"token 1900: '\udfff': must be a text"
    ),
    "vocabulary a list": ("gpt-2.json", model(vocab=["a"]), "model.vocab: 'list': must be an object of tokens"),
    "three halves": ("gpt-2.json", merged("a b c"), "merges: number 0, 'a b c': must be two tokens"),
    "unknown halves": ("gpt-2.json", merged("zz a"), "merges: number 0, 'zz' + 'a': 'zz' is not a token"),
    "unknown join": ("gpt-2.json", merged(["z", "q"]), "merges: number 0, 'z' + 'q': 'zq' is not a token"),
    "pieces' halves": ("bpe.json", merged(["ab"]), "merges: number 0, ['ab']: must be two tokens"),
    "pieces' join": ("bpe.json", merged("q z"), "merges: number 0, 'q' + 'z': 'qz' is not a token"),
    "pieces' ids": ("bpe.json", lambda f: f["model"]["vocab"].update(zzz=-1), "model.vocab['zzz']: -1: must be an int"),
    "words' ids": ("cased.json", lambda f: f["model"]["vocab"].update(zzz=-1), "model.vocab['zzz']: -1: must be an"),
    "unknown below 0": ("unigram.json", model(unk_id=-1), "model.unk_id: -1: must be an id, 0 … "),
    "unknown beyond": ("unigram.json", model(unk_id=10**6), "model.unk_id: 1000000: must be an id, 0 … "),
    "unknown half": ("unigram.json", model(unk_id=0.0), "model.unk_id: 0.0: must be an id, 0 … "),
    "infinite score": ("unigram.json", scored(float("-inf")), "model.vocab[5]: -inf: must be a finite number"),
    "score beyond float32": ("unigram.json", scored(1e39), "model.vocab[5]: 1e+39: must be a finite number"),
    "huge score": ("unigram.json", scored(10**400), "must be a finite number that float32 can hold"),
    "NaN": ("unigram.json", scored(float("nan")), "model.vocab[5]: nan: must be a finite number"),
    "score of text": ("unigram.json", scored("x"), "model.vocab[5]: 'x': must be a finite number"),
    "no pair": ("unigram.json", lambda f: f["model"]["vocab"].append(["a"]), ": ['a']: must be a piece and its score"),
    "piece of two ids": ("unigram.json", lambda f: f["model"]["vocab"].append(f["model"]["vocab"][7]), " is both id 7"),
    "base64": ("unigram.json", mapped("abc"), "'abc': must be base64 (Incorrect padding)"),
    "a number around a text": (
        "gpt-2.json", lambda f: f.update(post_processor={"type": "BertProcessing", "cls": [[], 1], "sep": ["a", 1]}),
        "TypeError('[] around a text is no token'): not a tokenizer's file: fetch it again",
    ),
}  # fmt: skip


def refusal(folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(ValueError, match=r".") as error:
        tokenizer_metadata(folder, 2000)
    assert type(error.value) is ValueError
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_tokenizer_is_is_refused(name: str, tmp_path: Path) -> None:
    base, change, message = HOSTILE[name]
    folder = json_changed(tmp_path, base, change)
    line = refusal(folder)
    assert line.startswith(f"{folder / 'tokenizer.json'}: ")
    assert message in line
    assert line.endswith(("fetch the file again", "fetch it again", "must come from the same model"))


@pytest.mark.parametrize("name", ["gpt-2.json", "bpe.json", "unigram.json", "cased.json"])
def test_the_same_folders_unchanged_are_said(name: str, tmp_path: Path) -> None:
    assert tokenizer_metadata(tokenizer_folder(tmp_path, name), 2000)[0]


def test_templates_and_added_tokens_of_the_config_are_texts(tmp_path: Path) -> None:
    for name, config in (
        ("chat_template default", {"chat_template": "\ud800"}),
        ("added token 1900", {"added_tokens_decoder": {"1900": {"content": "\ud800"}}}),
    ):
        folder = json_changed(tmp_path, "gpt-2.json", lambda _: None, **config)
        line = refusal(folder)
        assert line.startswith(rf"{folder / 'tokenizer_config.json'}: {name}: '\ud800': must be a text that UTF-8 can")


def test_merges_txt_names_tokens_of_vocab_json(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, "gpt-2.vocab")
    with (folder / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("zz q\n")
    assert "'zz' is not a token" in refusal(folder)


def test_marks_in_words_and_names_of_empty_rows_are_not_said(tmp_path: Path) -> None:
    folder = json_changed(tmp_path, "gpt-2.json", model(end_of_word_suffix="</w>"))
    assert "end_of_word_suffix is '</w>'" in tokenizer_metadata(folder, 2000)[2][0]
    folder = json_changed(tmp_path, "gpt-2.json", added(content="[PAD1950]"))
    assert "'[PAD1950]' has the name of a row without a token" in tokenizer_metadata(folder, 2000)[2][0]


def test_words_that_are_spelled_alike_are_not_said(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n##[CLS]\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert "spelled alike in GGUF" in tokenizer_metadata(tmp_path, 9)[2][0]


SMALL = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 70), st.just(5.5), st.just(float("inf")), st.just(10**40),
    st.sampled_from(["", "a", "a b", "\ud800", "BPE", "Unigram", "WordPiece", "Sequence", "[PAD60]"]),
)  # fmt: skip
ANY = st.recursive(SMALL, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a JSON value, of a long list the first ones."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, held in islice(inner, 20) for place in places(held, (*path, key)))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Name → tokenizer.json."""
    folder = tmp_path_factory.mktemp("files")
    made = {name: tokenizer_folder(folder / name, name) for name in ("bpe.json", "unigram.json", "cased.json")}
    found = {name: json.loads((path / "tokenizer.json").read_text(encoding="utf-8")) for name, path in made.items()}
    around = {"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", 2]}
    return found | {"bytes": tokenizer(post_processor=around)}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_file_is_refused_in_one_line_left_out_or_read_back(
    data: st.DataObject, files: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = copy.deepcopy(files[data.draw(st.sampled_from(sorted(files)))])
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(places(found)[1:]))
        held: Any = found
        for key in way:
            held = held[key]
        held[last] = data.draw(ANY)
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    entries: dict[str, Any] = {}
    try:
        entries, _, notes = tokenizer_metadata(folder, 2000)
        line = "".join(notes[:1])
    except ValueError as error:
        line = f"{type(error).__name__} {error}"
    assert "\n" not in line
    assert entries or line.startswith((f"ValueError {folder}", f"no tokenizer is written for {folder}: "))
    json.dumps(entries, ensure_ascii=False).encode("utf-8")
    if entries:
        Tokenizer.from_gguf(entries)


def test_a_believed_id_is_found() -> None:
    wrong = mutated(page, "value < 0", "False")
    with pytest.raises(ValueError, match="must be an integer"):
        page.as_added([{"id": -1, "content": "a"}], "here")
    assert wrong.as_added([{"id": -1, "content": "a"}], "here")
