"""Arithmetics as records: in which format an evaluation works, what it multiplies, how it may add.

The standard model of floating point (Higham, Accuracy and Stability of Numerical Algorithms, §2.2): each of + − × ÷ √
gives its exact result times 1 + δ with |δ| ≤ u, the unit roundoff of the working format; a result that underflows errs
by at most half of the least subnormal η besides. n such factors, above or below the line, are within
γₙ = nu/(1 − nu) of 1 (Lemma 3.1). Underflow is gradual; units that flush to zero are not covered.

Two kinds. In a *pure* arithmetic every operation rounds to the working format, and products may be fused into sums. In
one *with blocks*, which is what tensor cores and the matrix instructions of processors do, a contraction first rounds
its operands to a narrow format; products are exact; sums are float32's, or a block's: m products and the accumulator
are aligned to the largest of them, each cut after 23 bits or more, added exactly, and the result cut to float32.
All else (norms, activations, softmax) is pure float32 there.

A block loses less than (m + 1)·2⁻²³·max |terms| by alignment and 2⁻²³ of the result by the last cut: m + 2 units of
2⁻²³ of the sum of the absolute terms. Over a tree of blocks and additions the units add up along the longest path: with
four products a block or more, n terms meet at most n + 2⌈n/4⌉ units. A product that underflows loses η at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton_ref.plain.formats import FORMATS, FloatFormat

Reals = NDArray[np.float64]

UNIT = 2.0**-53
"""u of float64: half the distance from 1 to the next number."""

TINY = 2.0**-1074
"""The least subnormal float64; a rounding there errs by half of it."""

SLACK = 1 + 2.0**-30
"""Covers the rounding of the bounds' own float64 arithmetic: 2²² operations in a row."""

ULPS = 4.0
"""What is assumed of exp, log, tanh, cos, sin and pow where a backend says nothing."""

BLOCK_UNIT, BLOCK = 2.0**-23, 4
"""What a cut loses, of the largest term; and the fewest products that hardware adds at once."""


@dataclass(frozen=True)
class Arithmetic:
    """How an evaluation computes.

    Attributes:
        name: what `ARITHMETICS` calls it.
        working: the format to which every operation rounds.
        operands: the format to which a contraction's operands are rounded first, to nearest.
        activations: the format in which ops' results are kept where nothing else is said.
        blocks: whether a contraction's products are exact and its sums may be cut in blocks.
    """

    name: str
    working: str
    operands: str
    activations: str
    blocks: bool = False

    @property
    def unit(self) -> float:
        """The unit roundoff u of the working format."""
        return 2.0 ** -float_format(self.working).precision

    @property
    def tiny(self) -> float:
        """The working format's least subnormal: twice what one operation loses by underflow."""
        return float_format(self.working).least

    @property
    def largest(self) -> float:
        """The working format's largest number: beyond it nothing is promised."""
        return float_format(self.working).largest

    def gamma(self, n: ArrayLike, /) -> Reals:
        """γₙ of the working format."""
        return gamma(n, unit=self.unit)

    def dot(self, n: int, /) -> float:
        """How far the sum of n products and a bias may be from its value, relative to the sum of absolute terms.

        Pure: a term meets its product's rounding, n − 1 sums and the bias. With blocks: see the page above.
        """
        if self.blocks:
            return float(gamma(n + 2 * math.ceil(n / BLOCK) + 1, unit=BLOCK_UNIT))
        return float(gamma(n + 1, unit=self.unit))

    def read(
        self, x: Reals, radius: ArrayLike | None = None, /, *, product: bool = False, held: str | None = None
    ) -> Reals:
        """How far the numbers that an evaluation works with may be from x: its shape, or a scalar 0.

        Args:
            x: the numbers as they are known.
            radius: how far the numbers that the evaluation is given lie from x at most; None where it is given x.
            product: whether they are a contraction's operands.
            held: the format of the given numbers; None is the working format.
        """
        f = float_format(self.operands if product else self.working)
        if radius is None:
            return np.zeros(()) if f.name == "fp64" else np.where(is_number_of(x, f.name), 0.0, half_ulp(x, f.name))
        given = reals(radius)
        if holds(f.name, self.working if held is None else held):
            return given
        return np.asarray(given + half_ulp(np.abs(x) + given, f.name))


ARITHMETICS: Mapping[str, Arithmetic] = MappingProxyType(
    {
        arithmetic.name: arithmetic
        for arithmetic in (
            Arithmetic("fp64", "fp64", "fp64", "fp64"),
            Arithmetic("fp32", "fp32", "fp32", "fp32"),
            Arithmetic("tf32", "fp32", "tf32", "fp32", blocks=True),
            Arithmetic("bf16", "fp32", "bf16", "bf16", blocks=True),
            Arithmetic("fp16", "fp32", "fp16", "fp16", blocks=True),
            Arithmetic("pure_fp16", "fp16", "fp16", "fp16"),
            Arithmetic("pure_bf16", "bf16", "bf16", "bf16"),
        )
    }
)
"""Name → arithmetic. fp64, fp32, pure_fp16 and pure_bf16 round every operation to that format; tf32, bf16 and fp16
round a contraction's operands alone and work in float32."""


