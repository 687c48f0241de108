"""Number formats as frozen records, and what each code stands for.

Every number of every format here is a float64 number, so a value is a Python float. Sources: IEEE 754-2019 §3.4, OCP
8-bit Floating Point 1.0, OCP Microscaling Formats 1.0, the FNUZ formats of ONNX, NF4 as bitsandbytes stores it
(arXiv:2305.14314).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType

from lepton_ref.plain.shown import shown


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format whose numbers are float64 numbers. ValueError for one whose are not.

    Attributes:
        name: what `FORMATS` calls it.
        exponent_bits, mantissa_bits: the widths of the two fields; the hidden bit is not stored.
        bias: what is taken from the exponent field.
        infinities: whether ±∞ have codes.
        nans: which codes are NaN: "ieee" (the highest exponent, mantissa not 0), "all_ones" (every bit below the sign),
            "negative_zero" (the code that −0 would have), "none".
        signed: whether the highest bit is a sign.
        subnormals: whether exponent field 0 holds zero and the subnormals; otherwise the format has no zero.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    infinities: bool
    nans: str
    signed: bool = True
    subnormals: bool = True

    def __post_init__(self) -> None:
        if self.nans not in ("ieee", "all_ones", "negative_zero", "none"):
            raise ValueError(f"nans {self.nans!r} of {self.name}; give 'ieee', 'all_ones', 'negative_zero' or 'none'")
        if self.infinities != (self.nans == "ieee"):
            raise ValueError(f"infinities {self.infinities} with nans {self.nans!r} of {self.name}; 'ieee' has both")
        widths = self.exponent_bits, self.mantissa_bits
        if not 1 <= widths[0] <= 11 or not 0 <= widths[1] <= 52:
            raise ValueError(f"{self.name} has fields of {widths[0]} and {widths[1]} bits; give 1 to 11 and 0 to 52")
        if not (self.signed == self.subnormals == (self.mantissa_bits > 0)):
            raise ValueError(f"{self.name}: give a sign, subnormals and a mantissa, or none of them (powers of two)")
        if self.emin - self.mantissa_bits < -1074 or self.emax > 1023:
            raise ValueError(f"{self.name} reaches from 2^{self.emin} to 2^{self.emax}; float64 must hold its numbers")

    @property
    def bits(self) -> int:
        """The width of a code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def precision(self) -> int:
        """Significand bits, the hidden one included."""
        return self.mantissa_bits + 1

    @property
    def emin(self) -> int:
        """The exponent of the least normal number."""
        return int(self.subnormals) - self.bias

    @property
    def emax(self) -> int:
        """The exponent of the largest number."""
        return (self.largest_code >> self.mantissa_bits) - self.bias

    @property
    def largest_code(self) -> int:
        """The code of the largest number."""
        if self.nans == "ieee":
            return ((1 << self.exponent_bits) - 1 << self.mantissa_bits) - 1
        return (1 << self.exponent_bits + self.mantissa_bits) - 1 - int(self.nans == "all_ones")

    @property
    def largest(self) -> float:
        """The largest number."""
        return decode(self.largest_code, self)

    @property
    def lowest(self) -> float:
        """The most negative number, or the least one of a format without a sign."""
        return -self.largest if self.signed else self.least

    @property
    def least(self) -> float:
        """The smallest number above zero."""
        return decode(int(self.subnormals), self)

    @property
    def negative_zero(self) -> bool:
        """Whether −0 has a code."""
        return self.signed and self.nans != "negative_zero"

    def spacing(self, exponent: int) -> int:
        """The s for which the numbers of [2^exponent, 2^(exponent+1)) are the multiples of 2^s."""
        return max(exponent, self.emin) - self.mantissa_bits


@dataclass(frozen=True)
class IntFormat:
    """Integers of `bits` bits in two's complement: −2^(bits−1) … 2^(bits−1) − 1. No NaN, no −0; overflow saturates."""

    name: str
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"{self.name} has {self.bits} bits; give 2 to 32")

    @property
    def largest(self) -> float:
        """2^(bits−1) − 1."""
        return float((1 << self.bits - 1) - 1)

    @property
    def lowest(self) -> float:
        """−2^(bits−1)."""
        return -float(1 << self.bits - 1)

    @property
    def least(self) -> float:
        """The smallest number above zero."""
        return 1.0

    def spacing(self, exponent: int) -> int:
        """0: every number is a multiple of 2⁰, whatever its exponent."""
        return 0 * exponent


