"""Every kind of tokenizer that a GGUF can say gives the folder's ids; the others are left out with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated
from text_cases import byte_level_metadata, word_piece_folder
from tokenizer_folders import NAMES, as_json, texts, tokenizer_folder, vocabulary_files

from lepton_ref.compress import tokenizer_to_gguf, tokenizer_to_gguf_pieces, tokenizer_to_gguf_wordpiece
from lepton_ref.compress.tokenizer_to_gguf import tokenizer_metadata
from lepton_ref.compress.tokenizer_to_gguf_pieces import scores_of
from lepton_ref.compress.tokenizer_to_gguf_words import Unsayable
from lepton_ref.text import Tokenizer
from lepton_ref.text.merges import merges_from_scores
from lepton_ref.text.parts import NORMAL, Vocabulary

P = "tokenizer.ggml."


def both(folder: Path) -> tuple[Tokenizer, Tokenizer, dict[str, Any]]:
    """The folder's tokenizer, the one of its GGUF, and the metadata."""
    before = Tokenizer.from_folder(folder)
    entries, _, notes = tokenizer_metadata(folder, before.vocab_size + 2)
    assert entries, notes
    return before, Tokenizer.from_gguf(entries), entries


def check_same(before: Tokenizer, after: Tokenizer) -> None:
    for text in texts():
        for special in (True, False):
            ids = before.encode(text, add_special=special)
            assert after.encode(text, add_special=special) == ids, text
        assert after.decode(ids) == before.decode(ids)
    assert after.stop_ids == before.stop_ids


@pytest.mark.parametrize("name", NAMES)
def test_the_gguf_gives_the_folder_s_ids(name: str, tmp_path: Path) -> None:
    before, after, entries = both(tokenizer_folder(tmp_path, name))
    check_same(before, after)
    roles = ("eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    special = before._parts.special_tokens
    assert {r: after._parts.special_tokens.get(r) for r in roles if r in special} == {
        r: special[r] for r in roles if r in special
    }
    assert len(entries[P + "tokens"]) == len(entries[P + "token_type"]) == before.vocab_size + 2


@pytest.mark.parametrize(
    ("name", "model", "pre"),
    [
        ("bpe", "llama", "default"), ("unigram-prefix", "t5", "default"), ("cased", "bert", None),
        ("gpt-2.json", "gpt2", "gpt-2"), ("gpt-2.vocab", "gpt2", "gpt-2"), ("dbrx.json", "gpt2", "dbrx"),
        ("tekken.json", "gpt2", "tekken"), ("smollm.json", "gpt2", "smollm"),
    ],
)  # fmt: skip
def test_the_names_are_gguf_s(name: str, model: str, pre: str | None, tmp_path: Path) -> None:
    entries = both(tokenizer_folder(tmp_path, name))[2]
    assert (entries[P + "model"], entries.get(P + "pre")) == (model, pre)


def test_words_are_spelled_as_gguf_spells_them(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n", encoding="utf-8")
    entries = tokenizer_metadata(folder, 7)[0]
    assert entries[P + "tokens"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "b", "[PAD6]"]
    assert entries[P + "token_type"] == [3, 2, 3, 3, 1, 1, 5]
    wanted = {"bos": 2, "cls": 2, "seperator": 3, "padding": 0, "unknown": 1}
    assert {name: entries[f"{P}{name}_token_id"] for name in wanted} == wanted
    assert entries[P + "normalizer.lowercase"] is True


def test_scores_are_the_places_of_merges() -> None:
    tokens = ["<0x00>", "a", "b", "c", "bc", "abc"]
    merges = [("b", "c"), ("a", "bc")]
    assert scores_of(tokens, [6, 1, 1, 1, 1, 1], merges) == [-1e6, -1e6, -1e6, -1e6, 0.0, -1.0]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_scores_give_the_merges_they_came_from(data: st.DataObject) -> None:
    """Any vocabulary, any scores: from scores to merges to scores, the merges stay."""
    words = data.draw(st.sets(st.text("abc", min_size=2, max_size=4), max_size=12))
    tokens = ["a", "b", "c", *sorted(words)]
    scores = data.draw(st.lists(st.integers(-5, 5), min_size=len(tokens), max_size=len(tokens)))
    kinds = [NORMAL] * len(tokens)
    merges = merges_from_scores(Vocabulary("drawn", tokens, kinds, [float(score) for score in scores]))
    again = merges_from_scores(Vocabulary("drawn", tokens, kinds, scores_of(tokens, kinds, merges)))
    assert again == merges


@pytest.mark.parametrize(
    "merges",
    [
        [("a", "b")],  # "abc" is a token that is never made, and scores would make it of ab and c
        [("a", "bc"), ("b", "c"), ("a", "b"), ("ab", "c")],  # two places for the merges of one piece
    ],
)
def test_merges_without_scores_are_not_said(merges: list[tuple[str, str]]) -> None:
    tokens = ["a", "b", "c", "ab", "bc", "abc"]
    with pytest.raises(Unsayable, match="no scores of pieces give its merges"):
        scores_of(tokens, [NORMAL] * 6, merges)


# --- what stands around a text, and what ends one ---------------------------------------------------------------------


def template(*parts: str) -> dict[str, Any]:
    """A post-processor: "$" is the text."""
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if p == "$" else {"SpecialToken": {"id": p, "type_id": 0}}
        for p in parts
    ]
    tokens = {p: {"id": p, "ids": [0], "tokens": [p]} for p in parts if p != "$"}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens}


