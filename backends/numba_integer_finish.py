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

from lepton_ref.backends.numba_bytes import f32_at, put_some, some_at
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rounding import as_bits, round_to, splat_f64, to_f32, to_f64
from lepton_ref.backends.numba_vectors import absolute, bits_of, largest, select

EXACT = 2.0**52
"""Sums below this many grains, a bit less than 2⁵³, are exact."""


@njit(nogil=True)
def unit_of(terms: Any) -> Any:
    """γ_{n+5} for n terms, rounded up; n below 2²⁰."""
    return (terms + 5) * 2.0**-53 * (1 + 2.0**-30)


@njit(nogil=True)
def reach_of(far: Any) -> Any:
    """The largest length in grains of the rows of the panel whose lengths lie at an address."""
    return np.float64(largest(f32_at(far + 64)))


@njit(nogil=True)
def rounded(value: Any, form: Any) -> Any:
    """As `round_to`, but for what NaN gives, whose bound is not finite."""
    return to_f32(value) if form == 0 else round_to(value, form)


@njit(nogil=True)
def finish(
    value: Any, unit: Any, length: Any, grains: Any, far: Any, reach: Any, bias: Any, y: Any, count: Any, form: Any
) -> Any:
    """Store the first `count` of sixteen at y and return which of them are open, as bits.

    Args:
        value: the sums.
        unit: what `unit_of` gives.
        length: of the row of activations.
        grains: the same in grains.
        far: the address of the lengths of the panel's rows.
        reach: the largest of these in grains.
        bias: the address of the first bias; 0 where there is none.
        y: an address.
        count: 1 to 16.
        form: a value of `FORMATS`.
    """
    nothing = splat_f64(0.0)
    if bias == 0 and grains * reach < EXACT:
        low = rounded(value, form)
        opened = bits_of(value == nothing)
    else:
        exact = splat_f64(grains) * to_f64(f32_at(far + 64)) < splat_f64(EXACT)
        bound = splat_f64(length * unit) * to_f64(f32_at(far))
        near = nothing
        if bias != 0:
            some = to_f64(f32_at(bias) if count >= 16 else some_at(bias, count))
            whole = value + some
            back = whole - value
            rest = (value - (whole - back)) + (some - back)
            value = whole
            bound = bound + absolute(some) * splat_f64(unit)
            near = select(rest == nothing, nothing, absolute(value) * splat_f64(2.0**-51))
        bound = select(exact, near, bound)
        low = rounded(value - bound, form)
        closed = bits_of(as_bits(low) == as_bits(rounded(value + bound, form)))
        opened = ~(closed & bits_of(bound < splat_f64(np.inf)) & bits_of(value != nothing))
    put_some(y, count, low)
    return opened & ((1 << min(count, 16)) - 1)
