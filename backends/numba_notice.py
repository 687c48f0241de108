"""A line on the terminal while kernels are compiled, which happens once on a computer and takes most of a minute."""

from __future__ import annotations

import sys
from typing import Any


class Notice:
    """Knows which kernels are being compiled: Numba compiles one at a time, and what it calls in the middle of it.

    Nothing is written where standard error is no terminal, and nothing where all kernels are there already.
    """

    WIDTH = 79

    def __init__(self) -> None:
        self._begun: list[Any] = []
        self._count = 0

    def begin(self, dispatcher: Any) -> None:
        """A kernel was not there and is compiled now."""
        self._begun = [*self._open(), dispatcher]
        self._count += 1
        name = f"{dispatcher.py_func.__module__.rpartition('.')[2]}.{dispatcher.py_func.__name__}"
        self._show(f"lepton_ref compiles kernels for this processor, once: {self._count}, {name}")

    def end(self, dispatcher: Any) -> bool:
        """A kernel is compiled -> whether it is no part of another one."""
        self._begun = [one for one in self._open() if one is not dispatcher]
        if not self._begun:
            self._show("")
        return not self._begun

    def _open(self) -> list[Any]:
        """Those that have not failed meanwhile."""
        return [one for one in self._begun if one.is_compiling]

    def _show(self, text: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(f"\r{text[: self.WIDTH]:{self.WIDTH}}\r")
            sys.stderr.flush()


NOTICE = Notice()
"""Of this process."""
