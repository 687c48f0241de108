"""What a tokenizer refuses, by name: text, options, metadata, folders; and what it reads from a folder."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_cases import byte_level_metadata, read, sentencepiece_folder, word_piece_folder

from lepton_ref.text import Tokenizer
from lepton_ref.text.pretokenizers import PRE_TOKENIZERS
from lepton_ref.text.sentencepiece import fields, read_sentencepiece

GGML = "tokenizer.ggml."


def changed(**entries: Any) -> dict[str, Any]:
    """The tiny metadata with some keys replaced, or removed by None."""
    found = byte_level_metadata() | {GGML + key: value for key, value in entries.items()}
    return {key: value for key, value in found.items() if value is not None}


def tokens() -> list[str]:
    found: list[str] = byte_level_metadata()[GGML + "tokens"]
    return found


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"bytes", None, 5, ["a"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(TypeError, match=f"text: {type(text).__name__}: must be a str"):
        Tokenizer.from_gguf(changed()).encode(text)


def test_a_lone_surrogate_is_refused_by_place_and_code_point() -> None:
    with pytest.raises(ValueError, match=r"text: lone surrogate U\+D83D at index 2"):
        Tokenizer.from_gguf(changed()).encode("ab\ud83dc")


def test_special_tokens_in_text_are_read_or_taken_as_text_as_asked() -> None:
    tokenizer = Tokenizer.from_gguf(changed())
    end = tokenizer.id_of("<|im_end|>")
    assert tokenizer.encode("<|im_end|>") == [end]
    plain = tokenizer.encode("<|im_end|>", parse_special=False)
    assert end not in plain
    assert tokenizer.decode(plain) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [end]  # the setting does not stick


@given(
    text=st.lists(st.sampled_from(["<|im_end|>", "<|im_", "end|>", "<", "|>", "<|endoftext|>", "a", " "])).map("".join)
)
def test_no_user_text_forges_a_control_token(text: str) -> None:
    tokenizer = Tokenizer.from_gguf(changed())
    ids = tokenizer.encode(text, parse_special=False)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_vocabulary_that_spells_a_control_token_with_plain_text_is_caught() -> None:
    # llama-bpe takes a piece that is a whole token as it is: "stop" is one piece and one control token.
    entries = changed(tokens=[*tokens(), "stop"], token_type=[*changed()[GGML + "token_type"], 3], pre="llama-bpe")
    tokenizer = Tokenizer.from_gguf(entries)
    with pytest.raises(ValueError, match="it spells the control token 'stop'"):
        tokenizer.encode("stop", parse_special=False)
    assert 900 not in tokenizer.encode("stops", parse_special=False)


def test_the_empty_text_has_no_ids_but_those_that_are_added() -> None:
    assert Tokenizer.from_gguf(changed()).encode("") == []
    assert Tokenizer.from_gguf(changed(pre="llama-bpe")).encode("") == [1]
    assert Tokenizer.from_gguf(changed(pre="llama-bpe")).encode("", add_special=False) == []


# --- metadata --------------------------------------------------------------------------------------------------------

BAD_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no model": (changed(model=None), "tokenizer.ggml.model: None is not supported: use one of gpt2, llama, bert, t5"),
    "other model": (changed(model="rwkv"), "tokenizer.ggml.model: 'rwkv' is not supported"),
    "model of another type": (changed(model=5), "tokenizer.ggml.model: 5: must be of type str"),
    "no pre": (changed(pre=None), "tokenizer.ggml.pre: missing: .*set it to the model's own"),
    "unknown pre": (changed(pre="frob"), "tokenizer.ggml.pre: 'frob' is not known: use one of codeshell, "),
    "no tokens": (changed(tokens=None), "tokenizer.ggml.tokens: missing"),
    "empty tokens": (
        changed(tokens=[], token_type=[], merges=[], bos_token_id=None, eos_token_id=None), "tokens: 0 entries"
    ),
    "tokens not a list": (changed(tokens="abc"), "tokenizer.ggml.tokens: 'abc': must be a list"),
    "token not text": (changed(tokens=[*tokens()[:-1], 5]), "tokenizer.ggml.tokens: entry 899, 5: must be str"),
    "duplicate token": (changed(tokens=[*tokens()[:-1], "a"]), "'a' is both id [0-9]+ and id 899"),
    "short types": (changed(token_type=[1, 1]), "token_type: 2 entries for 900 tokens"),
    "type out of range": (changed(token_type=[1] * 899 + [9]), "token_type: 9 of token 899: use 1"),
    "no merges": (changed(merges=None), "tokenizer.ggml.merges: missing"),
    "merge of an unknown token": (changed(merges=["Q zz"]), "merges: number 0, 'Q' [+] 'zz': 'zz' is not a token"),
    "merge into an unknown token": (changed(merges=["Q Z"]), "'QZ' is not a token: vocabulary and merges"),
    "merge of one part": (changed(merges=["ab"]), "merges: number 0, 'ab': must be two tokens"),
    "merge of three parts": (changed(merges=["a b c"]), "merges: number 0, 'a b c': must be two tokens"),
    "bos out of range": (changed(bos_token_id=900), "bos_token_id: 900: the vocabulary has 900 tokens"),
    "negative eos": (changed(eos_token_id=-1), "eos_token_id: -1: the vocabulary has 900 tokens"),
    "bos not a number": (changed(bos_token_id="1"), "bos_token_id: '1': must be of type int"),
    "bos a truth value": (changed(bos_token_id=True), "bos_token_id: True: must be of type int"),
    "flag not a truth value": (changed(add_bos_token=1), "add_bos_token: 1: must be of type bool"),
    "bos wanted and missing": (changed(add_bos_token=True, bos_token_id=None), "add_bos_token: True, but"),
    "no scores": (changed(model="llama"), "tokenizer.ggml.scores: missing"),
    "short scores": (changed(model="llama", scores=[1.0]), "scores: 1 entries for 900 tokens"),
    "no unknown token for unigram": (changed(model="t5", scores=[0.0] * 900), "unknown_token_id: missing"),
    "no special tokens for word pieces": (changed(model="bert"), r"WordPiece needs \[CLS\], \[SEP\] and \[UNK\]"),
    "template not text": (changed() | {"tokenizer.chat_template": 5}, "tokenizer.chat_template: int: must be a string"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata_is_refused_by_key_and_value_in_one_line(name: str) -> None:
    entries, match = BAD_METADATA[name]
    with pytest.raises(ValueError, match=match) as caught:
        Tokenizer.from_gguf(entries, source="x.gguf")
    assert str(caught.value).startswith("x.gguf: ")
    assert "\n" not in str(caught.value)


def test_metadata_may_hold_numpy_arrays_and_scalars() -> None:
    entries = changed()
    arrays = entries | {
        GGML + "token_type": np.array(entries[GGML + "token_type"], dtype=np.int32),
        GGML + "tokens": np.array(entries[GGML + "tokens"], dtype=object),
        GGML + "bos_token_id": np.uint32(1),
        GGML + "add_bos_token": np.bool_(True),
    }
    assert Tokenizer.from_gguf(arrays).encode("a") == [1, *Tokenizer.from_gguf(entries).encode("a")]


def test_bos_and_eos_are_added_as_the_file_says() -> None:
    plain = Tokenizer.from_gguf(changed()).encode("ab")
    both = Tokenizer.from_gguf(changed(add_bos_token=True, add_eos_token=True))
    assert both.encode("ab") == [1, *plain, 2]
    assert both.encode("ab", add_special=False) == plain
    assert Tokenizer.from_gguf(changed(pre="llama-bpe", add_bos_token=False)).encode("ab")[0] != 1


def test_without_types_the_named_ids_are_special() -> None:
    tokenizer = Tokenizer.from_gguf(changed(token_type=None))
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.decode([2]) == ""


def test_the_ids_that_end_a_generation() -> None:
    tokenizer = Tokenizer.from_gguf(changed(eos_token_id=5, eot_token_id=6))
    # eos and eot as the file names them; <|endoftext|> (0) and <|im_end|> (2) because they are control tokens.
    assert tokenizer.stop_ids == {0, 2, 5, 6}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 5, None)


def test_a_tokenizer_is_one_line_and_has_a_length() -> None:
    tokenizer = Tokenizer.from_gguf(changed())
    assert repr(tokenizer) == "Tokenizer(byte-level BPE, 900 tokens, bos=1, eos=2, pad=None, stops=[0, 2])"
    assert len(tokenizer) == 900


def test_every_known_cut_builds() -> None:
    for name in PRE_TOKENIZERS:
        assert Tokenizer.from_gguf(changed(pre=name)).encode("a b1", add_special=False) != []


def test_phi_3_tokens_take_the_white_space_after_them() -> None:
    def build(name: str) -> list[int]:
        entries: dict[str, Any] = {
            "general.name": name,
            GGML + "model": "llama",
            GGML + "tokens": ["<unk>", "<s>", "<|end|>", "\u2581", "\n", "a"],
            GGML + "scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0],
            GGML + "token_type": [2, 3, 3, 1, 1, 1],
            GGML + "unknown_token_id": 0,
            GGML + "add_space_prefix": False,
        }
        return Tokenizer.from_gguf(entries).encode("<|end|>\n a<s> a")

    assert build("Phi-3 mini") == [2, 5, 1, 3, 5]
    assert build("Llama") == [2, 4, 3, 5, 1, 3, 5]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] in ("tokenizers", "jinja2"):
            raise ModuleNotFoundError(name)
        return real(name, package)

    built = Tokenizer.from_gguf(changed() | {"tokenizer.chat_template": "x"})
    monkeypatch.setattr(importlib, "import_module", absent)
    for call in (
        lambda: Tokenizer.from_gguf(changed()),
        lambda: built.apply_chat_template([{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(ImportError, match=r'install "lepton-ref\[text\]"'):
            call()


# --- folders ---------------------------------------------------------------------------------------------------------


def json_folder(folder: Path) -> Path:
    """A folder with the tiny byte-level tokenizer as tokenizer.json, asking for truncation and padding."""
    backend = Tokenizer.from_gguf(changed(add_bos_token=True))._parts.backend
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def write(folder: Path, name: str, value: Any) -> Path:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def test_tokenizer_json_is_read_without_its_truncation_and_padding(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(json_folder(tmp_path))
    text = "some longer text, é 漢字"
    assert tokenizer.encode(text) == Tokenizer.from_gguf(changed(add_bos_token=True)).encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == 900


def test_what_stands_beside_tokenizer_json_is_used(tmp_path: Path) -> None:
    json_folder(tmp_path)
    write(tmp_path, "special_tokens_map.json", {"pad_token": {"content": "<|endoftext|>"}, "eos_token": "a"})
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    write(tmp_path, "config.json", {"eos_token_id": 7})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.stop_ids == {0, 2, 7}
    write(tmp_path, "generation_config.json", {"eos_token_id": [8, 9]})
    assert Tokenizer.from_folder(tmp_path).stop_ids == {0, 2, 8, 9}


@pytest.mark.parametrize(
    ("bos", "eos", "ends"), [(True, True, (1, 2)), (False, False, ()), (None, True, (2,)), (True, None, (1,))]
)
def test_flags_of_the_config_win_over_tokenizer_json(
    bos: bool | None, eos: bool | None, ends: tuple[int, ...], tmp_path: Path
) -> None:
    flags = {f"add_{role}_token": flag for role, flag in (("bos", bos), ("eos", eos)) if flag is not None}
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    write(json_folder(tmp_path), "tokenizer_config.json", flags | names)
    ids = Tokenizer.from_folder(tmp_path).encode("a")
    assert tuple(index for index in ids if index < 3) == ends


def test_chat_templates_come_from_the_config_a_list_or_a_file(tmp_path: Path) -> None:
    json_folder(tmp_path)
    hi = [{"role": "user", "content": "Hi"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": "one"})
    assert Tokenizer.from_folder(tmp_path).apply_chat_template(hi) == "one"
    named = [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "three"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert Tokenizer.from_folder(tmp_path).apply_chat_template(hi, tools=[]) == "three"
    write(tmp_path, "chat_template.jinja", "four")
    assert Tokenizer.from_folder(tmp_path).apply_chat_template(hi) == "four"


def test_vocab_json_with_merges_equals_the_gguf(tmp_path: Path) -> None:
    entries = changed()
    write(tmp_path, "vocab.json", {token: index for index, token in enumerate(entries[GGML + "tokens"])})
    write(tmp_path, "merges.txt", "#version: 0.2\n" + "\n".join(entries[GGML + "merges"]) + "\n")
    write(tmp_path, "special_tokens_map.json", {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    texts = read("tiny/texts.json")
    for config, pre in (({}, "gpt-2"), ({"model_type": "qwen2"}, "qwen2")):
        write(tmp_path, "config.json", config)
        expected, got = Tokenizer.from_gguf(changed(pre=pre)), Tokenizer.from_folder(tmp_path)
        assert [got.encode(text) for text in texts] == [expected.encode(text) for text in texts]
    write(tmp_path, "config.json", {"model_type": "whisper"})
    with pytest.raises(ValueError, match=r"model_type: 'whisper': .*only gpt2, opt, qwen2, qwen3, roberta are known"):
        Tokenizer.from_folder(tmp_path)


def test_opt_and_roberta_put_their_own_tokens_around_a_text(tmp_path: Path) -> None:
    names = ["<s>", "<pad>", "</s>", "<unk>", "a"]
    write(tmp_path, "vocab.json", {token: index for index, token in enumerate(names)})
    write(tmp_path, "merges.txt", "")
    for family, expected in (("roberta", [0, 4, 2]), ("opt", [2, 4])):
        assert Tokenizer.from_folder(write(tmp_path, "config.json", {"model_type": family})).encode("a") == expected


def test_word_pieces_follow_their_config(tmp_path: Path) -> None:
    for config, text, same in (
        ({"strip_accents": True}, "é", "e"), ({"tokenize_chinese_chars": False}, "漢字", "漢 字"), ({}, "漢字", "漢 字")
    ):  # fmt: skip
        tokenizer = Tokenizer.from_folder(word_piece_folder(tmp_path, "cased", config))
        assert (tokenizer.encode(text) == tokenizer.encode(same)) is (config != {"tokenize_chinese_chars": False})


def test_added_tokens_take_their_ids_or_are_refused(tmp_path: Path) -> None:
    json_folder(tmp_path)
    added = {"900": {"content": "<new>", "special": True}}
    tokenizer = Tokenizer.from_folder(write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": added}))
    assert tokenizer.encode("a<new>", add_special=False)[-1] == 900
    assert tokenizer.vocab_size == 901
    added = {"950": {"content": "<new>", "special": True}}
    with pytest.raises(ValueError, match=r"added_tokens_decoder\[950\]: '<new>' has id 900 here"):
        Tokenizer.from_folder(write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": added}))


BAD_FILES: dict[str, tuple[str, Any, str]] = {
    "not JSON": ("tokenizer.json", "{", "tokenizer.json: line 1: .*not JSON"),
    "not an object": ("tokenizer.json", "[]", "tokenizer.json: list: must be a JSON object"),
    "not a tokenizer": ("tokenizer.json", "{}", "tokenizer.json: .*not a tokenizer that this version"),
    "deep": ("tokenizer.json", '{"a":' * 100000 + "1" + "}" * 100000, "tokenizer.json: nested too deep"),
    "eos not an id": ("config.json", {"eos_token_id": "x"}, "config.json: eos_token_id: 'x': must be an id"),
    "eos in a list": ("generation_config.json", {"eos_token_id": [1, -1]}, "eos_token_id: -1: must be an id"),
    "special not text": ("special_tokens_map.json", {"eos_token": 5}, "special_tokens_map.json: eos_token: 5: must"),
    "flag": ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token: 'yes': must be true or false"),
    "template": ("tokenizer_config.json", {"chat_template": 5}, "chat_template: int: must be a string or a list"),
    "named template": ("tokenizer_config.json", {"chat_template": [{}]}, "chat_template: {}: must have the strings"),
    "added": ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, r"added_tokens_decoder\['x'\]"),
    "added not an object": ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder: list"),
    "added.json": ("added_tokens.json", {"x": "y"}, "added_tokens.json: 'x': 'y': must be an id"),
}


MERGES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown join": ({"merges": ["a b"]}, r"merges: number 0, 'a' \+ 'b': 'ab' is not a token: vocabulary and merges"),
    "unknown join of a pair": ({"merges": [["a", "b"]]}, "'ab' is not a token"),
    "no type": ({"merges": ["a b"], "type": None}, "'ab' is not a token"),
    "unknown half": ({"merges": ["a c"]}, "'c' is not a token"),
    "three tokens": ({"merges": ["a b c"]}, "merges: number 0, 'a b c': must be two tokens"),
    "one token": ({"merges": ["ab"]}, "merges: number 0, 'ab': must be two tokens"),
    "a number": ({"merges": [5]}, "merges: number 0, 5: must be two tokens"),
    "a pair of numbers": ({"merges": [[1, 2]]}, r"merges: number 0, \[1, 2\]: must be two tokens"),
    "no list": ({"merges": "a b"}, "merges: str: must be a list"),
    "no prefix": (
        {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "##"},
        "'b' does not begin with '##'",
    ),
    "half a letter": (
        {"vocab": {"a": 0, "é": 1, "aé": 2}, "merges": ["a é"], "continuing_subword_prefix": "#"},
        "'é' does not begin with '#'",
    ),
    "a join with its prefix": (
        {"vocab": {"a": 0, "##b": 1, "a##b": 2}, "merges": ["a ##b"], "continuing_subword_prefix": "##"},
        "'ab' is not a token",
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges_that_would_end_the_program_are_refused(name: str, tmp_path: Path) -> None:
    """`tokenizers` panics there, which no `except Exception` catches."""
    changes, match = MERGES[name]
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, **changes}
    if model["type"] is None:
        del model["type"]
    write(tmp_path, "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": model})
    with pytest.raises(ValueError, match=match) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert "\n" not in str(caught.value)


TEMPLATE = {
    "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}], "pair": [],
    "special_tokens": {},
}  # fmt: skip
CUT_OFF = {"type": "Precompiled", "precompiled_charsmap": "AA=="}
PANICS: dict[str, tuple[dict[str, Any], str]] = {
    "template": ({"post_processor": TEMPLATE}, "post_processor: 'a' is not in special_tokens: fetch"),
    "template inside": (
        {"post_processor": {"type": "Sequence", "processors": [TEMPLATE]}}, "post_processor: 'a' is not in special_tok"
    ),
    "charsmap": ({"normalizer": CUT_OFF}, "precompiled_charsmap: 'AA==' is cut off: fetch the file again"),
    "charsmap inside": ({"normalizer": {"type": "Sequence", "normalizers": [CUT_OFF]}}, "'AA==' is cut off"),
    "short charsmap": ({"normalizer": {**CUT_OFF, "precompiled_charsmap": "CAAAAAAA"}}, "'CAAAAAAA' is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("name", PANICS)
def test_steps_that_would_end_the_program_are_refused(name: str, tmp_path: Path) -> None:
    changes, match = PANICS[name]
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    write(tmp_path, "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": model, **changes})
    with pytest.raises(ValueError, match=match) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")


@pytest.mark.parametrize(
    ("vocab", "merges", "prefix"),
    [
        ({"a": 0, "b": 1, "ab": 2}, ["#version: 0.2", "a b"], None),
        ({"a": 0, "b": 1, "ab": 2}, [["a", "b"]], ""),
        ({"a": 0, "##b": 1, "ab": 2}, ["a ##b"], "##"),
    ],
)
def test_merges_of_every_form_are_read(vocab: dict[str, int], merges: list[Any], prefix: str, tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix}
    write(tmp_path, "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": model})
    assert Tokenizer.from_folder(tmp_path).encode("ab") == [2]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_name_field_and_value(name: str, tmp_path: Path) -> None:
    file, value, match = BAD_FILES[name]
    write(json_folder(tmp_path), file, value)
    with pytest.raises(ValueError, match=match) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: byte 6: not UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_with_holes_or_a_bad_merge_line_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "vocab.json", {"a": 0, "b": 2})
    write(tmp_path, "merges.txt", "")
    with pytest.raises(ValueError, match="'b': 2: ids must be 0 … 1, each once"):
        Tokenizer.from_folder(tmp_path)
    write(tmp_path, "vocab.json", {"a": 0, "b": 1})
    write(tmp_path, "merges.txt", "#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match=r"merges\.txt: line 2: 'a b c': must be two tokens"):
        Tokenizer.from_folder(tmp_path)


def test_a_missing_folder_and_an_empty_one_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder: give the one that holds"):
        Tokenizer.from_folder(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json, tokenizer\.model, vocab\.txt, or vocab\.json"):
        Tokenizer.from_folder(tmp_path)


@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_sentencepiece_model_are_read_or_refused(data: bytes) -> None:
    message = "m: "
    for parse in (lambda: list(fields(data, "m")), lambda: read_sentencepiece(data, "m")):
        try:
            parse()
        except ValueError as error:
            message = str(error)
        assert message.startswith("m: ")


def test_a_truncated_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    path = sentencepiece_folder(tmp_path, "bpe") / "tokenizer.model"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"tokenizer\.model: .*truncated"):
        Tokenizer.from_folder(tmp_path)


def test_nothing_of_the_extra_is_imported_before_it_is_used() -> None:
    code = "import sys, lepton_ref.text; print(sorted({'tokenizers', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