def json_changed(folder: Path, name: str, change: Callable[[dict[str, Any]], Any], **config: Any) -> Path:
    """The folder with its tokenizer.json changed, and more in its config."""
    made = tokenizer_folder(folder, name)
    found = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    change(found)
    (made / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    said = json.loads((made / "tokenizer_config.json").read_text(encoding="utf-8"))
    (made / "tokenizer_config.json").write_text(json.dumps(said | config), encoding="utf-8")
    return made


def special_of(name: str) -> list[str]:
    entries = byte_level_metadata()
    kinds = entries[P + "token_type"]
    return [token for token, kind in zip(entries[P + "tokens"], kinds, strict=True) if kind == 3]


def test_a_template_s_tokens_become_bos_and_eos(tmp_path: Path) -> None:
    first, last = special_of("gpt-2")[:2]
    folder = json_changed(
        tmp_path, "gpt-2.json", lambda found: found.update(post_processor=template(first, "$", last)), bos_token=first
    )
    entries = tokenizer_metadata(folder, 2000)[0]
    assert (entries[P + "add_bos_token"], entries[P + "add_eos_token"]) == (True, True)
    ids = Tokenizer.from_gguf(entries).encode("a")
    names = entries[P + "tokens"]
    assert (names[ids[0]], names[ids[-1]]) == (first, last)


def test_flags_go_before_the_template(tmp_path: Path) -> None:
    first, last = special_of("gpt-2")[:2]
    change = lambda found: found.update(post_processor=template(first, "$", last))  # noqa: E731
    folder = json_changed(tmp_path, "gpt-2.json", change, bos_token=first, eos_token=last, add_eos_token=False)
    entries = tokenizer_metadata(folder, 2000)[0]
    assert (entries[P + "add_bos_token"], entries[P + "add_eos_token"]) == (False, False)
    check_same(Tokenizer.from_folder(folder), Tokenizer.from_gguf(entries))


def test_further_stop_ids_have_keys_for_two(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, "bpe")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 20, 21]}', encoding="utf-8")
    before, after, entries = both(folder)
    assert (entries[P + "eot_token_id"], entries[P + "eom_token_id"]) == (20, 21)
    assert before.stop_ids == after.stop_ids == {2, 20, 21}
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 20, 21, 22]}', encoding="utf-8")
    assert tokenizer_metadata(folder, 2000)[2] == ("GGUF has no key for the further stop ids [22]",)


