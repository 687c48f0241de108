"""Double-double arithmetic in kernels, on scalars or on vectors: pairs (h, l) of float64 with |l| ≤ u·|h|, u = 2⁻⁵³.

Relative errors, with fused multiply-adds (Joldes, Muller and Popescu 2017): `add` 3u² + 13u³, `times` 2u², `product`
5u², `quotient` 15u² + 56u³. `square` is a product of a pair by itself. Nothing is claimed outside 2^−900 … 2^900.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_bits, round_to, splat_f64
from lepton_ref.backends.numba_vectors import (
    F64X16,
    I64X16,
    absolute,
    bits_of,
    converter,
    declared,
    fma,
    select,
    splatter,
)  # fmt: skip

splat_i64 = splatter(I64X16)
as_i64 = converter(F64X16, I64X16, lambda builder, value, target: builder.bitcast(value, target))
as_f64 = converter(I64X16, F64X16, lambda builder, value, target: builder.bitcast(value, target))

INVERSE_LN_2 = 1.4426950408889634
LN_2_HIGH, LN_2_MIDDLE, LN_2_LOW = 0.6931471805598903, 5.49792301870721e-14, 1.1612227229362532e-26
"""ln 2: a multiple of 2⁻⁴² and one of 2⁻⁸⁴, of 42 bits at most, and the rest within 2⁻¹³⁹."""

MAGIC = 6755399441055744.0
"""1.5·2⁵²: added to a small number it leaves an integer in the low bits."""

SQUARINGS = 8
"""`exp` works on a 2^−SQUARINGS-th of its argument."""

EXP_ERROR = 2.0**-96
"""Of `exp`, relative; see there."""


@intrinsic
def fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """`(a, b, c) -> a·b + c` of float64, rounded once."""
    if not (a == b == c == types.float64):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        return builder.call(declared(builder, "llvm.fma.f64", double, [double] * 3), args)

    return types.float64(a, b, c), emit


@njit(forceinline=True)
def two_sum(a: Any, b: Any) -> Any:
    """-> (s, e), s the rounded sum and s + e = a + b exactly."""
    s = a + b
    of_b = s - a
    return s, (a - (s - of_b)) + (b - of_b)


@njit(forceinline=True)
def fast_two_sum(a: Any, b: Any) -> Any:
    """As `two_sum`, where |a| ≥ |b| or a = 0."""
    s = a + b
    return s, b - (s - a)


@njit(forceinline=True)
def two_product(a: Any, b: Any) -> Any:
    """-> (p, e), p the rounded product and p + e = a·b exactly: vectors."""
    p = a * b
    return p, fma(a, b, splat_f64(0.0) - p)


@njit(forceinline=True)
def add(a: Any, b: Any) -> Any:
    """Pair + pair."""
    s, e = two_sum(a[0], b[0])
    t, f = two_sum(a[1], b[1])
    s, e = fast_two_sum(s, e + t)
    return fast_two_sum(s, e + f)


@njit(forceinline=True)
def times(a: Any, b: Any) -> Any:
    """Pair × vector."""
    p, e = two_product(a[0], b)
    return fast_two_sum(p, fma(a[1], b, e))


@njit(forceinline=True)
def product(a: Any, b: Any) -> Any:
    """Pair × pair."""
    p, e = two_product(a[0], b[0])
    return fast_two_sum(p, e + fma(a[0], b[1], a[1] * b[0]))


@njit(forceinline=True)
def quotient(a: Any, b: Any) -> Any:
    """Pair ÷ pair."""
    q = a[0] / b[0]
    p = times(b, q)
    return fast_two_sum(q, ((a[0] - p[0]) + (a[1] - p[1])) / b[0])


@njit(forceinline=True)
def negated(a: Any) -> Any:
    """−pair."""
    return splat_f64(0.0) - a[0], splat_f64(0.0) - a[1]


@njit(inline="never")
def exp(high: Any, low: Any) -> Any:
    """e^(high + low) of vectors, −700 ≤ high ≤ 700 (what lies beyond is taken for that), within 2⁻⁹⁶.

    x = k·ln 2 + 2⁸·r with |r| < 0.00136: the first two products are exact and so is the first difference, the rest of
    the reduction errs by 2⁻¹⁰⁵ of what is at most 0.35, the products by ln 2's low parts by 2⁻¹²⁷: r by 2⁻¹¹⁴.
    m = e^r − 1 = r·(1 + r·(1/2 + r·(1/6 + r·(1/24 + r·t)))). r·t, in float64 and below 2⁻¹⁶, errs by 2⁻⁶⁸, which r⁴
    makes 2⁻¹⁰⁶; what Taylor leaves out is below 2⁻¹¹⁶, pairs add 2⁻¹⁰² of m < 2⁻⁹. Each of eight steps m ← 2m + m²
    doubles what was lost before, to 2⁻⁹⁸ in all, and adds 2⁻¹⁰³ of its m, which grows as fast: 8·2⁻¹⁰⁴ in all. The last
    sum adds 2⁻¹⁰⁴, and e^x is at least 0.7 here: together below 2⁻⁹⁷.
    """
    most = splat_f64(700.0)
    inside = absolute(high) <= most
    high = select(inside, high, select(high > most, most, splat_f64(-700.0)))
    low = select(inside, low, splat_f64(0.0))
    shifted = fma(high, splat_f64(INVERSE_LN_2), splat_f64(MAGIC))
    k = shifted - splat_f64(MAGIC)
    minus = splat_f64(0.0) - k
    first = fma(minus, splat_f64(LN_2_HIGH), high)
    r = add(two_sum(first, minus * splat_f64(LN_2_MIDDLE)), (low, minus * splat_f64(LN_2_LOW)))
    small = splat_f64(2.0**-SQUARINGS)
    r = r[0] * small, r[1] * small
    x = r[0]
    t = fma(fma(x, splat_f64(1 / 362880), splat_f64(1 / 40320)), x, splat_f64(1 / 5040))
    t = fma(fma(t, x, splat_f64(1 / 720)), x, splat_f64(1 / 120))
    m = add((splat_f64(0.041666666666666664), splat_f64(2.3129646346357427e-18)), (x * t, splat_f64(0.0)))
    m = add((splat_f64(0.16666666666666666), splat_f64(9.25185853854297e-18)), product(m, r))
    m = add((splat_f64(0.5), splat_f64(0.0)), product(m, r))
    m = add(r, product(product(m, r), r))
    two = splat_f64(2.0)
    for _ in range(SQUARINGS):
        m = add((m[0] * two, m[1] * two), product(m, m))
    m = add((splat_f64(1.0), splat_f64(0.0)), m)
    return scaled(m[0], shifted), scaled(m[1], shifted)


@njit(forceinline=True)
def odd(high: Any, low: Any) -> Any:
    """A pair to float64 by rounding to odd: as it is where low is 0, else the neighbour whose last bit is 1.

    Roundings to 51 bits or fewer that follow are then the only ones (Boldo and Melquiond 2008). high = RN(high + low).
    """
    none = splat_f64(0.0)
    bits = as_i64(high)
    one = splat_i64(1)
    outward = (low > none) == (high > none)
    moved = select((low > none) | (low < none), select(outward, bits + one, bits - one), bits)
    return as_f64(select((bits & one) == one, bits, moved))


@njit(inline="never")
def round_pair(high: Any, low: Any, error: Any, form: Any) -> Any:
    """`(f64, f64, f64, format) -> (f32, int64)`: high + low ± error rounded, and the lanes where the ends differ.

    The error covers 2⁻¹⁰⁴ of high, for the rounding of low ± error. NaN and infinities leave their lane open.
    """
    low_, high_ = two_sum(high, low - error), two_sum(high, low + error)
    first, last = round_to(odd(low_[0], low_[1]), form), round_to(odd(high_[0], high_[1]), form)
    known = bits_of((error == error) & (absolute(high) < splat_f64(math.inf)))
    return first, bits_of(as_bits(first) != as_bits(last)) | (known ^ 0xFFFF)


@njit(forceinline=True)
def scaled(value: Any, shifted: Any) -> Any:
    """Vectors: value·2^k where shifted = MAGIC + k, by a product with the power, −1022 ≤ k ≤ 1023."""
    return value * power_of_two(shifted)


@intrinsic
def power_of_two(typing: Any, shifted: Any) -> Any:
    """`(MAGIC + k) -> 2^k`, −1022 ≤ k ≤ 1023."""
    if shifted != F64X16:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integers = ir.VectorType(ir.IntType(64), shifted.lanes)
        many = ir.Constant(integers, [52] * shifted.lanes)
        one = ir.Constant(integers, [1023 << 52] * shifted.lanes)
        bits = builder.add(builder.shl(builder.bitcast(args[0], integers), many), one)
        return builder.bitcast(bits, shifted.llvm)

    return shifted(shifted), emit


@intrinsic
def lanes_turned(typing: Any, vector: Any, distance: Any) -> Any:
    """`(v, 1 | 2 | 4 | 8) -> v`: lane i has what lane i xor distance had."""
    if vector != F64X16:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, found = args[0], None
        for step in (1, 2, 4, 8):
            picks = ir.Constant(ir.VectorType(ir.IntType(32), 16), [lane ^ step for lane in range(16)])
            moved = builder.shuffle_vector(value, value, picks)
            if found is None:
                found = moved
            else:
                wanted = builder.icmp_signed("==", args[1], ir.Constant(ir.IntType(64), step))
                found = builder.select(wanted, moved, found)
        return found

    return vector(vector, types.int64), emit


@njit(nogil=True, cache=True)
def totals(high: Any, low: Any) -> Any:
    """Sixteen lanes of high and low parts -> one pair, in the first lane."""
    for distance in (8, 4, 2, 1):
        high, rest = two_sum(high, lanes_turned(high, distance))
        low = (low + lanes_turned(low, distance)) + rest
    return fast_two_sum(high, low)
