"""How far work has come, on standard error: a bar where someone looks and `rich` is there, else a line a tenth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from lepton_ref.cli_report import note
from lepton_ref.runtime.progress import track

LINES = 10
"""Plain lines for the whole, at most."""


def progress(what: str, *, wanted: bool) -> Callable[[list[str]], Iterable[str]]:
    """What a library function takes to show how far a list has been worked through."""

    def show(names: list[str]) -> Iterable[str]:
        if wanted and not _drawn():
            return _told(names, what)
        return track(names, what, wanted=wanted)

    return show


def _drawn() -> bool:
    if not sys.stderr.isatty():
        return False
    try:
        import rich  # noqa: F401 (whether it is there)
    except ImportError:
        return False
    return True


def _told(names: list[str], what: str) -> Iterator[str]:
    for number, name in enumerate(names):
        if number * LINES // len(names) > (number - 1) * LINES // len(names) and number:
            note(f"{what}: {number} of {len(names)}")
        yield name
