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
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_double import where as where_pair
from lepton_ref.numerics.double_functions import exp, log
from lepton_ref.numerics.exact_sum import exact_sums, two_sum
from lepton_ref.numerics.rounding import Index, Reals, Repair, one_signed
from lepton_ref.ops.base import distinct_rows, host_reals, op
from lepton_ref.ops.checks import require_integers, require_numbers
from lepton_ref.plain import attention as plain_softmax
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-85
"""Of the double-double forms, relative to y; of the logarithm's, relative to |d| + log Σ."""

SLACK = 1 + 2.0**-20


@op
def softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), each row sums to one; −inf has probability zero.

    Raises:
        ValueError: the last axis is empty.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    xp, n = backend.xp, x.shape[-1]
    exps, total, shifted = _exponentials(x, backend=backend)
    present = xp.astype(shifted != -math.inf, xp.float64) + 0.0 * total  # NaN rows stay as they are
    value, bound = exps / total, 0.0
    if precision.proven:
        value, tiny = one_signed(value, present, backend=backend)
        units = n + math.log(max(n, 1)) + 4 * backend.ulps + 3
        bound = value * ((units - xp.where(shifted == -math.inf, 0.0, shifted)) * (UNIT * SLACK))
        bound = xp.where(tiny, 0.0, bound)
    single = _Single(x, backend)
    repair = Repair(lambda place: single.plain(place, False), lambda places: single.double(places, False))
    return round_once(value, bound, op="softmax", repair=repair, backend=backend, precision=precision)


@op
def log_softmax(x: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V) -> (B, T, V), natural logarithms of softmax.

    Raises:
        ValueError: the last axis is empty.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    _, total, shifted = _exponentials(x, backend=backend)
    value, bound = _logarithm(shifted, total, _alone(shifted, backend), x.shape[-1], backend)
    single = _Single(x, backend)
    repair = Repair(lambda place: single.plain(place, True), lambda places: single.double(places, True))
    return round_once(value, bound, op="log_softmax", repair=repair, backend=backend, precision=precision)


@op
def log_softmax_at(x: Array, index: NDArray[np.int64], *, backend: Backend, precision: Precision) -> Array:
    """(B, T, V), (B, T) -> (B, T), the natural logarithms of softmax at one place of each row.

    Args:
        x: scores; any number of leading axes.
        index: which number of each row, on the host.
        backend: whose array x is.
        precision: what the output is rounded to.

    Raises:
        ValueError: an empty last axis, an index of another shape, or one that leaves a row.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    width = x.shape[-1]
    rows = math.prod(x.shape[:-1])
    index = require_integers("the index", index, width)
    if tuple(index.shape) != tuple(x.shape[:-1]):
        raise ValueError(f"an index of shape {tuple(x.shape[:-1])} is needed, got {index.shape}")
    flat = backend.xp.reshape(x, (rows, width))
    _, total, shifted = _exponentials(flat, backend=backend)
    places = index.reshape(-1).astype(np.int64) + width * np.arange(rows)
    picked = backend.xp.take(backend.xp.reshape(shifted, (rows * width,)), backend.from_numpy(places), axis=0)
    total, alone = (backend.xp.reshape(column, (rows,)) for column in (total, _alone(shifted, backend)))
    value, bound = _logarithm(picked, total, alone, width, backend)
    single, chosen = _Single(flat, backend), index.reshape(-1)
    repair = Repair(
        lambda place: single.plain((place[0], int(chosen[place[0]])), True),
        lambda at: single.double((at[0], chosen[at[0]]), True),
    )
    y = round_once(value, bound, op="log_softmax", repair=repair, backend=backend, precision=precision)
    return backend.xp.reshape(y, tuple(index.shape))


def _exponentials(x: Array, *, backend: Backend) -> tuple[Array, Array, Array]:
    if x.shape[-1] == 0:
        raise ValueError("softmax over an empty axis has no value; give at least one score")
    x64 = lift(x, backend=backend)
    shifted = x64 - backend.xp.max(x64, axis=-1, keepdims=True)
    exps = backend.xp.exp(shifted)
    return exps, backend.sum(exps, axis=-1, keepdims=True, accumulate="float64"), shifted


def _alone(shifted: Array, backend: Backend) -> Array:
    """(…, V) -> (…, 1): whether one number of the row alone is above −∞, so that its logarithm is exactly 0."""
    present = backend.xp.astype(shifted > -math.inf, backend.xp.float64)
    return backend.sum(present, axis=-1, keepdims=True, accumulate="float64") == 1.0


def _logarithm(shifted: Array, total: Array, alone: Array, n: int, backend: Backend) -> tuple[Array, Array]:
    """The logarithm of softmax where x − max is `shifted`, and its bound."""
    xp = backend.xp
    log_total = xp.log(total)
    value = shifted - log_total
    units = n + 2 * backend.ulps + math.log(max(n, 1)) + 2 * backend.ulps * log_total
    bound = (units + 2.0 * xp.abs(shifted) + 4.0 * xp.abs(value)) * (UNIT * SLACK)
    return value, xp.where(alone | (xp.abs(value) == math.inf), 0.0, bound)


def _log_of_1_plus(r: Pair) -> Pair:
    """log(1 + r) for r ≥ 0 within 2⁻⁹⁰ of itself: below 2⁻³² four terms of the series leave out less than 2⁻¹²⁸."""
    series = r * (1.0 - r * (0.5 - r * (Pair.rational(Fraction(1, 3)) - r * 0.25)))
    return where_pair(r.high < 2.0**-32, series, log(r + 1.0))


class _Single:
    """Single elements of softmax or its logarithm, from the scores on the host."""

    def __init__(self, x: Array, backend: Backend) -> None:
        self.x, self.backend = x, backend

    def double(self, places: Index, logarithm: bool) -> tuple[Pair, Reals]:
        """Weights in double-double, exact sums of the two halves; each distinct row once."""
        rows, where = self._rows(places)
        top = np.max(rows, axis=1)
        finite = np.isfinite(rows)
        distance = Pair(*two_sum(np.where(finite, rows, top[:, None]), -top[:, None]))
        weights = exp(distance)
        halves = [np.where(finite, half, 0.0) for half in (weights.high, weights.low)]
        at = (where, places[-1])
        if logarithm:
            first = np.arange(rows.shape[1]) == np.argmax(rows, axis=1)[:, None]  # exp of its distance is 1
            others = exact_sums(np.concatenate([np.where(first, 0.0, half) for half in halves], axis=1)).pair()
            log_total = _log_of_1_plus(others)[where]
            size = np.abs(distance.high[at]) + np.abs(log_total.high)
            value, error = distance[at] - log_total, size * DOUBLE_ERROR
            nothing = size < 2.0**-300  # negative, and nearer to 0 than any format's least number
            return where_pair(nothing, Pair.of(np.full(size.shape, -(2.0**-300))), value), np.where(nothing, 0.0, error)
        total = exact_sums(np.concatenate(halves, axis=1)).pair()[where]
        value = weights[at] / total
        return value, np.where(value.high > 2.0**-600, value.high * DOUBLE_ERROR, np.inf)

    def plain(self, place: tuple[int, ...], logarithm: bool) -> Value:
        """The specification's value of one element."""
        row = host_reals(self.x, backend=self.backend)[place[:-1]].tolist()
        return (plain_softmax.log_softmax if logarithm else plain_softmax.softmax)(row)[place[-1]]

    def _rows(self, places: Index) -> tuple[Reals, NDArray[np.intp]]:
        return distinct_rows(host_reals(self.x, backend=self.backend), places)
