"""Weights as a linear layer multiplies them where that is not as they are stored.

    Unrounded   the closed form of a quantised format, where its decoding rounds to float32
    WithMinima  the same of ggml's formats whose blocks of 32 have a minimum: these follow the row's values
    Encoded     a dense weight in blocks of 32 along a row (the last may be shorter) as Q8_0 or Q4_0, by ggml's
                reference encoders, or as E4M3 numbers with a scale for each row

Rows that are looked up, an embedding's, keep their stored value. Q8_0 and Q4_0: `lepton_ref.storage.encoders.legacy`.
E4M3: `lepton_ref.numerics.operands`. A NaN or an infinity in a block makes the block NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.operands import BLOCK, E4M3_LARGEST, SCALE_BITS, SCALE_LEAST
from lepton_ref.plain.ggml import BLOCKS
from lepton_ref.storage.base import Weight
from lepton_ref.storage.dense import FORMATS as DENSE_FORMATS
from lepton_ref.storage.encoders.legacy import q8_0, symmetric

Floats = NDArray[np.float32]
Scaled = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Numbers, and the scales they are multiplied by."""


class _View(Weight):
    """A weight whose rows are another's, but for what it is multiplied as."""

    def __init__(self, base: Weight) -> None:
        self.base = base
        self.format = base.format
        self.shape = base.shape
        self.nbytes = base.nbytes

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, ...)` decoded along the first axis, as stored."""
        return self.base.rows(start, stop)

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, ...)` the rows of these numbers, decoded, as stored."""
        return self.base.take(index)


class Unrounded(_View):
    """A quantised weight that is multiplied as its format's closed form, without the rounding to float32."""

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` float64, the closed form of the rows of these numbers."""
        return self.base.unrounded(index)


class WithMinima(Unrounded):
    """A weight in Q4_1 or Q5_1 as ggml multiplies it: see `lepton_ref.plain.ggml`."""

    @property
    def operand_width(self) -> int:
        """I + I/32."""
        return self.shape[1] + self.shape[1] // BLOCK

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I + I/32)` float64, the closed form of the rows of these numbers, then their blocks' minima."""
        minima = np.ascontiguousarray(self.base.blocks(index)[:, :, 2:4]).view("<f2")[:, :, 0].astype(np.float64)
        return np.concatenate([self.base.unrounded(index), minima], axis=1)


class Encoded(_View):
    """A dense weight that is multiplied as Q8_0, Q4_0 or fp8: encoded row by row when it is asked for.

    Args:
        base: the dense weight.
        encoding: a key of `ENCODERS`.

    Raises:
        ValueError: another encoding.
    """

    def __init__(self, base: Weight, *, encoding: str) -> None:
        if encoding not in ENCODERS:
            raise ValueError(f"unknown encoding {encoding!r}; known: {', '.join(ENCODERS)}")
        super().__init__(base)
        self.encoding = encoding

    def operand(self, index: NDArray[np.int64], /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` float64, what the rows of these numbers become."""
        q, scale = self.scaled(index)
        with np.errstate(invalid="ignore"):  # a scale beyond fp16 is infinite, and 0·∞ is NaN
            return np.asarray(q * scale)

    def scaled(self, index: NDArray[np.int64], /) -> Scaled:
        """`(N,) -> (N, I), (N, I) or (N, 1)` float64: the numbers that are stored for these rows, and their scales."""
        with np.errstate(all="ignore"):
            return ENCODERS[self.encoding](self.base.take(index).astype(np.float32))


def _by_blocks(x: Floats, encode: Callable[[Floats], Scaled]) -> Scaled:
    """Encode block by block of a row: whole ones together, then the shorter rest."""
    rows, width = x.shape
    whole = width // BLOCK * BLOCK
    parts = [x[:, :whole].reshape(rows, whole // BLOCK, BLOCK), x[:, None, whole:]]
    done = [encode(part) for part in parts if part.size]
    codes, scales = zip(*done, strict=True)
    return (
        np.concatenate([code.reshape(rows, -1) for code in codes], axis=1).astype(np.float64),
        np.concatenate(
            [np.broadcast_to(d, q.shape).reshape(rows, -1) for q, d in zip(codes, scales, strict=True)], axis=1
        ),
    )


def _stored(x: Floats, d: Floats, q: Floats) -> Scaled:
    """The codes, and the scale as fp16 holds it; NaN for a block that has no codes."""
    healthy = np.isfinite(x).all(axis=-1, keepdims=True) & np.isfinite(d)
    scale = np.where(healthy, d.astype(np.float16).astype(np.float64) + 0.0, np.nan)  # a scale of −0 makes +0 too
    coded = healthy & (scale != 0.0)  # of a scale that fp16 has not the codes may be no numbers
    return np.where(coded, q, np.float32(0)).astype(np.float64), scale


def _q8_0(x: Floats) -> Scaled:
    return _stored(x, *q8_0(x))


def _q4_0(x: Floats) -> Scaled:
    d, q = symmetric(x, 8)
    return _stored(x, d, q - np.float32(8))


def _fp8(x: Floats) -> Scaled:
    amax = np.max(np.abs(x), axis=-1, keepdims=True).astype(np.float64)
    scale = _round_scales(amax / E4M3_LARGEST)
    quotient = np.where(scale == 0, 0.0 * x, x / scale)
    return round_array(quotient, "e4m3fn", saturate=True), scale


def _round_scales(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 11 significand bits within float32's range; NaN for what is not finite."""
    step = np.ldexp(1.0, np.maximum(np.frexp(scale)[1] - 1, SCALE_LEAST) - SCALE_BITS + 1)
    return np.where(np.isfinite(scale), np.rint(scale / step) * step, np.nan)


ENCODERS: Mapping[str, Callable[[Floats], Scaled]] = MappingProxyType(
    {
        "Q8_0": lambda x: _by_blocks(x, _q8_0),
        "Q4_0": lambda x: _by_blocks(x, _q4_0),
        "fp8": _fp8,
    }
)
"""Encoding → from float32 rows to numbers and scales."""

OF_OPERANDS: Mapping[str, str] = MappingProxyType({"w8a8": "Q8_0", "w4a8": "Q4_0", "fp8": "fp8"})
"""Operands of a precision → how dense weights are encoded."""


def as_operand(weight: Weight, operands: str, /, *, encode_all: bool = False) -> Weight:
    """The weight as a linear layer multiplies it under these operands: see `lepton_ref.numerics.Precision`.

    Args:
        weight: as stored.
        operands: "stored", "w8a8", "w4a8", "fp8" or "ggml".
        encode_all: quantised weights are encoded too, as a machine asks that multiplies numbers of one format.
    """
    if operands == "stored":
        return weight
    if operands == "ggml":
        return ggml_operand(weight)
    if encode_all or weight.format in DENSE_FORMATS:
        return Encoded(weight, encoding=OF_OPERANDS[operands])
    return weight if operands == "fp8" else Unrounded(weight)


def ggml_operand(weight: Weight, /) -> Weight:
    """The weight as ggml multiplies it: as stored, unrounded, and with its minima where its blocks have some.

    Raises:
        ValueError: a format that ggml does not have.
    """
    if weight.format not in BLOCKS:
        raise ValueError(f"precision ggml has no form for a weight in {weight.format}; known: {', '.join(BLOCKS)}")
    if weight.format in DENSE_FORMATS:
        return weight
    return WithMinima(weight) if BLOCKS[weight.format] == "Q8_1" else Unrounded(weight)
