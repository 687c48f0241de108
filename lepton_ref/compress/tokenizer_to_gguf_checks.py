"""What a tokenizer's file must hold to become a GGUF's: each value is checked where it is taken from the file.

    id       an integer of 0 or more; of one token
    token    a text that UTF-8 can hold; of one id
    merge    two known tokens whose join is known: `lepton_ref.text.merges.stated_merges`
    score    a finite number that float32 can hold

Each error names the place, which begins with the file, the value and the remedy.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

LARGEST = (2.0 - 2.0**-23) * 2.0**127
"""The largest float32 number."""

FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")

AGAIN = "fetch the file again"


def wrong(where: str, value: Any, wanted: str) -> ValueError:
    """The error of a value."""
    text = repr(value)
    return ValueError(f"{where}: {text if len(text) <= 80 else text[:77] + '...'}: must be {wanted}: {AGAIN}")


def as_text(value: Any, where: str) -> str:
    """A text that UTF-8 can hold.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise wrong(where, value, "a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(where, value, "a text that UTF-8 can hold, without halves of surrogate pairs") from None
    return value


def as_id(value: Any, where: str, *, below: int | None = None) -> int:
    """An id.

    Raises:
        ValueError: it is no integer of 0 or more, or not below that.
    """
    if type(value) is not int or value < 0 or (below is not None and value >= below):
        raise wrong(where, value, "an integer of 0 or more" if below is None else f"an id, 0 … {below - 1}")
    return value


def as_score(value: Any, where: str) -> float:
    """A score.

    Raises:
        ValueError: it is no number, NaN, or beyond float32's numbers.
    """
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise wrong(where, value, "a finite number that float32 can hold")
    return float(value)


def as_vocabulary(value: Any, where: str) -> dict[int, str]:
    """Id → token, from an object of token → id.

    Raises:
        ValueError: it is no such object, or two tokens have one id.
    """
    if not isinstance(value, dict):
        raise wrong(where, type(value).__name__, "an object of tokens and their ids")
    found: dict[int, str] = {}
    for token, index in value.items():
        given = found.setdefault(as_id(index, f"{where}[{token!a}]"), token)
        if given != token:
            raise ValueError(f"{where}: id {index} is both {given!a} and {token!a}: each id has one token: {AGAIN}")
    return found


def as_added(value: Any, where: str) -> dict[int, dict[str, Any]]:
    """Id → entry, from the list of added tokens.

    Raises:
        ValueError: it is no list of them, or two have one id.
    """
    if not isinstance(value, list):
        raise wrong(where, type(value).__name__, "a list of tokens")
    found: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(value):
        place = f"{where}[{number}]"
        if not isinstance(entry, dict):
            raise wrong(place, entry, "an object with id and content")
        index = as_id(entry.get("id"), f"{place}.id")
        token = as_text(entry.get("content"), f"{place}.content")
        for flag in FLAGS:
            if not isinstance(entry.get(flag, False), bool):
                raise wrong(f"{place}.{flag}", entry[flag], "true or false")
        if index in found:
            given = found[index]["content"]
            raise ValueError(f"{where}: id {index} is both {given!r} and {token!r}: each id has one token: {AGAIN}")
        found[index] = entry
    return found


def as_scored(value: Any, where: str) -> list[tuple[str, float]]:
    """Pieces with their scores.

    Raises:
        ValueError: it is no list of such pairs.
    """
    if not isinstance(value, list):
        raise wrong(where, type(value).__name__, "a list of pieces and scores")
    found = []
    for number, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong(f"{where}[{number}]", pair, "a piece and its score")
        found.append((as_text(pair[0], f"{where}[{number}]"), as_score(pair[1], f"{where}[{number}]")))
    return found


def as_bytes(value: Any, where: str) -> bytes:
    """Bytes in base64.

    Raises:
        ValueError: they are not.
    """
    try:
        return base64.b64decode(as_text(value, where), validate=True)
    except binascii.Error as error:
        raise wrong(where, value, f"base64 ({error})") from error
