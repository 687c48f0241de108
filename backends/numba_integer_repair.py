"""One element of an integer layer, exactly: its terms and its bias in a sum that loses nothing, rounded once.

A float64 is a multiple of 2⁻¹⁰⁷⁴ below 2¹⁰²⁴: 2098 bits, which lie in words of 32 with room above them, so that any
number of terms may be added before carries are passed on. The whole sum goes to float64 rounded to odd, which has more
than two bits more than any format of activations: the rounding that follows is the only one. Ties, and sums that are
exactly zero, are thereby decided, not left open.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import fma1
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels_read import code_at, scale_at, value_at
from lepton_ref.backends.numba_rounding import round_to, splat_f64
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import lane

WORDS = 70
MASK = 0xFFFFFFFF
MINUS_ZERO = np.int64(-(2**63))


@njit(nogil=True, _nrt=True)
def add_exactly(sum_: Any, term: Any) -> None:
    """Add a finite float64 to a sum of int64 words worth 2³²ⁱ⁻¹⁰⁷⁴."""
    bits = np.float64(term).view(np.int64)
    exponent, mantissa = (bits >> 52) & 0x7FF, bits & ((np.int64(1) << 52) - 1)
    if exponent:
        mantissa |= np.int64(1) << 52
        exponent -= 1
    word, shift = exponent >> 5, exponent & 31
    low, high = (mantissa & MASK) << shift, (mantissa >> 32) << shift
    sign = -1 if bits < 0 else 1
    sum_[word] += sign * (low & MASK)
    sum_[word + 1] += sign * ((low >> 32) + (high & MASK))
    sum_[word + 2] += sign * (high >> 32)


@njit(nogil=True, _nrt=True)
def carry(sum_: Any) -> Any:
    """Pass carries on, so that words are 0 … 2³² − 1; return what leaves the last one, negative of a negative sum."""
    over = np.int64(0)
    for i in range(WORDS):
        whole = sum_[i] + over
        sum_[i] = whole & MASK
        over = whole >> 32
    return over


@njit(nogil=True, _nrt=True)
def to_odd_double(sum_: Any) -> Any:
    """The sum as float64 rounded to odd; +0 of an exact zero. The words are used up."""
    sign = 1.0
    if carry(sum_) < 0:  # what leaves the last word leaves it again below
        sign = -1.0
        for i in range(WORDS):
            sum_[i] = -sum_[i]
        carry(sum_)
    top = WORDS - 1
    while top >= 0 and sum_[top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    length = 32 * top
    while sum_[top] >> (length - 32 * top):
        length += 1
    drop = max(0, length - 53)
    word, shift = drop >> 5, drop & 31
    mantissa = sum_[word] >> shift
    for i in range(1, min(3, WORDS - word)):
        if 32 * i - shift < 64:
            mantissa |= sum_[word + i] << (32 * i - shift)
    lost = sum_[word] & ((np.int64(1) << shift) - 1)
    for i in range(word):
        lost |= sum_[i]
    return sign * math.ldexp(np.float64(mantissa | (lost != 0)), drop - 1074)


@njit(nogil=True, _nrt=True)
def every_term_minus_zero(
    kind: Any, W: Any, w0: Any, at: Any, q: Any, d: Any, row: Any, column: Any, blocks: Any, width: Any
) -> Any:
    """Whether all products are −0: the one sum of zeros that is −0."""
    for k in range(width):
        x = d[row * blocks + k // 32] * np.float64(q[32 * row * blocks + k])
        product = x * value_at(kind, W, w0, at, blocks, column, k)
        if product != 0.0 or np.float64(product).view(np.int64) >= 0:
            return False
    return True


@njit(nogil=True, _nrt=True)
def repair(
    kind: Any, W: Any, w0: Any, at: Any, q: Any, d: Any, sums: Any, row: Any, column: Any, width: Any, bias: Any,
    bias_at: Any, form: Any, stuck: Any,
) -> Any:  # fmt: skip
    """The element, float32, exact and rounded once; where a number is infinite or NaN, one for the list of the stuck.

    bias_at: the place of the bias; −1 where there is none.
    """
    blocks = (width + 31) // 32
    sum_ = np.zeros(WORDS, dtype=np.int64)
    healthy = True
    for half in range(2 * blocks):
        scale, minimum = scale_at(kind, W, w0, at, blocks, column, 16 * half)
        factor = d[row * blocks + half // 2]
        healthy = healthy and np.isfinite(scale) and np.isfinite(minimum) and np.isfinite(factor)
        dot = np.int64(0)
        for k in range(16 * half, 16 * half + 16):
            dot += code_at(kind, W, w0, at, blocks, column, k) * np.int64(q[32 * row * blocks + k])
        add_product(sum_, scale * dot, factor)
        add_product(sum_, minimum * sums[2 * row * blocks + half], factor)
    if bias_at >= 0:
        healthy = healthy and np.isfinite(bias[bias_at])
    if not healthy:
        push(stuck, row, column)
        return np.float32(np.nan)
    if bias_at >= 0:
        add_exactly(sum_, np.float64(bias[bias_at]))
    value = to_odd_double(sum_)
    if (
        value == 0.0
        and (bias_at < 0 or (np.float64(bias[bias_at]).view(np.int64) == MINUS_ZERO))
        and every_term_minus_zero(kind, W, w0, at, q, d, row, column, blocks, width)
    ):
        value = -0.0
    return lane(round_to(splat_f64(value), form), 0)


@njit(nogil=True, _nrt=True)
def add_product(sum_: Any, a: Any, b: Any) -> None:
    """Add a·b exactly: the product and what its rounding took away, neither of them subnormal but for zeros."""
    product = a * b
    if np.isfinite(product):
        add_exactly(sum_, product)
        add_exactly(sum_, fma1(a, b, -product))


@njit(nogil=True, cache=True, _nrt=True)
def repair_open(
    opened: Any, kind: Any, W: Any, w0: Any, at: Any, q: Any, d: Any, sums: Any, row: Any, column: Any, width: Any,
    bias: Any, bias_at: Any, form: Any, F: Any, y: Any, stuck: Any,
) -> None:  # fmt: skip
    """Those of sixteen elements, the first of this column at F[y], whose bits are set."""
    for r in range(16):
        if opened >> r & 1:
            place = bias_at + r if bias_at >= 0 else np.int64(-1)
            F[y + r] = repair(kind, W, w0, at, q, d, sums, row, column + r, width, bias, place, form, stuck)
