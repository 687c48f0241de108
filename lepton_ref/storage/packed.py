"""What the packed integer formats of safetensors share: several tensors of a file that together are one matrix.

Each format beside this one is a class with the tensors' names as its makers write them, a `formula`, and `read`, which
names the bits of one element. A value is the formula in real numbers, rounded once to float32. Engines round otherwise:
most decode in float16 or bfloat16, where the product of scale and code is rounded to 11 or 8 bits. What each does is
said on its page.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Bits, Part

SCALE_FORMATS = ("F16", "BF16", "F32")
"""How scales may be stored."""


class Packed(Weight):
    """A matrix (O, I) in several tensors of a file.

    Attributes:
        formula: an element's value in terms of its parts, such as "s·(q − z)"; T[q] is the part q's value.
        tensors: a part → the tensor whose bytes hold it; `read` counts bytes from that tensor's start.
    """

    formula: str
    tensors: Mapping[str, str]

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, I)` float32, the closed form rounded once."""
        return self.take(np.arange(start, min(stop, self.shape[0])))

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, I)` float32, the rows of these numbers: the closed form rounded once."""
        with np.errstate(all="ignore"):  # what inf and NaN among the scales give is IEEE's
            return self._values(np.asarray(index, dtype=np.int64), np.dtype(np.float32))

    def unrounded(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` float64, the closed form of the rows of these numbers."""
        with np.errstate(all="ignore"):
            return self._values(np.asarray(index, dtype=np.int64), np.dtype(np.float64))

    @abstractmethod
    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        """`(N,) -> (N, I)` the closed form in this dtype."""

    @abstractmethod
    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The parts of the formula for one element, with their bits.

        Raises:
            ValueError: no such element.
        """

    def _require_element(self, row: int, column: int) -> None:
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise ValueError(f"no element ({row}, {column}) in a matrix of shape {self.shape}")


def require_words(what: str, array: HostArray) -> NDArray[np.int32]:
    """A matrix of 32-bit words.

    Raises:
        ValueError: another dtype or number of axes; the message names the tensor.
    """
    if array.dtype != np.int32 or array.ndim != 2:
        raise ValueError(f"{what} must be an int32 matrix, got {array.dtype} {array.shape}; other words are not read")
    return array


def require_scales(what: str, scales: Dense, shape: tuple[int, ...]) -> Dense:
    """Scales of this shape.

    Raises:
        ValueError: no dense numbers, float64, or another shape.
    """
    if not isinstance(scales, Dense) or scales.format not in SCALE_FORMATS:
        given = scales.format if isinstance(scales, Weight) else type(scales).__name__
        raise ValueError(f"{what} must be stored as {', '.join(SCALE_FORMATS)}, got {given}")
    if scales.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got {scales.shape}; is it another layer's?")
    return scales


def require_float32(what: str, stored: Dense, count: int) -> None:
    """A vector of float32.

    Raises:
        ValueError: other numbers, or another number of them.
    """
    if not isinstance(stored, Dense) or stored.format != "F32" or stored.shape != (count,):
        given = f"{stored.format} {stored.shape}" if isinstance(stored, Weight) else type(stored).__name__
        raise ValueError(f"{what} must be F32 of shape ({count},), got {given}")


def require_groups(what: str, g_idx: HostArray, inputs: int, groups: int) -> NDArray[np.int64]:
    """`(I,)` the group of each input.

    Raises:
        ValueError: no integers, another length, or a group that is not there.
    """
    if g_idx.dtype.kind not in "iu" or g_idx.shape != (inputs,):
        raise ValueError(f"{what} must be {inputs} integers, got {g_idx.dtype} {g_idx.shape}")
    if g_idx.size and (g_idx.min() < 0 or g_idx.max() >= groups):
        worst = g_idx.min() if g_idx.min() < 0 else g_idx.max()
        raise ValueError(f"{what} names group {worst}, but there are {groups}: 0 … {groups - 1}")
    return g_idx.astype(np.int64)


def columns(stored: Dense, index: NDArray[np.int64]) -> HostArray:
    """`(G, O), (N,) -> (N, G)` float32: these columns of stored numbers, each as a row."""
    return Dense(stored.array[:, index], format=stored.format).decode().T


def scaled(
    codes: NDArray[Any], zeros: NDArray[Any] | int, scales: HostArray, groups: NDArray[np.int64], dtype: np.dtype[Any]
) -> HostArray:
    """`(N, I), (N, G) or one, (N, G), (I,) -> (N, I)` scale·(code − zero) by the group of the input, rounded once.

    The differences are integers below 2⁹ and exact. In float32 the product is one correctly rounded operation; in
    float64 it is exact, having 9 + 24 bits.
    """
    out: HostArray = codes.astype(dtype)
    # groups that follow one another need no gathering
    count = scales.shape[1]
    size = out.shape[1] // max(1, count)
    if size * count == out.shape[1] and np.array_equal(groups, np.repeat(np.arange(count), size)):
        parts = out.reshape(len(out), count, size)
        parts -= zeros.astype(dtype)[:, :, np.newaxis] if isinstance(zeros, np.ndarray) else dtype.type(zeros)
        parts *= scales.astype(dtype)[:, :, np.newaxis]
        return out
    out -= np.take(zeros.astype(dtype), groups, axis=1) if isinstance(zeros, np.ndarray) else dtype.type(zeros)
    out *= np.take(scales.astype(dtype), groups, axis=1)
    return out


def stored_number(name: str, stored: HostArray, at: int, value: float) -> Part:
    """The part that is one whole stored number, number `at` of its tensor."""
    size = stored.dtype.itemsize
    raw = stored.flat[at : at + 1].tobytes()
    where = tuple(Bits(size * at + i, 0, 8) for i in range(size))
    return Part(name, where, int.from_bytes(raw, "little"), value)
