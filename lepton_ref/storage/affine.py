"""Integers of 2 … 8 bits with a scale, and a zero point or none, of a tensor, a row, a group or a block.

    symmetric     s·q         q in two's complement
    asymmetric    s·(q − z)   q and z from 0 to 2^b − 1, or both in two's complement

Codes lie in each row as a stream of bits (`lepton_ref.storage.byte_codes`); zero points are a byte each. s is F32, BF16
or F16, of at most 24 significant bits, and q − z has 9: the value is exact in float64 and is rounded once to float32.
The code that is the zero point stands for exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.byte_codes import bits_of, row_bytes, unpack
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.tiled import Floats, Tiled, require_tiles

WIDTHS = range(2, 9)
"""What a code may be wide."""


class Affine(Tiled):
    """A matrix of small integers with scales, and zero points or none.

    Args:
        packed: `(O, bytes of a row)` uint8, the codes.
        scales: `(rows of tiles, columns of tiles)`.
        zeros: zero points, one for each tile: uint8 beside codes from 0 on, int8 beside codes in two's complement; None
            for codes in two's complement without.
        bits: the width of a code.
        columns: I.
        tile: rows and columns of a tile; see `lepton_ref.storage.scales.tile_of`.

    Raises:
        ValueError: a width outside 2 … 8, arrays whose shapes or dtypes disagree, or a zero point that is no code.
    """

    tensors: Mapping[str, str] = MappingProxyType({"s": "weight_scale", "z": "weight_zero_point", "q": "weight"})

    def __init__(
        self,
        packed: NDArray[np.uint8],
        scales: Scales,
        zeros: NDArray[np.uint8] | NDArray[np.int8] | None,
        *,
        bits: int,
        columns: int,
        tile: tuple[int, int],
    ) -> None:
        if bits not in WIDTHS:
            raise ValueError(f"integers of {bits} bits; give 2 to 8")
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != row_bytes(columns, bits):
            raise ValueError(
                f"{columns} codes of {bits} bits are rows of {row_bytes(columns, bits)} bytes, uint8; "
                f"got {packed.dtype} {packed.shape}"
            )
        self.shape = (packed.shape[0], columns)
        require_tiles(f"INT{bits}", scales, self.shape, tile)
        if zeros is not None:
            if zeros.dtype not in (np.uint8, np.int8):
                raise ValueError(f"zero points are uint8 or int8, got {zeros.dtype}")
            require_tiles(f"INT{bits} zero points", zeros, self.shape, tile)
            least = 0 if zeros.dtype == np.uint8 else -(1 << (bits - 1))
            wrong = (zeros < least) | (zeros.astype(np.int64) >= least + (1 << bits))
            if wrong.any():
                most = least + (1 << bits) - 1
                raise ValueError(f"zero point {int(zeros[wrong][0])} of {bits}-bit codes; they are {least} … {most}")
        self.packed = packed
        self.scales = scales
        self.zeros = zeros
        self.bits = bits
        self.tile = tile
        self.signed = zeros is None or zeros.dtype == np.int8
        self.format = f"INT{bits}" if self.signed else f"UINT{bits}"
        self.formula = "s·q" if zeros is None else "s·(q − z)"
        self.nbytes = packed.nbytes + scales.nbytes + (0 if zeros is None else zeros.nbytes)

    def unrounded(self, index: NDArray[np.int64], /) -> Floats:
        """`(N,) -> (N, I)` float64: s·q or s·(q − z), exact."""
        q = unpack(self.packed[index], self.bits, self.shape[1]).astype(np.int16)
        if self.signed:
            q -= (q >> (self.bits - 1)) << self.bits
        if self.zeros is not None:
            q -= self._zeros_of(index)
        with np.errstate(invalid="ignore"):  # 0·∞
            return q * self.scales.spread(index, self.tile, self.shape[1])

    def _zeros_of(self, index: NDArray[np.int64]) -> NDArray[np.int16]:
        assert self.zeros is not None, "asked for with zero points alone"
        some = self.zeros[index // self.tile[0]].astype(np.int16)
        return some if some.shape[1] == 1 else np.repeat(some, self.tile[1], axis=1)[:, : self.shape[1]]

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The scale, the zero point if there is one, and the code, each with its bits in its own array.

        Raises:
            ValueError: no such element.
        """
        self._require(row, column)
        code = int(unpack(self.packed[row], self.bits, self.shape[1])[column])
        r, c = row // self.tile[0], column // self.tile[1]
        where = bits_of(row * self.packed.shape[1], column, self.bits)
        scale = self.scales.part("s", r, c)
        q = code - (code >> (self.bits - 1) << self.bits) if self.signed else code
        if self.zeros is None:
            return scale, Part("q", where, code, float(q))
        z = int(self.zeros[r, c])
        at = r * self.zeros.shape[1] + c
        return scale, Part("z", (Bits(at, 0, 8),), z & 255, float(z)), Part("q", where, code, float(q))
