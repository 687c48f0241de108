"""Q2_K, Q4_K and Q5_K: the search for scales, minima and codes of value d·sc·q − dmin·mn.

1. Each group alone: codes of (nmax + δ)/range for a row of δ, the least-squares (s, m) of each, m at most 0, and the
   best of them.
2. d for the scales by `best_common` and a few beside it; for each the best minima of the rounded scales, and a dmin.
3. From the best of these and of plain rounding to nearest downhill in the error of what will be decoded, its rounding
   included: each group's (sc, mn) moves to a neighbour while that helps, each super-block's (d, dmin) to its least
   squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders.search import (
    Floats,
    Moments,
    best_common,
    codes,
    fp16,
    in_units,
    moments,
    ratio,
    squares,
    total,
    weighed,
    weight_sum,
)

OFFSETS = tuple(np.float32(-2.0 + 0.4 * i) for i in range(8))
"""What is added to the largest code for the scales that are tried: −2 … 0.8."""
COMMON = tuple(np.float32(-0.9 + 0.15 * i) for i in range(13))
"""The same for the largest scale's code and the largest minimum's."""
BESIDE = tuple(np.float32(1 + 0.02 * i) for i in (0, -1, 1, -2, 2))
"""The best d times these are starts."""
NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
ROUNDS = 2
"""Three more, and five times as many offsets, gain 0.2 % of the error."""


@dataclass(frozen=True)
class Units:
    """What is stored but the codes: d and dmin `(N,)`, fp16 numbers; sc and mn `(G, N)`, integers. All as float32."""

    d: Floats
    dmin: Floats
    sc: Floats
    mn: Floats


def search(x: Floats, w: Floats | None, *, nmax: int, kmax: int) -> tuple[Units, Floats]:
    """`(g, G, N)` numbers and weights: the units, scales and minima up to kmax, and `(g, G, N)` codes up to nmax."""
    s, m = _each_group(x, w, nmax)
    starts = [*_common(x, w, s, m, nmax, kmax), nearest(x, nmax=nmax, kmax=kmax)]
    return _downhill(x, w, starts, nmax, kmax)


def nearest(x: Floats, *, nmax: int, kmax: int) -> Units:
    """Plain rounding: each group's range in nmax steps, the largest scale and minimum in kmax."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    s, minimum = (x.max(axis=0) - low) / np.float32(nmax), np.abs(low)
    d, dmin = fp16(s.max(axis=0) / np.float32(kmax)), fp16(minimum.max(axis=0) / np.float32(kmax))
    return Units(d, dmin, in_units(s, d, 0, kmax), in_units(minimum, dmin, 0, kmax))


def _each_group(x: Floats, w: Floats | None, nmax: int) -> tuple[Floats, Floats]:
    """The best s ≥ 0 and m ≤ 0 of each group, (G, N) each, for value s·q + m."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    width = x.max(axis=0) - low
    y = x - low
    sw, sy, syy = weight_sum(x, w), total(weighed(y, w)), total(weighed(y * y, w))
    s, m = width / np.float32(nmax), np.zeros_like(low)
    best = squares(s * codes(y, s, 0, nmax) - y, w)
    for offset in OFFSETS:
        of = moments(codes(y, ratio(width, np.full_like(width, nmax + offset)), 0, nmax), y, w)
        s_new, m_new = _least_squares(of, sw, sy, -low)
        # Σw(s·q + m − y)², multiplied out
        error = syy + s_new * (s_new * of.qq - 2 * of.qx) + m_new * (m_new * sw + 2 * (s_new * of.q - sy))
        better = (error < best) & (s_new > 0)
        best, s, m = np.where(better, error, best), np.where(better, s_new, s), np.where(better, m_new, m)
    return s, m + low


def _least_squares(of: Moments, sw: Floats, sy: Floats, most: Floats) -> tuple[Floats, Floats]:
    """The s and m with the least Σw(s·q + m − y)², m at most `most`."""
    determinant = sw * of.qq - of.q * of.q
    s = ratio(sw * of.qx - sy * of.q, determinant)
    m = ratio(of.qq * sy - of.q * of.qx, determinant)
    fixed = (m > most) | (determinant <= 0)
    s = np.where(fixed, ratio(of.qx - most * of.q, of.qq), s)
    return s, np.where(fixed, most, m)


def _common(x: Floats, w: Floats | None, s: Floats, m: Floats, nmax: int, kmax: int) -> list[Units]:
    """Some d and dmin, and the scales and minima in their units."""
    of, sw, sx = moments(codes(x - m, s, 0, nmax), x, w), weight_sum(x, w), total(weighed(x, w))
    best = _unit(s, np.maximum(of.qq - ratio(of.q * of.q, sw), np.float32(0)), kmax)
    found = []
    for factor in BESIDE:
        d = fp16(best * factor)
        sc = in_units(s, d, 0, kmax)
        minimum = np.maximum(ratio(d * sc * of.q - sx, sw), np.float32(0))
        dmin = fp16(_unit(minimum, sw, kmax))
        found.append(Units(d, dmin, sc, in_units(minimum, dmin, 0, kmax)))
    return found


def _unit(s: Floats, curvature: Floats, kmax: int) -> Floats:
    """`(G, N) -> (N,)` the unit in which these are best stored."""
    most = s.max(axis=0)
    return best_common(s, curvature, [most / (kmax + offset) for offset in COMMON], 0, kmax)


def _evaluate(x: Floats, w: Floats | None, at: Units, nmax: int) -> tuple[Floats, Floats]:
    """The codes for what is stored, and each group's error, (G, N)."""
    scale, minimum = at.d * at.sc, at.dmin * at.mn
    q = codes(x + minimum, scale, 0, nmax)
    error = scale * q
    error -= minimum
    error -= x
    return q, squares(error, w)