def get_arithmetic(arithmetic: str | Arithmetic, /) -> Arithmetic:
    """The arithmetic of that name, or the record itself.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(arithmetic, Arithmetic):
        return arithmetic
    if not isinstance(arithmetic, str) or arithmetic not in ARITHMETICS:
        raise ValueError(f"unknown arithmetic {arithmetic!r}; known: {', '.join(ARITHMETICS)}")
    return ARITHMETICS[arithmetic]


def float_format(name: str, /) -> FloatFormat:
    """The floating-point format of that name.

    Raises:
        ValueError: no such format, or one whose numbers have no exponent, or no sign.
    """
    found = FORMATS.get(name)
    if not isinstance(found, FloatFormat) or not found.signed:
        known = (f.name for f in FORMATS.values() if isinstance(f, FloatFormat) and f.signed)
        raise ValueError(f"unknown floating-point format {name!r}; known: {', '.join(known)}")
    return found


def holds(format: str, other: str, /) -> bool:
    """Whether every number of the other format is one of this format."""
    f, g = float_format(format), float_format(other)
    return f.precision >= g.precision and f.least <= g.least and f.largest >= g.largest


@np.errstate(all="ignore")
def gamma(n: ArrayLike, /, *, unit: float = UNIT) -> Reals:
    """γₙ = nu/(1 − nu), how far a product of n roundings may be from 1; infinite where nu ≥ 1."""
    count = np.asarray(n, dtype=np.float64) * unit
    return np.asarray(np.where(count < 1, count / (1 - count), np.inf))


def reals(array: ArrayLike, /) -> Reals:
    """The array as float64: exact from every float of 64 bits or fewer."""
    return np.asarray(array, dtype=np.float64)


@np.errstate(all="ignore")
def half_ulp(x: ArrayLike, format: str, /) -> Reals:
    """The most by which rounding a number of magnitude |x| or less to the format moves it; infinite beyond its largest.

    2^(e−p) for 2^e ≤ |x| < 2^(e+1), at least half of the least subnormal (all of it in fp64), and 0 for 0.
    """
    f, size = float_format(format), np.abs(reals(x))
    _, exponent = np.frexp(size)
    half = np.maximum(np.ldexp(1.0, np.maximum(exponent, f.emin + 1) - f.precision - 1), TINY)
    return np.where(size == 0, 0.0, np.where(size <= f.largest, half, np.inf))


@np.errstate(all="ignore")
def is_number_of(x: ArrayLike, format: str, /) -> NDArray[np.bool_]:
    """Whether each number is one of the format's; infinities are, NaN is not."""
    f, x = float_format(format), reals(x)
    _, exponent = np.frexp(x)
    whole = np.ldexp(x, f.precision - np.maximum(exponent, f.emin + 1))
    return np.asarray(np.isinf(x) | ((whole == np.rint(whole)) & (np.abs(x) <= f.largest)))


@np.errstate(all="ignore")
def finish(y: ArrayLike, bound: ArrayLike, arithmetic: Arithmetic, output: str | None, /) -> Reals:
    """A bound stepped outward, with the rounding to the output's format, and infinite where something may overflow.

    The float64 y errs by less than the bound itself, since no arithmetic here is finer than float64: so the computed
    value is below |y| + 2·bound. A result of the working format is rounded no more where the output's format holds it.
    NaN in y or the bound gives an infinite bound.

    Args:
        y: the op's value, in float64.
        bound: how far the evaluation may be from the exact value, before the rounding to the output's format.
        arithmetic: how the evaluation computes.
        output: a format, or None where the result stays in the working format.
    """
    outer = np.asarray(bound) * SLACK
    size = np.abs(y) + 2 * outer
    outer = np.where(size <= arithmetic.largest, outer, np.inf)
    if output is None or holds(output, arithmetic.working):
        return outer
    exactly = (outer == 0) & is_number_of(y, output)  # a bound of 0 holds for the float64 y, too
    return np.where(exactly, 0.0, (outer + half_ulp(size, output)) * SLACK)


@np.errstate(all="ignore")
def unless_beyond(bound: ArrayLike, arithmetic: Arithmetic, /, *sizes: ArrayLike) -> Reals:
    """The bound, infinite where an intermediate magnitude may be beyond the working format's largest number."""
    bound = np.asarray(bound, dtype=np.float64)
    for size in sizes:
        bound = np.where(np.asarray(size) * SLACK <= arithmetic.largest, bound, np.inf)
    return bound


def matmul(a: Reals, b_t: Reals, /) -> Reals:
    """(..., I), (O, I) -> (..., O), a·bᵀ, or a scalar 0 where one of them is zero throughout."""
    return np.asarray(a @ b_t.T) if a.any() and b_t.any() else np.zeros(())
