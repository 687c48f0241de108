"""Scales for codes and codes for scales, for many groups of numbers at once: what the K-quants' encoders share.

Groups lie along axis 0: an array `(g, G, N)` holds N super-blocks of G groups of g numbers, what belongs to a group is
`(G, N)` and what belongs to a super-block `(N,)`. Everything is float32 and elementwise but the sums, which are taken
in one fixed order (`total`), so that the same numbers give the same bytes on every machine, alone or among others.

With weights w, codes q and values v = s·q + m the error Σw(v − x)² is a square form in (s, m) whose coefficients are
the sums of w, wq, wq², wx, wqx: see `Moments`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LARGEST = np.float32(2.0**30)
"""Numbers are cut to this size: no K-quant reaches 2²⁸, and squares of it do not overflow."""
LEAST = np.float32(2.0**-60)
"""What is smaller counts as 0: no K-quant has anything between 0 and 2⁻²⁴, and 1/x of it does not overflow."""
LEAST_WEIGHT = np.float32(2.0**-24)
"""Of a super-block's largest weight: what does not matter is still stored sensibly."""
LEAST_HALF = np.float32(2.0**-24)
LARGEST_HALF = np.float32(65504)


def groups(x: Floats, length: int) -> Floats:
    """`(N, elements) -> (length, groups, N)` contiguous, cut to ±`LARGEST`, 0 below `LEAST`."""
    cut = np.where(np.abs(x) < LEAST, np.float32(0), np.clip(x, -LARGEST, LARGEST))
    return np.ascontiguousarray(cut.reshape(len(x), x.shape[1] // length, length).transpose(2, 1, 0))


def relative(weights: Floats | None, length: int) -> Floats | None:
    """`(N, elements) -> (length, groups, N)` weights over the largest of their super-block; None where all are 1."""
    if weights is None:
        return None
    most = weights.max(axis=1, keepdims=True)
    part = np.where(most > 0, weights / np.where(most > 0, most, np.float32(1)), np.float32(1))
    part = np.maximum(part, LEAST_WEIGHT).astype(np.float32)
    if bool(np.all(part == 1)):
        return None
    return np.ascontiguousarray(part.reshape(len(part), part.shape[1] // length, length).transpose(2, 1, 0))


def total(a: Floats) -> Floats:
    """`(2ᵏ, …) -> (…)` the sum over the first axis: its halves are added, and again."""
    while len(a) > 1:
        half = len(a) // 2
        a = a[:half] + a[half:]
    only: Floats = a[0]
    return only


def weight_sum(x: Floats, w: Floats | None) -> Floats:
    """`(g, G, N) -> (G, N)` the sum of the weights of each group."""
    return np.full(x.shape[1:], len(x), dtype=np.float32) if w is None else total(w)


def weighed(a: Floats, w: Floats | None) -> Floats:
    """a·w, and a itself where all weights are 1."""
    return a if w is None else a * w


def ratio(a: Floats, b: Floats) -> Floats:
    """a/b, and 0 where b is 0."""
    return np.where(b == 0, np.float32(0), a / np.where(b == 0, np.float32(1), b)).astype(np.float32)


def fp16(d: Floats) -> Floats:
    """The fp16 number nearest to d; neither zero of what is not zero nor infinite."""
    near = np.clip(d, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)
    return np.where((near == 0) & (d != 0), np.copysign(LEAST_HALF, d), near).astype(np.float32)


@dataclass(frozen=True)
class Moments:
    """The sums over each group, `(G, N)` each: of wq, wq² and wqx."""

    q: Floats
    qq: Floats
    qx: Floats


def moments(q: Floats, x: Floats, w: Floats | None) -> Moments:
    """The sums for these codes."""
    wq = weighed(q, w)
    return Moments(total(wq), total(wq * q), total(wq * x))


def codes(x: Floats, scale: Floats, low: int, high: int) -> Floats:
    """The integers from `low` to `high` nearest to x/scale; 0 for a scale of 0."""
    q: Floats = x * ratio(np.ones_like(scale), scale)
    np.rint(q, out=q)
    np.maximum(q, np.float32(low), out=q)
    np.minimum(q, np.float32(high), out=q)
    return q


def in_units(s: Floats, unit: Floats, low: int, high: int) -> Floats:
    """`(G, N), (N,) -> (G, N)` the integers from `low` to `high` nearest to s in this unit."""
    return codes(s, np.broadcast_to(unit, s.shape), low, high)


def squares(error: Floats, w: Floats | None) -> Floats:
    """`(g, G, N) -> (G, N)` the weighted sums of squares."""
    return total(weighed(error * error, w))


def best_common(s: Floats, curvature: Floats, candidates: list[Floats], low: int, high: int) -> Floats:
    """`(G, N), (G, N), [(N,)] -> (N,)` the d for which Σ curvature·(s − d·k)² is least, k integers from low to high.

    Each candidate gives integers; the least-squares d for the best integers is the answer.
    """
    best, found = np.full_like(candidates[0], np.inf), candidates[0]
    for d in candidates:
        k = in_units(s, d, low, high)
        ck = curvature * k
        fitted = ratio(total(ck * s), total(ck * k))
        error = total(curvature * np.square(s - fitted * k))
        better = error < best
        best, found = np.where(better, error, best), np.where(better, fitted, found)
    return found
