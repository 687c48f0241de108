"""The arithmetic units that machine models share: products and sums of a whole panel, rounded after each operation.

`NativeUnit` computes in float32 and rounds what comes out once more, to nearest even. That is one rounding all the
same: a product is exact in float32 (2p ≤ 24, far from the ends of the range) or is itself wanted in fp32; of a sum, the
second rounding is innocuous, because 24 ≥ 2p + 1 for p = 8 and 11 (Figueroa, When is double rounding innocuous?,
SIGNUM 1995), and sums too small for that theorem are multiples of the format's least number, hence exact.

`GeneralUnit` computes in float64, where each product is exact, and takes the sum's error along: rounded to odd at 53
bits, and then once to at most 51 bits, a sum is rounded once (Boldo and Melquiond, IEEE Transactions on Computers
2008). For stochastic rounding, the fraction passed must be exact: of exact values `by_chance` takes it, and otherwise
the error goes into the rounding itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.philox import random_bits
from lepton_ref.plain.formats import FloatFormat, get_format
from lepton_ref.plain.machines import Sums

Reals = NDArray[np.float64]
Numbers = NDArray[np.float64] | NDArray[np.float32]

EXPONENT = np.uint64(0x7FF0000000000000)
"""The exponent bits of a float64."""

DRAWS = 32
"""Roundings for which random bits are drawn at a time."""


def float_record(format: str, /) -> FloatFormat:
    """The record of a machine's format, which is a floating-point one."""
    record = get_format(format)
    assert isinstance(record, FloatFormat), "a machine's formats are floating-point formats"
    return record


def to_bf16(x: NDArray[np.float32], /) -> NDArray[np.float32]:
    """`(...) -> (...)` to bf16, to nearest even: its numbers are the float32 whose low 16 bits are 0.

    Adding half of the last kept bit, less one where that bit is 0, carries into it when it should, and into ∞.
    """
    bits = x.view(np.uint32)
    carry = bits >> np.uint32(16)
    carry &= np.uint32(1)
    carry += np.uint32(0x7FFF)
    carry += bits
    carry &= np.uint32(0xFFFF0000)
    return carry.view(np.float32)


def to_fp16(x: NDArray[np.float32], /) -> NDArray[np.float32]:
    """`(...) -> (...)` to fp16, to nearest even, of |x| ≤ 2¹⁰⁰, ∞ or NaN.

    x + M − M with M = 1.5·2^(e+13), e being x's exponent and at least −14, rounds to a multiple of 2^(e−10), M's own
    last bit. Times 2¹¹² what fp16 has no number for overflows. The subtraction forgets the sign of a zero.
    """
    bits = x.view(np.uint32)
    magic = bits & np.uint32(0x7F800000)
    np.maximum(magic, np.uint32(127 - 14 << 23), out=magic)
    magic += np.uint32(13 << 23 | 1 << 22)
    result = x + magic.view(np.float32)
    result -= magic.view(np.float32)
    result *= np.float32(2.0**112)
    result *= np.float32(2.0**-112)
    out = result.view(np.uint32)
    out |= bits & np.uint32(0x80000000)
    return result


def _finite(error: Reals | None) -> Reals | None:
    """An error of ∞ or NaN, which an infinite sum has, is none."""
    return None if error is None else np.where(np.isfinite(error), error, 0.0)


def to_odd(total: Reals, error: Reals, /) -> Reals:
    """`(...), (...) -> (...)` the sum whose nearest float64 is `total`, at a distance of `error`, rounded to odd.

    An inexact sum lies between two neighbours, of which total is one; an even one is exchanged for the other, which is
    one step away on the error's side: the bits, as an integer, grow where the two have one sign.
    """
    bits, other = total.view(np.int64), error.view(np.int64)
    away = (bits ^ other) >> 63 | 1
    away *= ~bits & 1 & ((error > 0) | (error < 0))  # of an infinite sum the error is NaN
    away += bits
    return away.view(np.float64)


def by_chance(value: Reals, bits: NDArray[np.uint64], format: FloatFormat, /) -> Reals:
    """`(M, N), (N) -> (M, N)` away from zero where the fraction passed of a spacing exceeds bits·2⁻⁶⁴.

    The fraction is exact, and exceeds that number if, times 2⁶⁴ and rounded up to an integer, it exceeds bits.
    """
    spacing = (value.view(np.uint64) & EXPONENT).view(np.float64)
    np.clip(spacing, 2.0**format.emin, 2.0 ** (format.emax + 1), out=spacing)
    spacing *= 2.0**-format.mantissa_bits
    fraction = np.abs(value)
    fraction /= spacing
    steps = np.floor(fraction)
    fraction -= steps
    fraction *= 2.0**64
    steps += np.ceil(fraction, out=fraction).astype(np.uint64) > bits
    steps *= spacing
    steps[steps > format.largest] = np.inf
    return np.copysign(steps, value, out=steps)


