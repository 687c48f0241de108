"""Points, scales and shifts of the IQ formats whose codes are points of a table: a search for little weighted error.

A block's value is v = d·(2s + 1)·u·(G[q] + δ)·sign, s for each group, u the format's unit. For a scale c = d·(2s + 1)·u

    the points     are the nearest ones, of all in the table: Σw(|x| − c·g)² splits into the sums over the two halves of
                   a point's coordinates, so that each half's sums are taken once and the table only looks them up
    each group     tries a few c from its largest number down, then moves c to Σwxg/Σwg² and the points to c, twice
    d              is that of a range for which Σ_groups (Σwg²)·(c − d·(2s + 1)·u)² is least
    each s         is the best of three around c/(d·u), then d is refitted to the points and the points to d

and of all that was measured, of what rounding to nearest gives with c = largest number/largest coordinate, and of zeros
the best is kept. The points are the best for the d and s that are stored, and for the signs that a format with sign
codes was given; d and s themselves are searched, not proven best.

Everything is elementwise float32, and sums are taken in one order, so that bytes are the same on every machine. Numbers
are scaled by a power of two for each block first, weights by the largest of each block: nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.iq_grids import TABLES, points

Floats = NDArray[np.float32]
Codes = NDArray[np.intp]

LARGEST_HALF = 65504.0
REFITS = 2


@dataclass(frozen=True)
class Form:
    """What a format's search needs to know.

    Attributes:
        table: the table of points.
        group: how many elements share s.
        most: the greatest s.
        unit: u above.
        shifted: how many neighbouring points share δ; 0 where there is none.
        tries: the scales that a group tries, times its largest number over the largest coordinate.
    """

    table: str
    group: int
    most: int
    unit: float
    shifted: int = 0
    tries: tuple[float, ...] = (1.2, 1.05, 0.95, 0.85, 0.75, 0.65, 0.5)


@dataclass(frozen=True)
class Fit:
    """What is stored of N blocks: d `(N,)`, s `(N, groups)`, codes `(N, points)`, the table's length added for −δ."""

    d: NDArray[np.float64]
    s: NDArray[np.int64]
    codes: Codes


@dataclass(frozen=True)
class _Halves:
    """A table by the halves of its points' coordinates: those with one upper half follow one another."""

    upper: Codes  # the upper halves that there are
    lower: tuple[Codes, ...]  # for each of them, the lower halves
    first: Codes  # and the number of its first point


