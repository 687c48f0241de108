"""What every kind of tokenizer has in a GGUF: a token and a type for each id, and what stands around a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ref.compress.tokenizer_to_gguf_checks import AGAIN, as_added, as_text
from lepton_ref.text.config_files import Settings
from lepton_ref.text.parts import CONTROL, UNUSED, USER_DEFINED


class Unsayable(Exception):  # noqa: N818  # no error: the file is written without a tokenizer, for this reason
    """Why GGUF cannot say this tokenizer."""


@dataclass(frozen=True)
class Words:
    """A tokenizer as GGUF says it.

    Attributes:
        model: `tokenizer.ggml.model`.
        tokens: of each id, in GGUF's spelling.
        kinds: the type of each.
        settings: the special tokens by role, and the chat templates.
        ends: the tokens before and after every text, None for none.
        more: what only this kind has, without "tokenizer.ggml.".
        names: token → id, in the folder's spelling.
        notes: what the file cannot say of it.
    """

    model: str
    tokens: list[str]
    kinds: list[int]
    settings: Settings
    ends: tuple[str | None, str | None]
    more: dict[str, Any]
    names: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for end in self.ends:
            if end is not None and not isinstance(end, str):
                raise TypeError(f"{end!r} around a text is no token")


def require_plain_merges(model: Mapping[str, Any]) -> None:
    """Refuse a BPE that marks where in a word a token stands.

    Raises:
        Unsayable: GGUF cannot say it.
    """
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise Unsayable(f"GGUF's merges join tokens as they are, and its {name} is {shown(repr(model[name]), 40)}")


def added_tokens(found: Mapping[str, Any], settings: Settings) -> dict[int, dict[str, Any]]:
    """Id → entry, of tokens that tokenizer.json or tokenizer_config.json add: the former is asked first.

    Raises:
        ValueError: an entry without an id of its own, or without a text.
    """
    for index, entry in settings.added.items():
        as_text(entry["content"], f"{settings.folder / 'tokenizer_config.json'}: added token {index}")
    return {**settings.added, **as_added(found.get("added_tokens", []), f"{json_of(settings)}: added_tokens")}


def json_of(settings: Settings) -> Path:
    """The folder's tokenizer.json."""
    return settings.folder / "tokenizer.json"


def laid_out(
    vocabulary: Mapping[int, tuple[str, int]], added: Mapping[int, Mapping[str, Any]], rows: int, path: Path
) -> tuple[list[str], list[int]]:
    """The token and the type of each id up to the model's last row; rows without a token are unused.

    Args:
        vocabulary: id → token and type.
        added: id → entry.
        rows: how many ids the model has.
        path: the tokenizer's file, for messages.

    Raises:
        ValueError: an id of two tokens, a token of two ids, or one that UTF-8 cannot hold.
        Unsayable: more tokens than rows.
    """
    by_id = dict(vocabulary)
    for index, entry in added.items():
        given = by_id.get(index, (entry["content"],))[0]
        if given != entry["content"]:
            both = f"{given!a} and {entry['content']!a}"
            raise ValueError(f"{path}: id {index} is both {both}: each id has one token: {AGAIN}")
        by_id[index] = (entry["content"], CONTROL if entry.get("special") else USER_DEFINED)
    ids: dict[str, int] = {}
    for index, (token, _) in sorted(by_id.items()):
        first = ids.setdefault(as_text(token, f"{path}: token {index}"), index)
        if first != index:
            raise ValueError(f"{path}: {token!r} is both id {first} and id {index}: each token has one id: {AGAIN}")
    count = max((index + 1 for index in by_id), default=0)
    if count > rows:
        raise Unsayable(f"it has {count} tokens, the model {rows} rows")
    taken = next((name for index in range(rows) if index not in by_id and (name := f"[PAD{index}]") in ids), None)
    if taken is not None:
        raise Unsayable(f"its token {taken!r} has the name of a row without a token")
    every = [by_id.get(index, (f"[PAD{index}]", UNUSED)) for index in range(rows)]
    return [token for token, _ in every], [kind for _, kind in every]


def ends_of(found: Mapping[str, Any], settings: Settings) -> tuple[str | None, str | None]:
    """The tokens that stand before and after every text, as tokenizer_config.json or tokenizer.json says.

    Raises:
        Unsayable: more than one at an end.
    """
    flags = settings.flag("add_bos_token", None), settings.flag("add_eos_token", None)
    if flags != (None, None):
        tokens = [settings.special.get(f"{role}_token") for role in ("bos", "eos")]
        return (tokens[0] if flags[0] else None), (tokens[1] if flags[1] else None)
    after = found.get("post_processor")
    steps = after.get("processors", [after]) if isinstance(after, dict) else []
    for step in steps:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind in ("BertProcessing", "RobertaProcessing"):
            return step["cls"][0], step["sep"][0]
        if kind == "TemplateProcessing":
            return _template(step.get("single", []))
        if kind != "ByteLevel":
            raise Unsayable(f"what it puts around a text is {kind!r}, which is no template of tokens")
    return None, None


def _template(parts: Iterable[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    names = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in parts]
    if None not in names:
        raise Unsayable("what it puts around a text leaves the text out")
    middle = names.index(None)
    if middle > 1 or len(names) - middle > 2 or names.count(None) > 1:
        raise Unsayable(f"it puts more than one token at an end of a text: {names}")
    first, last = names[:middle], names[middle + 1 :]
    return (first[0] if first else None), (last[0] if last else None)


def white_space_notes(added: Mapping[int, Mapping[str, Any]]) -> tuple[str, ...]:
    """A note where added tokens take the white space beside them, which GGUF does not say."""
    names = [e["content"] for e in added.values() if e.get("lstrip") or e.get("rstrip") or e.get("single_word")]
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"GGUF does not say that white space belongs to {', '.join(map(repr, names[:3]))}{more}",)


def shown(value: Any, limit: int = 160) -> str:
    """A value in a message of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
