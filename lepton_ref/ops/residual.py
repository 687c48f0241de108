"""Residual: y = x + f. What float64 loses of the sum is known exactly (Knuth's two-sum), and mostly nothing."""

from __future__ import annotations

import numpy as np

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import two_sum
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import host_reals, op
from lepton_ref.ops.checks import require_numbers
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value


@op
def add(x: Array, f: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (B, T, D) -> (B, T, D), x + f.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    for what, given in (("x", x), ("f", f)):
        require_numbers(what, given, backend=backend, precision=precision)
    if x.shape != f.shape:
        raise ValueError(f"a residual adds arrays of one shape, got {tuple(x.shape)} and {tuple(f.shape)}")
    xp = backend.xp
    a, b = lift(x, backend=backend), lift(f, backend=backend)
    total = a + b
    of_b = total - a
    lost = (a - (total - of_b)) + (b - of_b)
    bound = xp.where(lost == 0.0, 0.0, xp.abs(total) * 2.0**-51)

    def double(places: Index) -> tuple[Pair, Reals]:
        high, low = two_sum(*(host_reals(part, backend=backend)[places] for part in (x, f)))
        return Pair(high, low), np.zeros(high.shape)

    def plain(place: tuple[int, ...]) -> Value:
        return algebraic.add(*([float(host_reals(part, backend=backend)[place])] for part in (x, f)))[0]

    repair = Repair(plain, double)
    return round_once(total, bound, op="add", repair=repair, backend=backend, precision=precision)