def _best(x: Floats, w: Floats | None, starts: list[Units], nmax: int) -> Units:
    """Of each super-block the best."""
    at = starts[0]
    error = total(_evaluate(x, w, at, nmax)[1])
    for other in starts[1:]:
        its = total(_evaluate(x, w, other, nmax)[1])
        better = its < error
        error, at = np.where(better, its, error), _where(better, other, at)
    return at


def _where(better: NDArray[np.bool_], these: Units, those: Units) -> Units:
    """`(N,) or (G, N)` the one where it is better, else the other; whole super-blocks or groups."""
    whole = better if better.ndim == 1 else np.zeros_like(better[0])
    d, dmin = np.where(whole, these.d, those.d), np.where(whole, these.dmin, those.dmin)
    return Units(d, dmin, np.where(better, these.sc, those.sc), np.where(better, these.mn, those.mn))


def _downhill(x: Floats, w: Floats | None, starts: list[Units], nmax: int, kmax: int) -> tuple[Units, Floats]:
    """The neighbourhood's best, round after round, and its codes."""
    at = _best(x, w, starts, nmax)
    q, error = _evaluate(x, w, at, nmax)
    for _ in range(ROUNDS):
        for step, down in NEIGHBOURS:
            sc, mn = np.clip(at.sc + np.float32(step), 0, kmax), np.clip(at.mn + np.float32(down), 0, kmax)
            beside = Units(at.d, at.dmin, sc, mn)
            _, other = _evaluate(x, w, beside, nmax)
            better = other < error
            error, at = np.where(better, other, error), _where(better, beside, at)
        q, error = _evaluate(x, w, at, nmax)
        refitted = _refit(x, w, at, q)
        q_new, other = _evaluate(x, w, refitted, nmax)
        better = total(other) < total(error)
        error, q, at = np.where(better, other, error), np.where(better, q_new, q), _where(better, refitted, at)
    return at, q


def _refit(x: Floats, w: Floats | None, at: Units, q: Floats) -> Units:
    """The same with the least-squares d and dmin for these codes, as fp16; dmin is not negative."""
    of, sw, sx = moments(q, x, w), weight_sum(x, w), total(weighed(x, w))
    aa, ab, bb = total(at.sc * at.sc * of.qq), total(at.sc * at.mn * of.q), total(at.mn * at.mn * sw)
    ax, bx = total(at.sc * of.qx), total(at.mn * sx)
    determinant = aa * bb - ab * ab
    d, dmin = ratio(bb * ax - ab * bx, determinant), ratio(ab * ax - aa * bx, determinant)
    alone = (determinant <= 0) | (dmin < 0)
    d, dmin = np.where(alone, ratio(ax, aa), d), np.where(alone, np.float32(0), dmin)
    return Units(fp16(d), fp16(dmin), at.sc, at.mn)