def test_chat_templates_come_along(tmp_path: Path) -> None:
    folder = json_changed(
        tmp_path, "gpt-2.json", lambda _: None,
        chat_template=[{"name": "default", "template": "{{ messages[0].content }}"}, {"name": "tool", "template": "t"}],
    )  # fmt: skip
    before, after, entries = both(folder)
    assert entries["tokenizer.chat_template.tool"] == "t"
    messages = [{"role": "user", "content": "hi"}]
    assert before.apply_chat_template(messages) == after.apply_chat_template(messages) == "hi"


def test_phi_3_s_tokens_take_the_white_space_behind_them(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        for entry in found["added_tokens"]:
            entry["rstrip"] = entry["special"] and entry["content"] not in ("<unk>", "<s>", "<|endoftext|>")

    before, after, entries = both(json_changed(tmp_path, "bpe-prefix.json", change))
    assert entries["general.name"] == "Phi-3"
    check_same(before, after)
    assert before.encode("</s>  a") == after.encode("</s>  a")


def test_other_white_space_is_told(tmp_path: Path) -> None:
    folder = json_changed(tmp_path, "gpt-2.json", lambda found: found["added_tokens"][0].update(lstrip=True))
    assert "GGUF does not say that white space belongs to" in tokenizer_metadata(folder, 2000)[2][0]


def test_a_metaspace_is_said_as_near_as_can_be(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        found.update(normalizer=None, pre_tokenizer=space)

    entries, _, notes = tokenizer_metadata(json_changed(tmp_path, "bpe-prefix.json", change), 2000)
    assert entries[P + "add_space_prefix"] is True
    assert "the folder puts a space in front at the start of a text" in notes[0]


# --- what is left out ------------------------------------------------------------------------------------------------

SPLIT = {"type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False}
PLAIN = {"id": 1900, "content": "zz", "special": False, "normalized": True}
LEFT_OUT: tuple[tuple[str, Callable[[dict[str, Any]], Any], str], ...] = (
    ("gpt-2.json", lambda f: f.update(pre_tokenizer=SPLIT), r"for how it cuts text: .*cut {'type': 'Split'"),
    ("gpt-2.json", lambda f: f.update(normalizer={"type": "NFKC"}), r"normalizer {'type': 'NFKC'}"),
    ("gpt-2.json", lambda f: f["model"].update(ignore_merges=True), "ignore_merges True"),
    ("gpt-2.json", lambda f: f.update(post_processor={"type": "Odd"}), "what it puts around a text is 'Odd'"),
    ("gpt-2.json", lambda f: f.update(post_processor=template("a", "b", "$")), "more than one token at an end"),
    ("gpt-2.json", lambda f: f.update(post_processor=template("a")), "leaves the text out"),
    ("gpt-2.json", lambda f: f["model"].update(type="WordLevel"), "its model is 'WordLevel'"),
    ("bpe.json", lambda f: f.update(normalizer={"type": "NFC"}, pre_tokenizer=SPLIT), "how it treats spaces"),
    ("bpe.json", lambda f: f["model"]["merges"].pop(0), "no scores of pieces give its merges"),
    ("bpe.json", lambda f: f["model"].update(ignore_merges=True), "ignore_merges and fuse_unk differ"),
    ("bpe-prefix.json", lambda f: f["added_tokens"].append(PLAIN), "matched in normalised text"),
    ("bpe.json", lambda f: [e.update(normalized=False) for e in f["added_tokens"]], "a ▁ that is not a space there"),
    ("unigram.json", lambda f: f.update(normalizer={"type": "NFC"}), "how it treats spaces"),
    ("unigram.json", lambda f: f["model"].update(unk_id=None), "unknown None"),
    ("uncased.json", lambda f: f["normalizer"].update(lowercase=False), "cannot say lowercase False"),
    ("cased.json", lambda f: f["normalizer"].update(strip_accents=True), "strip_accents True"),
    ("cased.json", lambda f: f["normalizer"].update(handle_chinese_chars=False), "handle_chinese_chars False"),
    ("cased.json", lambda f: f["model"].update(continuing_subword_prefix="@@"), "GGUF's words are BERT's alone"),
    ("cased.json", lambda f: f.update(post_processor=None), "here between None and None"),
)


@pytest.mark.parametrize(("name", "change", "message"), LEFT_OUT)
def test_what_gguf_cannot_say_is_left_out_with_the_reason(
    name: str, change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    folder = json_changed(tmp_path, name, change)
    entries, types, notes = tokenizer_metadata(folder, 2000)
    assert (entries, types) == ({}, {})
    assert len(notes) == 1
    assert notes[0].startswith(f"no tokenizer is written for {folder}: ")
    assert "\n" not in notes[0]
    with pytest.raises(Unsayable, match=message):
        tokenizer_to_gguf._metadata(tokenizer_to_gguf._words(folder, 2000))


def test_another_token_than_bos_before_a_text(tmp_path: Path) -> None:
    first, last = special_of("gpt-2")[:2]
    change = lambda found: found.update(post_processor=template(first, "$"))  # noqa: E731
    notes = tokenizer_metadata(json_changed(tmp_path, "gpt-2.json", change, bos_token=last), 2000)[2]
    assert f"a text stands beside {first!r}, and GGUF puts only its bos_token there, {last!r}" in notes[0]


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    assert "it has no tokenizer.json, tokenizer.model, vocab.txt" in tokenizer_metadata(tmp_path, 9)[2][0]


def test_a_damaged_tokenizer_is_an_error(tmp_path: Path) -> None:
    folder = json_changed(tmp_path, "gpt-2.json", lambda found: found["model"].pop("vocab"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: KeyError\('vocab'\): not a tokenizer's file"):
        tokenizer_metadata(folder, 2000)


# --- planted bugs ----------------------------------------------------------------------------------------------------


def test_scores_the_wrong_way_round_are_found() -> None:
    wrong = mutated(tokenizer_to_gguf_pieces, "[float(-places", "[float(+places")
    with pytest.raises(wrong.Unsayable):
        wrong.scores_of(["a", "b", "ab", "aa"], [NORMAL] * 4, [("a", "b"), ("a", "a")])


def test_unchecked_merges_are_found() -> None:
    wrong = mutated(tokenizer_to_gguf_pieces, "if runs[0] != runs[1] or set(given) != set(wanted):", "if False:")
    assert wrong.scores_of(["a", "b", "c", "ab", "abc"], [NORMAL] * 5, [("a", "b")])


def test_words_marked_as_in_a_list_are_found(tmp_path: Path) -> None:
    wrong = mutated(tokenizer_to_gguf_wordpiece, "token.removeprefix(INSIDE)", "token")
    folder = word_piece_folder(tmp_path, "uncased")
    words = wrong.word_piece_from_list(folder / "vocab.txt", tokenizer_to_gguf.read_settings(folder), 2000)
    entries = tokenizer_metadata(folder, 2000)[0] | {P + "tokens": words.tokens}
    before, after = Tokenizer.from_folder(folder), Tokenizer.from_gguf(entries)
    assert any(before.encode(text) != after.encode(text) for text in texts())


def test_the_layouts_are_different_folders(tmp_path: Path) -> None:
    """What the parametrised test compares is not one and the same file."""
    made = vocabulary_files(tmp_path / "files")
    assert sorted(path.name for path in made.iterdir()) == ["merges.txt", "vocab.json"]
    assert (as_json(Tokenizer.from_folder(made), tmp_path / "json", {}) / "tokenizer.json").is_file()
