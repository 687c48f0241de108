"""A backend whose kernels are watched: a kernel that always declines must not pass as tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lepton_ref.interface import Array, Backend, HostArray, Kernel


@dataclass
class Uses:
    """How often a kernel was asked, and how often it declined."""

    asked: int = 0
    declined: int = 0

    @property
    def ran(self) -> int:
        """How often it gave a result."""
        return self.asked - self.declined


class Observed:
    """A backend that does what another does, and counts its kernels' uses.

    Kernels are called with this one, as weights that are kept decoded ask for; what is the other's own is found here.

    Args:
        backend: the backend under test.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.xp: Any = backend.xp
        self.ulps = backend.ulps
        self.uses: dict[str, Uses] = {kernel_name(key): Uses() for key in backend.kernels}
        self.kernels: Mapping[tuple[str, type], Kernel] = MappingProxyType(
            {key: self._watched(kernel_name(key), kernel) for key, kernel in backend.kernels.items()}
        )

    def from_numpy(self, array: HostArray, /) -> Array:
        """The other's."""
        return self.backend.from_numpy(array)

    def to_numpy(self, array: Array, /) -> HostArray:
        """The other's."""
        return self.backend.to_numpy(array)

    def matmul(self, a: Array, b: Array, /, *, accumulate: str) -> Array:
        """The other's."""
        return self.backend.matmul(a, b, accumulate=accumulate)

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        """The other's."""
        return self.backend.sum(a, axis=axis, keepdims=keepdims, accumulate=accumulate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def _watched(self, name: str, kernel: Kernel) -> Kernel:
        def run(*args: Any, **kwargs: Any) -> Any:
            done = kernel(*args, **kwargs)
            self.uses[name].asked += 1
            self.uses[name].declined += done is NotImplemented
            return done

        return run


def kernel_name(key: tuple[str, type]) -> str:
    """`("linear", Dense)` → "linear/Dense"; an op without a weight has no second part."""
    op, storage = key
    return op if storage is type(None) else f"{op}/{storage.__name__}"
