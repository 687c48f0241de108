"""Ids equal the peers' on tiny vocabularies of every kind, and on three real ones (slow)."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import real_models
from text_cases import (
    CUTS,
    PIECES,
    byte_level_metadata,
    id_rows,
    mismatches,
    read,
    sentencepiece_folder,
    word_piece_folder,
)

from lepton_ref.text import Tokenizer
from lepton_ref.text.pretokenizers import PRE_TOKENIZERS

TEXTS: list[str] = read("tiny/texts.json")
CONTROL_PIECES = ("<unk>", "<s>", "</s>", "<pad>", "<start>", "<end>")


@pytest.mark.parametrize("pre", CUTS)
def test_byte_level_ids_equal_those_of_llama_cpp(pre: str) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata(pre))
    assert mismatches(tokenizer, TEXTS, id_rows("tiny", f"byte-level.{pre}")) == []


def test_every_pair_of_cuts_is_told_apart_so_a_swapped_one_is_caught() -> None:
    rows = {pre: id_rows("tiny", f"byte-level.{pre}") for pre in CUTS}
    for pre in CUTS:
        for other in CUTS:
            if PRE_TOKENIZERS[pre] != PRE_TOKENIZERS[other]:
                tokenizer = Tokenizer.from_gguf(byte_level_metadata(pre))
                assert mismatches(tokenizer, TEXTS, rows[other]) != [], f"{pre} passes for {other}"


def test_a_mark_after_a_symbol_is_cut_by_the_published_expression_of_o200k() -> None:
    cut = Tokenizer.from_gguf(byte_level_metadata("gpt-4o"))._parts.backend.pre_tokenizer
    # [^\r\n\p{L}\p{N}]? takes the heart, then [\p{Ll}\p{Lm}\p{Lo}\p{M}]+ the mark: one piece; then the joiner alone.
    assert [span for _, span in cut.pre_tokenize_str("❤\ufe0f\u200d")] == [(0, 2), (2, 3)]


def test_nfc_is_the_normal_form_of_the_families_that_have_it() -> None:
    for pre, changes in (("qwen2", True), ("mpt", True), ("dbrx", False), ("gpt-2", False)):
        tokenizer = Tokenizer.from_gguf(byte_level_metadata(pre))
        text = "e\u0301 n\u0303"
        assert (tokenizer.encode(text) == tokenizer.encode(unicodedata.normalize("NFC", text))) is changes


@pytest.mark.parametrize("name", PIECES)
def test_sentencepiece_ids_equal_sentencepiece_s_own(name: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(tmp_path, name))
    pairs = list(zip(TEXTS, id_rows("tiny", f"sentencepiece.{name}"), strict=True))
    # Unigram finds its control pieces in plain text, where SentencePiece does not; encode refuses those texts.
    plain = [(text, row) for text, row in pairs if "unigram" not in name or not any(p in text for p in CONTROL_PIECES)]
    texts, rows = [text for text, _ in plain], [row for _, row in plain]
    assert len(texts) > 0.95 * len(pairs)
    assert mismatches(tokenizer, texts, rows, add_special=False, parse_special=False) == []
    for text in {text for text, _ in pairs} - set(texts) - {"<unk>"}:
        with pytest.raises(ValueError, match="control token"):
            tokenizer.encode(text, parse_special=False)


def test_sentencepiece_from_gguf_equals_the_model_file(tmp_path: Path) -> None:
    model = Tokenizer.from_folder(sentencepiece_folder(tmp_path, "bpe"))
    rebuilt = Tokenizer.from_gguf(sentencepiece_metadata(tmp_path, "bpe"))
    rows = id_rows("tiny", "sentencepiece.bpe")
    assert mismatches(rebuilt, TEXTS, rows, add_special=False, parse_special=False) == []
    assert [rebuilt.encode(text) for text in TEXTS] == [model.encode(text) for text in TEXTS]


def sentencepiece_metadata(folder: Path, name: str) -> dict[str, Any]:
    """The model file's pieces as a GGUF states them: user-defined ones with real spaces."""
    from lepton_ref.text.sentencepiece import read_sentencepiece

    model = read_sentencepiece((folder / "tokenizer.model").read_bytes(), name)
    tokens, types = model.vocabulary.tokens, model.vocabulary.types
    spelled = [token.replace("▁", " ") if kind == 4 else token for token, kind in zip(tokens, types, strict=True)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.scores": list(model.vocabulary.scores),
        "tokenizer.ggml.token_type": list(model.vocabulary.types),
        "tokenizer.ggml.bos_token_id": model.bos_id,
        "tokenizer.ggml.eos_token_id": model.eos_id,
        "tokenizer.ggml.unknown_token_id": model.unk_id,
        "tokenizer.ggml.add_space_prefix": model.space_prefix,
    }


