"""Encoding and the one rounding of a number that is known exactly, on Python numbers: the specification.

A real number lies between two neighbours of the format: `inner`, nearer to zero, and `outer`. Which one it becomes, the
mode says; what becomes of it beyond the largest number, the format and `saturate` say (IEEE 754-2019 §4.3 and §7.4, OCP
8-bit Floating Point 1.0 §5.3).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

from lepton_ref.plain.records import FORMATS, CodebookFormat, FloatFormat, Format, IntFormat, decode, get_format

__all__ = [
    "FORMATS",
    "MODES",
    "CodebookFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "decode",
    "encode",
    "exponent_of",
    "get_format",
    "goes_out",
    "nan_of",
    "overflowed",
    "round_to",
    "turns_back",
]

MODES = ("even", "away", "zero", "up", "down", "odd", "stochastic")
"""How a number between two neighbours is rounded.

"even" and "away" take the nearer, a tie to the even code or away from zero; "zero", "up", "down" go toward 0, +∞, −∞;
"odd" takes the neighbour of odd code, so that rounding again to a format of two bits fewer is still one rounding;
"stochastic" goes away from zero by chance, with the probability that makes the mean exact.
"""


@dataclass(frozen=True)
class _Place:
    """Where a magnitude lies among those of a format: between `inner` and `outer`, inner ≤ magnitude < outer."""

    inner: Fraction
    outer: Fraction
    inner_is_odd: bool


def round_to(
    value: Fraction | int | float,
    format: str | Format,
    /,
    *,
    mode: str = "even",
    saturate: bool = False,
    chance: Fraction | None = None,
    zero: float = 0.0,
) -> float:
    """The number of the format that the real number `value` rounds to.

    A finite number beyond the largest becomes ∞; NaN in a format without ∞; the largest in one without either. It
    becomes the largest with `saturate`, too, and where the mode turns back: "zero", "up" below zero, "down" above it,
    "odd" if the largest has the odd code. ±∞ becomes the same as a number that overflows under "even". In e8m0, which
    has neither zero nor sign, a positive number below the least becomes the least; zero and negative numbers become
    NaN, or the least with `saturate`. NaN becomes the one NaN.

    Args:
        value: the real number; a float may be ±∞ or NaN, and a float's −0 stays −0 where the format has it.
        format: a format or its name.
        mode: one of `MODES`.
        saturate: whether overflow, ∞ included, stops at the largest number.
        chance: for "stochastic" alone: a number of [0, 1); away from zero where the fraction passed exceeds it.
        zero: 0.0 or −0.0, what a Fraction or an int of zero is.

    Raises:
        ValueError: an unknown format or mode; a chance that is missing, out of range or unasked for; NaN where the
            format has none.
    """
    f = get_format(format)
    _check_mode(mode, chance)
    if isinstance(value, float) and not math.isfinite(value):
        return nan_of(f) if math.isnan(value) else overflowed(value < 0, f, saturate)
    exact = Fraction(value)
    negative = math.copysign(1.0, value if isinstance(value, float) else zero) < 0 if exact == 0 else exact < 0
    if isinstance(f, FloatFormat) and not f.signed and (exact <= 0 or exact < Fraction(f.least)):
        return f.least if exact > 0 or saturate else nan_of(f)
    size = Fraction(0) if exact == 0 else _rounded(abs(exact), negative, f, mode, chance)
    if size > (-f.lowest if negative else f.largest):
        return overflowed(negative, f, saturate or turns_back(mode, negative, f))
    signed_zero = isinstance(f, FloatFormat) and f.negative_zero
    return -float(size) if negative and (size > 0 or signed_zero) else float(size)


def goes_out(fraction: Fraction, odd: bool, negative: bool, mode: str, chance: Fraction | None) -> bool:
    """Whether a magnitude that has passed this fraction of the way from inner to outer goes to outer.

    `odd` says whether inner's code is odd.
    """
    if fraction == 0:
        return False
    half = Fraction(1, 2)
    match mode:
        case "even":
            return fraction > half or (fraction == half and odd)
        case "away":
            return fraction >= half
        case "up" | "down":
            return negative == (mode == "down")
        case "odd":
            return not odd
        case "stochastic" if chance is not None:
            return fraction > chance
        case _:
            return False


def exponent_of(magnitude: Fraction) -> int:
    """The e with 2^e ≤ magnitude < 2^(e+1), of a magnitude above zero."""
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent if magnitude >= Fraction(2) ** exponent else exponent - 1


def nan_of(f: Format) -> float:
    """NaN, of a format that has it.

    Raises:
        ValueError: a format without NaN.
    """
    if isinstance(f, FloatFormat) and f.nans != "none":
        return math.nan
    raise ValueError(f"nan has no code in {f.name}; replace it before rounding, or choose a format that has NaN")


def _check_mode(mode: str, chance: Fraction | None) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown rounding mode {mode!r}; known: {', '.join(MODES)}")
    if (mode == "stochastic") != (chance is not None):
        raise ValueError(f"mode {mode!r} with chance {chance}; a chance belongs to 'stochastic', which needs one")
    if chance is not None and not 0 <= chance < 1:
        raise ValueError(f"chance {chance}; give a number of [0, 1)")


def _rounded(magnitude: Fraction, negative: bool, f: Format, mode: str, chance: Fraction | None) -> Fraction:
    """The neighbour of a magnitude that the mode chooses, as if the format's exponents had no upper end."""
    place = _place(magnitude, negative, f)
    fraction = (magnitude - place.inner) / (place.outer - place.inner)
    return place.outer if goes_out(fraction, place.inner_is_odd, negative, mode, chance) else place.inner


