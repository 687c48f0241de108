"""How the commands report: JSON for programs, a table where `rich` is there and someone looks, else plain lines."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def facts(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Names and values: one JSON object, or a line each."""
    if as_json:
        print(to_json(found))
        return
    if _drawn([], [[name, str(value)] for name, value in found.items()]):
        return
    width = max(map(len, found), default=0)
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")


def records(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Records of the same fields: one JSON list of objects, or a line each under their names."""
    if as_json:
        print(to_json(found))
        return
    if len(found) == 0:
        return
    names = list(found[0])
    cells = [[str(record[name]) for name in names] for record in found]
    if _drawn(names, cells):
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def note(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr)


@contextmanager
def warning_in_one_line() -> Iterator[None]:
    """Warnings are for people too: a line each, without the place in the code."""

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        note(f"lepton-ref: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def to_json(found: Any) -> str:
    """JSON in one line; numbers that JSON does not know become null."""
    return json.dumps(_plain(found), ensure_ascii=False, allow_nan=False)


def _plain(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {str(name): _plain(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _drawn(names: list[str], cells: list[list[str]]) -> bool:
    """Whether a table was drawn: only on a terminal, and where `rich` is installed. It honours NO_COLOR."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(show_header=len(names) > 0)
    for name in names or [""] * max(map(len, cells), default=0):
        table.add_column(name, overflow="fold")  # a path that is cut is no use
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)
    return True
