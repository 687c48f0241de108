"""One dot product on one machine, in exact fractions: the specification of every model in `plain.machines`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lepton_ref.plain.formats import FloatFormat, exponent_of, get_format, round_to
from lepton_ref.plain.machines import Machine, Sums, TensorCore, get_machine
from lepton_ref.plain.philox import random_bits

OVERFLOW = Fraction(2) ** 128
"""From here on a tensor core's fp32 result is infinite."""


def dot(
    x: Sequence[float], w: Sequence[float], bias: float | None, machine: str | Machine, /, *, feature: int = 0
) -> float:
    """`(K,), (K,), () -> ()` Σ x·w + bias as the machine computes it; `Sums` and `TensorCore` say how.

    Python floats in and out, with no error beyond the roundings that the machine makes.

    Args:
        x: activations.
        w: one output feature's weights.
        bias: its bias, or None.
        machine: a record, or its name.
        feature: the output feature's number, from which stochastic rounding draws.

    Raises:
        ValueError: x and w of two lengths; an unknown machine; under stochastic rounding, a feature that is no integer
            of 64 bits.
    """
    found = get_machine(machine)
    if len(x) != len(w):
        raise ValueError(f"x has {len(x)} elements and w has {len(w)}; give one weight for each activation")
    if isinstance(found, TensorCore):
        return _tensor_core(x, w, bias, found)
    unit = _Unit(found, feature)
    x = [unit.flush(round_to(value, found.inputs), found.inputs) for value in x]
    w = [unit.flush(round_to(value, found.inputs), found.inputs) for value in w]
    total = _ORDERS[found.order](x, w, unit) if x else 0.0
    if bias is None:
        return total
    return unit.add(total, unit.flush(round_to(bias, found.accumulate), found.accumulate))


@dataclass
class _Unit:
    """The arithmetic unit of a `Sums` machine, which counts its roundings."""

    machine: Sums
    feature: int
    roundings: int = 0

    def flush(self, value: float, format: str) -> float:
        """The value, or zero for a subnormal of the format, if the machine flushes them."""
        below = abs(value) < 2.0 ** _record(format).emin
        return math.copysign(0.0, value) if self.machine.flush_to_zero and below else value

    def round(self, exact: Fraction, otherwise: float) -> float:
        """The real number rounded; `otherwise` is IEEE 754's value where there is none, and the sign of a zero."""
        mode, accumulate = self.machine.mode, self.machine.accumulate
        chance = None
        if mode == "stochastic":
            chance = Fraction(random_bits(self.machine.seed, self.feature, self.roundings), 1 << 64)
        self.roundings += 1
        if not math.isfinite(otherwise):
            return round_to(otherwise, accumulate)
        return self.flush(round_to(exact, accumulate, mode=mode, chance=chance, zero=otherwise), accumulate)

    def add(self, a: float, b: float) -> float:
        """The sum a + b, rounded."""
        return self.multiply_add(a, 1.0, b)

    def multiply(self, a: float, b: float) -> float:
        """The product a·b, rounded."""
        return self.round(_exact(a) * _exact(b), a * b)

    def multiply_add(self, a: float, b: float, c: float) -> float:
        """The real number a·b + c, rounded once. No product of two inputs overflows float64."""
        return self.round(_exact(a) * _exact(b) + _exact(c), a * b + c)

    def add_product(self, a: float, b: float, c: float) -> float:
        """The sum a·b + c as the machine has it: in one rounding or in two."""
        return self.multiply_add(a, b, c) if self.machine.fused else self.add(c, self.multiply(a, b))


def _exact(value: float) -> Fraction:
    """The number, or 0 for NaN and ±∞, of which nothing is asked."""
    return Fraction(value) if math.isfinite(value) else Fraction(0)


def _record(format: str) -> FloatFormat:
    record = get_format(format)
    assert isinstance(record, FloatFormat), "a machine's formats are floating-point formats"
    return record