def _place(magnitude: Fraction, negative: bool, f: Format) -> _Place:
    """Where a magnitude lies among the format's, as if its exponents had no upper end."""
    if isinstance(f, CodebookFormat):
        return _place_in_list(magnitude, negative, f)
    spacing = Fraction(2) ** f.spacing(exponent_of(magnitude))
    steps = magnitude // spacing
    inner_is_odd = steps % 2 == 1
    if isinstance(f, FloatFormat) and f.precision == 1:  # the mantissa is empty: the code's last bit is the exponent's
        inner_is_odd = (exponent_of(magnitude) + f.bias) % 2 == 1
    return _Place(steps * spacing, (steps + 1) * spacing, inner_is_odd)


def _place_in_list(magnitude: Fraction, negative: bool, f: CodebookFormat) -> _Place:
    """Where a magnitude lies among the listed numbers of its sign; past the last one, there."""
    sign = -1 if negative else 1
    codes = [code for code, value in enumerate(f.values) if sign * value >= 0][::sign]
    sizes = [abs(Fraction(f.values[code])) for code in codes]
    at = bisect_right(sizes, magnitude) - 1
    if at == len(sizes) - 1:
        return _Place(sizes[-1], magnitude + 1, False)
    return _Place(sizes[at], sizes[at + 1], codes[at] % 2 == 1)


def overflowed(negative: bool, f: Format, saturate: bool) -> float:
    """What a number beyond the largest becomes, unless the mode turns it back."""
    if saturate or not isinstance(f, FloatFormat) or (f.nans == "none" and not f.infinities):
        return f.lowest if negative else f.largest
    if not f.infinities:
        return math.nan
    return -math.inf if negative else math.inf


def turns_back(mode: str, negative: bool, f: Format) -> bool:
    """Whether the mode takes a finite number beyond the largest back to it."""
    if mode == "odd":
        return isinstance(f, FloatFormat) and f.largest_code % 2 == 1
    return mode == "zero" or (mode in ("up", "down") and negative == (mode == "up"))


def encode(value: float, format: str | Format, /) -> int:
    """The code of a number of the format; NaN gets the quiet one without sign or payload.

    Raises:
        ValueError: an unknown format; a value that is no number of the format.
    """
    f = get_format(format)
    if math.isnan(value):
        return _nan_code(f)
    code = _candidate(value, f)
    found = decode(code, f) if 0 <= code < 1 << f.bits else math.nan
    if found != value or math.copysign(1.0, found) != math.copysign(1.0, value):
        raise ValueError(f"{value!r} is no number of {f.name}; round it to the format first")
    return code


def _nan_code(f: Format) -> int:
    """The code of the canonical NaN."""
    nan_of(f)
    if not isinstance(f, FloatFormat) or f.nans == "negative_zero":
        return 1 << f.bits - 1
    quiet = 1 << f.mantissa_bits - 1 if f.nans == "ieee" else 0  # the highest bit of the mantissa
    return f.largest_code + 1 + quiet


def _candidate(value: float, f: Format) -> int:
    """The only code that can stand for the value; −1 where it is plain that none does."""
    if isinstance(f, CodebookFormat):
        return f.values.index(value) if value in f.values else -1
    if isinstance(f, IntFormat):
        return int(value) % (1 << f.bits) if f.lowest <= value <= f.largest else -1
    sign = int(math.copysign(1.0, value) < 0) << f.exponent_bits + f.mantissa_bits
    if value == 0 or math.isinf(value):
        return sign + (f.largest_code + 1 if value != 0 else 0)
    exponent = exponent_of(abs(Fraction(value)))
    steps = abs(Fraction(value)) // Fraction(2) ** f.spacing(exponent)  # with the hidden bit, which adds 1 to the field
    binades = max(exponent, f.emin) - f.emin - int(not f.subnormals)
    return sign + (binades << f.mantissa_bits) + steps
