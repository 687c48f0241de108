"""How a weight lies in memory: dense or block-quantised, decoded row by row when it is used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.plain.shown import shown
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockFormat, BlockQuantised
from lepton_ref.storage.dense import FORMATS as DENSE_FORMATS
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.formats import FORMATS
from lepton_ref.storage.views import RowView

__all__ = [
    "DENSE_FORMATS",
    "FORMATS",
    "BlockFormat",
    "BlockQuantised",
    "Dense",
    "RowView",
    "Weight",
    "decode",
    "encode",
]


def encode(name: str, array: HostArray, /, *, weights: HostArray | None = None) -> NDArray[np.uint8]:
    """`(..., elements) -> (..., bytes of whole blocks)` numbers as the format of this name stores them.

    Args:
        name: a key of `DENSE_FORMATS` or of `lepton_ref.storage.encoders.ENCODERS`.
        array: float32, or what float32 holds exactly, all finite; the last axis holds whole blocks.
        weights: `(..., elements)`, or of a shape that broadcasts to it: how much the square of each error counts, for
            the formats of `lepton_ref.storage.encoders.WEIGHTED`. None counts all alike in those whose scales are
            always searched for, and gives the others by ggml's reference encoders.

    Returns:
        uint8, what `decode` takes.

    Raises:
        ValueError: an unknown format, rows that are not whole blocks, numbers that are not finite or not float32's,
            weights that are negative, not finite, or for a format that takes none.
        TypeError: what is no NumPy array.
    """
    from lepton_ref.storage.encoders import ENCODERS, encode_blocks, encode_dense

    if not isinstance(name, str) or name not in {*DENSE_FORMATS, *ENCODERS}:
        known = ", ".join([*DENSE_FORMATS, *ENCODERS])
        raise ValueError(f"there is no encoder of {shown(name)}; known: {known}")
    for what, given in (("the array", array), ("weights", weights)):
        if not isinstance(given, np.ndarray) and (given is not None or what == "the array"):
            raise TypeError(f"{what} must be a NumPy array, got {shown(given)}; numpy.asarray makes one")
    if name in DENSE_FORMATS:
        if weights is not None:
            raise ValueError(f"{name} rounds each number by itself and takes no weights; leave them out")
        return encode_dense(name, array)
    return encode_blocks(name, array, weights)


def decode(name: str, raw: NDArray[np.uint8]) -> HostArray:
    """`(..., bytes of whole blocks) -> (..., elements)` the values of raw bytes in the format of this name.

    Args:
        name: a key of `FORMATS` or of `DENSE_FORMATS`.
        raw: uint8; the last axis holds whole blocks, or whole numbers of a dense format.

    Returns:
        float32, each value the closed form rounded once; float64 for "F64".

    Raises:
        ValueError: an unknown format, or bytes that are not uint8 or not whole.
        TypeError: what is no NumPy array.
    """
    if not isinstance(raw, np.ndarray):
        raise TypeError(f"raw bytes are a NumPy array of uint8, got {shown(raw)}; numpy.frombuffer makes one")
    if isinstance(name, str) and name in FORMATS:
        return FORMATS[name].values(raw)
    if not isinstance(name, str) or name not in DENSE_FORMATS:
        raise ValueError(f"unknown storage format {shown(name)}; known: {', '.join([*DENSE_FORMATS, *FORMATS])}")
    dtype = DENSE_FORMATS[name]
    if raw.dtype != np.uint8 or raw.ndim == 0 or raw.shape[-1] % dtype.itemsize:
        raise ValueError(f"{name} takes uint8 rows of whole {dtype.itemsize}-byte numbers, got {raw.dtype} {raw.shape}")
    stored = np.ascontiguousarray(raw).view(dtype)
    return Dense(stored, format=name).decode()
