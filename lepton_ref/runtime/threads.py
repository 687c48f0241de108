"""How many threads the array library's BLAS may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Within the block, BLAS uses at most so many threads; None leaves the library's own choice.

    Raises:
        ValueError: fewer than one thread.
        ImportError: a number is asked for and threadpoolctl, which sets it, is absent.
    """
    if threads is None:
        yield
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("threads=… needs threadpoolctl: pip install 'lepton-ref[threads]'") from error
    with threadpool_limits(limits=threads, user_api="blas"):
        yield
