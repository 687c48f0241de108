"""Byte-level BPE in a GGUF: tokens, merges, and the name of the rule by which text is cut before merging.

GGUF names that rule and does not hold it. A tokenizer.json is said where its cut is, expression by expression, one that
`lepton_ref.text.pretokenizers` knows by name; a name for another cut is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_ref.compress.tokenizer_to_gguf_checks import as_vocabulary
from lepton_ref.compress.tokenizer_to_gguf_words import (
    Unsayable,
    Words,
    added_tokens,
    ends_of,
    json_of,
    laid_out,
    require_plain_merges,
    shown,
)
from lepton_ref.compress.tokenizer_to_gguf_words import white_space_notes as notes_of
from lepton_ref.text.build import check_merges
from lepton_ref.text.config_files import Settings
from lepton_ref.text.from_folder import BYTE_LEVEL_FAMILIES, read_vocab_and_merges, usual_ends
from lepton_ref.text.merges import stated_merges
from lepton_ref.text.parts import NORMAL
from lepton_ref.text.pretokenizers import PRE_TOKENIZERS


def byte_level_from_json(found: Mapping[str, Any], settings: Settings, rows: int) -> Words:
    """The BPE of a tokenizer.json.

    Raises:
        ValueError: ids, tokens or merges that are none.
        Unsayable: a cut that GGUF has no name for, or another reason.
    """
    model = found["model"]
    pre, path = _pre(found, model), json_of(settings)
    require_plain_merges(model)
    added = added_tokens(found, settings)
    vocabulary = {i: (token, NORMAL) for i, token in as_vocabulary(model["vocab"], f"{path}: model.vocab").items()}
    tokens, kinds = laid_out(vocabulary, added, rows, path)
    merges = [" ".join(pair) for pair in stated_merges(model.get("merges", []), model["vocab"], source=str(path))]
    names = {token: index for index, token in enumerate(tokens)}
    more = {"pre": pre, "merges": merges}
    return Words("gpt2", tokens, kinds, settings, ends_of(found, settings), more, names, notes_of(added))


def byte_level_from_files(folder: Path, settings: Settings, rows: int) -> Words:
    """vocab.json and merges.txt, cut as the model's family cuts.

    Raises:
        ValueError: a malformed file, or a family whose cut is not known.
        Unsayable: more tokens than rows.
    """
    read, settings = read_vocab_and_merges(folder, settings)
    vocabulary = dict(enumerate(zip(read.tokens, read.types, strict=True)))
    added = {index: entry for index, entry in settings.added.items() if index >= len(read.tokens)}
    tokens, kinds = laid_out(vocabulary, added, rows, folder / "vocab.json")
    check_merges(read)
    more = {"pre": BYTE_LEVEL_FAMILIES[settings.family], "merges": [" ".join(pair) for pair in read.merges]}
    names = {token: index for index, token in enumerate(tokens)}
    ends = usual_ends(settings, "vocab.json") if _silent(settings) else ends_of({}, settings)
    return Words("gpt2", tokens, kinds, settings, ends, more, names, notes_of(added))


def _silent(settings: Settings) -> bool:
    return settings.flag("add_bos_token", None) is None and settings.flag("add_eos_token", None) is None


def _pre(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The name of the rule that cuts text in exactly this way."""
    form, splits = _form(found.get("normalizer")), _splits(found.get("pre_tokenizer"))
    merges = bool(model.get("ignore_merges", False))
    for name, rule in PRE_TOKENIZERS.items():
        if splits == rule.splits and form == ("NFC" if rule.nfc else None) and merges == rule.ignore_merges:
            return name
    cut = splits if splits is not None else found.get("pre_tokenizer")
    raise Unsayable(
        "GGUF has no name that is known here for how it cuts text: "
        f"normalizer {shown(form, 40)}, ignore_merges {merges}, cut {shown(cut)}"
    )


def _form(normalizer: Any) -> Any:
    """None, "NFC", or what else it is."""
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence" and len(normalizer["normalizers"]) == 1:
        normalizer = normalizer["normalizers"][0]
    return "NFC" if isinstance(normalizer, dict) and normalizer.get("type") == "NFC" else normalizer


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
