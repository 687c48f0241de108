"""OCP Microscaling (MX): blocks of 32 along a row share a power of two, 2^(e − 127)·q.

    MXFP8_E4M3, MXFP8_E5M2    a byte an element
    MXFP6_E3M2, MXFP6_E2M3    6 bits an element
    MXFP4                     4 bits an element, E2M1
    MXINT8                    a byte an element: the integer of two's complement times 2⁻⁶

e is E8M0; 0xFF makes the block NaN (ggml's type 39 differs: there it is 2¹²⁸). The standard leaves open how elements
lie in memory; here a row is a stream of bits (`lepton_ref.storage.byte_codes`): the low nibble first, four elements of
6 bits in three bytes, as torchao and compressed-tensors pack MXFP4. A row is whole blocks.

Every value is a float32 number but those that overflow: 2¹²⁷·q is infinite from q = 2 on.
Source: OCP Microscaling Formats (MX) 1.0, §5 and §6.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import decode_array
from lepton_ref.plain.formats import get_format
from lepton_ref.storage.byte_codes import bits_of, row_bytes, unpack
from lepton_ref.storage.layout import Part
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.tiled import Floats, Tiled, require_tiles

BLOCK = 32
"""Elements that share a scale."""

ELEMENTS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "MXFP8_E4M3": ("e4m3fn", 1.0),
        "MXFP8_E5M2": ("e5m2", 1.0),
        "MXFP6_E3M2": ("e3m2", 1.0),
        "MXFP6_E2M3": ("e2m3", 1.0),
        "MXFP4": ("e2m1", 1.0),
        "MXINT8": ("int8", 2.0**-6),
    }
)
"""Format → the number format of its elements, and what they are multiplied by."""


class MX(Tiled):
    """A matrix in one of the MX formats. Its own format is named OCP_MXFP4 and so on: ggml's MXFP4 is another.

    Args:
        packed: `(O, bytes of a row)` uint8, the elements.
        exponents: `(O, I/32)` uint8, the E8M0 scales.
        format: a key of `ELEMENTS`, which becomes the attribute `elements`.

    Raises:
        ValueError: an unknown format, arrays that are no matrices of uint8, or whose shapes disagree.
    """

    formula = "s·q"
    tensors: Mapping[str, str] = MappingProxyType({"s": "weight_scale", "q": "weight_packed"})
    tile = (1, BLOCK)

    def __init__(self, packed: NDArray[np.uint8], exponents: NDArray[np.uint8], *, format: str) -> None:
        if format not in ELEMENTS:
            raise ValueError(f"unknown MX format {format!r}; known: {', '.join(ELEMENTS)}")
        for name, array in (("elements", packed), ("exponents", exponents)):
            if array.dtype != np.uint8 or array.ndim != 2:
                raise ValueError(f"{format} {name} are a matrix of uint8, got {array.dtype} {array.shape}")
        number, unit = ELEMENTS[format]
        self.bits = get_format(number).bits
        rows, columns = packed.shape[0], exponents.shape[1] * BLOCK
        if packed.shape[1] != row_bytes(columns, self.bits):
            raise ValueError(
                f"{format}: {exponents.shape[1]} blocks a row are {row_bytes(columns, self.bits)} bytes of elements, "
                f"got {packed.shape[1]}; blocks are 32 elements"
            )
        self.packed = packed
        self.exponents = Scales(exponents, "E8M0")
        self.elements = format
        self.format = f"OCP_{format}"
        self.shape = (rows, columns)
        require_tiles(format, self.exponents, self.shape, self.tile)
        self.nbytes = packed.nbytes + exponents.nbytes
        self._values = decode_array(np.arange(1 << self.bits), number) * unit

    def unrounded(self, index: NDArray[np.int64], /) -> Floats:
        """`(N,) -> (N, I)` float64: 2^(e − 127)·q, exact."""
        q = self._values[unpack(self.packed[index], self.bits, self.shape[1])]
        scale = self.exponents.values(index)
        with np.errstate(invalid="ignore"):
            return (q.reshape(len(q), scale.shape[1], BLOCK) * scale[:, :, np.newaxis]).reshape(q.shape)

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The shared scale s = 2^(e − 127) and the element, each with its bits in its own array.

        Raises:
            ValueError: no such element.
        """
        self._require(row, column)
        code = int(unpack(self.packed[row], self.bits, self.shape[1])[column])
        where = bits_of(row * self.packed.shape[1], column, self.bits)
        return (
            self.exponents.part("s", row, column // BLOCK),
            Part("q", where, code, float(self._values[code])),
        )
