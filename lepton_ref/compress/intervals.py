r"""Which interval [lo, hi] an affine code of activations covers: four ways to choose it from a histogram.

    minmax      all that was seen
    percentile  what is left when at most a share (1 − p)/2 of the numbers is cut off at each end
    mse         [low, high] cut off at ±T, T = j/128 of the largest size, that has the least Σ counts·(c − Q(c))², c the
                centre of a bin
    entropy     [low, high] cut off at ±T that has the least Kullback–Leibler divergence of what was seen, piled up at
                the ends, from what the code keeps of it (Migacz, 8-bit inference with TensorRT, 2017)

All intervals contain 0, which a code must hold exactly: padding and masked products rest on it. Of equal candidates the
widest is chosen. Q has 2^bits levels from lo to hi, which are float32 numbers. Logarithms are the package's own
double-double ones, the sums are in order of the bins: the interval is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.statistics import Histogram
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import log

Reals = NDArray[np.float64]
Interval = tuple[float, float]

STEPS = 128
METHODS = ("minmax", "percentile", "mse", "entropy")


def choose_interval(
    seen: Histogram, method: str, /, *, bits: int = 8, percentile: float = 99.99, symmetric: bool = False
) -> Interval:
    """A histogram -> (lo, hi), lo ≤ 0 ≤ hi and lo < hi.

    Args:
        seen: from `lepton_ref.compress.statistics.histogram`.
        method: one of `METHODS`.
        bits: of a code, 2 to 16.
        percentile: the share that `percentile` keeps, above 0 and at most 100.
        symmetric: whether lo = −hi.

    Raises:
        ValueError: an unknown method, bits or a percentile outside its range, or an empty histogram.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}; an affine code has 2 to 16")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile={percentile}; give more than 0 and at most 100")
    if not seen.counts.sum():
        raise ValueError("the histogram is empty; the calibration set holds no numbers")
    whole = _whole(seen.low, seen.high, symmetric)
    if method == "minmax":
        return whole
    if method == "percentile":
        return _whole(*_percentile(seen, percentile), symmetric) if percentile < 100 else whole
    loss = squared_error if method == "mse" else divergence
    return _search(seen, whole, 2**bits, loss)


def _whole(low: float, high: float, symmetric: bool) -> Interval:
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    return _float32(low, high)


def _float32(low: float, high: float) -> Interval:
    """Rounded to float32, in which scales and zero points are made from an interval."""
    return float(np.float32(low)), float(np.float32(high))


def _percentile(seen: Histogram, percentile: float) -> Interval:
    """The edges within which all but a share of (1 − p)/2 at each end lies, at the least."""
    total = int(seen.counts.sum())
    cut = math.floor(total * (100 - percentile) / 200)
    below = int(np.searchsorted(np.cumsum(seen.counts), cut, side="right"))
    above = int(np.searchsorted(np.cumsum(seen.counts[::-1]), cut, side="right"))
    edges = seen.edges
    low, high = float(edges[below]), float(edges[len(seen.counts) - above])
    return (low, high) if low < high else (seen.low, seen.high)


def _search(
    seen: Histogram, whole: Interval, levels: int, loss: Callable[[Histogram, Interval, int], float]
) -> Interval:
    best, found = math.inf, whole
    largest = max(-whole[0], whole[1])
    for step in range(STEPS, 0, -1):
        tried = _float32(max(whole[0], -largest * step / STEPS), min(whole[1], largest * step / STEPS))
        if not tried[0] < tried[1]:
            break
        value = loss(seen, tried, levels)
        if value < best:
            best, found = value, tried
    return found


def _codes(seen: Histogram, interval: Interval, levels: int) -> tuple[Reals, Reals, float]:
    """The centres, their codes before cutting off, and the step."""
    edges = seen.edges
    centres = (edges[:-1] + edges[1:]) / 2
    step = (interval[1] - interval[0]) / (levels - 1)
    return centres, np.rint((centres - interval[0]) / step), step


def squared_error(seen: Histogram, interval: Interval, levels: int, /) -> float:
    """Σ counts·(c − Q(c))² over the bins' centres."""
    centres, codes, step = _codes(seen, interval, levels)
    error = centres - (interval[0] + np.clip(codes, 0, levels - 1) * step)
    return math.fsum((seen.counts * error * error).tolist())


def divergence(seen: Histogram, interval: Interval, levels: int, /) -> float:
    """Σ p·ln(p/q): p the histogram cut off at the interval, q each level's own counts spread over its filled bins.

    Infinite where a level has no counts but those cut off.
    """
    _, codes, _ = _codes(seen, interval, levels)
    inside = np.flatnonzero((codes >= 0) & (codes <= levels - 1))
    if not len(inside):
        return math.inf
    first, last = int(inside[0]), int(inside[-1]) + 1
    own = seen.counts[first:last].astype(np.float64)
    cut = own.copy()
    cut[0] += seen.counts[:first].sum()
    cut[-1] += seen.counts[last:].sum()
    place = codes[first:last].astype(np.int64)
    filled = cut > 0
    mass = np.bincount(place, weights=own, minlength=levels)
    places = np.maximum(np.bincount(place, weights=filled, minlength=levels), 1)
    p = cut[filled] / cut.sum()
    q = (mass / places)[place][filled] / own.sum() if own.sum() else np.zeros_like(p)
    if not q.all():
        return math.inf
    return math.fsum((p * log(Pair.of(p / q)).high).tolist())
