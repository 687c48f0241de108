"""Double-double arithmetic on NumPy arrays: a number is the sum of two float64, of about 106 bits together.

Every operation states a bound on its relative error, with u = 2⁻⁵³. The bounds hold where nothing overflows and no
low part underflows: operands and results are 0 or of size 2^−900 … 2^900. Below that each operation errs by a few
multiples of 2⁻¹⁰⁷⁴ besides. Infinite operands give NaN; the functions in `double_functions` take them.

Source: Joldes, Muller and Popescu, Tight and rigorous error bounds for basic building blocks of double-word arithmetic,
ACM TOMS 44, 2017: its algorithms 6, 10 and 17, with Dekker's product in place of a fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton_ref.numerics.error_free import fast_two_sum, scaled, two_product, two_sum

Reals = NDArray[np.float64]

ADD_ERROR = 2.0**-104
"""|computed − exact| ≤ 2^−104·|exact| for + and −: 3u² + 13u³ (their algorithm 6), also where operands cancel."""

MULTIPLY_ERROR = 2.0**-103
"""For ×: 7u² (their algorithm 10)."""

DIVIDE_ERROR = 2.0**-102
"""For ÷: 15u² + 56u³ (their algorithm 17)."""

SQRT_ERROR = 2.0**-103
"""For the root: see `Pair.sqrt`."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The real numbers high + low, element by element: float64 arrays of one shape with high = RN(high + low).

    Operators take pairs, float64 arrays (whose numbers are exact) and Python's numbers; shapes broadcast.
    """

    high: Reals
    low: Reals

    __array_ufunc__ = None  # array + pair is the pair's business, not NumPy's

    @classmethod
    def of(cls, value: ArrayLike | Pair) -> Pair:
        """The numbers as a pair: exact from floats of 64 bits or fewer and from integers below 2⁶².

        Raises:
            ValueError: other dtypes, or larger integers.
        """
        if isinstance(value, Pair):
            return value
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), abs(int(array.max()))) >= 2**62:
            raise ValueError("a pair takes integers below 2^62; split larger ones")
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise ValueError(f"a pair takes float64 and what it holds, got {array.dtype}; convert first")
        high: Reals = array.astype(np.float64)
        if array.dtype.kind == "f":
            return cls(high, np.zeros_like(high))
        return cls(high, (array.astype(np.int64) - high.astype(np.int64)).astype(np.float64))

    @classmethod
    def rational(cls, value: Fraction | int) -> Pair:
        """One number (shape ()) within 2⁻¹⁰⁷ of it, relatively."""
        high = float(value)
        return cls(np.asarray(high), np.asarray(float(value - Fraction(high))))

    def __neg__(self) -> Pair:
        return Pair(-self.high, -self.low)

    def __abs__(self) -> Pair:
        flip = np.where(np.signbit(self.high), -1.0, 1.0)
        return Pair(self.high * flip, self.low * flip)

    def __add__(self, other: ArrayLike | Pair) -> Pair:
        other = Pair.of(other)
        with np.errstate(all="ignore"):
            total, rest = two_sum(self.high, other.high)
            low_total, low_rest = two_sum(self.low, other.low)
            total, rest = fast_two_sum(total, rest + low_total)
            return Pair(*fast_two_sum(total, low_rest + rest))

    def __sub__(self, other: ArrayLike | Pair) -> Pair:
        return self + -Pair.of(other)

    def __mul__(self, other: ArrayLike | Pair) -> Pair:
        other = Pair.of(other)
        with np.errstate(all="ignore"):
            product, rest = two_product(self.high, other.high)
            cross = self.high * other.low + self.low * other.high
            return Pair(*fast_two_sum(product, rest + cross))

    def __truediv__(self, other: ArrayLike | Pair) -> Pair:
        other = Pair.of(other)
        with np.errstate(all="ignore"):
            quotient = self.high / other.high
            product, rest = two_product(other.high, quotient)
            product, more = fast_two_sum(product, other.low * quotient)
            product, rest = fast_two_sum(product, more + rest)
            left = (self.high - product) + (self.low - rest)
            return Pair(*fast_two_sum(quotient, left / other.high))

    def __radd__(self, other: ArrayLike) -> Pair:
        return self + other

    def __rsub__(self, other: ArrayLike) -> Pair:
        return -self + other

    def __rmul__(self, other: ArrayLike) -> Pair:
        return self * other

    def __rtruediv__(self, other: ArrayLike) -> Pair:
        return Pair.of(other) / self

    def __getitem__(self, key: Any) -> Pair:
        return Pair(np.asarray(self.high[key]), np.asarray(self.low[key]))

    def reshape(self, *shape: int) -> Pair:
        """The same numbers in another shape."""
        return Pair(self.high.reshape(shape), self.low.reshape(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both arrays."""
        return self.high.shape

    def sqrt(self) -> Pair:
        """The square roots; NaN for negative numbers, valid for all others.

        With s = RN(√high), high − s² is a float64 and exact here, so ρ = high − s² + low is within u·3u·x of x − s².
        The tangent's step ρ/2s errs by half of that, by its own rounding u·(3/2)u·s and by ρ²/8s³ ≤ (9/8)u²·s: in all
        less than 4.2u² < 2⁻¹⁰³ of the root. Numbers are brought near 1 first by an even power of two.
        """
        half = np.frexp(self.high)[1] // 2
        near = self.scaled(-2 * half)
        with np.errstate(all="ignore"):
            root = np.sqrt(near.high)
            square, rest = two_product(root, root)
            left = ((near.high - square) - rest) + near.low
            step = np.where(root == 0, 0.0, left / (2 * root))
            return Pair(*fast_two_sum(root, step)).scaled(half)

    def scaled(self, exponents: NDArray[Any] | int) -> Pair:
        """Times 2^exponents, exactly unless a part leaves float64's range; an overflow is infinite, its low part 0."""
        high = scaled(self.high, exponents)
        return Pair(high, np.where(np.isinf(high), 0.0, scaled(self.low, exponents)))

    def sign(self) -> NDArray[np.int8]:
        """−1, 0 or 1, exactly; 0 for NaN."""
        return np.asarray((self.high > 0).astype(np.int8) - (self.high < 0).astype(np.int8))

    def compare(self, other: ArrayLike | Pair) -> NDArray[np.int8]:
        """−1, 0 or 1 as each number is below, equal to or above the other, exactly; 0 for NaN."""
        other = Pair.of(other)
        first, second = (
            (a > b).astype(np.int8) - (a < b).astype(np.int8)
            for a, b in ((self.high, other.high), (self.low, other.low))
        )
        return np.where((self.high == other.high) & np.isfinite(self.high), second, first).astype(np.int8)


def where(condition: NDArray[np.bool_], a: Pair, b: Pair) -> Pair:
    """The numbers of a where the condition is true, of b elsewhere."""
    return Pair(np.where(condition, a.high, b.high), np.where(condition, a.low, b.low))


def concatenate(pairs: Sequence[Pair], axis: int = 0) -> Pair:
    """Pairs joined along an axis, as np.concatenate joins arrays."""
    return Pair(np.concatenate([pair.high for pair in pairs], axis), np.concatenate([pair.low for pair in pairs], axis))
