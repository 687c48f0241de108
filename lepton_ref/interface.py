"""What an array backend must offer, and the axis letters used everywhere.

A backend wraps one array library. It is an object with a name, a namespace `xp` in the manner of the Array API
standard, two conversions, two contractions in float64, and a mapping of optional fast kernels. An empty mapping is a
correct answer: every op has a generic form over `xp`.

Axis letters, used as suffixes of array names and in the first line of each op's docstring:
b batch, t query position, s key position, d model width, h query heads, g key/value heads, k head width,
f feed-forward width, v vocabulary, o output features, i input features, e experts, l layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any
"""An array of some backend. Opaque to the core: only `xp`'s functions and the array's own operators touch it."""

HostArray: TypeAlias = NDArray[Any]
"""An array in the host's memory: always NumPy's."""

Kernel: TypeAlias = Callable[..., Any]
"""A fast path for one (op, storage class): same arguments as the op; may return NotImplemented to decline.

The storage class is that of a linear layer's weight; other ops' kernels stand under NoneType: ("attention", NoneType).
A linear layer's is called when the op has checked its arguments, the others before that.
"""

XP_NAMES: tuple[str, ...] = (
    # dtypes
    "float64", "float32", "bool",
    # elementwise
    "exp", "log", "sqrt", "tanh", "abs", "where", "isfinite",
    # shape
    "reshape", "permute_dims", "expand_dims", "concat", "astype",
    # reduction and choice
    "max", "any", "all", "take",
)  # fmt: skip
"""The names that a backend's `xp` must have, with the Array API's meaning. The arrays carry + − × ÷ **, comparisons,
& | ~ and indexing themselves. Contractions are the backend's own: see `Backend.matmul` and `Backend.sum`."""

THREADS: ContextVar[tuple[int, ...]] = ContextVar("threads", default=())
"""The numbers of threads that the computations around this one are limited to, the innermost last."""


def thread_limit() -> int | None:
    """How many threads a kernel may use that is called now, and here: None leaves the backend's own choice."""
    limits = THREADS.get()
    return limits[-1] if limits else None


def checked_threads(threads: Any) -> int | None:
    """The number of threads, or None.

    Raises:
        TypeError: not an integer.
        ValueError: fewer than one thread.
    """
    if threads is None:
        return None
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise TypeError(f"threads must be an integer of at least 1, or None, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}; leave it out for all that there are")
    return int(threads)


@runtime_checkable
class Backend(Protocol):
    """One array library, as the ops see it."""

    @property
    def name(self) -> str:
        """The name under which the backend is registered and recorded."""

    @property
    def xp(self) -> Any:
        """A namespace in the manner of the Array API that has at least `XP_NAMES`."""

    @property
    def ulps(self) -> float:
        """How far, in units in the last place, its float64 exp, log and tanh may lie from the exact values at most.

        Bounds rest on it. A library that promises less than it keeps makes wrong bits; 4 is what vectorised libraries
        promise.
        """

    @property
    def kernels(self) -> Mapping[tuple[str, type], Kernel]:
        """(op name, storage class) → fast path. `{}` is a correct answer."""

    def from_numpy(self, array: HostArray, /) -> Array:
        """Copy or wrap a NumPy array as this backend's array, dtype and shape kept."""

    def to_numpy(self, array: Array, /) -> np.ndarray[Any, np.dtype[Any]]:
        """Copy or wrap this backend's array as NumPy's, dtype and shape kept."""

    def matmul(self, a: Array, b: Array, /, *, accumulate: str) -> Array:
        """`(…, M, K), (…, K, N) -> (…, M, N)`, products and sums in the format that `accumulate` names."""

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        """Sum along one axis in the format that `accumulate` names."""
