"""From numbers to FP8 with scales.

    s = amax/largest of each tile, rounded once to the scale's format (see `tile_scales`), or as given
    q = x/s, rounded once to the FP8 format, to nearest even; beyond its largest number, the largest

Both quotients are exact before they are rounded: x has 24 bits, s at most 24 and a midpoint between two codes 5, so
what is not a midpoint is 2⁻³⁰ away from it, which float64's quotient cannot bridge. −0 stays where the format has it.
NaN and infinities are refused: they have no scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import encode_array, round_array
from lepton_ref.plain.formats import get_format
from lepton_ref.storage.encoders.tile_scales import extreme, matrix, require_scales, rounded_scales, row_steps
from lepton_ref.storage.fp8 import FORMATS, FP8
from lepton_ref.storage.scales import Per, Scales, scales_of, tile_of


@dataclass(frozen=True)
class FP8Scheme:
    """How a matrix becomes FP8.

    Attributes:
        format: "E4M3FN", "E5M2", "E4M3FNUZ" or "E5M2FNUZ".
        per: what shares a scale: "tensor", "channel" (a row), the g of a group, or the (rows, columns) of a block.
        scale_format: "F32", "BF16", "F16" or "E8M0".
    """

    format: str = "E4M3FN"
    per: Per = "channel"
    scale_format: str = "F32"


def encode_fp8(array: HostArray, /, *, scheme: FP8Scheme, scales: Scales | None = None) -> FP8:
    """`(O, I) -> (O, I)` the nearest FP8 numbers.

    Args:
        array: float32, or what float32 holds exactly, all finite.
        scheme: how.
        scales: the scales to encode with, in any format; None for those of the tiles' largest numbers.

    Raises:
        ValueError: an unknown format or granularity, numbers that are not finite or not float32's, or scales that are
            not one for each tile, finite and above 0.
    """
    if scheme.format not in FORMATS:
        raise ValueError(f"unknown FP8 format {scheme.format!r}; known: {', '.join(FORMATS)}")
    number = FORMATS[scheme.format]
    x = matrix("the weight", array)
    tile = tile_of(scheme.per, (x.shape[0], x.shape[1]))
    if scales is None:
        values = rounded_scales(extreme(np.maximum, np.abs(x), tile), get_format(number).largest, scheme.scale_format)
        scales = scales_of(values, scheme.scale_format)
    require_scales(scales, (x.shape[0], x.shape[1]), tile)
    codes = np.empty(x.shape, dtype=np.uint8)
    for rows in row_steps((x.shape[0], x.shape[1])):
        quotient = x[rows].astype(np.float64) / scales.spread(rows, tile, x.shape[1])
        codes[rows] = encode_array(round_array(quotient, number, saturate=True), number)
    return FP8(codes, scales, format=scheme.format, tile=tile)
