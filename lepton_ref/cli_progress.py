"""How far work has come, on standard error where it is a terminal: a bar where `rich` is there, else a line a tenth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lepton_ref.cli_report import note
from lepton_ref.runtime.progress import track

LINES = 10
"""Plain lines for the whole, at most."""

Steps = Callable[[int, int, str], None]
"""(done, in all, the name of the next) → shown."""


def progress(what: str, *, wanted: bool) -> Callable[[list[str]], Iterable[str]]:
    """What a library function takes to show how far a list has been worked through."""

    def show(names: list[str]) -> Iterable[str]:
        if not wanted or not sys.stderr.isatty():
            return names
        return track(names, what, wanted=True) if _has_rich() else _told(names, what)

    return show


@contextmanager
def steps(what: str, *, wanted: bool) -> Iterator[Steps | None]:
    """What a library function takes that counts its steps itself; None where nobody looks."""
    if not wanted or not sys.stderr.isatty():
        yield None
    elif not _has_rich():
        yield lambda done, of, name: _line(what, done, of)
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, of, name: bar.update(task, completed=done, total=of)


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401 (whether it is there)
    except ImportError:
        return False
    return True


def _told(names: list[str], what: str) -> Iterator[str]:
    for number, name in enumerate(names):
        _line(what, number, len(names))
        yield name


def _line(what: str, done: int, of: int) -> None:
    """One line for the first step of each tenth but the first."""
    if 0 < done < of and done * LINES // of > (done - 1) * LINES // of:
        note(f"{what}: {done} of {of}")
