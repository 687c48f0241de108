"""How a model makes one vector of a text, as its own files say: those of sentence-transformers, or a GGUF's metadata.

    modules.json                         the steps: Transformer, Pooling, and perhaps Normalize
    1_Pooling/config.json                which pooling
    sentence_bert_config.json            max_seq_length, do_lower_case
    config_sentence_transformers.json    a prompt that is put before every text
    tokenizer_config.json                model_max_length
    {architecture}.pooling_type          the same in a GGUF, which does not say whether vectors are normalised

A step or a pooling that is not written here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.json_reading import read_list, read_object
from lepton_ref.models.reader import Reader
from lepton_ref.runtime.parts import Parts

KINDS = ("mean", "cls", "max", "last", "pooler")
"""Poolings: the mean over tokens, the first token, the largest in each column, the last token, BERT's own pooler."""

SENTENCE_TRANSFORMERS = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
"""What sentence-transformers calls a pooling → what we call it."""

SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Until version 5 it was one switch for each."""

GGUF_POOLINGS = {0: "mean", 1: "mean", 2: "cls", 3: "last"}
"""`pooling_type` → pooling; 0 leaves it open, and 4 ranks."""

LIMIT_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names under which the text limits have been written."""


@dataclass(frozen=True)
class Sentence:
    """How a text becomes a vector.

    Attributes:
        pooling: one of `KINDS`.
        normalise: whether vectors are divided by their length.
        max_length: tokens to which a text is cut, special tokens included; None for as many as the model takes.
        lower_case: whether texts are lower-cased first.
        prompt: put before every text.
    """

    pooling: str = "mean"
    normalise: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_sentence(parts: Parts, *, width: int, steps: bool = True) -> Sentence:
    """What the model's files say; where they are silent, the mean over tokens, not normalised.

    Args:
        parts: the model's.
        width: that of its hidden states.
        steps: whether the steps of modules.json are wanted; without, a step that is not supported does no harm.

    Raises:
        FileFormatError: a file that is damaged or describes another model.
        ConfigError: a field of the wrong type, or a step that is not supported.
    """
    if parts.file.kind == "gguf":
        return _from_gguf(parts)
    limit = _tokenizer_limit(parts.path)
    if not (parts.path / "modules.json").is_file():
        return Sentence(max_length=limit)
    found = _limits(parts.path, Sentence(max_length=limit))
    found = replace(found, prompt=_prompt(parts.path))
    if not steps:
        return found
    pooling, normalise = _steps(parts.path / "modules.json")
    if pooling is not None:
        found = replace(found, pooling=_pooling(parts.path / pooling / "config.json", found.prompt, width=width))
    return replace(found, normalise=normalise)


def _from_gguf(parts: Parts) -> Sentence:
    fields = Reader(parts.fields, where=str(parts.path), prefix=f"{parts.architecture}.")
    kind = fields.integer("pooling_type", 0, minimum=0)
    if kind not in GGUF_POOLINGS:
        raise fields.wrong("pooling_type", kind, f"one of {', '.join(map(str, GGUF_POOLINGS))}")
    return Sentence(pooling=GGUF_POOLINGS[kind])


def _steps(path: Path) -> tuple[str | None, bool]:
    """modules.json → the folder of the pooling, and whether a normalisation follows."""
    steps: list[tuple[str, str]] = []
    for number, entry in enumerate(read_list(path)):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
            raise FileFormatError(path, f"[{number}]", shown(entry), "expected an object with a `type`")
        steps.append((entry["type"].rpartition(".")[2], str(entry.get("path") or "")))
    kinds = [kind for kind, _ in steps]
    if kinds[:1] != ["Transformer"] or kinds[1:] not in ([], ["Pooling"], ["Pooling", "Normalize"]):
        remedy = "only Transformer, Pooling, Normalize, in this order, are supported; give pooling and normalise"
        raise FileFormatError(path, "type", ", ".join(kinds) or "no module", remedy)
    if steps[0][1] not in ("", "."):
        remedy = "only a model that lies beside modules.json is supported"
        raise FileFormatError(path, "path", f"the Transformer is in {shown(steps[0][1])}", remedy)
    folder = steps[1][1] if len(steps) > 1 else None
    if folder is not None and (Path(folder).is_absolute() or ".." in Path(folder).parts):
        raise FileFormatError(path, "path", shown(folder), "expected a folder inside the model's")
    return folder, "Normalize" in kinds


def _pooling(path: Path, prompt: str, *, width: int) -> str:
    """1_Pooling/config.json → the pooling."""
    fields = Reader(read_object(path), where=str(path))
    for name in ("word_embedding_dimension", "embedding_dimension"):
        if fields.integer(name, width) != width:
            raise fields.wrong(name, fields.raw(name), f"{width}, the width of the model's hidden states")
    if prompt and not fields.flag("include_prompt", True):
        raise fields.wrong("include_prompt", False, "true: leaving the prompt out of the pooling is not supported")
    given: Any = fields.raw("pooling_mode", None)
    if given is None:
        given = [kind for name, kind in SWITCHES.items() if fields.flag(name, False)] or ["mean"]
    given = given if isinstance(given, list) else [given]
    if len(given) != 1 or given[0] not in tuple(SENTENCE_TRANSFORMERS):
        raise fields.wrong("pooling_mode", given, f"one of {', '.join(SENTENCE_TRANSFORMERS)}")
    return SENTENCE_TRANSFORMERS[given[0]]


def _tokenizer_limit(folder: Path) -> int | None:
    """`model_max_length`, which is 10³⁰ where nobody has set it."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    limit = Reader(read_object(path), where=str(path)).number("model_max_length", None)
    return None if limit is None or limit > 1e15 else int(limit)


def _limits(folder: Path, found: Sentence) -> Sentence:
    """sentence_bert_config.json laid over what was found."""
    for name in LIMIT_FILES:
        if (folder / name).is_file():
            fields = Reader(read_object(folder / name), where=str(folder / name))
            longest = fields.integer("max_seq_length", found.max_length)
            return replace(found, max_length=longest, lower_case=fields.flag("do_lower_case", False))
    return found


def _prompt(folder: Path) -> str:
    """The prompt that config_sentence_transformers.json puts before every text."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    fields = Reader(read_object(path), where=str(path))
    name = fields.text("default_prompt_name", None)
    return "" if name is None else str(fields.section("prompts").text(name))
