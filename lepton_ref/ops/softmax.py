r"""Softmax and its logarithm over the last axis, as sampling and scoring use them.

    softmax(x)ᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)        log_softmax(x)ᵢ = xᵢ − log Σⱼ exp(xⱼ)

Both are unchanged by a shift, so the largest x, m, is subtracted first and nothing overflows; a row that holds a NaN or
+∞, or −∞ alone, is NaN throughout (∞ − ∞). Bound, with dᵢ = xᵢ − m, n numbers in a row, exp and log within e ulps: the
rounding of dᵢ enters exp absolutely, and Σⱼ yⱼ·|dⱼ| ≤ ln n, so the sum errs relatively by τ = (n − 1 + 2e + ln n)·2⁻⁵³:

    softmax (n + ln n + 4e + |dᵢ|)·2⁻⁵³·y        log_softmax τ + (|dᵢ| + 2e·ln Σ + |y|)·2⁻⁵³.

Three units more of the result cover the rounding test. The logarithm of softmax is never positive, and 0 only where no
other number of the row is above −∞.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import exp, log
from lepton_ref.numerics.exact_sum import exact_sums, two_sum
from lepton_ref.numerics.rounding import Index, Reals, Repair, one_signed
from lepton_ref.ops.base import host_reals, op
from lepton_ref.plain import attention as plain_softmax
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-85
"""Of the double-double forms, relative to y; of the logarithm's, relative to |d| + ln n + 1."""

SLACK = 1 + 2.0**-20


@op
def softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), each row sums to one; −inf has probability zero.

    Raises:
        ValueError: the last axis is empty.
    """
    xp, n = backend.xp, x.shape[-1]
    exps, total, shifted = _exponentials(x, backend=backend)
    present = xp.where(shifted == -math.inf, 0.0, 1.0) + 0.0 * total  # NaN rows stay as they are
    value, tiny = one_signed(exps / total, present, backend=backend)
    units = n + math.log(max(n, 1)) + 4 * backend.ulps + 3
    bound = value * ((units - xp.where(shifted == -math.inf, 0.0, shifted)) * (UNIT * SLACK))
    bound = xp.where(tiny, 0.0, bound)
    repair = _Repair(x, backend).functions(logarithm=False)
    return round_once(value, bound, op="softmax", repair=repair, backend=backend, precision=precision)


@op
def log_softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), natural logarithms of softmax.

    Raises:
        ValueError: the last axis is empty.
    """
    xp, n = backend.xp, x.shape[-1]
    _, total, shifted = _exponentials(x, backend=backend)
    log_total = xp.log(total)
    value = shifted - log_total
    units = n + 2 * backend.ulps + math.log(max(n, 1)) + 2 * backend.ulps * log_total
    bound = (units + 2.0 * xp.abs(shifted) + 4.0 * xp.abs(value)) * (UNIT * SLACK)
    alone = backend.sum(xp.astype(shifted > -math.inf, xp.float64), axis=-1, keepdims=True, accumulate="float64") == 1.0
    bound = xp.where(alone | (xp.abs(value) == math.inf), 0.0, bound)
    repair = _Repair(x, backend).functions(logarithm=True)
    return round_once(value, bound, op="log_softmax", repair=repair, backend=backend, precision=precision)


def _exponentials(x: Array, *, backend: Backend) -> tuple[Array, Array, Array]:
    if x.shape[-1] == 0:
        raise ValueError("softmax over an empty axis has no value; give at least one score")
    x64 = lift(x, backend=backend)
    shifted = x64 - backend.xp.max(x64, axis=-1, keepdims=True)
    exps = backend.xp.exp(shifted)
    return exps, backend.sum(exps, axis=-1, keepdims=True, accumulate="float64"), shifted


class _Repair:
    """Single elements, from the scores on the host."""

    def __init__(self, x: Array, backend: Backend) -> None:
        self.x, self.backend = x, backend

    def functions(self, *, logarithm: bool) -> Repair:
        """What `round_once` calls, for softmax or its logarithm."""
        return Repair(
            plain=lambda place: self._plain(place, logarithm), double=lambda places: self._double(places, logarithm)
        )

    def _double(self, places: Index, logarithm: bool) -> tuple[Pair, Reals]:
        """Weights in double-double, exact sums of the two halves; each distinct row once."""
        rows, where = self._rows(places)
        top = np.max(rows, axis=1)
        finite = np.isfinite(rows)
        distance = Pair(*two_sum(np.where(finite, rows, top[:, None]), -top[:, None]))
        weights = exp(distance)
        halves = [np.where(finite, half, 0.0) for half in (weights.high, weights.low)]
        total = exact_sums(np.concatenate(halves, axis=1)).pair()[where]
        at = (where, places[-1])
        if logarithm:
            value = distance[at] - log(total)
            size = np.abs(distance.high[at]) + math.log(rows.shape[1]) + 1
            return value, size * DOUBLE_ERROR
        value = weights[at] / total
        return value, np.where(value.high > 2.0**-600, value.high * DOUBLE_ERROR, np.inf)

    def _plain(self, place: tuple[int, ...], logarithm: bool) -> Value:
        row = host_reals(self.x, backend=self.backend)[place[:-1]].tolist()
        return (plain_softmax.log_softmax if logarithm else plain_softmax.softmax)(row)[place[-1]]

    def _rows(self, places: Index) -> tuple[Reals, NDArray[np.intp]]:
        x = host_reals(self.x, backend=self.backend)
        if x.ndim == 1:
            return x[None], np.zeros(places[0].size, dtype=np.intp)
        unique, where = np.unique(np.ravel_multi_index(places[:-1], x.shape[:-1]), return_inverse=True)
        return x.reshape(-1, x.shape[-1])[unique], where