def _sequential(x: Sequence[float], w: Sequence[float], unit: _Unit) -> float:
    total = unit.multiply(x[0], w[0])
    for a, b in zip(x[1:], w[1:], strict=True):
        total = unit.add_product(a, b, total)
    return total


def _blocked(x: Sequence[float], w: Sequence[float], unit: _Unit) -> float:
    n = unit.machine.block
    total = _sequential(x[:n], w[:n], unit)
    for start in range(n, len(x), n):
        total = unit.add(total, _sequential(x[start : start + n], w[start : start + n], unit))
    return total


def _pairwise(x: Sequence[float], w: Sequence[float], unit: _Unit) -> float:
    if len(x) == 1:
        return unit.multiply(x[0], w[0])
    n = 1 << (len(x) - 1).bit_length() - 1  # the largest power of two below the length
    first = _pairwise(x[:n], w[:n], unit)
    return unit.add(first, _pairwise(x[n:], w[n:], unit))


def _kahan(x: Sequence[float], w: Sequence[float], unit: _Unit) -> float:
    total, correction = unit.multiply(x[0], w[0]), 0.0
    for a, b in zip(x[1:], w[1:], strict=True):
        y = unit.add_product(a, b, -correction)
        new = unit.add(total, y)
        correction = unit.add(unit.add(new, -total), -y)
        total = new
    return total


_ORDERS: dict[str, Callable[[Sequence[float], Sequence[float], _Unit], float]] = {
    "sequential": _sequential,
    "blocked": _blocked,
    "pairwise": _pairwise,
    "kahan": _kahan,
}


def _tensor_core(x: Sequence[float], w: Sequence[float], bias: float | None, core: TensorCore) -> float:
    x, w = [round_to(value, core.inputs) for value in x], [round_to(value, core.inputs) for value in w]
    total, n = 0.0, core.products
    for start in range(0, len(x), n):
        total = step(x[start : start + n], w[start : start + n], total, core)
    if bias is None:
        return total
    last = round_to(bias, core.result)
    exact = Fraction(total) + Fraction(last) if math.isfinite(total + last) else total + last
    return round_to(exact, core.result, zero=total + last)


def step(x: Sequence[float], w: Sequence[float], total: float, core: TensorCore) -> float:
    """`(P,), (P,), () -> ()` one step: C plus at most `core.products` products, aligned, cut off, added, rounded.

    Python floats: x and w are numbers of the core's inputs, total, which is C, and the value one of its result's.
    """
    products = [a * b for a, b in zip(x, w, strict=True)]  # exact: at most 48 bits
    if not math.isfinite(sum(products, total)):  # no sum of finite ones overflows float64
        return round_to(sum(products, total), core.result)
    inputs = _record(core.inputs)
    terms = [(p, _exponent(a, inputs) + _exponent(b, inputs)) for a, b, p in zip(x, w, products, strict=True) if p != 0]
    if total != 0:
        terms.append((total, _exponent(total, _record(core.result))))
    if not terms:
        return 0.0
    largest = max(core.least_exponent, *(exponent for _, exponent in terms))
    unit = Fraction(2) ** (largest - core.fraction_bits)
    return _result(sum(math.trunc(Fraction(value) / unit) for value, _ in terms) * unit, core)


def _exponent(value: float, format: FloatFormat) -> int:
    """The exponent in the hardware's sense: the leading bit's, and not below that of the least normal number."""
    return max(exponent_of(abs(Fraction(value))), format.emin)


def _result(total: Fraction, core: TensorCore) -> float:
    """A sum in the result's format."""
    if core.result == "fp16":
        return round_to(total, "fp16")
    if abs(total) >= OVERFLOW:
        return math.inf if total > 0 else -math.inf
    kept = FloatFormat(f"fp32 of {core.kept_bits} bits", 8, core.kept_bits, 127, infinities=True, nans="ieee")
    return round_to(total, kept, mode="zero")