class NativeUnit:
    """The unit in float32."""

    def __init__(self, x: Reals, w: Reals, machine: Sums) -> None:
        self.machine = machine
        self.x, self.w = x.astype(np.float32), w.astype(np.float32)
        self.least = np.float32(2.0 ** float_record(machine.accumulate).emin)

    def zeros(self) -> Numbers:
        """The sum of nothing."""
        return np.zeros((self.x.shape[1], self.w.shape[1]), dtype=np.float32)

    def multiply(self, k: int) -> Numbers:
        """Product number k of every sum."""
        return self._round(self.x[k][:, None] * self.w[k])

    def add(self, a: Numbers, b: Numbers) -> Numbers:
        """The sum a + b, rounded."""
        return self._round(np.add(a, b, dtype=np.float32))

    def add_product(self, k: int, c: Numbers) -> Numbers:
        """Product number k, added to c."""
        return self.add(c, self.multiply(k))

    def _round(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.machine.accumulate == "fp16":
            value = to_fp16(value)
        elif self.machine.accumulate == "bf16":
            value = to_bf16(value)
        if self.machine.flush_to_zero:
            value *= np.abs(value) >= self.least
        return value


class GeneralUnit:
    """The unit in float64, which counts its roundings."""

    def __init__(self, x: Reals, w: Reals, machine: Sums, feature: int) -> None:
        self.x, self.w, self.machine = x, w, machine
        self.roundings = 0
        self.features = np.arange(feature, feature + w.shape[1], dtype=np.uint64)
        self.draws = np.empty((0, w.shape[1]), dtype=np.uint64)
        self.least = 2.0 ** float_record(machine.accumulate).emin

    def zeros(self) -> Numbers:
        """The sum of nothing."""
        return np.zeros((self.x.shape[1], self.w.shape[1]))

    def multiply(self, k: int) -> Numbers:
        """Product number k of every sum."""
        return self._round(self.x[k][:, None] * self.w[k], None)

    def add(self, a: Numbers, b: Numbers) -> Numbers:
        """The sum a + b, rounded."""
        total = np.add(a, b, dtype=np.float64)
        of_b = total - a
        return self._round(total, (a - (total - of_b)) + (b - of_b))  # Knuth's two-sum

    def add_product(self, k: int, c: Numbers) -> Numbers:
        """Product number k, added to c."""
        return self.add(self.x[k][:, None] * self.w[k] if self.machine.fused else self.multiply(k), c)

    def _round(self, value: Reals, error: Reals | None) -> Reals:
        """The real number value + error, rounded."""
        accumulate, mode = self.machine.accumulate, self.machine.mode
        if mode == "stochastic" and (error is None or not np.any(error)):
            value = by_chance(value, self._next_bits(), float_record(accumulate))
        elif mode == "stochastic":
            bits = np.ascontiguousarray(np.broadcast_to(self._next_bits(), value.shape))
            value = round_array(value, accumulate, mode=mode, low=_finite(error), bits=bits)
        else:
            value = round_array(value if error is None else to_odd(value, error), accumulate, mode=mode)
        if self.machine.flush_to_zero:
            value *= np.abs(value) >= self.least
        return value

    def _next_bits(self) -> NDArray[np.uint64]:
        """One number for each feature: the rows of x share them."""
        at = self.roundings % DRAWS
        if at == 0:
            steps = np.arange(self.roundings, self.roundings + DRAWS, dtype=np.uint64)
            self.draws = random_bits(self.machine.seed, self.features, steps[:, None])
        self.roundings += 1
        drawn: NDArray[np.uint64] = self.draws[at]
        return drawn


Unit = NativeUnit | GeneralUnit


def unit_for(x: Reals, w: Reals, machine: Sums, feature: int, /) -> Unit:
    """The faster unit that is right for these inputs, (K, M) and (K, N); w's first row is output feature `feature`."""
    return NativeUnit(x, w, machine) if _is_native(x, w, machine) else GeneralUnit(x, w, machine, feature)


def _is_native(x: Reals, w: Reals, machine: Sums) -> bool:
    """Whether float32 arithmetic and a second rounding make one rounding; the module's docstring says why."""
    if machine.mode != "even" or machine.fused:
        return False
    if machine.accumulate == "fp32":
        return True
    sizes = [np.abs(array[np.isfinite(array) & (array != 0)]) for array in (x, w)]
    largest = np.prod([size.max(initial=0.0) for size in sizes])
    least = np.prod([size.min(initial=1.0) for size in sizes])
    return bool(2 * float_record(machine.inputs).precision <= 24 and least >= 2.0**-100 and largest <= 2.0**100)
