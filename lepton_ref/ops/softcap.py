r"""Soft cap (Gemma 2): y = cap · tanh(x / cap), which keeps logits within ±cap.

Bound: tanh's condition number is at most 1, so quotient, product and tanh within e ulps give γ_{2e+2}·|y|; three units
more cover the rounding test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import gamma
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import tanh
from lepton_ref.numerics.rounding import UNKNOWN, Index, Reals, Repair
from lepton_ref.ops.base import host_reals, op, short
from lepton_ref.ops.checks import require_cap, require_numbers
from lepton_ref.plain import transcendental
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-80
"""Of the double-double form, relative to |y|."""


@op
def softcap(x: Array, *, cap: float, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), cap·tanh(x/cap).

    Raises:
        ValueError: cap is not positive, or not from 2⁻²⁰⁰ to 2²⁰⁰.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    require_cap(cap)
    value = backend.xp.tanh(lift(x, backend=backend) / cap) * cap
    bound = backend.xp.abs(value) * float(gamma(2 * backend.ulps + 5))

    def double(places: Index) -> tuple[Pair, Reals]:
        capped = tanh(Pair.of(host_reals(x, backend=backend)[places]) / Pair.of(cap)) * Pair.of(cap)
        size = np.abs(capped.high)
        return capped, np.where(size > 2.0**-400, size * DOUBLE_ERROR, np.inf)

    def plain(place: tuple[int, ...]) -> Value:
        return transcendental.softcap([float(host_reals(x, backend=backend)[place])], cap)[0]

    def side(places: Index, middle: Reals) -> NDArray[np.int8]:
        """Near 0 it is x·(1 − δ), 0 < δ < 2⁻⁴⁰, less than parts x, of 24 bits, from another midpoint, of 25."""
        small = host_reals(x, backend=backend)[places]
        sign = np.where(small == middle, -np.sign(small), np.sign(small - middle))
        usual = (np.abs(small) < cap * 2.0**-20) & (np.abs(small) > 2.0**-400) & short(small)
        return np.where(usual, sign, UNKNOWN).astype(np.int8)

    repair = Repair(plain, double, side)
    return round_once(value, bound, op="softcap", repair=repair, backend=backend, precision=precision)
