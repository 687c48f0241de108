"""Sixteen sums of one row become sixteen elements: bias, bound, one rounding, and the list of what is still open.

Bound. n terms, each exact, are added one after the other, perhaps in two halves, and then the bias: a term passes at
most n + 2 roundings, so the float64 value is within γ_{n+2}·(Σ |term| + |b|) of the exact one, and Σ |term| ≤ ‖x‖·‖w‖
with lengths as `numba_integer_rows` and `numba_panels_lengths` give them. Two units more cover the test's own
roundings (`lepton_ref.numerics.rounding`) and one those of the bound. A sum that is zero may have the other sign: it is
left open, as is what has no finite bound.

Exact sums. Every term is a multiple of a power of two, the product of the row's grain and the weights'. Where ‖x‖·‖w‖
is below 2⁵³ of those, no partial sum needs more than 53 bits, and nothing was rounded: the sum is exact, and a tie is a
tie. So it nearly always is, and ties are not rare, where scales have 11 bits. A bias leaves a rest (two-sum), and where
it is not zero, at most 2⁻⁵³ of the value, twice that for the test's own roundings, again doubled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lepton_ref.backends.numba_bytes import load_f32, load_some, store_f32, store_some
from lepton_ref.backends.numba_rounding import as_bits, round_to, splat_f64, to_f64
from lepton_ref.backends.numba_vectors import absolute, bits_of, select

EXACT = 2.0**52
"""Sums below this many grains, a bit less than 2⁵³, are exact."""


@njit(nogil=True, cache=True)
def unit_of(terms: Any) -> Any:
    """γ_{n+5} for n terms, rounded up; n below 2²⁰."""
    return (terms + 5) * 2.0**-53 * (1 + 2.0**-30)


@njit(nogil=True, cache=True)
def finish(
    value: Any,
    unit: Any,
    lengths: Any,
    row: Any,
    W: Any,
    lengths_at: Any,
    bias: Any,
    bias_at: Any,
    F: Any,
    y: Any,
    count: Any,
    form: Any,
) -> Any:
    """Store the first `count` of sixteen at F[y …] and return which of them are open, as bits.

    value: the sums. lengths: of the rows of activations. lengths_at: where those of the weights lie in W. bias_at: the
    place of the first bias, or −1.
    """  # fmt: skip
    nothing = splat_f64(0.0)
    exact = splat_f64(lengths[2 * row + 1]) * to_f64(load_f32(W, lengths_at + 64)) < splat_f64(EXACT)
    if bias_at < 0 and bits_of(exact) == 0xFFFF:
        low = round_to(value, form)
        opened = bits_of(value == nothing)
    else:
        bound = splat_f64(lengths[2 * row] * unit) * to_f64(load_f32(W, lengths_at))
        rest = nothing
        if bias_at >= 0:
            some = to_f64(load_f32(bias, bias_at) if count >= 16 else load_some(bias, bias_at, count))
            whole = value + some
            back = whole - value
            rest = (value - (whole - back)) + (some - back)
            value = whole
            bound = bound + absolute(some) * splat_f64(unit)
        near = select(rest == nothing, nothing, absolute(value) * splat_f64(2.0**-51))
        bound = select(exact, near, bound)
        low = round_to(value - bound, form)
        closed = bits_of(as_bits(low) == as_bits(round_to(value + bound, form)))
        opened = ~(closed & bits_of(bound < splat_f64(np.inf)) & bits_of(value != nothing))
    if count >= 16:
        store_f32(F, y, low)
        return opened & 0xFFFF
    store_some(F, y, count, low)
    return opened & ((1 << count) - 1)
