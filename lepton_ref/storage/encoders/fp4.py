"""MXFP4 and NVFP4 as GGUF types: E2M1 codes beside small scales; ggml's reference encoders.

MXFP4: 32 numbers and an E8M0 scale e by the FLOOR rule, e = ⌊log₂amax⌋ − 2 + 127, so the value is 2^(e−127)·E2M1 and
what lies above 6·2^(e−127), up to 8·2^(e−127), is clipped. ggml takes the floor of a float32 logarithm, and so do we:
just below a power of two it is that power's. e is 0 for zeros, and where it would be negative (amax < 2⁻¹²⁵, whose cast
C leaves undefined).

NVFP4: 64 numbers, four groups of 16 with a UE4M3 scale each and no scale of the whole tensor: s = amax/6, so that the
largest number meets E2M1's largest; a half is rounded up, scales below 2⁻¹⁰ are 0 and those of 248 and more are 448.
A tensor whose numbers lie outside [2⁻⁹, 1488] or so is better scaled by a power of two first.

The code is the first of 0 ½ 1 1½ 2 3 4 6 −0 −½ … −6 that is nearest to x in float32, hence a tie goes to the smaller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12)
"""Twice the numbers of E2M1 without a sign."""


def e2m1_codes(x: Floats, half: Floats) -> Bytes:
    """`(..., L), (..., 1) -> (..., L)` the code of the number nearest to x, `half` being half the scale."""
    size = np.abs(x)
    error, code = size.copy(), np.zeros(x.shape, dtype=np.uint8)
    for j in range(1, 8):
        other = np.abs(np.float32(DOUBLED[j]) * half - size)
        np.copyto(code, np.uint8(j), where=other < error)
        np.minimum(error, other, out=error)
    return np.where((code > 0) & (x < 0), code | np.uint8(8), code)


def e8m0_floor(amax: Floats) -> Bytes:
    """The exponent of the FLOOR rule with its bias of 127; 0 of 0."""
    logarithm = np.log2(np.where(amax > 0, amax, np.float32(1)).astype(np.float64)).astype(np.float32)
    e = np.maximum(np.floor(logarithm) + np.float32(125), np.float32(0))
    return np.where(amax > 0, e, np.float32(0)).astype(np.uint8)


def ue4m3(x: Floats) -> Bytes:
    """What is not negative as unsigned E4M3, as ggml rounds it: see above."""
    bits = np.minimum(x, np.float32(448)).view(np.uint32)
    exponent = (bits >> np.uint32(23)).astype(np.int32) - 120
    mantissa = ((bits >> np.uint32(20)) & np.uint32(7)).astype(np.int32) + ((bits >> np.uint32(19)) & np.uint32(1))
    normal = 8 * exponent + mantissa  # a mantissa of 8 carries
    subnormal = np.minimum(np.trunc(x * np.float32(512) + np.float32(0.5)), np.float32(7))
    return np.where(normal >= 120, 126, np.where(exponent > 0, normal, subnormal)).astype(np.uint8)


def ue4m3_halves(code: Bytes) -> Floats:
    """Half the value of an unsigned E4M3 code."""
    exponent, mantissa = (code >> np.uint8(3)).astype(np.int32), (code & np.uint8(7)).astype(np.float32)
    normal = np.ldexp(np.float32(8) + mantissa, exponent - 11)
    return np.where(exponent > 0, normal, np.ldexp(mantissa, -10)).astype(np.float32)


def encode_mxfp4(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 17)`: e, qs[16]."""
    e = e8m0_floor(np.max(np.abs(x), axis=1, keepdims=True))
    code = e2m1_codes(x, np.ldexp(np.float32(1), e.astype(np.int32) - 128))
    return np.concatenate([e, code[:, :16] | (code[:, 16:] << np.uint8(4))], axis=1)


def encode_nvfp4(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 64) -> (N, 36)`: ue4m3[4], qs[32]."""
    groups = x.reshape(-1, 4, 16)
    scale = ue4m3(np.max(np.abs(groups), axis=2, keepdims=True) / np.float32(6))
    code = e2m1_codes(groups, ue4m3_halves(scale))
    packed = code[:, :, :8] | (code[:, :, 8:] << np.uint8(4))
    return np.concatenate([scale.reshape(-1, 4), packed.reshape(-1, 32)], axis=1)
