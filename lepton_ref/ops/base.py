"""What every op shares: IEEE 754's special values come out in silence, axes are checked, a backend's kernel goes first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from lepton_ref.interface import Backend
from lepton_ref.storage.base import Weight

P = ParamSpec("P")
R = TypeVar("R")


def op(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as an op: infinities and NaN are values here, so NumPy does not warn of them."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return run


def require_axis(what: str, got: int, want: int) -> None:
    """Raise ValueError unless two axes that must agree do."""
    if got != want:
        raise ValueError(f"{what} is {got}, but must be {want}")


def try_kernel(name: str, weight: Weight, *args: Any, backend: Backend, **kwargs: Any) -> Any:
    """The result of the backend's kernel for (op, storage class), or NotImplemented where there is none."""
    kernel = backend.kernels.get((name, type(weight)))
    return NotImplemented if kernel is None else kernel(*args, backend=backend, **kwargs)
