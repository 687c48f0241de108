"""The small JSON files beside a tokenizer: special tokens, ends of generation, chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20
"""The largest file read; the largest published tokenizer.json is about 35 MB."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_READ: ContextVar[list[Path] | None] = ContextVar("_READ", default=None)


@contextmanager
def files_read() -> Iterator[list[Path]]:
    """The files that are read by this page while the block runs, in that order."""
    found: list[Path] = []
    before = _READ.set(found)
    try:
        yield found
    finally:
        _READ.reset(before)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of at most 256 MiB.

    Raises:
        ValueError: the file is larger.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes: a tokenizer's file has at most {MAX_BYTES}")
    read = _READ.get()
    if read is not None:
        read.append(path)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: it is too large or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not UTF-8: the file is damaged") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no such file.

    Raises:
        ValueError: it is not JSON, nests too deep, or is not an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: {error.msg}: not JSON") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deep: not a tokenizer's file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {type(value).__name__}: must be a JSON object")
    return value


@dataclass(frozen=True)
class Settings:
    """What a folder says of its tokenizer beside the vocabulary.

    Attributes:
        folder: where.
        config: tokenizer_config.json.
        model: config.json.
        special: role, such as "bos_token" → token.
        added: id → (token, special, lstrip, rstrip, normalized), from tokenizer_config.json and added_tokens.json.
        stop_ids: eos ids of generation_config.json, else of config.json.
        chat_templates: name → source.
    """

    folder: Path
    config: dict[str, Any]
    model: dict[str, Any]
    special: dict[str, str]
    added: dict[int, dict[str, Any]]
    stop_ids: tuple[int, ...]
    chat_templates: dict[str, str]

    @property
    def family(self) -> str:
        """The model type, such as "gpt2", from config.json or from the tokenizer's class; "" where neither says."""
        name = self.model.get("model_type")
        if isinstance(name, str):
            return name
        label = self.config.get("tokenizer_class")
        return label.removesuffix("Fast").removesuffix("Tokenizer").lower() if isinstance(label, str) else ""

    def flag(self, name: str, default: bool | None) -> bool | None:
        """A boolean of tokenizer_config.json.

        Raises:
            ValueError: it is there and is neither true, false nor null.
        """
        value = self.config.get(name, default)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.folder / 'tokenizer_config.json'}: {name}: {value!r}: must be true or false")
        return value


def _content(value: Any, where: str) -> str | None:
    """A special token is a string, or an object with its string under "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {value!r}: must be a string")
    return value


def _special(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    mapped = read_json(folder / "special_tokens_map.json")
    found: dict[str, str] = {}
    for role in ROLES:
        for name, source in (("tokenizer_config.json", config), ("special_tokens_map.json", mapped)):
            token = _content(source.get(role), f"{folder / name}: {role}")
            if token is not None:
                found.setdefault(role, token)
    return found


def _added(folder: Path, config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    where = folder / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise ValueError(f"{where}: added_tokens_decoder: {type(decoder).__name__}: must be an object")
    found: dict[int, dict[str, Any]] = {}
    for key, entry in decoder.items():
        token = _content(entry, f"{where}: added_tokens_decoder[{key}]")
        if not key.isdecimal() or token is None or not isinstance(entry, dict):
            raise ValueError(f"{where}: added_tokens_decoder[{key!r}]: {entry!r}: must be an id and an object")
        flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "normalized", "single_word")}
        found[int(key)] = {"content": token, **flags}
    for token, index in read_json(folder / "added_tokens.json").items():
        if not isinstance(index, int) or index < 0:
            raise ValueError(f"{folder / 'added_tokens.json'}: {token!r}: {index!r}: must be an id")
        found.setdefault(index, {"content": token, "normalized": False})
    return found


def id_list(value: Any, where: str) -> tuple[int, ...]:
    """One id or a list of ids, as `eos_token_id` has it; nothing for None.

    Raises:
        ValueError: anything else.
    """
    values = [] if value is None else value if isinstance(value, list) else [value]
    for index in values:
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise ValueError(f"{where}: {index!r}: must be an id or a list of ids")
    return tuple(values)


def _stop_ids(folder: Path, model: dict[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json")
    if generation.get("eos_token_id") is not None:
        return id_list(generation["eos_token_id"], f"{folder / 'generation_config.json'}: eos_token_id")
    return id_list(model.get("eos_token_id"), f"{folder / 'config.json'}: eos_token_id")


def _named_templates(value: Any, where: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        return [("default", value)]
    if not isinstance(value, list):
        raise ValueError(f"{where}: {type(value).__name__}: must be a string or a list of named templates")
    pairs = []
    for entry in value:
        name = entry.get("name") if isinstance(entry, dict) else None
        source = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(source, str):
            raise ValueError(f"{where}: {entry!r}: must have the strings name and template")
        pairs.append((name, source))
    return pairs


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """From chat_template.jinja and additional_chat_templates/, which win, else from tokenizer_config.json."""
    found: dict[str, str] = {}
    if config.get("chat_template") is not None:
        found |= _named_templates(config["chat_template"], f"{folder / 'tokenizer_config.json'}: chat_template")
    if (folder / "chat_template.jinja").is_file():
        found["default"] = read_text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = read_text(path)
    return found


def read_settings(folder: Path) -> Settings:
    """Read every small file of the folder.

    Raises:
        ValueError: one is malformed; the message names file, field and value.
    """
    config = read_json(folder / "tokenizer_config.json")
    model = read_json(folder / "config.json")
    return Settings(
        folder, config, model, _special(folder, config), _added(folder, config), _stop_ids(folder, model),
        _chat_templates(folder, config),
    )  # fmt: skip
