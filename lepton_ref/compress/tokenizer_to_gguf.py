"""A folder's byte-level BPE tokenizer as GGUF's metadata holds it; what cannot be said there is not guessed.

GGUF names the rule by which text is cut before merging, and does not hold the rule: a tokenizer.json is converted where
its cut is, expression by expression, one that `lepton_ref.text.pretokenizers` knows by name. Other tokenizers are left
out with the reason, and the file then runs on ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_ref.text.config_files import Settings, read_json, read_settings
from lepton_ref.text.parts import CONTROL, NORMAL
from lepton_ref.text.pretokenizers import PRE_TOKENIZERS

USER_DEFINED, UNUSED = 4, 5
"""GGUF's types of tokens that are added and not special, and of rows that have no token."""

PREFIX = "tokenizer.ggml."

NO_WORDS = {"tokenizer.ggml.model": "none"}

_ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}


def tokenizer_metadata(folder: Path, vocab_size: int) -> tuple[dict[str, Any], dict[str, str], str]:
    """A model's folder -> metadata, the types of some of it, and why there is none ("" where there is).

    Raises:
        ValueError: a malformed file; the message names it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}, {}, f"no tokenizer is written: {folder} has no tokenizer.json"
    found = read_json(path)
    settings = read_settings(folder)
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        return {}, {}, f"no tokenizer is written: {path} is {kind!r}, only byte-level BPE is converted"
    pre = _pre(found, model)
    if pre is None:
        return {}, {}, f"no tokenizer is written: GGUF has no name that is known here for how {path} cuts text"
    tokens, kinds = _tokens(found, model, settings, vocab_size)
    if len(tokens) > vocab_size:
        return {}, {}, f"no tokenizer is written: {path} has {len(tokens)} tokens, the model {vocab_size} rows"
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    metadata: dict[str, Any] = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges}
    for role, key in _ROLES.items():
        token = settings.special.get(f"{role}_token")
        if token in tokens:
            metadata[key] = tokens.index(token)
    first = _first(found, settings)
    metadata["add_bos_token"] = first is not None and first == settings.special.get("bos_token")
    entries = {PREFIX + key: value for key, value in metadata.items()}
    for name, template in settings.chat_templates.items():
        entries["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = template
    types = {PREFIX + "tokens": "[STRING]", PREFIX + "merges": "[STRING]", PREFIX + "token_type": "[I32]"}
    return entries, types, ""


def _tokens(
    found: Mapping[str, Any], model: Mapping[str, Any], settings: Settings, vocab_size: int
) -> tuple[list[str], list[int]]:
    """The token of each id and its type; rows without a token are unused."""
    by_id: dict[int, tuple[str, int]] = {index: (token, NORMAL) for token, index in model["vocab"].items()}
    for entry in found.get("added_tokens", []):
        by_id[entry["id"]] = (entry["content"], CONTROL if entry.get("special") else USER_DEFINED)
    for index, entry in settings.added.items():
        by_id.setdefault(index, (entry["content"], CONTROL if entry.get("special") else USER_DEFINED))
    count = max(vocab_size, *(index + 1 for index in by_id)) if by_id else vocab_size
    every = [by_id.get(index, (f"[PAD{index}]", UNUSED)) for index in range(count)]
    return [token for token, _ in every], [kind for _, kind in every]


def _pre(found: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """The name of the rule that cuts text in exactly this way; None where there is none."""
    normalizer = found.get("normalizer")
    form = normalizer.get("type") if isinstance(normalizer, dict) else None
    if form not in (None, "NFC"):
        return None
    splits = _splits(found.get("pre_tokenizer"))
    merges = bool(model.get("ignore_merges", False))
    for name, rule in PRE_TOKENIZERS.items():
        if splits == rule.splits and (form == "NFC") == rule.nfc and merges == rule.ignore_merges:
            return name
    return None


def _splits(cut: Any) -> tuple[str, ...] | None:
    """The regular expressions that cut text, one after another; None for what is no such list."""
    steps = cut.get("pretokenizers") if isinstance(cut, dict) and cut.get("type") == "Sequence" else [cut]
    found: list[str] = []
    gpt2 = PRE_TOKENIZERS["gpt-2"].splits[0]
    levels = 0
    for step in steps if isinstance(steps, list) else [None]:
        if not isinstance(step, dict):
            return None
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space", True):
            levels += 1
            found += [gpt2] if step.get("use_regex", True) else []
        elif kind == "Digits" and step.get("individual_digits"):
            found.append(r"\p{N}")
        elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            found.append(step.get("pattern", {}).get("Regex"))
        else:
            return None
    return tuple(found) if levels == 1 else None


def _first(found: Mapping[str, Any], settings: Settings) -> str | None:
    """The token that stands before every text."""
    wanted = settings.flag("add_bos_token", None)
    if wanted is not None:
        return settings.special.get("bos_token") if wanted else None
    after = found.get("post_processor")
    steps = after.get("processors", [after]) if isinstance(after, dict) else []
    for step in steps:
        if isinstance(step, dict) and step.get("type") == "TemplateProcessing" and step.get("single"):
            token = step["single"][0].get("SpecialToken")
            return None if token is None else token.get("id")
    return None
