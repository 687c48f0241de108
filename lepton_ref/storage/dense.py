"""Dense weights: one number an element, F64, F32, F16 or BF16.

    F64     1 bit s, 11 bits e, 52 bits f     bias 1023
    F32     1 bit s, 8 bits e, 23 bits f      bias 127
    F16     1 bit s, 5 bits e, 10 bits f      bias 15
    BF16    1 bit s, 8 bits e, 7 bits f       bias 127: the upper half of a float32

From the highest bit down are the sign s, the exponent e and the fraction f of n bits, in little-endian bytes. The value
is (−1)^s·2^(e − bias)·(1 + f/2^n); for e = 0 it is (−1)^s·2^(1 − bias)·f/2^n, zero and the subnormal numbers, and where
e is all ones it is an infinity (f = 0) or NaN. F64 keeps its float64 value, all others decode to float32, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight

FORMATS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
)
"""Format → dtype of the stored array. NumPy has no bfloat16: its bits are held as unsigned integers."""


class Dense(Weight):
    """An array of any strides, memory-mapped or not.

    Args:
        array: the stored numbers; BF16 as uint16 bits.
        format: one of `FORMATS`.

    Raises:
        ValueError: an unknown format, a dtype that is not the format's, or a scalar.
    """

    def __init__(self, array: HostArray, *, format: str) -> None:
        if format not in FORMATS:
            raise ValueError(f"unknown dense format {format!r}; known: {', '.join(FORMATS)}")
        if array.dtype != FORMATS[format]:
            raise ValueError(f"format {format} is stored as {FORMATS[format]}, got an array of {array.dtype}")
        if array.ndim == 0:
            raise ValueError("a weight has at least one axis, got a scalar; reshape it to (1,)")
        self.array = array
        self.format = format
        self.shape = array.shape
        self.nbytes = array.nbytes

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis; exact."""
        return self._value(self.array[start:stop])

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers; exact."""
        return self._value(self.array[index])

    def _value(self, stored: HostArray) -> HostArray:
        if self.format == "BF16":
            return decode_bf16(stored)
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return np.asarray(stored, dtype=np.float64 if self.format == "F64" else np.float32)


def decode_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`(...) -> (...)` a bfloat16 is the upper half of a float32: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