@pytest.mark.parametrize("name", ["uncased", "cased"])
def test_word_piece_ids_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    rows = id_rows("tiny", f"word-piece.{name}")
    assert mismatches(Tokenizer.from_folder(word_piece_folder(tmp_path, name)), TEXTS, rows) == []
    assert mismatches(Tokenizer.from_gguf(word_piece_metadata(name)), TEXTS, rows) == []


def word_piece_metadata(name: str) -> dict[str, Any]:
    """The word list as a GGUF states it: ▁ at the start of a word, nothing inside one."""
    special = {"[PAD]": 3, "[UNK]": 2, "[CLS]": 3, "[SEP]": 3, "[MASK]": 3}
    tokens = read("tiny/word_piece.json")[name]
    spelled = [t if t in special else t[2:] if t.startswith("##") else "▁" + t for t in tokens]
    # A token in both forms would be one string twice; the tiny lists hold none.
    assert len(set(spelled)) == len(spelled)
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.token_type": [special.get(token, 1) for token in tokens],
        "tokenizer.ggml.unknown_token_id": tokens.index("[UNK]"),
    }


def test_the_score_of_the_joined_piece_decides_and_a_wrong_order_is_caught() -> None:
    entries = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab", "bb", "abb"],
        "tokenizer.ggml.scores": [0.0, -10.0, -10.0, -1.0, -2.0, -3.0],
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
    }
    # By hand: ab has the best score, so a b b b → ab b b; then bb (−2) goes before abb (−3): ab bb.
    assert Tokenizer.from_gguf(entries).encode("abbb") == [3, 4]
    # With bb best: a bb b; then abb joins a and bb: abb b. A sort the wrong way round would give the first again.
    swapped = entries | {"tokenizer.ggml.scores": [0.0, -10.0, -10.0, -2.0, -1.0, -3.0]}
    assert Tokenizer.from_gguf(swapped).encode("abbb") == [5, 2]


@pytest.mark.slow
def test_smollm2_ids_equal_those_of_llama_cpp() -> None:
    from lepton_ref.files import read_gguf

    path = real_models.smollm2()
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata, source=str(path))
    texts = read("real/sample.json")
    assert len(texts) >= 300
    assert mismatches(tokenizer, texts, id_rows("real", "smollm2")) == []
    assert mismatches(tokenizer, texts, id_rows("real", "smollm2-plain"), parse_special=False) == []


@pytest.mark.slow
def test_gemma3_ids_equal_those_of_sentencepiece_and_llama_cpp(tmp_path: Path) -> None:
    from lepton_ref.files import read_gguf

    path = real_models.gemma3(tmp_path)
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata, source=str(path))
    texts = read("real/sample.json")
    assert mismatches(tokenizer, texts, id_rows("real", "gemma3")) == []
    plain = id_rows("real", "gemma3-plain")
    assert mismatches(tokenizer, texts, plain, add_special=False, parse_special=False) == []


@pytest.mark.slow
def test_minilm_ids_equal_those_of_transformers() -> None:
    tokenizer = Tokenizer.from_folder(real_models.minilm())
    assert mismatches(tokenizer, read("real/sample.json"), id_rows("real", "minilm")) == []