@dataclass(frozen=True)
class CodebookFormat:
    """Numbers listed by code in rising order, 0.0 among them. No NaN, no −0; overflow saturates.

    Attributes:
        name: what `FORMATS` calls it.
        values: the number of each code.
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = list(pairwise(self.values))
        if 0.0 not in self.values[1:-1] or not all(a < b for a, b in pairs) or not math.isfinite(sum(self.values)):
            raise ValueError(f"{self.name}: {self.values}; list finite numbers in rising order, 0.0 not at an end")
        signed = [(a, sign * b) for a, b in pairs for sign in (1, -1)]
        sums = [(a + b, Fraction(a) + Fraction(b)) for a, b in signed]
        if any(Fraction(rounded) != exact for rounded, exact in sums):
            raise ValueError(f"{self.name}: {self.values}; float64 must hold the sums and differences of neighbours")

    @property
    def bits(self) -> int:
        """The width of a code."""
        return (len(self.values) - 1).bit_length()

    @property
    def largest(self) -> float:
        """The largest number."""
        return self.values[-1]

    @property
    def lowest(self) -> float:
        """The most negative number."""
        return self.values[0]

    @property
    def least(self) -> float:
        """The smallest number above zero."""
        return min(value for value in self.values if value > 0)


Format = FloatFormat | IntFormat | CodebookFormat

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)

_ALL: tuple[Format, ...] = (
    FloatFormat("fp64", 11, 52, 1023, infinities=True, nans="ieee"),
    FloatFormat("fp32", 8, 23, 127, infinities=True, nans="ieee"),
    FloatFormat("tf32", 8, 10, 127, infinities=True, nans="ieee"),
    FloatFormat("bf16", 8, 7, 127, infinities=True, nans="ieee"),
    FloatFormat("fp16", 5, 10, 15, infinities=True, nans="ieee"),
    FloatFormat("e5m2", 5, 2, 15, infinities=True, nans="ieee"),
    FloatFormat("e4m3fn", 4, 3, 7, infinities=False, nans="all_ones"),
    FloatFormat("e5m2fnuz", 5, 2, 16, infinities=False, nans="negative_zero"),
    FloatFormat("e4m3fnuz", 4, 3, 8, infinities=False, nans="negative_zero"),
    FloatFormat("e3m2", 3, 2, 3, infinities=False, nans="none"),
    FloatFormat("e2m3", 2, 3, 1, infinities=False, nans="none"),
    FloatFormat("e2m1", 2, 1, 1, infinities=False, nans="none"),
    FloatFormat("e8m0", 8, 0, 127, infinities=False, nans="all_ones", signed=False, subnormals=False),
    CodebookFormat("nf4", _NF4),
    *(IntFormat(f"int{bits}", bits) for bits in range(8, 1, -1)),
)

FORMATS: Mapping[str, Format] = MappingProxyType({record.name: record for record in _ALL})
"""Every format by name."""


def get_format(format: str | Format, /) -> Format:
    """The format of that name, or the record itself.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(format, FloatFormat | IntFormat | CodebookFormat):
        return format
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"unknown number format {shown(format)}; known: {', '.join(FORMATS)}")
    return FORMATS[format]


def decode(code: int, format: str | Format, /) -> float:
    """The number that a code stands for; every NaN code gives the one NaN.

    Raises:
        ValueError: an unknown format; a code outside 0 … 2^bits − 1.
    """
    f = get_format(format)
    if not 0 <= code < 1 << f.bits:
        raise ValueError(f"code {code} of {f.name}; its codes are 0 … {(1 << f.bits) - 1}")
    if isinstance(f, CodebookFormat):
        return f.values[code]
    if isinstance(f, IntFormat):
        return float(code - (1 << f.bits if code >> f.bits - 1 else 0))
    below_sign = (1 << f.exponent_bits + f.mantissa_bits) - 1
    negative, magnitude = code > below_sign, code & below_sign
    missing = f.nans == "negative_zero" and negative and magnitude == 0
    size = math.nan if missing else _size(magnitude, f)
    return -size if negative and not math.isnan(size) else size


def _size(magnitude: int, f: FloatFormat) -> float:
    """The number of a code without its sign."""
    top = (1 << f.exponent_bits) - 1 << f.mantissa_bits
    if f.nans == "ieee" and magnitude >= top:
        return math.inf if magnitude == top else math.nan
    if f.nans == "all_ones" and magnitude == (1 << f.exponent_bits + f.mantissa_bits) - 1:
        return math.nan
    field, mantissa = magnitude >> f.mantissa_bits, magnitude & (1 << f.mantissa_bits) - 1
    if field == 0 and f.subnormals:
        return math.ldexp(mantissa, f.emin - f.mantissa_bits)
    return math.ldexp((1 << f.mantissa_bits) + mantissa, field - f.bias - f.mantissa_bits)
