"""ggml's reference encoders one element at a time: the slow twins of `lepton_ref.storage.encoders`.

Every number is a float32 and every operation rounds to float32, as in C. Where C leaves the result undefined, because a
scale's reciprocal overflows or a cast is out of range, a code is a 0 byte and an exponent is 0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

F = np.float32
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def half(d: F) -> bytes:
    return np.float16(d).astype("<f2").tobytes()


def inverse(d: F) -> F:
    return F(1) / d if d != 0 else F(0)


def cut(v: F, most: int) -> int:
    return min(math.trunc(float(v)), most) if math.isfinite(v) else 0


def rounded(v: F) -> int:
    """C's roundf."""
    exact = abs(Fraction(float(v))) if math.isfinite(v) else Fraction(0)
    return int(math.copysign(math.floor(exact + Fraction(1, 2)), v))


def amax(x: Sequence[F]) -> F:
    return max(abs(v) for v in x)


def of_largest_size(x: Sequence[F]) -> F:
    found = F(0)
    for v in x:
        if abs(v) > abs(found):
            found = v
    return found


def nibbles(q: Sequence[int]) -> bytes:
    return bytes(q[j] & 15 | (q[j + 16] & 15) << 4 for j in range(16))


def fifth(q: Sequence[int]) -> bytes:
    return struct.pack("<I", sum((code >> 4) << j for j, code in enumerate(q)))


def symmetric(x: Sequence[F], half_range: int) -> tuple[F, list[int]]:
    d = of_largest_size(x) / F(-half_range)
    return d, [cut(v * inverse(d) + F(half_range + 0.5), 2 * half_range - 1) for v in x]


def affine(x: Sequence[F], most: int) -> tuple[F, F, list[int]]:
    low = high = x[0]
    for v in x:
        low, high = (v if v < low else low), (v if v > high else high)
    d = (high - low) / F(most)
    return d, low, [cut((v - low) * inverse(d) + F(0.5), most) for v in x]


def q4_0(x: Sequence[F]) -> bytes:
    d, q = symmetric(x, 8)
    return half(d) + nibbles(q)


def q5_0(x: Sequence[F]) -> bytes:
    d, q = symmetric(x, 16)
    return half(d) + fifth(q) + nibbles(q)


def q4_1(x: Sequence[F]) -> bytes:
    d, low, q = affine(x, 15)
    return half(d) + half(low) + nibbles(q)


def q5_1(x: Sequence[F]) -> bytes:
    d, low, q = affine(x, 31)
    return half(d) + half(low) + fifth(q) + nibbles(q)


def int8(x: Sequence[F]) -> tuple[F, list[int]]:
    d = amax(x) / F(127)
    return d, [rounded(v * inverse(d)) for v in x]


def q8_0(x: Sequence[F]) -> bytes:
    d, q = int8(x)
    return half(d) + struct.pack("32b", *q)


def q8_1(x: Sequence[F]) -> bytes:
    d, q = int8(x)
    return half(d) + half(F(sum(q)) * d) + struct.pack("32b", *q)


def q8_k(x: Sequence[F]) -> bytes:
    m = of_largest_size(x)
    scale = F(-127) / m if m != 0 else F(0)
    products = [v * scale for v in x]
    q = [round(Fraction(float(p))) if math.isfinite(p) else 0 for p in products]  # to even
    sums = [sum(q[j : j + 16]) for j in range(0, 256, 16)]
    return struct.pack("<f256b16h", inverse(scale), *q, *sums)


def q1_0(x: Sequence[F]) -> bytes:
    total = F(0)
    for v in x:
        total = total + abs(v)
    bits = sum(int(v >= 0) << j for j, v in enumerate(x))
    return half(total / F(128)) + bits.to_bytes(16, "little")


def trits(x: Sequence[F]) -> tuple[F, list[int]]:
    d = amax(x)
    return d, [rounded(v * inverse(d)) + 1 for v in x]


def q2_0(x: Sequence[F]) -> bytes:
    d, t = trits(x)
    return half(d) + bytes(sum(t[j + n] << 2 * n for n in range(4)) for j in range(0, 64, 4))


def tq1_0(x: Sequence[F]) -> bytes:
    d, t = trits(x)
    out = []
    for start, stride, places in ((0, 32, 5), (160, 16, 5), (240, 4, 4)):
        for j in range(stride):
            number = 0
            for n in range(5):
                number = 3 * number + (t[start + j + n * stride] if n < places else 0)
            out.append(-(-number * 256 // 243))
    return bytes(out) + half(d)


def tq2_0(x: Sequence[F]) -> bytes:
    d, t = trits(x)
    return bytes(sum(t[h + j + 32 * n] << 2 * n for n in range(4)) for h in (0, 128) for j in range(32)) + half(d)


def nearest_e2m1(v: F, d: F) -> int:
    errors = [abs(F(k) * d - v) for k in E2M1]
    return errors.index(min(errors))


def mxfp4(x: Sequence[F]) -> bytes:
    largest = amax(x)
    e = max(math.floor(F(math.log2(largest))) + 125, 0) if largest > 0 else 0
    d = F(2.0 ** (e - 128))
    return bytes([e]) + nibbles([nearest_e2m1(v, d) for v in x])


def ue4m3(v: F) -> int:
    """Below 2⁻⁶ steps of 2⁻⁹, else three bits behind the leading one; half up; 248 and more are 448."""
    exact = Fraction(float(v))
    if exact >= 248:
        return 126
    if exact < Fraction(1, 64):
        return min(math.floor(exact * 512 + Fraction(1, 2)), 7)
    exponent = math.frexp(float(v))[1] - 1
    steps = math.floor(exact / Fraction(2) ** (exponent - 3) + Fraction(1, 2))
    return 8 * (exponent + 7) + steps - 8


def nvfp4(x: Sequence[F]) -> bytes:
    scales, codes = [], b""
    for start in range(0, 64, 16):
        group = x[start : start + 16]
        s = ue4m3(amax(group) / F(6))
        value = (s & 7) * 2.0**-9 if s < 8 else (8 + (s & 7)) * 2.0 ** ((s >> 3) - 10)
        q = [nearest_e2m1(v, F(value / 2)) for v in group]
        scales.append(s)
        codes += bytes(q[j] | q[j + 8] << 4 for j in range(8))
    return bytes(scales) + codes


ENCODERS: dict[str, Callable[[Sequence[F]], bytes]] = {
    "Q1_0": q1_0, "Q2_0": q2_0, "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0, "Q8_1": q8_1,
    "Q8_K": q8_k, "TQ1_0": tq1_0, "TQ2_0": tq2_0, "MXFP4": mxfp4, "NVFP4": nvfp4,
}  # fmt: skip
