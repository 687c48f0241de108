"""How many threads a model's runs may use: the array library's BLAS, and a backend's kernels."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from lepton_ref.interface import THREADS, checked_threads


class ThreadLimit:
    """A context in which BLAS and kernels use at most so many threads; None leaves their own choice.

    Kernels ask `lepton_ref.interface.thread_limit`, which each thread has for itself. BLAS's limit is the process's, as
    it has one setting alone. Threads may enter at the same time: the first sets it and the last restores what there
    was, so that leaving out of order restores the right one. Models of different limits that run at the same time share
    whichever was set last, and what is restored is only right if one ran inside the other.

    Args:
        threads: at least 1, or None.

    Raises:
        TypeError: not an integer.
        ValueError: fewer than one thread.
        ImportError: a number is asked for and threadpoolctl, which sets it, is absent.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = checked_threads(threads)
        self._lock = threading.Lock()
        self._inside = 0
        self._set: AbstractContextManager[Any] | None = None
        if self.threads is None:
            return
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
                self._set = self._controller.limit(limits=self.threads, user_api="blas")
            self._inside += 1
        THREADS.set((*THREADS.get(), self.threads))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.threads is None:
            return
        THREADS.set(THREADS.get()[:-1])
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._set is not None:
                self._set.__exit__(None, None, None)
                self._set = None
