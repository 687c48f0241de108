"""The text goldens, for tests: texts, ids by name, and tokenizers built from the tiny vocabularies."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from golden_cases import GOLDEN

from lepton_ref.text import Tokenizer

TEXT = GOLDEN / "text"
CUTS = (
    "default", "gpt-2", "mpt", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2", "gpt-4o", "tekken", "falcon"
)  # fmt: skip
PIECES = ("bpe", "bpe-prefix", "unigram", "unigram-prefix")


def read(name: str) -> Any:
    """A JSON file of the text goldens."""
    return json.loads((TEXT / name).read_text(encoding="utf-8"))


def id_rows(folder: str, name: str) -> list[list[int]]:
    """The ids of each text under one name."""
    with np.load(TEXT / folder / "ids.npz") as arrays:
        ids, lengths = arrays[f"{name}.ids"], arrays[f"{name}.lengths"]
    ends = np.cumsum(lengths)
    assert ends[-1] == len(ids)
    return [row.tolist() for row in np.split(ids, ends[:-1])]


def byte_level_metadata(pre: str = "gpt-2") -> dict[str, Any]:
    """GGUF metadata of the tiny byte-level vocabulary."""
    entries: dict[str, Any] = read("tiny/byte_level.json")
    return entries | {"tokenizer.ggml.pre": pre}


def sentencepiece_folder(folder: Path, name: str) -> Path:
    """A folder with the tiny SentencePiece model of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(base64.b64decode(read("tiny/sentencepiece.json")[name]))
    return folder


def word_piece_folder(folder: Path, name: str, config: Mapping[str, Any] | None = None) -> Path:
    """A folder with the tiny WordPiece vocabulary of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(read("tiny/word_piece.json")[name]) + "\n", encoding="utf-8")
    config = {"do_lower_case": name == "uncased"} | dict(config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiny_tokenizers(folder: Path) -> dict[str, Tokenizer]:
    """One tokenizer of each kind of decoding."""
    found = {"byte-level": Tokenizer.from_gguf(byte_level_metadata())}
    found |= {name: Tokenizer.from_folder(sentencepiece_folder(folder / name, name)) for name in PIECES}
    return found | {"word-piece": Tokenizer.from_folder(word_piece_folder(folder / "word-piece", "uncased"))}


def mismatches(tokenizer: Tokenizer, texts: list[str], rows: list[list[int]], **options: bool) -> list[str]:
    """One line for each text whose ids are not the expected ones; rows left out by the golden are passed over."""
    assert len(texts) == len(rows)
    return [
        f"{text!a}: {got} is not {row}"
        for text, row in zip(texts, rows, strict=True)
        if (row != [] or text == "") and (got := tokenizer.encode(text, **options)) != row
    ]
