"""A folder's tokenizer in a GGUF gives the same ids; one that GGUF cannot say is left out with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planted import mutated
from talking_model import METADATA, TEMPLATE, TOKENS
from tiny_models import changed, load

from lepton_ref.compress import tokenizer_to_gguf_bytes as page
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.compress.tokenizer_to_gguf import tokenizer_metadata
from lepton_ref.text.config_files import read_settings

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def tokenizer(**changes: Any) -> dict[str, Any]:
    special = [
        {"id": index, "content": TOKENS[index], "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index in range(3)
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: index for index, token in enumerate(TOKENS)}, "merges": ["a b", "Ġ a"],
    }  # fmt: skip
    found = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": BYTES, "post_processor": None, "decoder": BYTES, "model": model,
    }  # fmt: skip
    return {**found, **changes}


def folder(path: Path, **changes: Any) -> Path:
    made = changed(path, config={"rms_norm_eps": 2.0**-17})
    (made / "tokenizer.json").write_text(json.dumps(tokenizer(**changes)), encoding="utf-8")
    config = {"bos_token": TOKENS[0], "eos_token": TOKENS[2], "add_bos_token": False, "chat_template": TEMPLATE}
    (made / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def test_the_metadata_are_those_of_the_tokens(tmp_path: Path) -> None:
    found, types, why = tokenizer_metadata(folder(tmp_path / "in"), 61)
    assert why == ()
    for key in ("model", "pre", "merges", "bos_token_id", "eos_token_id"):
        assert found[f"tokenizer.ggml.{key}"] == METADATA[f"tokenizer.ggml.{key}"]
    assert found["tokenizer.ggml.tokens"] == [*TOKENS, "[PAD57]", "[PAD58]", "[PAD59]", "[PAD60]"]
    assert found["tokenizer.ggml.token_type"] == [3, 3, 3, *[1] * 54, *[5] * 4]
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == TEMPLATE
    assert types["tokenizer.ggml.merges"] == "[STRING]"


def test_both_give_the_same_ids(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    written = quantise_file(source, tmp_path / "out.gguf", Recipe(format="F32"))
    assert written.notes == ()
    before, after = load(source), load(tmp_path / "out.gguf")
    for text in ("hello abc", " a ab", "<|im_start|>hi<|im_end|>", "ab\nba!"):
        assert before.tokenizer.encode(text) == after.tokenizer.encode(text)
    assert before.forward([[1, 2]]).tobytes() == after.forward([[1, 2]]).tobytes()


SPLIT = {"type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "Metaspace"}}, "GGUF has no name that is known here"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}}, "GGUF has no name that is known"),
        ({"normalizer": {"type": "Lowercase"}}, "GGUF has no name that is known here"),
        ({"model": {"type": "Unigram", "vocab": []}}, "GGUF cannot say how it treats text"),
    ],
)
def test_what_gguf_cannot_say_is_not_guessed(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found, _, why = tokenizer_metadata(folder(tmp_path / "in", **changes), 61)
    assert found == {}
    assert message in " ".join(why)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    assert "has 57 tokens, the model 9 rows" in tokenizer_metadata(folder(tmp_path / "in"), 9)[2][0]


def test_digits_are_a_cut_of_their_own(tmp_path: Path) -> None:
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}
    found, _, _ = tokenizer_metadata(folder(tmp_path / "in", pre_tokenizer=digits), 61)
    assert found["tokenizer.ggml.pre"] == "smollm"


def test_a_guessed_cut_is_found(tmp_path: Path) -> None:
    wrong = mutated(page, "if splits == rule.splits and", "if splits != () and")
    found = tokenizer(pre_tokenizer={"type": "Metaspace"})
    settings = read_settings(folder(tmp_path / "in"))
    with pytest.raises(page.Unsayable, match="GGUF has no name"):
        page.byte_level_from_json(found, settings, 61)
    assert wrong.byte_level_from_json(found, settings, 61).more["pre"] == "default"
