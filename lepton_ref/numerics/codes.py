"""Codes of a number format to numbers and back, in whole arrays: the twins of `decode` and `encode` in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain.formats import CodebookFormat, FloatFormat, Format, IntFormat, encode, get_format

Floats = NDArray[np.float64]
Codes = NDArray[np.uint64]


def decode_array(codes: NDArray[Any], format: str | Format, /) -> Floats:
    """`(...) -> (...)` the number of each code; every NaN code gives the one NaN.

    Any integer dtype in, float64 out. Exact.

    Raises:
        TypeError: codes that are no integers.
        ValueError: an unknown format; a code outside 0 … 2^bits − 1.
    """
    f = get_format(format)
    if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iu":
        raise TypeError(f"codes are {getattr(codes, 'dtype', type(codes).__name__)}; give a NumPy array of integers")
    wrong = (codes < 0) | (codes > (1 << f.bits) - 1) if f.bits < codes.dtype.itemsize * 8 else codes < 0
    if wrong.any():
        raise ValueError(f"code {codes[wrong][0]} of {f.name}; its codes are 0 … {(1 << f.bits) - 1}")
    if isinstance(f, CodebookFormat):
        return np.array(f.values)[codes.astype(np.intp)]
    if isinstance(f, IntFormat):
        signed = codes.astype(np.int64)
        return (signed - ((signed >> f.bits - 1) << f.bits)).astype(np.float64)
    with np.errstate(all="ignore"):  # codes of ∞ and NaN are computed like the others, and replaced
        return _floats(codes.astype(np.uint64).ravel(), f).reshape(codes.shape)


def _floats(codes: Codes, f: FloatFormat) -> Floats:
    """The number of each code of a floating-point format."""
    below_sign = (1 << f.exponent_bits + f.mantissa_bits) - 1
    magnitudes = (codes & np.uint64(below_sign)).astype(np.int64)
    fields = magnitudes >> f.mantissa_bits
    hidden = (fields > 0) | (not f.subnormals)
    steps = (magnitudes & (1 << f.mantissa_bits) - 1) + (hidden.astype(np.int64) << f.mantissa_bits)
    exponents = np.maximum(fields, int(f.subnormals)) - f.bias - f.mantissa_bits
    numbers: Floats = np.ldexp(steps.astype(np.float64), exponents.astype(np.intc))
    numbers[magnitudes > f.largest_code] = np.nan
    if f.infinities:
        numbers[magnitudes == f.largest_code + 1] = np.inf
    negative = codes > np.uint64(below_sign)
    numbers[negative] *= -1.0
    numbers[np.isnan(numbers)] = np.nan  # without the sign that −1 · NaN may have
    if f.nans == "negative_zero":
        numbers[negative & (magnitudes == 0)] = np.nan
    return numbers


def encode_array(values: Floats, format: str | Format, /) -> NDArray[Any]:
    """`(...) -> (...)` the code of each number of the format; NaN gets the quiet one without sign or payload.

    float64 in, the narrowest unsigned dtype that holds a code out. Exact.

    Raises:
        TypeError: values that are not float64.
        ValueError: an unknown format; a value that is no number of the format.
    """
    f = get_format(format)
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        raise TypeError(f"values are {getattr(values, 'dtype', type(values).__name__)}; give a NumPy array of float64")
    missing = np.isnan(values)
    finite = np.where(missing, f.largest, values)
    with np.errstate(all="ignore"):
        codes = (_candidates(finite.ravel(), f) & np.uint64((1 << f.bits) - 1)).reshape(values.shape)
    wrong = decode_array(codes, f).view(np.uint64) != finite.view(np.uint64)
    if wrong.any():
        raise ValueError(f"{float(values[wrong][0])!r} is no number of {f.name}; round it to the format first")
    if missing.any():
        codes[missing] = encode(np.nan, f)
    return codes.astype(f"u{max(1, 1 << (f.bits - 1).bit_length() >> 3)}")


def _candidates(values: Floats, f: Format) -> Codes:
    """The only code that can stand for each value; any code where none does."""
    if isinstance(f, CodebookFormat):
        return np.searchsorted(np.array(f.values), values).astype(np.uint64)
    if isinstance(f, IntFormat):
        return np.clip(values, f.lowest, f.largest).astype(np.int64).view(np.uint64)
    sizes = np.abs(values)
    beyond = sizes > f.largest  # ∞, and what is no number of the format
    sizes[beyond] = f.largest
    exponents = np.where(sizes == 0, f.emin, np.maximum(np.frexp(sizes)[1].astype(np.int64) - 1, f.emin))
    steps = np.ldexp(sizes, (f.mantissa_bits - exponents).astype(np.intc)).astype(np.int64)
    codes = (exponents - f.emin - int(not f.subnormals) << f.mantissa_bits) + steps + beyond
    return codes.view(np.uint64) | np.signbit(values).astype(np.uint64) << np.uint64(f.bits - 1)
