"""A progress bar, where one is asked for and `rich` is there to draw it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], description: str, *, wanted: bool) -> Iterable[T]:
    """The items, one after the other, with a bar on standard error; without one where `rich` is not installed."""
    if not wanted:
        return items
    try:
        from rich.console import Console
        from rich.progress import track as drawn
    except ImportError:
        return items
    return drawn(items, description=description, console=Console(stderr=True))
