"""The stored bytes of a tensor, as the writers need them: the type, the shape, and the bytes in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage import BlockQuantised, Dense, RowView, Weight

PIECE = 8 << 20
"""Bytes copied at a time, where a copy is needed."""

_KINDS: Mapping[str, str] = MappingProxyType({"f": "F", "i": "I", "u": "U"})


@dataclass(frozen=True)
class Stored:
    """What a file keeps of one tensor.

    Attributes:
        format: "F32", "I64", "Q4_K", …
        shape: the logical shape.
        array: the stored numbers or bytes, first axis the rows of which `index` chooses.
        index: the rows in order; None is all of them.
    """

    format: str
    shape: tuple[int, ...]
    array: HostArray
    index: NDArray[np.int64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        rows = len(self.array) if self.index is None else len(self.index)
        return rows * math.prod(self.array.shape[1:]) * self.array.itemsize

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order, row-major and little-endian, a bounded piece at a time."""
        rows = len(self.array) if self.index is None else len(self.index)
        little = self.array.dtype.newbyteorder("<")
        step = max(1, PIECE // max(1, math.prod(self.array.shape[1:]) * self.array.itemsize))
        for start in range(0, rows, step):
            which = slice(start, start + step) if self.index is None else self.index[start : start + step]
            yield np.ascontiguousarray(self.array[which], dtype=little).tobytes()


def small_floats(format: str, codes: NDArray[np.uint8], /) -> Stored:
    """What a file keeps of small floats of a byte each, such as "F8_E4M3"."""
    return Stored(format, codes.shape, codes.reshape(1) if codes.ndim == 0 else codes)


def stored(name: str, tensor: Weight | HostArray) -> Stored:
    """What a file keeps of a weight or an array; nothing is copied.

    Raises:
        ValueError: a storage class or a dtype that files do not know; the message names the tensor.
    """
    if isinstance(tensor, RowView):
        base = stored(name, tensor.base)
        index = tensor.index if base.index is None else base.index[tensor.index]
        return Stored(tensor.format, tensor.shape, base.array, index)
    if isinstance(tensor, Dense):
        return Stored(tensor.format, tensor.shape, tensor.array)
    if isinstance(tensor, BlockQuantised):
        return Stored(tensor.format, tensor.shape, tensor.raw)
    if isinstance(tensor, np.ndarray):
        array = tensor.reshape(1) if tensor.ndim == 0 else tensor
        if tensor.dtype == np.bool_:
            return Stored("BOOL", tensor.shape, array)
        if tensor.dtype.kind in _KINDS and tensor.dtype.itemsize <= 8:
            return Stored(f"{_KINDS[tensor.dtype.kind]}{8 * tensor.dtype.itemsize}", tensor.shape, array)
    what = f"an array of {tensor.dtype}" if isinstance(tensor, np.ndarray) else type(tensor).__name__
    raise ValueError(f"tensor {name!r} is {what}, which no file keeps; pass a Dense or BlockQuantised weight")
