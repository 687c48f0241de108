"""The bounds of softmax, its logarithm and attention; see `bounds` for the model of arithmetic."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lepton_ref.numerics.bounds import TINY, ULPS, UNIT, Reals, gamma, outward, reals


@np.errstate(all="ignore")
def softmax_bound(x: ArrayLike, *, ulps: float = ULPS) -> Reals:
    """With d = x − max: (n + ln n + 4e + |d|)·u·y; see `lepton_ref.ops.softmax`."""
    distance, y, n = _softmax(x)
    relative = gamma(n + math.log(n) + 4 * ulps + distance)
    return outward(np.where(y > 0, relative * y, 0.0), underflows=n * (1 + ulps))


@np.errstate(all="ignore")
def log_softmax_bound(x: ArrayLike, *, ulps: float = ULPS) -> Reals:
    """The sum errs relatively by τ = (n − 1 + 2e + ln n)·u, its logarithm absolutely: τ + (|d| + 2e·ln Σ + |y|)·u."""
    distance, y, n = _softmax(x)
    log_total = -np.log(np.max(y, axis=-1, keepdims=True))
    terms = n - 1 + 2 * ulps + math.log(n) + distance + 2 * ulps * log_total + (distance + log_total)
    return outward(gamma(terms), underflows=n * (1 + ulps))


@np.errstate(all="ignore")
def _softmax(x: ArrayLike) -> tuple[Reals, Reals, int]:
    """|x − max|, softmax(x) and the length of a row."""
    x64 = reals(x)
    distance = np.max(x64, axis=-1, keepdims=True) - x64
    exps = np.exp(-distance)
    return distance, exps / exps.sum(axis=-1, keepdims=True), x64.shape[-1]


@np.errstate(all="ignore")
def attention_bound(
    q_bthk: ArrayLike,
    k_bsgk: ArrayLike,
    v_bsgk: ArrayLike,
    mask_bts: ArrayLike,
    sinks_h: ArrayLike | None = None,
    *,
    scale: float,
    cap: float | None = None,
    ulps: float = ULPS,
) -> Reals:
    """Numerator and denominator err by A = Σ p·|v|·(ε + γ_S) and τ = ε̄ + γ_{S+1}; see `lepton_ref.ops.attention`.

    The quotient: (A + Y·(τ + u))/(1 − τ) with Y = Σ p·|v|; infinite where a weight's error reaches one half.
    """
    q, k, v = (np.moveaxis(reals(array), 2, 1) for array in (q_bthk, k_bsgk, v_bsgk))
    k, v = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v))
    seen = np.asarray(mask_bts, dtype=np.bool_)[:, None]
    sinks = np.full((1, 1, 1), -np.inf) if sinks_h is None else reals(sinks_h)[:, None, None]
    keys = k.shape[2]
    scores, delta = _scores(q, k, scale, cap, ulps)
    top = np.maximum(np.max(np.where(seen, scores, -np.inf), axis=-1, keepdims=True), sinks)
    p, epsilon = _weights(top - scores, np.where(seen, delta, 0.0), ulps)
    p, epsilon = np.where(seen, p, 0.0), np.where(seen, epsilon, 0.0)
    sunk, sunk_epsilon = _weights(top - sinks, np.zeros(sinks.shape), ulps)
    total = p.sum(axis=-1, keepdims=True) + sunk
    p, sunk = p / total, sunk / total
    tau = np.sum(p * epsilon, axis=-1, keepdims=True) + sunk * sunk_epsilon + gamma(keys + 1)
    size = np.where(np.isfinite(v), np.abs(v), 0.0)  # what a NaN or an infinity gives is not a matter of bounds
    error = (p * (epsilon + gamma(keys) * (1 + epsilon))) @ size + (p @ size) * (tau + UNIT)
    lost = keys * (1 + ulps) * np.max(size, axis=2, keepdims=True, initial=0.0)
    widest = np.max(epsilon, axis=-1, keepdims=True, initial=0.0)
    inflated = np.where(np.maximum(widest, tau) < 0.5, (1 + 4 * widest) / (1 - tau) ** 2, np.inf)
    bound = outward(error * inflated + lost * TINY, underflows=keys)
    return np.moveaxis(np.where(np.any(seen, axis=-1, keepdims=True), bound, 0.0), 1, 2)


@np.errstate(all="ignore")
def _scores(q: Reals, k: Reals, scale: float, cap: float | None, ulps: float) -> tuple[Reals, Reals]:
    """(B, H, T, K), (B, H, S, K) -> (B, H, T, S) twice: the scores and how far each may lie from its exact value."""
    turned = np.swapaxes(k, -1, -2)
    scores = scale * (q @ turned)
    delta = gamma(k.shape[-1] + 1) * abs(scale) * (np.abs(q) @ np.abs(turned)) + (1 + k.shape[-1]) * TINY
    if cap is None:
        return scores, delta
    scores = cap * np.tanh(scores / cap)
    return scores, delta + gamma(2 * ulps + 2) * (np.abs(scores) + delta)


@np.errstate(all="ignore")
def _weights(distance: Reals, delta: Reals, ulps: float) -> tuple[Reals, Reals]:
    """exp(−d) and its relative error ε: exp(δ + (d + 2e)·u) − 1, or 0 where the weight is 0 or the score not finite."""
    weights = np.where(np.isfinite(distance), np.exp(-distance), 0.0)
    return weights, np.where(weights > 0, np.expm1(delta + (distance + 2 * ulps) * UNIT), 0.0)
