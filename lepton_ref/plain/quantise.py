r"""What linear layers multiply under w8a8, w4a8 and fp8: activations and dense weights as small numbers with scales.

    activations, w8a8 and w4a8    by blocks of 32 along a row: d = amax/127, q = x/d to an integer, at most ±127; d·q
    activations, fp8              by rows: d = amax/448, q = x/d to E4M3, saturating; d·q
    dense weights, w8a8           Q8_0: d = amax/127, q = x·(1/d) half away from zero; d to fp16; d·q
    dense weights, w4a8           Q4_0: d = m/−8, q = ⌊x·(1/d) + 8.5⌋ at most 15; d to fp16; d·(q − 8)
    dense weights, fp8            as fp8's activations, by rows of the matrix

amax is the largest |x|, m the first x of that size. A row's last block may be shorter. The scale of an activation, and
of fp8, is rounded to 11 significand bits within float32's range, and every rounding without another name is to nearest
even, of the exact quotient: so d·q has at most 18 bits, and a product with a weight's stays exact in float64. Q8_0 and
Q4_0 are ggml's reference encoders (`quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`), in which every operation is
rounded to float32.

A scale of zero makes zeros: +0, but E4M3 keeps the signs of x. NaN or infinity in a block, or in fp8's row, makes all
of it NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from lepton_ref.plain import ggml
from lepton_ref.plain.formats import FloatFormat, round_to

BLOCK = 32
"""Numbers that share a scale."""
SCALE = FloatFormat("scale", exponent_bits=9, mantissa_bits=10, bias=140, infinities=True, nans="ieee")
"""Numbers of 11 significand bits, the least of which is float32's, 2⁻¹⁴⁹."""
INT8_LARGEST = 127
E4M3_LARGEST = 448
OPERANDS = ("stored", "w8a8", "w4a8", "fp8", "ggml")
"""What a linear layer multiplies; "stored" is activations and weights as they are, "ggml" `lepton_ref.plain.ggml`."""


def activations(x: Sequence[float], operands: str, format: str = "F32") -> list[float]:
    """One row of activations as a linear layer multiplies it; under "ggml" a weight's storage format decides.

    Raises:
        ValueError: unknown operands, or under "ggml" an unknown format or a row that is not whole blocks.
    """
    if operands == "ggml":
        return ggml.activations(x, format)
    return _encoded(x, ACTIVATIONS, operands)


def weights(w: Sequence[float], operands: str) -> list[float]:
    """One row of a dense weight, float32 numbers, as a linear layer multiplies it.

    Raises:
        ValueError: unknown operands.
    """
    return _encoded(w, WEIGHTS, operands)


def int8_block(x: Sequence[float]) -> list[float]:
    """d·q for one block of activations."""
    return _by_largest(x, INT8_LARGEST, lambda quotient, zero: max(round_to(quotient, "int8"), -127.0))


def fp8_row(x: Sequence[float]) -> list[float]:
    """d·q for one row, of activations or of a weight."""
    return _by_largest(x, E4M3_LARGEST, lambda quotient, zero: round_to(quotient, "e4m3fn", saturate=True, zero=zero))


def q8_0_block(x: Sequence[float]) -> list[float]:
    """One block by ggml's encoder and decoder."""
    d = _float32(Fraction(max(map(abs, x))) / 127)
    return _by_inverse(x, d, lambda scaled: round_to(scaled, "int8", mode="away"))


def q4_0_block(x: Sequence[float]) -> list[float]:
    """One block by ggml's encoder and decoder."""
    d = _float32(Fraction(max(x, key=abs)) / -8)
    return _by_inverse(x, d, lambda scaled: min(math.floor(_float32(scaled + Fraction(17, 2))), 15) - 8)


def _by_largest(x: Sequence[float], largest: int, code: Callable[[Fraction, float], float]) -> list[float]:
    """A code is made from the quotient, and from a float with its sign where it is 0."""
    d = round_to(Fraction(max(map(abs, x))) / largest, SCALE)
    quotients = [Fraction(number) / Fraction(d) if d > 0 else Fraction(0) for number in x]
    return [d * code(quotient, math.copysign(0.0, number)) for quotient, number in zip(quotients, x, strict=True)]


def _by_inverse(x: Sequence[float], d: float, code: Callable[[Fraction], float]) -> list[float]:
    """Codes of x·(1/d), each of the two a float32, times d as fp16 keeps it; zeros where that is zero."""
    stored = round_to(d, "fp16")
    if stored == 0:
        return [0.0] * len(x)
    inverse = Fraction(_float32(1 / Fraction(d)))
    return [stored * code(Fraction(_float32(Fraction(number) * inverse))) for number in x]


def _float32(x: Fraction) -> float:
    return round_to(x, "fp32")


def _healthy(encode: Callable[[Sequence[float]], list[float]]) -> Callable[[Sequence[float]], list[float]]:
    """The encoder, and NaN throughout for a block that holds NaN or an infinity."""
    return lambda x: encode(x) if all(map(math.isfinite, x)) else [math.nan] * len(x)


def _in_blocks(encode: Callable[[Sequence[float]], list[float]]) -> Callable[[Sequence[float]], list[float]]:
    """The encoder, block by block of a row."""
    one = _healthy(encode)
    return lambda x: [y for start in range(0, len(x), BLOCK) for y in one(x[start : start + BLOCK])]


Encoder = Callable[[Sequence[float]], list[float]]

ACTIVATIONS: Mapping[str, Encoder] = MappingProxyType(
    {"stored": list, "w8a8": _in_blocks(int8_block), "w4a8": _in_blocks(int8_block), "fp8": _healthy(fp8_row)}
)
"""Operands → how a row of activations is encoded."""
WEIGHTS: Mapping[str, Encoder] = MappingProxyType(
    {
        "stored": list,
        "w8a8": _in_blocks(q8_0_block),
        "w4a8": _in_blocks(q4_0_block),
        "fp8": _healthy(fp8_row),
        "ggml": list,
    }
)
"""Operands → how a row of a dense weight is encoded."""


def _encoded(row: Sequence[float], encoders: Mapping[str, Encoder], operands: str) -> list[float]:
    if operands not in encoders:
        raise ValueError(f"unknown operands {operands!r}; known: {', '.join(OPERANDS)}")
    return encoders[operands](row) if row else []
