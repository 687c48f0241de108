"""Q3_K and Q6_K: the search for scales and codes of value d·sc·q, q from −half to half − 1, sc from −kmax to kmax − 1.

1. Each group alone: codes of ±(half + δ)/amax for a row of δ and both signs, the least-squares s of each, and the best.
2. d by `best_common`, of either sign: there is one more code below zero than above.
3. From there, or from plain rounding to nearest where that is better, downhill in the error of what will be decoded:
   each group's sc moves to a neighbour while that helps, and each super-block's d to its least squares.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from lepton_ref.storage.encoders.search import (
    Floats,
    best_common,
    codes,
    fp16,
    in_units,
    moments,
    ratio,
    squares,
    total,
)

OFFSETS = 12
"""How many scales of each sign are tried: of the largest code's size and what is added to it, −half/4 … 0.8."""
COMMON = tuple(np.float32(-0.9 + 0.15 * i) for i in range(13))
"""The same for the largest scale's code."""
NEIGHBOURS = (4, -4, 2, -2, 1, -1)
ROUNDS = 2


Units: TypeAlias = tuple[Floats, Floats]
"""d `(N,)`, an fp16 number, and sc `(G, N)`, integers, as float32."""


def search(x: Floats, w: Floats | None, *, half: int, kmax: int) -> tuple[Floats, Floats, Floats]:
    """`(g, G, N)` numbers and weights: d `(N,)`, sc `(G, N)` and codes `(g, G, N)` from −half."""
    s, curvature = _each_group(x, w, half)
    most = _largest(s)
    candidates = [most / (sign * (kmax + offset)) for sign in (-1, 1) for offset in COMMON]
    d = fp16(best_common(s, curvature, candidates, -kmax, kmax - 1))
    starts = [(d, in_units(s, d, -kmax, kmax - 1)), nearest(x, half=half, kmax=kmax)]
    return _downhill(x, w, starts, half, kmax)


def nearest(x: Floats, *, half: int, kmax: int) -> Units:
    """Plain rounding: each group's largest number is code −half, the largest scale is −kmax."""
    s = _largest(x) / np.float32(-half)
    d = fp16(_largest(s) / np.float32(-kmax))
    return d, in_units(s, d, -kmax, kmax - 1)


def _largest(a: Floats) -> Floats:
    """Along the first axis the first number whose size is the largest."""
    found: Floats = np.take_along_axis(a, np.argmax(np.abs(a), axis=0)[np.newaxis], axis=0)[0]
    return found


def _each_group(x: Floats, w: Floats | None, half: int) -> tuple[Floats, Floats]:
    """The best s of each group and Σwq² of its codes, (G, N) each."""
    amax = np.abs(x).max(axis=0)
    best, s, curvature = np.zeros_like(amax), np.zeros_like(amax), np.zeros_like(amax)
    for sign in (-1, 1):
        for offset in np.linspace(-half / 4, 0.8, OFFSETS).astype(np.float32):
            of = moments(codes(x, amax / (sign * (half + offset)), -half, half - 1), x, w)
            gain = ratio(of.qx * of.qx, of.qq)
            better = gain > best
            best, curvature = np.where(better, gain, best), np.where(better, of.qq, curvature)
            s = np.where(better, ratio(of.qx, of.qq), s)
    return s, curvature


def _evaluate(x: Floats, w: Floats | None, d: Floats, sc: Floats, half: int) -> tuple[Floats, Floats]:
    """The codes for what is stored, and each group's error, (G, N)."""
    scale = d * sc
    q = codes(x, scale, -half, half - 1)
    return q, squares(scale * q - x, w)


def _downhill(x: Floats, w: Floats | None, starts: list[Units], half: int, kmax: int) -> tuple[Floats, Floats, Floats]:
    """The neighbourhood's best, round after round, from the better of two starts; and its codes."""
    (d, sc), (d_new, sc_new) = starts
    helps = total(_evaluate(x, w, d_new, sc_new, half)[1]) < total(_evaluate(x, w, d, sc, half)[1])
    d, sc = np.where(helps, d_new, d), np.where(helps, sc_new, sc)
    q, error = _evaluate(x, w, d, sc, half)
    for _ in range(ROUNDS):
        for step in NEIGHBOURS:
            sc_new = np.clip(sc + np.float32(step), -kmax, kmax - 1)
            _, other = _evaluate(x, w, d, sc_new, half)
            better = other < error
            error, sc = np.where(better, other, error), np.where(better, sc_new, sc)
        q, error = _evaluate(x, w, d, sc, half)
        of = moments(q, x, w)
        d_new = fp16(ratio(total(sc * of.qx), total(sc * sc * of.qq)))
        q_new, other = _evaluate(x, w, d_new, sc, half)
        helps = total(other) < total(error)
        d, q, error = np.where(helps, d_new, d), np.where(helps, q_new, q), np.where(helps, other, error)
    return d, sc, q
