"""A progress bar, where one is asked for and `rich` is there to draw it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], description: str, *, wanted: bool) -> Iterable[T]:
    """The items, one after the other, with a bar on standard error while it lasts.

    Without one where `rich` is not installed, or where standard error is neither a terminal nor a notebook.
    """
    if not wanted:
        return items
    try:
        from rich.console import Console
        from rich.progress import track as drawn
    except ImportError:
        return items
    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    return drawn(items, description=description, console=console, transient=True, disable=not seen)
