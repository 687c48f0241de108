"""What every op shares: special values come out in silence, axes are checked, a backend's kernel goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision
from lepton_ref.storage.base import Weight

P = ParamSpec("P")
R = TypeVar("R")


_IN_SILENCE: ContextVar[bool] = ContextVar("in_silence", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """Within the block infinities and NaN are values of which NumPy does not warn: one switch for many ops."""
    before = _IN_SILENCE.set(True)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _IN_SILENCE.reset(before)


def op(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as an op: it runs in silence, and a backend's kernel under (its name, NoneType) goes first.

    The kernel is called as the op is, before the op has looked at what it was given.
    """
    key = (function.__name__, type(None))

    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        backend: Any = kwargs.get("backend")
        if "precision" in kwargs and not isinstance(kwargs["precision"], Precision):
            raise ValueError(f"precision must be a Precision, got {kwargs['precision']!r}; take get_precision(name)")
        if isinstance(backend, str):
            raise ValueError(f"backend must be a Backend, got {backend!r}; take lepton_ref.registry.get(name)")
        kernel = None if backend is None else backend.kernels.get(key)
        done = NotImplemented if kernel is None else kernel(*args, **kwargs)
        return function(*args, **kwargs) if done is NotImplemented else done

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _IN_SILENCE.get():
            return computed(*args, **kwargs)
        with silence():
            return computed(*args, **kwargs)

    return run


def require_axis(what: str, got: int, want: int) -> None:
    """Raise ValueError unless two axes that must agree do."""
    if got != want:
        raise ValueError(f"{what} is {got}, but must be {want}")


def require_booleans(what: str, mask: Array, *, backend: Backend) -> None:
    """Raise ValueError unless the mask's dtype is the backend's boolean."""
    if mask.dtype != backend.xp.bool:
        raise ValueError(f"{what} must hold booleans, True where a position takes part, got {mask.dtype}")


def host_reals(x: Array, *, backend: Backend) -> NDArray[np.float64]:
    """`(...) -> (...)` the same values as float64 on the host."""
    return np.asarray(backend.to_numpy(x)).astype(np.float64, copy=False)


def short(*numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """`(N)` each -> (N): where all are float32's numbers, of 24 bits."""
    return np.asarray(np.logical_and.reduce([x.astype(np.float32) == x for x in numbers]))


def distinct_rows(
    x: NDArray[np.float64], places: tuple[NDArray[np.intp], ...]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """`(..., D)`, N places -> (R, D), (N): the rows in which the places lie, each once, and which is each place's."""
    if x.ndim == 1:
        return x[None], np.zeros(places[0].size, dtype=np.intp)
    unique, where = np.unique(np.ravel_multi_index(places[:-1], x.shape[:-1]), return_inverse=True)
    return x.reshape(-1, x.shape[-1])[unique], where


def try_kernel(name: str, weight: Weight, *args: Any, backend: Backend, **kwargs: Any) -> Any:
    """The result of the backend's kernel for (op, storage class), or NotImplemented where there is none."""
    kernel = backend.kernels.get((name, type(weight)))
    return NotImplemented if kernel is None else kernel(*args, backend=backend, **kwargs)