@cache
def _halves(table: str) -> _Halves:
    levels, width = TABLES[table].levels, TABLES[table].width
    k = np.searchsorted(levels, points(table))
    weights = len(levels) ** np.arange(width // 2)
    low, high = k[:, : width // 2] @ weights, k[:, width // 2 :] @ weights
    upper, first = np.unique(high, return_index=True)
    return _Halves(upper, tuple(np.split(low, first[1:])), first)


def nearest(table: str, x: Floats, w: Floats, c: Floats, shift: float = 0.0) -> tuple[Codes, Floats]:
    """`(coordinates, N) twice, (N,) -> (N,), (N,)` the nearest point to each x/c, and its weighted error."""
    low, high, split = *_costs(table, x, w, c, shift), _halves(table)
    best = np.full(c.shape, np.inf, dtype=np.float32)
    which = np.zeros(c.shape, dtype=np.uint8)
    for i, upper in enumerate(split.upper):
        least = low[split.lower[i]].min(axis=0) + high[upper]
        np.copyto(which, np.uint8(i), where=least < best)
        np.minimum(best, least, out=best)
    order = np.argsort(which, kind="stable")
    apart = low.T[order]
    ends = np.searchsorted(which, np.arange(len(split.upper) + 1), sorter=order)
    code = np.empty(c.shape, dtype=np.intp)
    for i, lower in enumerate(split.lower):
        here = slice(ends[i], ends[i + 1])
        code[order[here]] = split.first[i] + apart[here].take(lower, axis=1).argmin(axis=1)
    return code, best


def least_error(table: str, x: Floats, w: Floats, c: Floats, shift: float = 0.0) -> Floats:
    """The error of `nearest` alone, which takes a fraction of the time."""
    low, high, split = *_costs(table, x, w, c, shift), _halves(table)
    best = np.full(c.shape, np.inf, dtype=np.float32)
    for lower, upper in zip(split.lower, split.upper, strict=True):
        np.minimum(best, low[lower].min(axis=0) + high[upper], out=best)
    return best


def _costs(table: str, x: Floats, w: Floats, c: Floats, shift: float) -> tuple[Floats, Floats]:
    """`(lower halves, N), (upper halves, N)` the error of every half point."""
    levels = np.array(TABLES[table].levels, dtype=np.float32) + np.float32(shift)
    each = w[:, np.newaxis] * np.square(x[:, np.newaxis] - levels[:, np.newaxis] * c)
    half = len(x) // 2
    return _sums(each[:half]), _sums(each[half:])


def _sums(each: Floats) -> Floats:
    """`(k, levels, N) -> (levelsᵏ, N)` the sums for every choice of a level for each of k coordinates."""
    out: Floats = each[0]
    for more in each[1:]:
        out = (more[:, np.newaxis] + out).reshape(-1, out.shape[-1])
    return out


class _Search:
    """N blocks of one form: `x` and `w` are `(coordinates, N·points)`, a group's points beside one another."""

    def __init__(self, form: Form, x: Floats, w: Floats) -> None:
        self.form = form
        self.blocks, self.groups = len(x), 256 // form.group
        self.width = TABLES[form.table].width
        self.in_group = form.group // self.width
        self.exponent = np.frexp(np.abs(x).max(axis=1))[1]
        scaled = np.ldexp(x, -self.exponent[:, np.newaxis])
        self.x = np.ascontiguousarray(scaled.reshape(-1, self.width).T)
        self.w = np.ascontiguousarray(w.reshape(-1, self.width).T)

    def choose(self, c: Floats) -> tuple[Codes, Floats]:
        """`(N, groups) -> (N, points), (N, groups)` the best codes for a scale of each group, and the errors."""
        wide = np.repeat(c.reshape(-1), self.in_group)
        if self.form.shifted:
            plus, minus = (nearest(self.form.table, self.x, self.w, wide, shift) for shift in (0.125, -0.125))
            errors = [np.repeat(_over(part[1], self.form.shifted), self.form.shifted) for part in (plus, minus)]
            down = errors[1] < errors[0]
            code = np.where(down, minus[0] + TABLES[self.form.table].count, plus[0])
            error = np.where(down, minus[1], plus[1])
        else:
            code, error = nearest(self.form.table, self.x, self.w, wide)
        return code.reshape(self.blocks, -1), self._by_group(error)

    def errors(self, c: Floats) -> Floats:
        """`(N, groups) -> (N, groups)` the errors of `choose` alone."""
        wide = np.repeat(c.reshape(-1), self.in_group)
        if not self.form.shifted:
            return self._by_group(least_error(self.form.table, self.x, self.w, wide))
        plus, minus = (
            _over(least_error(self.form.table, self.x, self.w, wide, shift), self.form.shifted)
            for shift in (0.125, -0.125)
        )
        return _over(np.minimum(plus, minus), self.in_group // self.form.shifted).reshape(c.shape)

    def moments(self, codes: Codes) -> tuple[Floats, Floats]:
        """`(N, points) -> (N, groups) twice` Σwxg and Σwg²."""
        g = _coordinates(self.form)[:, codes.reshape(-1)]
        wg = self.w * g
        return self._by_group(_first(wg * self.x)), self._by_group(_first(wg * g))

    def _by_group(self, a: Floats) -> Floats:
        """`(N·points,) -> (N, groups)` the sums."""
        return _over(a, self.in_group).reshape(self.blocks, -1)

    def largest(self) -> Floats:
        """`(N, groups)` the scales of rounding to nearest: the largest number over the largest coordinate."""
        top = np.abs(self.x).max(axis=0).reshape(self.blocks, self.groups, -1).max(axis=2)
        return np.asarray(top / np.abs(_coordinates(self.form)).max())

    def wanted(self, top: Floats) -> tuple[Floats, Floats]:
        """`(N, groups) twice`: the scale that each group wants, and Σwg² there."""
        best, c = np.full(top.shape, np.inf, dtype=np.float32), top
        for part in self.form.tries:
            error = self.errors(top * np.float32(part))
            c = np.where(error < best, top * np.float32(part), c)
            best = np.minimum(best, error)
        for _ in range(REFITS):
            xg, gg = self.moments(self.choose(c)[0])
            c = np.maximum(_ratio(xg, gg), np.float32(0))
        return c, gg

    def stored(self, d: Floats) -> NDArray[np.float64]:
        """`(N,)` the scales of scaled numbers as fp16 holds them for the numbers themselves."""
        own = np.ldexp(d.astype(np.float64), self.exponent)
        return np.clip(own, 0, LARGEST_HALF).astype(np.float16).astype(np.float64)

    def scales(self, d: NDArray[np.float64], s: NDArray[np.int64]) -> Floats:
        """`(N,), (N, groups) -> (N, groups)` the scale of each group."""
        c: Floats = (np.ldexp(d, -self.exponent)[:, np.newaxis] * (self.form.unit * (2 * s + 1))).astype(np.float32)
        return c

    def measured(self, d: NDArray[np.float64], s: NDArray[np.int64]) -> tuple[Fit, Floats]:
        """What is stored with these scales, and its errors `(N, groups)`."""
        codes, error = self.choose(self.scales(d, s))
        return Fit(d, s, codes), error

    def nearest_s(self, c: Floats, d: NDArray[np.float64]) -> NDArray[np.int64]:
        """`(N, groups), (N,) -> (N, groups)` the s for which d·(2s + 1)·u is nearest to c."""
        return _nearest_s(self.form, c, np.ldexp(d, -self.exponent))


def fit(form: Form, x: Floats, w: Floats) -> Fit:
    """`(N, 256) twice -> N blocks`: x as the points are to meet it, its signs taken away where the format has signs."""
    search = _Search(form, x, w)
    top = search.largest()
    c, gg = search.wanted(top)
    nothing = np.zeros(len(x)), np.zeros(c.shape, dtype=np.int64)
    best = search.measured(*nothing)
    d = search.stored(top.max(axis=1) / np.float32(form.unit * (2 * form.most + 1)))
    best = _better(best, search.measured(d, search.nearest_s(top, d)))
    d = search.stored(_common(form, c, gg))
    s = search.nearest_s(c, d)
    around = np.stack([np.clip(s + more, 0, form.most) for more in (0, -1, 1)])
    errors = np.stack([search.errors(search.scales(d, some)) for some in around])
    s = np.take_along_axis(around, np.argmin(errors, axis=0)[np.newaxis], axis=0)[0]
    for _ in range(REFITS):
        found = search.measured(d, s)
        best = _better(best, found)
        k = (form.unit * (2 * s + 1)).astype(np.float32)
        xg, gg = search.moments(found[0].codes)
        d = search.stored(_ratio(_rows(k * xg), _rows(k * k * gg)))
    return _better(best, search.measured(d, s))[0]


def _better(a: tuple[Fit, Floats], b: tuple[Fit, Floats]) -> tuple[Fit, Floats]:
    """Of two ways to store each block the one with the smaller error."""
    less = _rows(b[1]) < _rows(a[1])
    wide = less[:, np.newaxis]
    kept = Fit(np.where(less, b[0].d, a[0].d), np.where(wide, b[0].s, a[0].s), np.where(wide, b[0].codes, a[0].codes))
    return kept, np.where(wide, b[1], a[1])


def _common(form: Form, c: Floats, gg: Floats) -> Floats:
    """`(N, groups) twice -> (N,)` the d whose multiples are nearest to the wanted scales, errors counted by Σwg²."""
    best, found = np.full(len(c), np.inf, dtype=np.float32), np.zeros(len(c), dtype=np.float32)
    for step in range(24):
        d = c.max(axis=1) / np.float32(form.unit * (2 * form.most + 2 - step / 4))
        s = _nearest_s(form, c, d.astype(np.float64))
        off = c - d[:, np.newaxis] * (form.unit * (2 * s + 1)).astype(np.float32)
        error = _rows(gg * off * off)
        found = np.where(error < best, d, found)
        best = np.minimum(best, error)
    return found


def _nearest_s(form: Form, c: Floats, d: NDArray[np.float64]) -> NDArray[np.int64]:
    step = form.unit * d[:, np.newaxis]
    ratio = np.divide(c, step, out=np.zeros(c.shape), where=step > 0)
    return np.clip(np.rint((ratio - 1) / 2), 0, form.most).astype(np.int64)


@cache
def _coordinates(form: Form) -> Floats:
    """`(coordinates, codes)` G + δ."""
    g = points(form.table).T.astype(np.float32)
    return np.hstack([g + np.float32(0.125), g - np.float32(0.125)]) if form.shifted else g


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _over(a: Floats, count: int) -> Floats:
    """`(N·2ᵏ,) -> (N,)` the sums of 2ᵏ neighbours, in one order."""
    a = a.reshape(-1, count)
    while a.shape[1] > 1:
        a = a[:, ::2] + a[:, 1::2]
    return a[:, 0]


def _rows(a: Floats) -> Floats:
    """`(N, 2ᵏ) -> (N,)`."""
    return _over(a.reshape(-1), a.shape[1])


def _first(a: Floats) -> Floats:
    """`(2ᵏ, N) -> (N,)`."""
    while len(a) > 1:
        a = a[::2] + a[1::2]
    return a.reshape(-1)
