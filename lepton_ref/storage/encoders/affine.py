"""From numbers to integers of b bits with a scale and a zero point or none.

From an interval [lo, hi] of each tile, its least and greatest number unless one is given, in exact arithmetic:

    symmetric, restricted    s = max|lo, hi|/(2^(b−1) − 1)        q = x/s       −(2^(b−1) − 1) … 2^(b−1) − 1
    symmetric, full range    s = max|lo, hi|/((2^b − 1)/2)        q = x/s       −2^(b−1) … 2^(b−1) − 1
    asymmetric               s = (hi₀ − lo₀)/(2^b − 1)            q = x/s + z   0 … 2^b − 1
                             z = −lo₀/s                            with lo₀ = min(lo, 0), hi₀ = max(hi, 0)

s is rounded once to its format (see `tile_scales`); z and x/s are exact quotients by the stored s, rounded to integers,
ties to even; what is outside the codes becomes the nearest of them. x/s is rounded before z is added, as ONNX's
QuantizeLinear does: a tie is decided by x/s alone. Because the interval is widened to hold 0, z is a code and 0 is
stored exactly. "Full range" is the rule of compressed-tensors. A tile whose interval is 0 has s = 1, q = z = 0.

Why float64 suffices: x and s have 24 bits and a midpoint between integers 9, so that what is not a midpoint is 2⁻³⁴ of
itself away from one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.affine import WIDTHS, Affine
from lepton_ref.storage.byte_codes import pack
from lepton_ref.storage.encoders.tile_scales import (
    Floats,
    extreme,
    matrix,
    rounded_range,
    rounded_scales,
    row_steps,
)
from lepton_ref.storage.scales import Per, scales_of, tile_of, tiles


@dataclass(frozen=True)
class AffineScheme:
    """How a matrix becomes small integers.

    Attributes:
        bits: 2 … 8.
        symmetric: without zero points.
        full_range: the code −2^(b−1) is used too; of symmetric ones alone.
        per: what shares a scale: "tensor", "channel" (a row), the g of a group, or the (rows, columns) of a block.
        scale_format: "F32", "BF16" or "F16".

    Raises:
        ValueError: another width, or a full range of asymmetric codes.
    """

    bits: int
    symmetric: bool
    full_range: bool = False
    per: Per = "channel"
    scale_format: str = "F32"

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise ValueError(f"integers of {self.bits} bits; give 2 to 8")
        if self.full_range and not self.symmetric:
            raise ValueError("full_range is a choice of symmetric codes; asymmetric ones always use every code")
        if self.scale_format not in ("F32", "BF16", "F16"):
            raise ValueError(f"scale_format {self.scale_format!r}; give 'F32', 'BF16' or 'F16'")


def encode_affine(
    array: HostArray, /, *, scheme: AffineScheme, interval: tuple[HostArray, HostArray] | None = None
) -> Affine:
    """`(O, I) -> (O, I)` small integers.

    Args:
        array: float32, or what float32 holds exactly, all finite.
        scheme: how.
        interval: lo and hi of each tile, float32 numbers whose shapes broadcast to (rows, columns of tiles); None for
            the least and the greatest number of each tile. What lies outside is clipped.

    Raises:
        ValueError: an unknown granularity, numbers that are not finite or not float32's, or an interval whose shape
            does not fit or whose lo is above its hi.
    """
    x = matrix("the weight", array)
    shape = (x.shape[0], x.shape[1])
    tile = tile_of(scheme.per, shape)
    low, high = (
        (extreme(np.minimum, x, tile), extreme(np.maximum, x, tile))
        if interval is None
        else _interval(interval, tiles(shape, tile))
    )
    least, greatest, s, z = _parameters(low, high, scheme)
    scales = scales_of(s, scheme.scale_format)
    packed = []
    for rows in row_steps(shape):
        quotient = x[rows].astype(np.float64) / scales.spread(rows, tile, shape[1])
        q = np.rint(quotient)
        if z is not None:
            wide = z[rows // tile[0]]
            q += wide if wide.shape[1] == 1 else np.repeat(wide, tile[1], axis=1)[:, : shape[1]]
        codes = np.clip(q, least, greatest).astype(np.int64) & ((1 << scheme.bits) - 1)
        packed.append(pack(codes.astype(np.uint8), scheme.bits))
    zeros = None if z is None else z.astype(np.uint8)
    return Affine(np.concatenate(packed), scales, zeros, bits=scheme.bits, columns=shape[1], tile=tile)


def _parameters(low: Floats, high: Floats, scheme: AffineScheme) -> tuple[int, int, Floats, Floats | None]:
    """The least and the greatest code, the scales, and the zero points."""
    top = (1 << scheme.bits) - 1
    half = 1 << (scheme.bits - 1)
    if not scheme.symmetric:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        s = rounded_range(low, high, top, scheme.scale_format)
        return 0, top, s, np.clip(np.rint(-low / s), 0, top)
    largest = np.maximum(np.abs(low), np.abs(high))
    if scheme.full_range:
        return -half, half - 1, rounded_scales(2.0 * largest, top, scheme.scale_format), None
    return 1 - half, half - 1, rounded_scales(largest, half - 1, scheme.scale_format), None


def _interval(interval: tuple[HostArray, HostArray], count: tuple[int, int]) -> tuple[Floats, Floats]:
    found: list[NDArray[np.float64]] = []
    for name, given in zip(("lo", "hi"), interval, strict=True):
        end = np.asarray(given)
        try:
            wide = np.broadcast_to(end, count)
        except ValueError as error:
            raise ValueError(f"{name} of shape {end.shape} does not fit {count} tiles; give one for each") from error
        found.append(matrix(name, wide).astype(np.float64))
    if (found[0] > found[1]).any():
        at = tuple(int(axis[0]) for axis in np.nonzero(found[0] > found[1]))
        raise ValueError(f"lo {found[0][at]:g} is above hi {found[1][at]:g} in tile {at}; swap them")
    return found[0], found[1]
