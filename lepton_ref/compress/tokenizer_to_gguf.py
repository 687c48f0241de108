"""A folder's tokenizer as GGUF's metadata holds it; what cannot be said there is not guessed.

    byte-level BPE    tokenizer.json, or vocab.json and merges.txt    lepton_ref.compress.tokenizer_to_gguf_bytes
    SentencePiece     tokenizer.json, or tokenizer.model              lepton_ref.compress.tokenizer_to_gguf_pieces
    WordPiece         tokenizer.json, or vocab.txt                    lepton_ref.compress.tokenizer_to_gguf_wordpiece

A tokenizer that GGUF cannot say is left out with the reason, and the file then runs on ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lepton_ref.compress.tokenizer_to_gguf_bytes import byte_level_from_files, byte_level_from_json
from lepton_ref.compress.tokenizer_to_gguf_checks import as_text
from lepton_ref.compress.tokenizer_to_gguf_pieces import (
    is_pieces,
    pieces_from_json,
    pieces_from_model,
    unigram_from_json,
)
from lepton_ref.compress.tokenizer_to_gguf_wordpiece import word_piece_from_json, word_piece_from_list
from lepton_ref.compress.tokenizer_to_gguf_words import Unsayable, Words
from lepton_ref.text.config_files import id_list, read_json, read_settings
from lepton_ref.text.from_gguf import ENDS_OF_TURN
from lepton_ref.text.parts import CONTROL

PREFIX = "tokenizer.ggml."

NO_WORDS: Mapping[str, Any] = MappingProxyType({PREFIX + "model": "none"})
"""What a file without a tokenizer says: llama.cpp reads none without it."""

TYPES = {
    "tokens": "[STRING]", "merges": "[STRING]", "token_type": "[I32]", "scores": "[F32]", "precompiled_charsmap": "[U8]"
}  # fmt: skip

ROLES = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
    "sep": "seperator_token_id", "cls": "cls_token_id", "mask": "mask_token_id",
}  # fmt: skip
"""Role → key; "seperator" is the format's own spelling."""


def tokenizer_metadata(folder: Path, vocab_size: int) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """A model's folder -> metadata, the types of some of it, and what cannot be said; without metadata, why.

    Raises:
        ValueError: a malformed file; the message names it.
    """
    try:
        words = _words(folder, vocab_size)
        found, notes = _metadata(words)
    except Unsayable as reason:
        return {}, {}, (f"no tokenizer is written for {folder}: {reason}",)
    entries = {key if key.startswith("general.") else PREFIX + key: value for key, value in found.items()}
    for name, template in words.settings.chat_templates.items():
        where = f"{folder / 'tokenizer_config.json'}: chat_template"
        as_text(template, f"{where} {as_text(name, where)}")
        entries["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = template
    return entries, {PREFIX + key: kind for key, kind in TYPES.items() if key in found}, (*words.notes, *notes)


def _words(folder: Path, rows: int) -> Words:
    """By what the folder holds, in the order in which its readers look."""
    settings = read_settings(folder)
    if (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
        found = {"pre_tokenizer": None, **read_json(path)}
        model = found.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        try:
            if kind == "BPE":
                return (pieces_from_json if is_pieces(found) else byte_level_from_json)(found, settings, rows)
            if kind == "Unigram":
                return unigram_from_json(found, settings, rows)
            if kind == "WordPiece":
                return word_piece_from_json(found, settings, rows)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: {error!r}: not a tokenizer's file: fetch it again") from error
        raise Unsayable(f"its model is {kind!r}, and BPE, Unigram and WordPiece alone are converted")
    if (folder / "tokenizer.model").is_file():
        return pieces_from_model(folder / "tokenizer.model", settings, rows)
    if (folder / "vocab.txt").is_file():
        return word_piece_from_list(folder / "vocab.txt", settings, rows)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return byte_level_from_files(folder, settings, rows)
    raise Unsayable("it has no tokenizer.json, tokenizer.model, vocab.txt, or vocab.json with merges.txt")


def _metadata(words: Words) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keys without the prefix, and notes."""
    found: dict[str, Any] = {"model": words.model, "tokens": words.tokens, "token_type": words.kinds}
    names, special = words.names, dict(words.settings.special)
    if words.model != "bert":
        found["pre"] = "default"
        _name_ends(words.ends, special)
    for role, key in ROLES.items():
        if special.get(f"{role}_token") in names:
            found[key] = names[special[f"{role}_token"]]
    stated = id_list(words.settings.model.get("bos_token_id"), "config.json: bos_token_id")
    if "bos_token_id" not in found and stated and stated[0] < len(words.tokens):
        found["bos_token_id"] = stated[0]
    found |= words.more
    if words.model != "bert":
        found |= {f"add_{role}_token": end in names for role, end in zip(("bos", "eos"), words.ends, strict=True)}
    stops, notes = _stops(words, found)
    return found | stops, notes


def _name_ends(ends: tuple[str | None, str | None], special: dict[str, str]) -> None:
    """Make the tokens around a text those of the roles by which GGUF names them."""
    for role, end in zip(("bos", "eos"), ends, strict=True):
        if end is not None and special.setdefault(f"{role}_token", end) != end:
            given = special[f"{role}_token"]
            raise Unsayable(f"a text stands beside {end!r}, and GGUF puts only its {role}_token there, {given!r}")


def _stops(words: Words, found: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Ids that end a text beside the eos: two more have keys."""
    ends = {i for i, kind in enumerate(words.kinds) if kind == CONTROL and words.tokens[i] in ENDS_OF_TURN}
    more = [i for i in words.settings.stop_ids if i not in ends and i != found.get("eos_token_id")]
    keys = dict(zip(("eot_token_id", "eom_token_id"), more, strict=False))
    left = more[len(keys) :]
    return keys, (f"GGUF has no key for the further stop ids {left}",) if left else ()
