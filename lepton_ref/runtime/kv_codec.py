"""How a cache keeps a vector of keys or values: in parts, which lie next to one another in every store.

    dense        one part: the vector as it is, on the backend
    quantised    two parts: codes and scales, in the host's memory; see `lepton_ref.runtime.kv_formats`

A vector is encoded alone and once, when it is appended; what attention is given is decoded anew in every run.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.numerics import Precision
from lepton_ref.runtime.kv_formats import DENSE, KVFormat


class Codec(Protocol):
    """How vectors are kept."""

    @property
    def name(self) -> str:
        """What `new_cache(kv_cache=…)` calls it."""

    @property
    def xp(self) -> Any:
        """The Array API namespace of the parts."""

    def parts(self, width: int) -> list[tuple[int, np.dtype[Any]]]:
        """Numbers and dtype of each part of a vector of this width."""

    def encode(self, x_btgk: Array) -> list[Array]:
        """(B, T, G, K) -> the parts, (B, T, G, ·) each."""

    def decode(self, parts: list[Array], width: int) -> Array:
        """(B, S, G, ·) each -> (B, S, G, K), what attention is given."""

    def from_host(self, array: HostArray) -> Array:
        """A part, or indices into one, where the parts lie."""

    def to_host(self, part: Array) -> HostArray:
        """A part as NumPy's."""


class DenseCodec:
    """One part: the vector itself, in the widest format of activations.

    Args:
        backend: where it lies.
        precision: whose activations are kept.
    """

    name = DENSE

    def __init__(self, backend: Backend, precision: Precision) -> None:
        self._backend = backend
        self._dtype = precision.widest

    def __deepcopy__(self, memo: dict[int, Any], /) -> DenseCodec:
        return self  # it keeps nothing of a sequence, and a backend is not copied

    @property
    def xp(self) -> Any:
        """The backend's namespace."""
        return self._backend.xp

    def parts(self, width: int) -> list[tuple[int, np.dtype[Any]]]:
        """Numbers and dtype of each part of a vector of this width."""
        return [(width, self._dtype)]

    def encode(self, x_btgk: Array) -> list[Array]:
        """(B, T, G, K) -> the vectors as they are."""
        return [x_btgk]

    def decode(self, parts: list[Array], width: int) -> Array:
        """(B, S, G, K) -> the vectors as they are."""
        return parts[0]

    def from_host(self, array: HostArray) -> Array:
        """An array on the backend."""
        return self._backend.from_numpy(array)

    def to_host(self, part: Array) -> HostArray:
        """A part as NumPy's."""
        return self._backend.to_numpy(part)


class QuantisedCodec:
    """Two parts: codes, and the scales of their groups.

    Args:
        format: how vectors are stored.
        backend: where keys and values come from and go to.
        precision: its activations' format is what decoded numbers are rounded to.
    """

    xp: Any = np

    def __init__(self, format: KVFormat, backend: Backend, precision: Precision) -> None:
        self.format = format
        self.name = format.name
        self._backend = backend
        self._precision = precision

    def __deepcopy__(self, memo: dict[int, Any], /) -> QuantisedCodec:
        return self  # it keeps nothing of a sequence, and a backend is not copied

    def parts(self, width: int) -> list[tuple[int, np.dtype[Any]]]:
        """Numbers and dtype of each part of a vector of this width."""
        codes, scales = self.format.code_bytes(width), self.format.groups(width)
        return [(codes, np.dtype(np.uint8)), (scales, np.dtype(np.uint16))]

    def encode(self, x_btgk: Array) -> list[Array]:
        """(B, T, G, K) -> codes and scales."""
        return [*self.format.encode(self._backend.to_numpy(x_btgk))]

    def decode(self, parts: list[Array], width: int) -> Array:
        """Codes and scales -> (B, S, G, K)."""
        values = self.format.decode(*parts, width=width, activations=self._precision.activations)
        return self._backend.from_numpy(np.ascontiguousarray(values.astype(self._precision.widest, copy=False)))

    def from_host(self, array: HostArray) -> Array:
        """The array itself."""
        return array

    def to_host(self, part: Array) -> HostArray:
        """The array itself."""
        return np.asarray(part)


def vector_bytes(codec: Codec, width: int) -> int:
    """Bytes of one vector of this width."""
    return sum(count * dtype.itemsize for count, dtype in codec.parts(width))


def zeros(codec: Codec, shape: tuple[int, ...], width: int) -> list[HostArray]:
    """NumPy zeros for the parts of keys and then of values: (*shape, ·) each."""
    return [np.zeros((*shape, n), dtype=dtype) for _ in "kv" for n, dtype in codec.parts(width)]


def empty(codec: Codec, shape: tuple[int, ...], width: int) -> list[Array]:
    """The same where the parts lie."""
    return [codec.from_host(array) for array in zeros(codec, shape, width)]


def encode(codec: Codec, k_btgk: Array, v_btgk: Array) -> list[Array]:
    """Keys and values -> the parts of both, in the order of `empty`."""
    return [part for x in (k_btgk, v_btgk) for part in codec.encode(x)]


def decode(codec: Codec, parts: list[Array], width: int) -> tuple[Array, Array]:
    """The parts of both -> keys and values."""
    half = len(parts) // 2
    return codec.decode(parts[:half], width), codec.decode(parts[half:], width)
