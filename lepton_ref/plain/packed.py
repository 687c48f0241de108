"""What one element of a packed or scaled weight is, on Python integers and floats: the specification of these formats.

    GPTQ             s·(q − z)        codes run down 32-bit words; version 1 stores z − 1 modulo 2^b
    AWQ              s·(q − z)        nibble [0, 4, 1, 5, 2, 6, 3, 7][o mod 8] of a word is output o
    pack-quantized   s·(u − 2^(b−1) − z)
    NF4, FP4         T[q]·a           a is stored, or is A[c]·m + offset
    LLM.int8()       q·SCB/127
    FP8, MX          s·q
    NVFP4            s·q·G or s·q/G
    integers         s·q or s·(q − z)

Every function gives two floats: the real number rounded once to float32, and the closed form as float64 has it, which
is the real number itself but for quotients and for T[q]·(A[c]·m + offset). There float64 rounds after each operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from lepton_ref.plain.formats import decode, round_to

Element = tuple[float, float]
"""Rounded once to float32, and the closed form in float64."""

AWQ_NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output modulo 8 → nibble of a word, lowest first."""


def code_of(words: Sequence[int], bits: int, number: int, *, aligned: bool = False) -> int:
    """Code `number` of a line of 32-bit words: a dense stream of bits from below, or whole codes in each word."""
    each = 32 // bits
    at = 32 * (number // each) + bits * (number % each) if aligned else bits * number
    here = sum(word % 2**32 << 32 * n for n, word in enumerate(words[at // 32 : at // 32 + 2]))
    return here >> at % 32 & (1 << bits) - 1


def byte_code(row: bytes, bits: int, number: int) -> int:
    """Code `number` of a row of bytes: a dense stream of bits from below."""
    return int.from_bytes(row, "little") >> bits * number & (1 << bits) - 1


def signed(code: int, bits: int) -> int:
    """What a code means in two's complement."""
    return code - (1 << bits) if code >> bits - 1 else code


def scaled(scale: float, difference: int) -> Element:
    """s·n, of at most 24 + 9 significant bits: exact in float64."""
    return _exact(scale * difference)


def gptq_zero(words: Sequence[int], output: int, *, bits: int, version: int) -> int:
    """The zero of an output in its group's row of `qzeros`."""
    return (code_of(words, bits, output) + (version == 1)) & (1 << bits) - 1


def awq_code(words: Sequence[int], output: int) -> int:
    """The code of an output in a row of `qweight` or `qzeros`."""
    return words[output // 8] % 2**32 >> 4 * AWQ_NIBBLES[output % 8] & 15


def high_first(data: bytes, number: int) -> int:
    """Nibble `number` of bytes, the high one first."""
    return data[number // 2] >> (0 if number % 2 else 4) & 15


def from_table(entry: float, scale: float) -> Element:
    """T[q]·a: the product of two float32 numbers, exact in float64."""
    return _exact(entry * scale)


def from_nested(entry: float, factor: float, scale: float, offset: float) -> Element:
    """T[q]·(A[c]·m + offset), all of them float32 numbers."""
    float64 = entry * (factor * scale + offset)
    if not math.isfinite(float64):
        return float64, float64
    exact = Fraction(entry) * (Fraction(factor) * Fraction(scale) + Fraction(offset))
    return round_to(exact, "fp32", zero=float64), float64


def int8_row(code: int, largest: float) -> Element:
    """q·SCB/127."""
    return _quotient(code * largest, 127.0)


def eight_bits(code: int, format: str, scale: float) -> Element:
    """s·q of FP8, or of an MX element."""
    return _exact(decode(code, format) * scale)


def two_levels(code: int, scale: float, whole: float, *, divides: bool) -> Element:
    """s·q·G, or s·q/G, of an E2M1 code."""
    product = decode(code, "e2m1") * scale
    return _quotient(product, whole) if divides else _exact(product * whole)


def _exact(value: float) -> Element:
    return round_to(value, "fp32"), value


def _quotient(numerator: float, denominator: float) -> Element:
    """Of a numerator that float64 holds exactly; the denominator is a number above zero."""
    float64 = numerator / denominator
    if not math.isfinite(numerator):
        return float64, float64
    return round_to(Fraction(numerator) / Fraction(denominator), "fp32", zero=float64), float64
