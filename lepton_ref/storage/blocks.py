"""Block-quantised weights: each row is a sequence of equal blocks of bytes; one format a file beside this one.

Why the decoders may compute in float32 and still round once. In nearly every format here a value is d·a − m·b with fp16
d and m (11 significant bits) and small integers a and b, or eighths of them. The products have at most 11 + 12 = 23
significant bits, so each is a float32 exactly, and neither overflows (2¹⁶·2¹²) nor becomes subnormal (a multiple of
2⁻²⁷). The one operation that can round is the last, the sum. The scalar twins take another road to the same value: all
of d·a − m·b is a multiple of 2⁻²⁴ (where there are eighths, m is 0) of at most 2²⁸, hence exact in float64, and is
rounded to float32 in one explicit step. The formats whose scale is no fp16 number, MXFP4, NVFP4 and Q8_K, have a proof
each in their files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight
from lepton_ref.storage.layout import Field, Part

CHUNK = 1 << 16
"""Elements decoded at a time, so that the temporaries of a decoder stay in a core's cache."""


@dataclass(frozen=True)
class BlockFormat:
    """One block format.

    Attributes:
        name: as GGUF names it, such as "Q4_K".
        length: elements in a block.
        nbytes: bytes of a block.
        decode: `(N, nbytes) uint8 -> (N, length) float32`, the closed form rounded once.
        decode_element: the specification: (block bytes, element) -> the float32 value, one element at a time.
        unrounded: `(N, nbytes) uint8 -> (N, length) float64`, the closed form itself; None where `decode` is exact.
        fields: the block's bytes, in order.
        formula: an element's value in terms of its parts, such as "d·(q − 8)".
        read: (block bytes, element) -> the parts of the formula, with their bits.
    """

    name: str
    length: int
    nbytes: int
    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    decode_element: Callable[[bytes, int], float]
    unrounded: Callable[[NDArray[np.uint8]], NDArray[np.float64]] | None = None
    fields: tuple[Field, ...] = ()
    formula: str = ""
    read: Callable[[bytes, int], tuple[Part, ...]] | None = None

    def values(self, raw: NDArray[np.uint8], *, rounded: bool = True) -> HostArray:
        """`(..., bytes of whole blocks) uint8 -> (..., elements) float32`, chunk by chunk; float64 if not `rounded`.

        A scale that is inf or NaN, or too large, gives what IEEE arithmetic gives, without a warning.

        Raises:
            ValueError: raw is not uint8, or its last axis is not whole blocks.
        """
        if raw.dtype != np.uint8 or raw.ndim == 0 or raw.shape[-1] % self.nbytes:
            raise ValueError(
                f"{self.name} takes uint8 rows of whole {self.nbytes}-byte blocks, got {raw.dtype} {raw.shape}"
            )
        blocks = np.ascontiguousarray(raw).reshape(raw.size // self.nbytes, self.nbytes)
        decode: Callable[[NDArray[np.uint8]], HostArray] = self.decode
        if not rounded and self.unrounded is not None:
            decode = self.unrounded
        out = np.empty((len(blocks), self.length), dtype=np.float32 if rounded else np.float64)
        step = CHUNK // self.length
        with np.errstate(invalid="ignore"):
            for start in range(0, len(blocks), step):
                out[start : start + step] = decode(blocks[start : start + step])
        return out.reshape(*raw.shape[:-1], raw.shape[-1] // self.nbytes * self.length)


class BlockQuantised(Weight):
    """A weight whose rows, along the last axis, are whole blocks.

    Args:
        raw: `(..., O, bytes of a row)` uint8, memory-mapped or not.
        format: the block format.

    Raises:
        ValueError: raw is not uint8, or its rows are not whole blocks.
    """

    def __init__(self, raw: NDArray[np.uint8], *, format: BlockFormat) -> None:
        if raw.dtype != np.uint8 or raw.ndim == 0 or raw.shape[-1] % format.nbytes:
            raise ValueError(
                f"{format.name} takes uint8 rows of whole {format.nbytes}-byte blocks, got {raw.dtype} {raw.shape}"
            )
        self.raw = raw
        self.block = format
        self.format = format.name
        self.shape = (*raw.shape[:-1], raw.shape[-1] // format.nbytes * format.length)
        self.nbytes = raw.nbytes

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` float32."""
        if self.raw.ndim == 1:  # a vector's blocks span its rows
            return self.block.values(self.raw)[start:stop]
        return self.block.values(self.raw[start:stop])

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` float32, the rows of these numbers."""
        if self.raw.ndim == 1:
            return self.block.values(self.raw)[index]
        return self.block.values(self.raw[index])

    def blocks(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """`(N,) -> (N, blocks, bytes)` the stored blocks of the rows of these numbers, of a matrix."""
        if self.raw.ndim != 2:
            raise ValueError(f"rows of blocks are those of a matrix, got a weight of shape {self.shape}")
        return np.ascontiguousarray(self.raw[index]).reshape(len(index), -1, self.block.nbytes)

    def unrounded(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, ...)` float64, the closed form of the rows of these numbers."""
        raw = self.raw if self.raw.ndim == 1 else self.raw[index]
        values = self.block.values(raw, rounded=False)
        return values[index] if self.raw.ndim == 1 else values
