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
    moments,
    ratio,
    squares,
    total,
    weighed,
    weight_sum,
)

Bytes = NDArray[np.uint8]

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
class Affine:
    """What is stored: d, dmin `(N,)`; sc, mn `(G, N)`; codes q `(g, G, N)`. All float32 that are exact."""

    d: Floats
    dmin: Floats
    sc: Floats
    mn: Floats
    q: Floats


def search(x: Floats, w: Floats | None, *, nmax: int, kmax: int) -> Affine:
    """`(g, G, N)` codes up to nmax, scales and minima up to kmax."""
    s, m = _each_group(x, w, nmax)
    return _downhill(x, w, [*_common(x, w, s, m, nmax, kmax), nearest(x, nmax=nmax, kmax=kmax)], nmax, kmax)


def nearest(x: Floats, *, nmax: int, kmax: int) -> Affine:
    """Plain rounding: each group's range in nmax steps, the largest scale and minimum in kmax, all codes 0 as yet."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    s, minimum = (x.max(axis=0) - low) / np.float32(nmax), np.abs(low)
    d, dmin = fp16(s.max(axis=0) / np.float32(kmax)), fp16(minimum.max(axis=0) / np.float32(kmax))
    sc, mn = codes(s, np.broadcast_to(d, s.shape), 0, kmax), codes(minimum, np.broadcast_to(dmin, s.shape), 0, kmax)
    return Affine(d, dmin, sc, mn, np.zeros_like(x))


def _each_group(x: Floats, w: Floats | None, nmax: int) -> tuple[Floats, Floats]:
    """The best s ≥ 0 and m ≤ 0 of each group, (G, N) each, for value s·q + m."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    width = x.max(axis=0) - low
    y = x - low
    sw = weight_sum(x, w)
    sy = total(weighed(y, w))
    s, m = width / np.float32(nmax), np.zeros_like(low)
    best = squares(s * codes(y, s, 0, nmax) - y, w)
    syy = total(weighed(y * y, w))
    for offset in OFFSETS:
        of = moments(codes(y, ratio(width, np.full_like(width, nmax + offset)), 0, nmax), y, w)
        s_new, m_new = _least_squares(of, sw, sy, -low)
        # the square form at its least, in another order than it is derived: Σw(s·q + m − y)²
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


def _common(x: Floats, w: Floats | None, s: Floats, m: Floats, nmax: int, kmax: int) -> list[Affine]:
    """Some d and dmin, and the scales and minima in their units."""
    of, sw, sx = moments(codes(x - m, s, 0, nmax), x, w), weight_sum(x, w), total(weighed(x, w))
    best = _unit(s, np.maximum(of.qq - ratio(of.q * of.q, sw), np.float32(0)), kmax)
    found = []
    for factor in BESIDE:
        d = fp16(best * factor)
        sc = codes(s, np.broadcast_to(d, s.shape), 0, kmax)
        minimum = np.maximum(ratio(d * sc * of.q - sx, sw), np.float32(0))
        dmin = fp16(_unit(minimum, sw, kmax))
        found.append(Affine(d, dmin, sc, codes(minimum, np.broadcast_to(dmin, s.shape), 0, kmax), x))
    return found


def _unit(s: Floats, curvature: Floats, kmax: int) -> Floats:
    """`(G, N) -> (N,)` the unit in which these are best stored."""
    most = s.max(axis=0)
    return best_common(s, curvature, [most / (kmax + offset) for offset in COMMON], 0, kmax)


def _evaluate(x: Floats, w: Floats | None, at: Affine, nmax: int) -> tuple[Floats, Floats]:
    """The codes for what is stored, and each group's error, (G, N)."""
    scale, minimum = at.d * at.sc, at.dmin * at.mn
    q = codes(x + minimum, scale, 0, nmax)
    error = scale * q
    error -= minimum
    error -= x
    return q, squares(error, w)


def _best(x: Floats, w: Floats | None, starts: list[Affine], nmax: int) -> Affine:
    """Of each super-block the best."""
    at = starts[0]
    error = total(_evaluate(x, w, at, nmax)[1])
    for other in starts[1:]:
        its = total(_evaluate(x, w, other, nmax)[1])
        better = its < error
        error, d = np.where(better, its, error), np.where(better, other.d, at.d)
        sc, mn = np.where(better, other.sc, at.sc), np.where(better, other.mn, at.mn)
        at = Affine(d, np.where(better, other.dmin, at.dmin), sc, mn, at.q)
    return at


def _downhill(x: Floats, w: Floats | None, starts: list[Affine], nmax: int, kmax: int) -> Affine:
    """The neighbourhood's best, round after round."""
    at = _best(x, w, starts, nmax)
    q, error = _evaluate(x, w, at, nmax)
    for _ in range(ROUNDS):
        sc, mn = at.sc, at.mn
        for step, down in NEIGHBOURS:
            sc_new = np.clip(sc + np.float32(step), 0, kmax)
            mn_new = np.clip(mn + np.float32(down), 0, kmax)
            _, other = _evaluate(x, w, Affine(at.d, at.dmin, sc_new, mn_new, q), nmax)
            better = other < error
            error = np.where(better, other, error)
            sc, mn = np.where(better, sc_new, sc), np.where(better, mn_new, mn)
        q, error = _evaluate(x, w, Affine(at.d, at.dmin, sc, mn, q), nmax)
        d, dmin = _refit(x, w, Affine(at.d, at.dmin, sc, mn, q))
        q_new, other = _evaluate(x, w, Affine(d, dmin, sc, mn, q), nmax)
        better = total(other) < total(error)
        error, q = np.where(better, other, error), np.where(better, q_new, q)
        at = Affine(np.where(better, d, at.d), np.where(better, dmin, at.dmin), sc, mn, q)
    return at


def _refit(x: Floats, w: Floats | None, at: Affine) -> tuple[Floats, Floats]:
    """The least-squares d and dmin for these codes, as fp16; dmin is not negative."""
    of = moments(at.q, x, w)
    sw = weight_sum(x, w)
    aa, ab, bb = total(at.sc * at.sc * of.qq), total(at.sc * at.mn * of.q), total(at.mn * at.mn * sw)
    ax, bx = total(at.sc * of.qx), total(at.mn * total(weighed(x, w)))
    determinant = aa * bb - ab * ab
    d, dmin = ratio(bb * ax - ab * bx, determinant), ratio(ab * ax - aa * bx, determinant)
    alone = (determinant <= 0) | (dmin < 0)
    d, dmin = np.where(alone, ratio(ax, aa), d), np.where(alone, np.float32(0), dmin)
    return fp16(d), fp16(dmin)
