"""Folders with a tiny tokenizer of every kind that a GGUF can say, in every layout that a folder can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from text_cases import CUTS, PIECES, byte_level_metadata, read, sentencepiece_folder, word_piece_folder

from lepton_ref.compress.tokenizer_to_gguf import tokenizer_metadata
from lepton_ref.files import write_gguf
from lepton_ref.text import Tokenizer

WORD_PIECES = ("uncased", "cased")
ROLES = {
    "pieces": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "words": {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"},
}
NAMES = (
    *PIECES, *(f"{name}.json" for name in PIECES), *WORD_PIECES, *(f"{name}.json" for name in WORD_PIECES),
    *(f"{name}.json" for name in CUTS), "gpt-2.vocab",
)  # fmt: skip


def texts() -> list[str]:
    """Those of the goldens, and some more."""
    found: list[str] = read("tiny/texts.json")
    return [*found, "▁▁a", "  double  spaces ", "\n\n\t x"]


def as_json(tokenizer: Tokenizer, folder: Path, config: dict[str, Any]) -> Path:
    """A tokenizer as its tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer._parts.backend.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def vocabulary_files(folder: Path) -> Path:
    """GPT-2's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = byte_level_metadata()
    tokens, types = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.token_type"]
    plain = [token for token, kind in zip(tokens, types, strict=True) if kind == 1]
    ids = {token: index for index, token in enumerate(plain)}
    merges = [merge for merge in entries["tokenizer.ggml.merges"] if merge.replace(" ", "") in ids]
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


def tokenizer_folder(folder: Path, name: str) -> Path:
    """The folder of this name, one of `NAMES`."""
    kind, _, layout = name.partition(".")
    if layout == "vocab":
        return vocabulary_files(folder)
    if kind in PIECES:
        if layout == "":
            return sentencepiece_folder(folder, kind)
        return as_json(Tokenizer.from_folder(sentencepiece_folder(folder / "model", kind)), folder, ROLES["pieces"])
    if kind in WORD_PIECES:
        if layout == "":
            return word_piece_folder(folder, kind)
        return as_json(Tokenizer.from_folder(word_piece_folder(folder / "list", kind)), folder, ROLES["words"])
    return as_json(Tokenizer.from_gguf(byte_level_metadata(kind)), folder, {})


def vocabulary_gguf(folder: Path, path: Path) -> Path:
    """A GGUF of the folder's tokenizer and next to nothing else."""
    rows = Tokenizer.from_folder(folder).vocab_size
    words, types, _ = tokenizer_metadata(folder, rows)
    sizes = {"context_length": 64, "embedding_length": 4, "block_count": 1, "feed_forward_length": 4}
    said: dict[str, Any] = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    said |= {"llama.attention.head_count": 1, "llama.attention.layer_norm_rms_epsilon": 2.0**-17}
    write_gguf(path, {"token_embd.weight": np.zeros((rows, 4), "<f4")}, {**said, **words}, metadata_types=types)
    return path
