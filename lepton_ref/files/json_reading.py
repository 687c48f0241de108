"""JSON from files of unknown origin: limited size, UTF-8 alone, no key twice, no unbounded recursion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.mapped import map_file

CONFIG_LIMIT = 64 << 20
"""Bytes of a JSON file of a model folder, at most; the largest known tokenizers take about half."""


def _parse(data: bytes, *, file: Path, field: str) -> Any:
    """The JSON value in `data`; raises as `parse_object` does."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise FileFormatError(file, field, f"key {shown(twice)} stands twice in one object", "name it once")
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise FileFormatError(file, field, f"not UTF-8 at byte {error.start}", "write it as UTF-8") from error
    except RecursionError as error:
        raise FileFormatError(file, field, "nested too deeply", "a model needs a few levels at most") from error
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(file, field, f"not JSON ({shown(str(error))})", "the file is damaged") from error


def parse_object(data: bytes, *, file: Path, field: str) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        data: UTF-8 text.
        file: named in errors.
        field: what `data` is, named in errors.

    Raises:
        FileFormatError: not UTF-8, not JSON, not an object, nested beyond the interpreter's depth, a key twice in an
            object, or an integer of thousands of digits.
    """
    value = _parse(data, file=file, field=field)
    if not isinstance(value, dict):
        raise FileFormatError(file, field, f"is a {type(value).__name__}", "expected a JSON object, {…}")
    return value


def _content(path: Path, limit: int) -> bytes:
    data = map_file(path)
    if len(data) > limit:
        raise FileFormatError(path, "size", f"{len(data)} bytes", f"expected at most {limit}; is it the right file?")
    return data[:]


def read_object(path: Path, *, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: larger than `limit` bytes, or as `parse_object` says.
    """
    return parse_object(_content(path, limit), file=path, field="content")


def read_list(path: Path, *, limit: int = CONFIG_LIMIT) -> list[Any]:
    """The JSON array in a file.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: as `read_object`, where it is not an array.
    """
    value = _parse(_content(path, limit), file=path, field="content")
    if not isinstance(value, list):
        raise FileFormatError(path, "content", f"is a {type(value).__name__}", "expected a JSON array, […]")
    return value
