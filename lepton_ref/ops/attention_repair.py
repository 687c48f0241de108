r"""Attention for single elements: in double-double, and on which side of a midpoint they lie.

Scores are exact sums, cut to double-double. Distances are between two of them where they are small, and otherwise exact
sums themselves: Σₖ q·(key[s] − key[top]), within 2⁻¹⁰³ of themselves after the scale, however large the scores are.
Weights are exp of distances, sums of them exact sums of both halves.
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
from lepton_ref.ops.attention_side import Ranked, side_of
from lepton_ref.ops.base import host_reals
from lepton_ref.plain import attention as plain_attention
from lepton_ref.plain.real import Value

Places = NDArray[np.intp]
Booleans = NDArray[np.bool_]

DOUBLE_ERROR = 2.0**-87
"""Of a weight, relative: exp within 2⁻¹⁰², and a distance of scores below `LARGE` within 2·2¹⁶·2⁻¹⁰⁵; one of larger
scores, which matters down to −746, within 2⁻¹⁰³ of itself."""

SCORE_ERROR = 2.0**-90
"""Of a score or a distance, capped or not, relative."""

AT_ONCE = 1 << 22
"""Values that lie in memory at once where every element is a tie."""

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
    def mask(self) -> Booleans:
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
        if not self._finite(b, g, h, t, places[-1]):
            return Pair.of(np.zeros(b.size)), np.full(b.size, np.inf)
        queries, where = _distinct(b, g, h, t)
        weights, seen, error = self._weights(*queries)
        here = seen[where]
        values, healthy = _finite(np.where(here, self.given.host(self.given.v_bsgk)[b, :, g, places[-1]], 0.0))
        p = weights[where]
        high = [np.where(here, part, 0.0) for part in two_product(p.high[:, :-1], values)]
        top = exact_sums(np.concatenate([*high, np.where(here, p.low[:, :-1] * values, 0.0)], axis=1)).pair()
        total = exact_sums(np.concatenate([weights.high, weights.low], axis=1)).pair()
        y = top / total[where]
        size = np.sum(p.high[:, :-1] * np.abs(values), axis=1) / total.high[where]
        safe = healthy & self._healthy(*queries)[where] & (size > 2.0**-300) & (size < 2.0**400) & np.isfinite(y.high)
        return y, np.where(safe, size * (4 * error[where] + 2.0**-88), np.inf)

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """See `lepton_ref.ops.attention_side`."""
        b, g, h, t = self._query(places)
        if not self._finite(b, g, h, t, places[-1]):
            return np.full(b.size, UNKNOWN, dtype=np.int8)
        queries, where = _distinct(b, g, h, t)
        ranked, known = self._ranked(*queries)
        values = self.given.host(self.given.v_bsgk)
        sign = np.full(b.size, UNKNOWN, dtype=np.int8)
        there = np.flatnonzero(known[where])
        for at in np.array_split(there, there.size * (values.shape[1] + 1) // AT_ONCE + 1):
            seen = np.concatenate([values[b[at], :, g[at], places[-1][at]], np.zeros((at.size, 1))], axis=1)
            sign[at] = side_of(middle[at], seen, ranked[where[at]])
        return sign

    def _ranked(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Ranked, Booleans]:
        """(N, S + 1), (N): the scores of these queries, the sink's last, and where the sink is no obstacle."""
        a = self.given
        sink = np.full(len(b), -np.inf) if a.sinks_h is None else a.host(a.sinks_h)[h]
        known, present = sink < np.inf, np.isfinite(sink)  # NaN is not known
        if a.cap is None and not present.any():
            score, seen = self._distances(b, g, h, t, exact=True)
        else:
            score, seen = self._scores(b, g, h, t)
        error = np.abs(score.high) * SCORE_ERROR + 2.0**-900
        last = np.where(present, sink, 0.0)
        near = seen & present[:, None] & (np.abs(score.high - last[:, None]) <= 2 * error)
        meets = self._meets_sink((b, g, h, t), near, last)
        row, key = np.nonzero(meets)
        every = Pair(np.append(score.high, last[:, None], axis=1), np.append(score.low, 0.0 * last[:, None], axis=1))
        every.high[row, -1], every.low[row, -1] = score.high[row, key], score.low[row, key]
        group = self._groups((b, g, h, t), every, np.append(seen, present[:, None], axis=1), meets)
        error = np.append(error, np.where(meets, error, 0.0).max(axis=1, keepdims=True), axis=1)
        return Ranked(every, error, group), np.asarray(known)

    def _meets_sink(self, queries: Any, near: Booleans, sink: Reals) -> Booleans:
        """(N, S), (N) -> (N, S): which of the scores that are near a sink are exactly equal to it.

        A capped score is cap·tanh of a rational number: rational, as a sink is, only where both are zero.
        """
        a, found = self.given, np.zeros(near.shape, dtype=bool)
        row, key = np.nonzero(near if a.cap is None else near & (sink == 0.0)[:, None])
        if row.size:
            b, g, h, t = (axis[row] for axis in queries)
            q = np.concatenate(two_product(a.host(a.q_bthk)[b, t, h], np.array(a.scale)), axis=1)
            k = a.host(a.k_bsgk)[b, key, g]
            found[row, key] = dot_sums(q, np.concatenate([k, k], axis=1), -sink[row][:, None]).sign() == 0
        return found

    def _groups(self, queries: Any, score: Pair, seen: Booleans, meets: Booleans) -> Places:
        """(N, S + 1), (N, S + 1), (N, S) -> (N, S + 1): see `Ranked`."""
        if not np.any(score.high):
            return np.where(seen, 0, -1)
        b, g, h, t = queries
        order = np.lexsort((-score.low, np.where(seen, -score.high, np.inf)))
        rows = np.arange(len(order))[:, None]
        near, there = score[rows, order], seen[rows, order]
        equal = (near.high[:, 1:] == near.high[:, :-1]) & (near.low[:, 1:] == near.low[:, :-1]) & there[:, 1:]
        row, at = np.nonzero(equal)
        one, other = order[row, at], order[row, at + 1]
        sink = seen.shape[1] - 1
        keys = self.given.host(self.given.k_bsgk)
        of_keys = np.maximum(one, other) < sink  # the key that stands in for the sink may be unseen, and no number
        first, second = (
            np.where(of_keys[:, None], keys[b[row], np.minimum(key, sink - 1), g[row]], 0.0) for key in (one, other)
        )
        q = self.given.host(self.given.q_bthk)[b, t, h][row]
        same = dot_sums(np.concatenate([q, q], axis=1), np.concatenate([second, -first], axis=1)).sign() == 0
        with_sink = meets[row, np.minimum(np.minimum(one, other), sink - 1)]
        equal[row, at] = np.where(of_keys, same, with_sink)
        number: Places = np.concatenate([np.zeros((len(order), 1), dtype=np.intp), np.cumsum(~equal, axis=1)], axis=1)
        found = np.empty(order.shape, dtype=np.intp)
        found[rows, order] = np.where(there, number, -1)
        return found

    def _finite(self, b: Any, g: Any, h: Any, t: Any, k: Any) -> bool:
        """Whether the queries, and the keys and values that they see, are numbers all."""
        a = self.given
        seen = a.mask[b, t]
        whole: Booleans = np.asarray(np.isfinite(a.host(a.k_bsgk)).all(axis=-1))
        keys = whole[b, :, g] & np.isfinite(a.host(a.v_bsgk)[b, :, g, k])
        return bool(np.isfinite(a.host(a.q_bthk)[b, t, h]).all() and (keys | ~seen).all())

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

    def _query(self, places: Index) -> tuple[Places, ...]:
        """(b, g, h, t) of each place."""
        b, g, r, t, _ = places
        per_group = self.given.q_bthk.shape[2] // self.given.k_bsgk.shape[2]
        return b, g, g * per_group + r, t + self.start

    def _weights(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Pair, Booleans, Reals]:
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
        halves = [np.where(present, half, 0.0) for half in (weights.high, weights.low)]
        (high, known), (low, _) = (_finite(half) for half in halves)
        return Pair(high, low), seen, np.where(known, error, np.inf)

    def _operands(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Reals, Reals, Booleans]:
        """(N, K), (N, S, K), (N, S): queries, the keys that they see, and which; 0 for what is not finite."""
        a = self.given
        seen = a.mask[b, t]
        keys = np.where(seen[:, :, None], a.host(a.k_bsgk)[b, :, g], 0.0)
        return _finite(a.host(a.q_bthk)[b, t, h])[0], _finite(keys)[0], seen

    def _healthy(self, b: Any, g: Any, h: Any, t: Any) -> Booleans:
        """(N): whether the query and all keys that it sees are finite; an infinite sink is `_absolute`'s."""
        a = self.given
        keys = np.where(a.mask[b, t][:, :, None], a.host(a.k_bsgk)[b, :, g], 0.0)
        return np.asarray(np.isfinite(a.host(a.q_bthk)[b, t, h]).all(axis=1) & np.isfinite(keys).all(axis=(1, 2)))

    def _distances(self, b: Any, g: Any, h: Any, t: Any, *, exact: bool) -> tuple[Pair, Booleans]:
        """(N, S) twice: scale·(score − the largest score), and who is seen."""
        a = self.given
        q, keys, seen = self._operands(b, g, h, t)
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

    def _scores(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Pair, Booleans]:
        """(N, S) twice: capped scores within `SCORE_ERROR`, and who is seen."""
        a = self.given
        q, keys, seen = self._operands(b, g, h, t)
        n, s, k = keys.shape
        sums = dot_sums(np.broadcast_to(q[:, None], keys.shape).reshape(n * s, k), keys.reshape(n * s, k)).pair()
        score = Pair(sums.high.reshape(n, s), sums.low.reshape(n, s)) * a.scale
        return (score if a.cap is None else tanh(score / a.cap) * a.cap), seen

    def _absolute(self, b: Any, g: Any, h: Any, t: Any) -> tuple[Pair, Pair, Reals]:
        """(N, S), (N, 1), (N): distances to the largest of capped scores and the sink, the sink's, and their error."""
        a = self.given
        score, seen = self._scores(b, g, h, t)
        n = len(b)
        sink = np.full(n, -np.inf) if a.sinks_h is None else a.host(a.sinks_h)[h]
        largest = np.maximum(np.max(np.where(seen, score.high, -np.inf), axis=1), sink)[:, None]
        there = np.isfinite(sink)[:, None]
        last = Pair(*two_sum(np.where(there, sink[:, None], 0.0), -largest))
        last = Pair(np.where(there, last.high, -np.inf), np.where(there, last.low, 0.0))
        size = np.max(np.where(seen, np.abs(score.high), 0.0), axis=1, initial=0.0)
        return score - largest, last, DOUBLE_ERROR + size * 2.0**-90


def _finite(x: Reals) -> tuple[Reals, Booleans]:
    """(N, …) -> the same with 0 for what is not finite, and (N): which rows needed none. Exact sums take no other."""
    finite = np.isfinite(x)
    return np.where(finite, x, 0.0), np.asarray(finite.reshape(len(x), -1).all(axis=1))


def _distinct(*axes: Places) -> tuple[tuple[Places, ...], Places]:
    """The distinct queries, and which of them each place belongs to."""
    sizes = tuple(int(axis.max(initial=0)) + 1 for axis in axes)
    found, where = np.unique(np.ravel_multi_index(axes, sizes), return_inverse=True)
    return np.unravel_index(found, sizes), where
