"""FP8 with scales: a byte an element, s·q, the scale s of a tensor, a row, a block or a group.

q is the number of the byte in one of four formats: E4M3FN and E5M2 (OCP), E4M3FNUZ and E5M2FNUZ (without −0, the code
0x80 being NaN, and with exponents one lower). Scales are F32, BF16, F16 or E8M0, and multiply: DeepSeek's
`weight_scale_inv`, whatever its name says, is s, for blocks of 128 × 128; the last blocks of a matrix may be smaller.

q has at most 4 significant bits and s 24: s·q is exact in float64 and is rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import decode_array
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.tiled import Floats, Tiled, require_tiles

FORMATS: Mapping[str, str] = MappingProxyType(
    {"E4M3FN": "e4m3fn", "E5M2": "e5m2", "E4M3FNUZ": "e4m3fnuz", "E5M2FNUZ": "e5m2fnuz"}
)
"""Format of the codes → the number format's name."""


class FP8(Tiled):
    """A matrix of FP8 codes and the scales of its tiles.

    Args:
        codes: `(O, I)` uint8, memory-mapped or not.
        scales: `(rows of tiles, columns of tiles)`.
        format: a key of `FORMATS`.
        tile: rows and columns of a tile; see `lepton_ref.storage.scales.tile_of`.

    Raises:
        ValueError: an unknown format, codes that are no matrix of uint8, or another number of scales than of tiles.
    """

    formula = "s·q"
    tensors: Mapping[str, str] = MappingProxyType({"s": "weight_scale", "q": "weight"})

    def __init__(self, codes: NDArray[np.uint8], scales: Scales, *, format: str, tile: tuple[int, int]) -> None:
        if format not in FORMATS:
            raise ValueError(f"unknown FP8 format {format!r}; known: {', '.join(FORMATS)}")
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise ValueError(f"FP8 codes are a matrix of uint8, got {codes.dtype} {codes.shape}")
        rows, columns = codes.shape
        require_tiles("FP8", scales, (rows, columns), tile)
        self.codes = codes
        self.scales = scales
        self.number = FORMATS[format]
        self.format = f"FP8_{format}"
        self.shape = (rows, columns)
        self.tile = tile
        self.nbytes = codes.nbytes + scales.nbytes
        self._values = decode_array(np.arange(256), self.number)

    def unrounded(self, index: NDArray[np.int64], /) -> Floats:
        """`(N,) -> (N, I)` float64: s·q, exact."""
        with np.errstate(invalid="ignore"):  # 0·∞
            return self._values[self.codes[index]] * self.scales.spread(index, self.tile, self.shape[1])

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The scale and the code of one element, each with its bits in its own array.

        Raises:
            ValueError: no such element.
        """
        self._require(row, column)
        code = int(self.codes[row, column])
        at = row * self.shape[1] + column
        return (
            self.scales.part("s", row // self.tile[0], column // self.tile[1]),
            Part("q", (Bits(at, 0, 8),), code, float(self._values[code])),
        )
