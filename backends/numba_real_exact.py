"""The second stage of a linear layer: sums whose rounding float64 left open, exact or nearly so, sixteen at a time.

Products of two float32 are exact in float64. Their sum is kept as s + c + Σ e: s takes the products, c what two_sum
says that s lost, and e is what c lost (Knuth, The Art of Computer Programming, §4.2.2). |Σ e| ≤ b is all that is not
known of it; b is 0 nearly always, the sum then exact, and a tie is seen as one.

s + c is normalised and rounded to odd in float64, 53 bits, from which one rounding to 24 bits or fewer is right (Boldo
and Melquiond 2008). Where b is not 0, both s + c ± b are, and the lane stays open if they differ.

Float32 products neither overflow nor underflow in float64, in any number. So a sum that is NaN or infinite is what IEEE
arithmetic makes of NaN and infinities in any order. All sums begin at −0, and a sum of −0 alone stays −0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_bits, round_to, splat_f64
from lepton_ref.backends.numba_types import F64X16, I64X16
from lepton_ref.backends.numba_vectors import absolute, bits_of, converter, loader, select, splatter

load_f64 = loader(F64X16)
splat_i64 = splatter(I64X16)
bits64 = converter(F64X16, I64X16, lambda builder, value, target: builder.bitcast(value, target))
from_bits64 = converter(I64X16, F64X16, lambda builder, value, target: builder.bitcast(value, target))
UPWARD = 1 + 2.0**-20


@njit(nogil=True, cache=True, _nrt=False)
def two_sum(a: Any, b: Any) -> Any:
    """`(f64, f64) -> f64, f64`: the rounded sum, and what it lost, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit(nogil=True, cache=True, _nrt=False)
def same_sign(a: Any, b: Any) -> Any:
    """`(f64, f64) -> mask`: whether both have one sign."""
    return (bits64(a) ^ bits64(b)) >= splat_i64(np.int64(0))


@njit(nogil=True, cache=True, _nrt=False)
def to_odd(high: Any, low: Any) -> Any:
    """`(f64, f64) -> f64`: high + low rounded to odd, |low| ≤ half a unit of high."""
    bits = bits64(high)
    one = splat_i64(np.int64(1))
    outward = same_sign(high, low)
    moved = select(outward, bits + one, bits - one)
    even = (bits & one) == splat_i64(np.int64(0))
    return from_bits64(select(low == splat_f64(0.0), bits, select(even, moved, bits)))


@njit(nogil=True, cache=True, _nrt=False)
def add_term(term: Any, sums: Any) -> Any:
    """`(f64, (s, c, b)) -> (s, c, b)` with one term more."""
    s, c, b = sums
    s, low = two_sum(s, term)
    c, lost = two_sum(c, low)
    return s, c, b + absolute(lost)


@njit(nogil=True, cache=True, _nrt=False)
def add_products(S: Any, s0: Any, count: Any, F: Any, x: Any, sums: Any) -> Any:
    """`(s, c, b) -> (s, c, b)` with the products of `count` numbers x and as many vectors of weights, 32 apart."""
    for k in range(count):
        sums = add_term(load_f64(S, s0 + 32 * k) * splat_f64(np.float64(F[x + k])), sums)
    return sums


@njit(nogil=True, cache=True, _nrt=False)
def decide(sums: Any, form: Any) -> Any:
    """`(s, c, b) -> f32, int64`: the sums rounded once, and the lanes that b leaves open."""
    s, c, b = sums
    high, low = two_sum(s, c)
    b = b * splat_f64(UPWARD)
    zero = splat_f64(0.0)
    margin = b + absolute(low) * splat_f64(2.0**-52)
    margin = select(b == zero, zero, margin * splat_f64(UPWARD))
    h, t = two_sum(high, low - margin)
    below = round_to(to_odd(h, t), form)
    h, t = two_sum(high, low + margin)
    above = round_to(to_odd(h, t), form)
    plain = (s - s != zero) | (s == zero) & (c == zero) & (b == zero)
    rounded = select(plain, round_to(s, form), below)
    return rounded, bits_of(as_bits(below) != as_bits(above)) & ~bits_of(plain)
