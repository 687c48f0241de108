r"""Norms in kernels: RMSNorm and LayerNorm of rows, sixteen columns at a time, sums in sixteen lanes.

RMSNorm is x·(offset + w)·(1/√(Σ x²/D + ε)). A square passes ⌊D/32⌋ + 8 roundings at most, and one for each column
beyond thirty-twos: n of a sum of squares. Quotient and ε are two more, all halved by the root; root, its inverse,
offset + w and two products are one each: (n + 2)/2 + 5 units of u = 2⁻⁵³, and three for the rounding test. What that
leaves open is computed in double-double: there the sum errs by 2·(n + 4)²·u², the rest by less than 2⁻⁹⁶.

LayerNorm's bound is that of `lepton_ref.ops.layer_norm` with ⌊D/16⌋ + 5 roundings, and one for each column beyond
sixteens, in the place of D: the mean errs by
ρ = 1.01·γₙ₊₁·Σ |x|/D, the rest by γ of (n + 2)/2 + 10. What it leaves open is left to Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ref.backends.numba_double import add as add_pairs
from lepton_ref.backends.numba_double import (
    fast_two_sum,
    product,
    quotient,
    round_pair,
    splat_f64,
    totals,
    two_sum,
)  # fmt: skip
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import to_f64
from lepton_ref.backends.numba_rows import inside, keep, load_columns, load_floats, rounded, store_columns
from lepton_ref.backends.numba_stuck import push
from lepton_ref.backends.numba_vectors import absolute, bits_of, fma, sqrt, total

U = 2.0**-53


@njit(nogil=True, cache=True)
def rms_norm(
    F: Any, x: Any, x_stride: Any, V: Any, w: Any, y: Any, y_stride: Any, heads: Any, width: Any, eps: Any, offset: Any,
    first: Any, last: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last), each of `heads` parts of `width` that are normed by themselves, with weights V[w …]."""
    roundings = width // 32 + width % 32 + 8.0
    units = ((roundings + 2.0) / 2 + 5.0 + 3.0) * (U * (1 + 2.0**-20))
    for row in range(first, last):
        for head in range(heads):
            at, out = x + row * x_stride + head * width, y + row * y_stride + head * width
            root = math.sqrt(_squares(F, at, width) / width + eps)
            if not 0.0 < root < np.inf:
                for k in range(width):
                    push(stuck, row, head * width + k)
                continue
            inverse, shift, unit = splat_f64(1.0 / root), splat_f64(offset), splat_f64(units)
            for k in range(0, width, 16):
                value = load_columns(F, at + k, width - k) * (load_columns(V, w + k, width - k) + shift) * inverse
                near, open_ = rounded(value, absolute(value) * unit, form)
                if open_ & inside(width - k):
                    better, unknown = _better(F, at, V, w, k, width, eps, offset, form)
                    keep(F, out + k, near, open_, better, unknown, width - k, stuck, row, head * width + k)
                else:
                    store_columns(F, out + k, near, width - k)


@njit(nogil=True, cache=True)
def _squares(F: Any, at: Any, width: Any) -> Any:
    first, second, k = splat_f64(0.0), splat_f64(0.0), 0
    while k + 32 <= width:
        a, b = to_f64(load_floats(F, at + k)), to_f64(load_floats(F, at + k + 16))
        first, second = fma(a, a, first), fma(b, b, second)
        k += 32
    found = total(first + second)
    rest = 0.0
    while k < width:
        rest += np.float64(F[at + k]) * np.float64(F[at + k])
        k += 1
    return found + rest


