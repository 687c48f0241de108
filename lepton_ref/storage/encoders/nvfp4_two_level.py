"""From numbers to NVFP4 with two levels of scales.

With A the matrix's largest |x| and a that of a group of 16, each the exact quotient rounded once, to nearest even:

    G divides       G = 448·6/A to float32     s = G·a/6 to E4M3        q = x·G/s to E2M1
    G multiplies    G = A/(448·6) to float32   s = a/(6·G) to E4M3      q = x/(s·G) to E2M1

s and q stop at the largest number, 448 and 6; G stops at float32's largest and least positive number, and is 1 for a
matrix of zeros. s is computed from the stored G and q from the stored s. Where s is 0 (the group is zero, or 2⁻²⁰ or
less of A) the codes are zeros with the signs of x. NaN and infinities are refused: neither q nor G has a code for them.

Why float64 suffices: x·G has 48 bits, s·G 28; a midpoint of E2M1 times s has 7 bits, one of E4M3 times 6 has 8. What
differs from a midpoint does so by 2⁻⁴⁸ of itself or more, and float64's quotient can neither reach nor leave it.
"""

from __future__ import annotations

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import encode_array, round_array
from lepton_ref.storage.byte_codes import pack
from lepton_ref.storage.encoders.tile_scales import Floats, extreme, matrix, row_steps
from lepton_ref.storage.nvfp4_two_level import CONVENTIONS, GROUP, NVFP4TwoLevel

LARGEST = 448.0 * 6.0
LEAST_FLOAT32 = 2.0**-149


def encode_nvfp4(array: HostArray, /, *, convention: str, global_scale: float | None = None) -> NVFP4TwoLevel:
    """`(O, I) -> (O, I)` in groups of 16 along the rows; the last may be smaller.

    Args:
        array: float32, or what float32 holds exactly, all finite.
        convention: "divide" or "multiply": what the stored global scale does.
        global_scale: the float32 number to store, which several matrices may share; None for the matrix's own.

    Raises:
        ValueError: an unknown convention, numbers that are not finite or not float32's, or a global scale that is no
            positive float32 number.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r} of the global scale; known: {', '.join(CONVENTIONS)}")
    x = matrix("the weight", array)
    amax = extreme(np.maximum, np.abs(x), (1, GROUP))
    g = _global_scale(float(amax.max()), convention) if global_scale is None else float(global_scale)
    if not (0.0 < g < np.inf) or float(np.float32(g)) != g:
        raise ValueError(f"global scale {global_scale!r}; give a float32 number above 0, and finite")
    s = _to(amax, np.full_like(amax, 6.0), g, convention, "e4m3fn")
    packed = []
    for rows in row_steps((x.shape[0], x.shape[1])):
        wide = np.repeat(s[rows], GROUP, axis=1)[:, : x.shape[1]]
        some = x[rows].astype(np.float64)
        q = _to(np.where(wide > 0, some, np.copysign(0.0, some)), np.where(wide > 0, wide, 1.0), g, convention, "e2m1")
        packed.append(pack(encode_array(q, "e2m1"), 4))
    return NVFP4TwoLevel(
        np.concatenate(packed), encode_array(s, "e4m3fn"), g, convention=convention, columns=x.shape[1]
    )


def _global_scale(amax: float, convention: str) -> float:
    if amax == 0:
        return 1.0
    exact = np.array([LARGEST / amax if convention == "divide" else amax / LARGEST])
    return max(float(round_array(exact, "fp32", saturate=True)[0]), LEAST_FLOAT32)


def _to(x: Floats, divisor: Floats, g: float, convention: str, number: str) -> Floats:
    """x·G/divisor or x/(divisor·G), rounded once."""
    quotient = x * g / divisor if convention == "divide" else x / (divisor * g)
    return round_array(quotient, number, saturate=True)
