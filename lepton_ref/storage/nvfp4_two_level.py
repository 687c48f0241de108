"""NVFP4 with two levels of scales: groups of 16 along a row with an E4M3 scale s, and one float32 number a matrix.

    G multiplies    w = s·q·G    modelopt's `weight_scale_2`
    G divides       w = s·q/G    compressed-tensors' `weight_global_scale`

Nothing in a file but its names says which; the wrong one makes numbers 10⁵ times too large or too small. The class
takes it by name and never guesses; `lepton_ref.storage.detect_scale` says which one the data speak for.

q is E2M1, two a byte, the low nibble first; s is E4M3FN, its NaN being NaN and its sign a sign. The last group of a
row may be smaller. s·q·G has 2 + 4 + 24 significant bits: exact in float64. s·q/G is no binary fraction: its float64
quotient is what the linear layer multiplies under w8a8, and is rounded to float32 as if it were exact: s·q has 6 bits
and G 24, so that a quotient which is not a midpoint between two float32 numbers is 2⁻⁴⁹ of itself away from one, and
float64's rounding, 2⁻⁵³, neither reaches nor leaves it. (ggml's type NVFP4 is another layout, without G.)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import decode_array
from lepton_ref.storage.byte_codes import bits_of, row_bytes, unpack
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.tiled import Floats, Tiled, require_tiles

GROUP = 16
"""Elements that share an E4M3 scale."""

CONVENTIONS = ("multiply", "divide")
"""What the stored global scale does to s·q."""


NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "multiply": MappingProxyType({"G": "weight_scale_2", "s": "weight_scale", "q": "weight"}),
        "divide": MappingProxyType({"G": "weight_global_scale", "s": "weight_scale", "q": "weight_packed"}),
    }
)
"""Convention → part → the end of the name of the tensor that holds it."""


class NVFP4TwoLevel(Tiled):
    """A matrix of E2M1 numbers with E4M3 scales and a global one.

    Args:
        packed: `(O, ⌈I/2⌉)` uint8, two elements a byte.
        scales: `(O, ⌈I/16⌉)` uint8, E4M3 codes.
        global_scale: the stored float32 number.
        convention: "multiply" or "divide".
        columns: I, where it is not two elements a byte; None for that.

    Raises:
        ValueError: an unknown convention, arrays that are no matrices of uint8 or whose shapes disagree, or a global
            scale that is not a positive float32 number.
    """

    tile = (1, GROUP)
    format = "NVFP4_TWO_LEVEL"

    def __init__(
        self,
        packed: NDArray[np.uint8],
        scales: NDArray[np.uint8],
        global_scale: float,
        *,
        convention: str,
        columns: int | None = None,
    ) -> None:
        if convention not in CONVENTIONS:
            raise ValueError(
                f"convention {convention!r}; say whether the global scale is to 'multiply' (weight_scale_2) or to "
                "'divide' (weight_global_scale)"
            )
        for name, array in (("elements", packed), ("scales", scales)):
            if array.dtype != np.uint8 or array.ndim != 2:
                raise ValueError(f"NVFP4 {name} are a matrix of uint8, got {array.dtype} {array.shape}")
        g = float(global_scale)
        if not (0.0 < g < np.inf) or float(np.float32(g)) != g:
            raise ValueError(f"global scale {global_scale!r}; it is a float32 number above 0, and finite")
        self.shape = (packed.shape[0], 2 * packed.shape[1] if columns is None else columns)
        if packed.shape[1] != row_bytes(self.shape[1], 4):
            raise ValueError(
                f"NVFP4: {self.shape[1]} elements take {row_bytes(self.shape[1], 4)} bytes a row, got {packed.shape[1]}"
            )
        self.packed = packed
        self.scales = Scales(scales, "E4M3")
        require_tiles("NVFP4", self.scales, self.shape, self.tile)
        self.global_scale = g
        self.convention = convention
        self.formula = "s·q·G" if convention == "multiply" else "s·q/G"
        self.tensors = NAMES[convention]
        self.nbytes = packed.nbytes + scales.nbytes + 4
        self._values = decode_array(np.arange(16), "e2m1")

    def unrounded(self, index: NDArray[np.int64], /) -> Floats:
        """`(N,) -> (N, I)` float64: s·q·G, exact, or the float64 quotient s·q/G."""
        q = self._values[unpack(self.packed[index], 4, self.shape[1])]
        sq = q * self.scales.spread(index, self.tile, self.shape[1])
        return sq * self.global_scale if self.convention == "multiply" else sq / self.global_scale

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The global scale, the group's and the element, each with its bits in its own array.

        Raises:
            ValueError: no such element.
        """
        self._require(row, column)
        code = int(unpack(self.packed[row], 4, self.shape[1])[column])
        whole = int(np.float32(self.global_scale).view(np.uint32))
        return (
            Part("G", tuple(Bits(i, 0, 8) for i in range(4)), whole, self.global_scale),
            self.scales.part("s", row, column // GROUP),
            Part("q", bits_of(row * self.packed.shape[1], column, 4), code, float(self._values[code])),
        )