@njit(nogil=True, cache=True)
def _better(F: Any, at: Any, V: Any, w: Any, k: Any, width: Any, eps: Any, offset: Any, form: Any) -> Any:
    """Sixteen columns from k on in double-double -> their rounding, and which are still open."""
    high, low = splat_f64(0.0), splat_f64(0.0)
    for c in range(0, width, 16):
        value = load_columns(F, at + c, width - c)
        high, lost = two_sum(high, value * value)
        low = low + lost
    square = quotient(totals(high, low), (splat_f64(np.float64(width)), splat_f64(0.0)))
    square = add_pairs(square, (splat_f64(eps), splat_f64(0.0)))
    first = sqrt(square[0])
    rest = fma(splat_f64(0.0) - first, first, square[0]) + square[1]
    root = fast_two_sum(first, rest / (first + first))
    weight = two_sum(load_columns(V, w + k, width - k), splat_f64(offset))
    top = product(weight, (load_columns(F, at + k, width - k), splat_f64(0.0)))
    y = quotient(top, root)
    n = (width + 15) // 16 + 8.0
    return round_pair(y[0], y[1], absolute(y[0]) * splat_f64(n * n * 2.0 * U * U + 2.0**-95), form)


@njit(nogil=True, cache=True)
def layer_norm(
    F: Any, x: Any, x_stride: Any, V: Any, w: Any, b: Any, y: Any, y_stride: Any, width: Any, eps: Any, first: Any,
    last: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last), with weights V[w …] and, where b is not negative, a bias V[b …]."""
    roundings = width // 16 + width % 16 + 5.0
    relative = splat_f64(((roundings + 2.0) / 2 + 11.0) * U * (1 + 2.0**-20))
    for row in range(first, last):
        at, out = x + row * x_stride, y + row * y_stride
        plain, size = _sums(F, at, width)
        mean = plain / width
        rho = size * (1.02 * (roundings + 2.0) * U) / width
        square = _spread(F, at, width, mean) / width + eps
        least = square * (1 - 2.0**-20) - 2.0 * rho * rho
        if not (0.0 < least < np.inf and rho > 0.0):
            for k in range(width):
                push(stuck, row, k)
            continue
        root, middle, rho_, none = splat_f64(math.sqrt(square)), splat_f64(mean), splat_f64(rho), splat_f64(0.0)
        grows, factor = splat_f64(rho * rho / least), splat_f64(1.02 / math.sqrt(least))
        for k in range(0, width, 16):
            centred = load_columns(F, at + k, width - k) - middle
            weight = load_columns(V, w + k, width - k)
            value = centred / root * weight
            bound = absolute(value)
            if b >= 0:
                bias = load_columns(V, b + k, width - k)
                value, bound = value + bias, bound + absolute(bias)
            moved = (rho_ + (absolute(centred) + rho_) * grows) * factor * absolute(weight)
            near, open_ = rounded(value, bound * relative + moved, form)
            level = (absolute(centred) <= rho_ + rho_) & ((weight == none) | (absolute(weight) == splat_f64(np.inf)))
            open_ = (open_ | bits_of(level)) & inside(width - k)
            if open_:
                keep(F, out + k, near, open_, near, open_, width - k, stuck, row, k)
            else:
                store_columns(F, out + k, near, width - k)


@njit(nogil=True, cache=True)
def _sums(F: Any, at: Any, width: Any) -> Any:
    """-> Σ x and Σ |x|."""
    plain, size, k = splat_f64(0.0), splat_f64(0.0), 0
    while k + 16 <= width:
        value = to_f64(load_floats(F, at + k))
        plain, size = plain + value, size + absolute(value)
        k += 16
    first, second = 0.0, 0.0
    while k < width:
        first, second = first + np.float64(F[at + k]), second + abs(np.float64(F[at + k]))
        k += 1
    return total(plain) + first, total(size) + second


@njit(nogil=True, cache=True)
def _spread(F: Any, at: Any, width: Any, mean: Any) -> Any:
    """Σ (x − mean)²."""
    sums, middle, k = splat_f64(0.0), splat_f64(mean), 0
    while k + 16 <= width:
        centred = to_f64(load_floats(F, at + k)) - middle
        sums = fma(centred, centred, sums)
        k += 16
    rest = 0.0
    while k < width:
        centred_ = np.float64(F[at + k]) - mean
        rest += centred_ * centred_
        k += 1
    return total(sums) + rest
