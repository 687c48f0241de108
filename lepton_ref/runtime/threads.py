"""How many threads the array library's BLAS may use."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np


class ThreadLimit:
    """A context in which BLAS uses at most so many threads; None leaves the library's own choice.

    The limit is the process's own, as BLAS has one setting alone. Threads may enter at the same time: the first sets
    it and the last restores what there was, so that leaving out of order restores the right one. Models of different
    limits that run at the same time share whichever was set last, and what is restored is only right if one ran inside
    the other.

    Args:
        threads: at least 1, or None.

    Raises:
        TypeError: not an integer.
        ValueError: fewer than one thread.
        ImportError: a number is asked for and threadpoolctl, which sets it, is absent.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._inside = 0
        self._set: AbstractContextManager[Any] | None = None
        if threads is None:
            return
        if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
            raise TypeError(f"threads must be an integer of at least 1, or None, got {threads!r}")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}; leave it out for all that there are")
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError as error:
            raise ImportError("threads=… needs threadpoolctl: pip install 'lepton-ref[threads]'") from error
        self._controller: Any = ThreadpoolController()  # it looks for BLAS once: that takes milliseconds

    def __enter__(self) -> None:
        if self.threads is None:
            return
        with self._lock:
            if self._inside == 0:
                self._set = self._controller.limit(limits=int(self.threads), user_api="blas")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.threads is None:
            return
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._set is not None:
                self._set.__exit__(None, None, None)
                self._set = None
