"""Activations cut into digits, so that the dot product of bytes multiplies them by quantised weights exactly.

Ozaki's scheme. In each block of 32 numbers x, with max |x| < 2^e,

    X = rint(x·2^(38 − e)),   X = Σⱼ dⱼ·256^j,   j < 5, −128 ≤ dⱼ ≤ 127

Left over is r = x − X·2^(e − 38), exact in float64, and 0 unless |x| < 2^(e − 15): a float32 has 24 bits.
`lepton_ref.backends.numba_real_quantised` multiplies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import load_f32
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_real_kinds import load_some
from lepton_ref.backends.numba_rounding import splat_f64, to_f64
from lepton_ref.backends.numba_types import F64X16, I8X16, I64X16
from lepton_ref.backends.numba_vectors import (
    absolute,
    converter,
    fma,
    largest,
    rint,
    select,
    shifted_right,
    splatter,
    storer,
    total,
)  # fmt: skip

DIGITS = 5
SHIFT = 38
FACTORS = 5
"""Numbers that a block has in P: see `cut`."""
BIAS = 0x8080808080
"""128 for every digit: with it added, digits are bytes."""

splat_i64 = splatter(I64X16)
store_i8 = storer(I8X16)
to_i64 = converter(F64X16, I64X16, lambda builder, value, target: builder.fptosi(value, target))
to_i8 = converter(I64X16, I8X16, lambda builder, value, target: builder.trunc(value, target))


@njit(nogil=True, cache=True, _nrt=False)
def _numbers(F: Any, x: Any, left: Any) -> Any:
    """Sixteen numbers, or `left` and zeros; 0 for NaN and ∞, beside which nothing here counts."""
    if left >= 16:
        value = to_f64(load_f32(F, x))
    elif left > 0:
        value = to_f64(load_some(F, x, left))
    else:
        value = splat_f64(0.0)
    return select(absolute(value) < splat_f64(np.inf), value, splat_f64(0.0))


@njit(nogil=True, cache=True, _nrt=False)
def cut(F: Any, x: Any, width: Any, D: Any, d: Any, P: Any, p: Any) -> float:
    """One row into digits, D[d + 160·block + 32·j + i]; returns at least ‖r‖.

    P[p + 5·block …] becomes u = 2^(e − 38), 2¹⁶·u, 2³²·u, and u·Σ X of either half of the block.
    """
    squares = splat_f64(0.0)
    bias = splat_i64(np.int64(BIAS))
    for block in range((width + 31) // 32):
        at, left = x + 32 * block, width - 32 * block
        low, high = _numbers(F, at, left), _numbers(F, at + 16, left - 16)
        e = math.frexp(largest(select(absolute(low) > absolute(high), absolute(low), absolute(high))))[1]
        unit = math.ldexp(1.0, e - SHIFT)
        up, down = splat_f64(1.0 / unit), splat_f64(unit)
        place = p + FACTORS * block
        P[place], P[place + 1], P[place + 2] = unit, 65536.0 * unit, 65536.0 * 65536.0 * unit
        for half in range(2):
            value = low if half == 0 else high
            whole = rint(value * up)
            rest = value - whole * down
            squares = fma(rest, rest, squares)
            P[place + 3 + half] = total(whole) * unit
            digits = (to_i64(whole) + bias) ^ bias
            to = d + 160 * block + 16 * half
            for j in range(DIGITS):
                store_i8(D, to + 32 * j, to_i8(shifted_right(digits, 8 * j)))
    return math.sqrt(total(squares)) * (1 + 2.0**-20)
