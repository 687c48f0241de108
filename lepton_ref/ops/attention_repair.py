r"""Attention for single elements: in double-double, and exactly where every score that is seen is the same.

Scores are exact sums, taken relative to one key's: Σₖ q·(key[s] − key[top]), so a distance is within 2⁻¹⁰⁴ of itself
however large the scores are. Weights are exp of that, sums of them exact sums of both halves. With equal scores y is
the mean of the values, and on which side of m it lies is the sign of Σₛ value[s] − S·m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import exp, tanh
from lepton_ref.numerics.exact_sum import dot_sums, exact_sums, two_product, two_sum
from lepton_ref.numerics.rounding import UNKNOWN, Index, Reals, Repair
from lepton_ref.ops.base import host_reals
from lepton_ref.plain import attention as plain_attention
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-88
"""Of a weight, relative: exp within 2⁻¹⁰², and its argument, of size 746 at most, within 2⁻¹⁰² of itself."""

LARGE = 2.0**16
"""Scores up to this are summed once and subtracted: their distances err by 2⁻⁸⁷."""


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention was given; see `lepton_ref.ops.attention`."""

    q_bthk: Array
    k_bsgk: Array
    v_bsgk: Array
    mask_bts: Array
    sinks_h: Array | None
    scale: float
    cap: float | None
    backend: Backend

    def host(self, array: Array) -> Reals:
        """One of the arrays as float64 on the host."""
        return host_reals(array, backend=self.backend)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(B, T, S) on the host."""
        return np.asarray(self.backend.to_numpy(self.mask_bts))


@dataclass(frozen=True, eq=False)
class AttentionRepair:
    """Single elements of a tile that begins at query `start`; places are (b, g, r, t, k)."""

    given: Attended
    start: int

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, double=self.double, side=self.side)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """The weights of each distinct query once, then numerator and denominator as exact sums of pairs."""
        b, g, h, t = self._query(places)
        queries, where = _distinct(b, g, h, t)
        weights, seen, error = self._weights(*queries)
        values = self.given.host(self.given.v_bsgk)[b, :, g, places[-1]]
        here = seen[where]
        values = np.where(here, values, 0.0)
        p = weights[where]
        high = [np.where(here, part, 0.0) for part in two_product(p.high[:, :-1], values)]
        top = exact_sums(np.concatenate([*high, np.where(here, p.low[:, :-1] * values, 0.0)], axis=1)).pair()
        total = exact_sums(np.concatenate([weights.high, weights.low], axis=1)).pair()
        y = top / total[where]
        size = np.sum(p.high[:, :-1] * np.abs(values), axis=1) / total.high[where]
        safe = (size > 2.0**-300) & (size < 2.0**400) & np.isfinite(y.high)
        return y, np.where(safe, size * (4 * error[where] + 2.0**-88), np.inf)

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """The sign of Σ value − S·m where no sink takes part and all distances are exactly zero, else unknown."""
        b, g, h, t = self._query(places)
        if self.given.sinks_h is not None:
            return np.full(b.size, UNKNOWN, dtype=np.int8)
        queries, where = _distinct(b, g, h, t)
        distance, seen = self._distances(*queries, exact=True)
        level = (np.where(seen, distance.high, 0.0) == 0.0).all(axis=1)[where]
        here = seen[where]
        values = np.where(here, self.given.host(self.given.v_bsgk)[b, :, g, places[-1]], 0.0)
        minus = two_product(here.sum(axis=1).astype(np.float64), -middle)
        sign = exact_sums(np.concatenate([values, *(part[:, None] for part in minus)], axis=1)).sign()
        return np.where(level, sign, np.int8(UNKNOWN)).astype(np.int8)

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        (b,), (g,), (h,), (t,) = self._query(tuple(np.array([at]) for at in place))
        a = self.given
        seen = a.mask[b, t].tolist()
        values = a.host(a.v_bsgk)[b, :, g, place[-1]]
        return plain_attention.attention(
            a.host(a.q_bthk)[b, t, h].tolist(), a.host(a.k_bsgk)[b, :, g].tolist(), values[:, None].tolist(), seen,
            scale=a.scale, cap=a.cap, sink=None if a.sinks_h is None else float(a.host(a.sinks_h)[h]),
        )[0]  # fmt: skip

    def _query(self, places: Index) -> tuple[NDArray[np.intp], ...]:
        """(b, g, h, t) of each place."""
        b, g, r, t, _ = places
        per_group = self.given.q_bthk.shape[2] // self.given.k_bsgk.shape[2]
        return b, g, g * per_group + r, t + self.start

    def _weights(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Pair, NDArray[np.bool_], Reals]:
        """(N, S + 1), (N, S), (N): exp of the distances, the sink's last; who is seen; a weight's relative error."""
        a = self.given
        distance, seen = self._distances(b, g, h, t, exact=False)
        error = np.full(len(b), DOUBLE_ERROR)
        last = Pair.of(np.full((len(b), 1), -np.inf))
        if a.cap is not None or a.sinks_h is not None:
            distance, last, error = self._absolute(b, g, h, t)
        every = Pair(
            np.concatenate([distance.high, last.high], axis=1), np.concatenate([distance.low, last.low], axis=1)
        )
        weights = exp(every)
        present = np.concatenate([seen, np.isfinite(last.high)], axis=1)
        return Pair(np.where(present, weights.high, 0.0), np.where(present, weights.low, 0.0)), seen, error

    def _distances(self, b: Any, g: Any, h: Any, t: Any, *, exact: bool) -> tuple[Pair, NDArray[np.bool_]]:
        """(N, S) twice: scale·(score − the largest score), and who is seen."""
        a = self.given
        q, keys = a.host(a.q_bthk)[b, t, h], a.host(a.k_bsgk)[b, :, g]
        seen = a.mask[b, t]
        keys = np.where(seen[:, :, None], keys, 0.0)
        rough = np.einsum("nk,nsk->ns", q, keys) * a.scale
        top = np.argmax(np.where(seen, rough, -np.inf), axis=1)
        n, s, k = keys.shape
        factors = np.broadcast_to(q[:, None], keys.shape).reshape(n * s, k)
        if exact or not np.max(np.abs(np.where(seen, rough, 0.0)), initial=0.0) < LARGE:
            best = np.broadcast_to(keys[np.arange(n), top][:, None], keys.shape).reshape(n * s, k)
            both = np.concatenate([keys.reshape(n * s, k), -best], axis=1)
            sums = dot_sums(np.concatenate([factors, factors], axis=1), both).pair()
            difference = Pair(sums.high.reshape(n, s), sums.low.reshape(n, s))
        else:
            sums = dot_sums(factors, keys.reshape(n * s, k)).pair()
            whole = Pair(sums.high.reshape(n, s), sums.low.reshape(n, s))
            difference = whole - whole[np.arange(n), top][:, None]
        return difference * a.scale, seen

    def _absolute(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Pair, Pair, Reals]:
        """(N, S), (N, 1), (N): distances to the largest of capped scores and the sink, the sink's, and their error."""
        a = self.given
        q, keys, seen = a.host(a.q_bthk)[b, t, h], a.host(a.k_bsgk)[b, :, g], a.mask[b, t]
        keys = np.where(seen[:, :, None], keys, 0.0)
        n, s, k = keys.shape
        sums = dot_sums(np.broadcast_to(q[:, None], keys.shape).reshape(n * s, k), keys.reshape(n * s, k)).pair()
        score = Pair(sums.high.reshape(n, s), sums.low.reshape(n, s)) * a.scale
        if a.cap is not None:
            score = tanh(score / a.cap) * a.cap
        sink = np.full(n, -np.inf) if a.sinks_h is None else a.host(a.sinks_h)[h]
        largest = np.maximum(np.max(np.where(seen, score.high, -np.inf), axis=1), sink)[:, None]
        there = np.isfinite(sink)[:, None]
        last = Pair(*two_sum(np.where(there, sink[:, None], 0.0), -largest))
        last = Pair(np.where(there, last.high, -np.inf), np.where(there, last.low, 0.0))
        size = np.max(np.where(seen, np.abs(score.high), 0.0), axis=1, initial=0.0)
        return score - largest, last, DOUBLE_ERROR + size * 2.0**-90


def _distinct(*axes: NDArray[np.intp]) -> tuple[tuple[NDArray[np.intp], ...], NDArray[np.intp]]:
    """The distinct queries, and which of them each place belongs to."""
    found, where = np.unique(np.stack(axes, axis=1), axis=0, return_inverse=True)
    return tuple(found.T), where.reshape(-1)
