"""What tiles of a matrix share: scales in a small number format, one for each tile.

A matrix (O, I) is cut into tiles of (rows, columns), from the first element on; the last of a row or a column of tiles
may be smaller. All granularities that people use are one of these:

    tensor    (O, I)      one scale
    channel   (1, I)      one a row
    group     (1, g)      one for g neighbours of a row
    block     (m, n)      DeepSeek's weight_scale_inv is (128, 128)

Element (r, c) takes the scale of tile (⌊r/rows⌋, ⌊c/columns⌋).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import decode_array, encode_array
from lepton_ref.storage.dense import FORMATS as DENSE_FORMATS
from lepton_ref.storage.dense import decode_bf16
from lepton_ref.storage.layout import Bits, Part

Floats = NDArray[np.float64]

FORMATS: Mapping[str, tuple[np.dtype[Any], str]] = MappingProxyType(
    {
        "F32": (DENSE_FORMATS["F32"], "fp32"),
        "F16": (DENSE_FORMATS["F16"], "fp16"),
        "BF16": (DENSE_FORMATS["BF16"], "bf16"),
        "E8M0": (np.dtype("u1"), "e8m0"),
        "E4M3": (np.dtype("u1"), "e4m3fn"),
    }
)
"""Format of a scale → dtype of the stored array, and the number format's name."""

Per = str | int | tuple[int, int]
"""A granularity: "tensor", "channel", the g of a group, or the (rows, columns) of a block."""


def tile_of(per: Per, shape: tuple[int, int], /) -> tuple[int, int]:
    """The rows and columns of a tile of a matrix of this shape.

    Raises:
        ValueError: another granularity, or one below 1.
    """
    rows, columns = (max(1, n) for n in shape)
    if per == "tensor":
        return rows, columns
    if per == "channel":
        return 1, columns
    tile = (1, per) if isinstance(per, int) and not isinstance(per, bool) else per
    if not isinstance(tile, tuple) or len(tile) != 2 or any(type(n) is not int or n < 1 for n in tile):
        raise ValueError(
            f"granularity {per!r}; give 'tensor', 'channel', a group such as 128, or a block such as (128, 128)"
        )
    return tile


def tiles(shape: tuple[int, int], tile: tuple[int, int], /) -> tuple[int, int]:
    """How many tiles lie below and beside one another: the last of each may be smaller."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


@dataclass(frozen=True, eq=False)
class Scales:
    """One number for each tile.

    Attributes:
        array: `(rows of tiles, columns of tiles)` as stored: floats, BF16 as uint16 bits, E8M0 and E4M3 as uint8 codes.
        format: a key of `FORMATS`.

    Raises:
        ValueError: an unknown format, another dtype, or another number of axes than two.
    """

    array: HostArray
    format: str

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown format of scales {self.format!r}; known: {', '.join(FORMATS)}")
        dtype = FORMATS[self.format][0]
        if self.array.dtype != dtype or self.array.ndim != 2:
            raise ValueError(
                f"{self.format} scales are {dtype} with two axes, tiles below and beside one another; "
                f"got {self.array.dtype} {self.array.shape}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return int(self.array.nbytes)

    def values(self, rows: Any = slice(None), /) -> Floats:
        """`(rows, columns of tiles)` float64, exact; E8M0's 0xFF and E4M3's 0x7F and 0xFF are NaN."""
        stored = self.array[rows]
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            if self.format == "BF16":
                return decode_bf16(stored).astype(np.float64)
            if stored.dtype.kind == "f":
                return np.asarray(stored, dtype=np.float64)
        found: Floats = decode_array(stored, FORMATS[self.format][1])
        return found

    def spread(self, index: NDArray[np.int64], tile: tuple[int, int], columns: int) -> Floats:
        """`(N,) -> (N, columns)`, or (N, 1) where one scale serves the row: each element's scale."""
        numbers, back = np.unique(index // tile[0], return_inverse=True)  # each scale is decoded once
        values = self.values(numbers)[back]
        if values.shape[1] == 1 or tile[1] == 1:
            return values
        return np.repeat(values, tile[1], axis=1)[:, :columns]

    def part(self, name: str, row: int, column: int) -> Part:
        """The scale of one tile; its bits are counted from the first byte of the scales."""
        size = self.array.dtype.itemsize
        first = (row * self.array.shape[1] + column) * size
        code = int(np.ascontiguousarray(self.array[row, column]).view(f"<u{size}").reshape(-1)[0])
        value = float(self.values(slice(row, row + 1))[0, column])
        return Part(name, tuple(Bits(first + i, 0, 8) for i in range(size)), code, value)


def scales_of(values: Floats, format: str, /) -> Scales:
    """`(rows of tiles, columns of tiles)` float64 numbers of a format → as it stores them.

    Raises:
        ValueError: an unknown format, or a number that it has not.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format of scales {format!r}; known: {', '.join(FORMATS)}")
    dtype, name = FORMATS[format]
    codes = encode_array(values, name)
    return Scales(codes if dtype.kind == "u" else codes.view(dtype), format)
