"""The bounds of softmax, its logarithm and attention; see `bounds` for what all bounds share.

Exponentials may be powers of two of scaled distances, exp(s − m) = 2^(s·c − m·c) with c = log₂ e: the constant, the
product and the difference err by 3u of the distance, provided that s·c − (m·c) is one fused operation and m·c one
number for all keys, since a common shift cancels. Where exp is meant, only the difference errs, by u of the distance.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton_ref.numerics.arithmetic import (
    SLACK,
    ULPS,
    UNIT,
    Arithmetic,
    Reals,
    finish,
    float_format,
    get_arithmetic,
    reals,
    unless_beyond,
)

Seen = NDArray[np.bool_]

SPAN = 3.0
"""Units of the distance by which an exponent may err."""


@np.errstate(all="ignore")
def softmax_bound(
    x: ArrayLike,
    *,
    ulps: float = ULPS,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., V) -> (..., V): (n + 3·ln n + 4e + 3·|d|)·u·y, with d = x − max and n numbers in a row.

    A numerator errs by 3u·d and 2e·u; the sum by those, weighted, and n − 1 additions; Σ yⱼ·|dⱼ| ≤ ln n, because
    Σ yⱼ·|dⱼ| = ln (1/Σ exp d) − Σ yⱼ·ln yⱼ, an entropy less a positive number. The quotient is one. Underflow: each
    exponential loses (1 + e)·η of a sum that is at least 1.

    With a radius ρ, y is multiplied by exp(±(ρ + max ρ)) at most, and a distance grows by ρ + max ρ.
    """
    a, x64 = get_arithmetic(arithmetic), reals(x)
    distance, y, n, moves = _softmax(x64, a.read(x64, radius))
    moved = np.where(y > 0, np.minimum(y * np.expm1(moves) * SLACK, 1.0), 0.0)
    relative = a.gamma(n + SPAN * math.log(n) + 4 * ulps + SPAN * (distance + moves))
    own = np.where(y > 0, relative * np.minimum(y + moved, 1.0), 0.0) + n * (1 + ulps) * a.tiny
    return finish(y, moved + own, a, output)


@np.errstate(all="ignore")
def log_softmax_bound(
    x: ArrayLike,
    *,
    ulps: float = ULPS,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., V) -> (..., V): τ + (|d| + 2e·ln Σ + |y|)·u, with d = x − max, Σ = Σ exp d and τ what the sum errs by.

    τ = (n − 1 + 2e + 3·ln n)·u of itself, as for `softmax_bound`, and so absolutely in the logarithm, which errs by
    2e·u of itself; the difference d errs by u, and so does the result.

    With a radius ρ: a maximum and a log-sum-exp move by max ρ at most, so y by ρ + max ρ.
    """
    a, x64 = get_arithmetic(arithmetic), reals(x)
    distance, y, n, moves = _softmax(x64, a.read(x64, radius))
    log_total = -np.log(np.max(y, axis=-1, keepdims=True))
    reach = distance + moves
    terms = n - 1 + 2 * ulps + SPAN * math.log(n) + reach + 2 * ulps * log_total + (reach + log_total)
    own = a.gamma(terms) + n * (1 + ulps) * a.tiny
    return finish(distance + log_total, moves + own, a, output)


def _softmax(x: Reals, rho: Reals) -> tuple[Reals, Reals, int, Reals]:
    """|x − max|, softmax(x), the length of a row, and by how much log y may move."""
    distance = np.max(x, axis=-1, keepdims=True) - x
    exps = np.exp(-distance)
    rho = np.broadcast_to(rho, x.shape)
    moves = rho + np.max(rho, axis=-1, keepdims=True)
    return distance, exps / exps.sum(axis=-1, keepdims=True), x.shape[-1], moves


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
    rescalings: int = 0,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radii: tuple[ArrayLike | None, ArrayLike | None, ArrayLike | None] = (None, None, None),
    held: str | None = None,
) -> Reals:
    """(B, T, H, K), (B, S, G, K), (B, S, G, V), (B, T, S), (H) -> (B, T, H, V): see the steps below.

    Scores. Operands as they are read move q·k as a linear layer's; the sum errs by θ_K as there, scale and its product
    by two roundings more; the cap's condition number is at most 1, and it adds 2e + 4 units: together δ, absolute.
    Weights. The largest score, and what it errs by, are a shift that all weights share, and cancel. So a weight errs by
    ε = exp(δ + (3·(d + 2·max δ) + 2e)·u) − 1 of itself, d its distance to the largest score. A running maximum that is
    raised r times multiplies by r exponentials more, whose distances add up to d, and each tile may have a shift of its
    own that errs by u of its maximum: r·(2e + 2) + 4·max |score| units more.
    Sums. With p the exact weights, of sum 1: the denominator errs by τ = (1 + Σ p·ε)(1 + γ_{S+1}) − 1; the numerator by
    A = Σ p·((ε + θ)·(|v| + ρ) + ρ) with θ = (1 + ε)·(1 + θ_S)(1 + w) − 1 − ε, ρ what reading v moves and w the rounding
    of a weight that is a product's operand. What weights lose by underflow, η, ulps of η and of the operands' format,
    is less than that times Σ |v|, since the unnormalised sum is at least 1.
    Quotient. (A + Y·τ + 2u·(Y + A))/(1 − τ) with Y = Σ p·|v|, where τ < 1. Two roundings: the quotient may be of the
    weights or of the sum.

    The result is a mean of what was read of v, whatever the scores: it is not further from zero than the largest of
    it, and so the bound is at most |y| + (1 + 2θ + 2γ)·max (|v| + ρ), the maximum over keys that any query sees, γ
    counting the sums and the quotient, as long as no score overflows and γ ≤ ½.

    `rescalings` is r, how often an evaluation in tiles raises its running maximum at most; `radii` are of q, k and v.
    """
    a = get_arithmetic(arithmetic)
    q, k, v = (np.moveaxis(reals(array), 2, 1) for array in (q_bthk, k_bsgk, v_bsgk))
    given = [None if radius is None else np.moveaxis(reals(radius), 2, 1) for radius in radii]
    moves = [
        np.broadcast_to(a.read(array, radius, product=True, held=held), array.shape)
        for array, radius in zip((q, k, v), given, strict=True)
    ]
    k, v, k_moves, v_moves = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v, *moves[1:]))
    seen = np.asarray(mask_bts, dtype=np.bool_)[:, None]
    sinks = np.full((1, 1, 1), -np.inf) if sinks_h is None else reals(sinks_h)[:, None, None]
    scores, delta = _scores(q, k, moves[0], k_moves, scale, cap, ulps, a)
    delta = np.where(seen, delta, 0.0)
    top = np.maximum(np.max(np.where(seen, scores, -np.inf), axis=-1, keepdims=True), sinks)
    widest = np.max(delta, axis=-1, keepdims=True, initial=0.0)
    units = np.asarray(2 * ulps + rescalings * (2 * ulps + 2))
    if rescalings > 0:
        units = units + 4 * (np.max(np.where(seen, np.abs(scores), 0.0), axis=-1, keepdims=True) + widest)
    p, epsilon = _weights(top - scores, delta, widest, units, a)
    p, epsilon = np.where(seen, p, 0.0), np.where(seen, epsilon, 0.0)
    sunk, sunk_epsilon = _weights(top - sinks, np.zeros(sinks.shape), widest, units, a)
    total = p.sum(axis=-1, keepdims=True) + sunk
    tau = (p / total * epsilon).sum(axis=-1, keepdims=True) + sunk / total * sunk_epsilon
    bound, y = _mean(p / total, epsilon, tau, v, v_moves, seen, rescalings, ulps, a)
    bound = finish(y, np.where(np.isfinite(widest), bound, np.inf), a, output)
    return np.moveaxis(np.where(np.any(seen, axis=-1, keepdims=True), bound, 0.0), 1, 2)


def _mean(
    p: Reals, epsilon: Reals, tau: Reals, v: Reals, rho: Reals, seen: Seen, rescalings: int, ulps: float, a: Arithmetic
) -> tuple[Reals, Reals]:
    """The bound of the quotient, and |y| at most: (B, H, T, V) twice."""
    finite = np.isfinite(v)  # what a NaN or an infinity gives is not a matter of bounds
    size, rho = np.where(finite, np.abs(v), 0.0), np.where(finite, rho, 0.0)
    keys, narrow = v.shape[2], a.working != a.operands
    rounded = 2.0 ** -float_format(a.operands).precision if narrow else 0.0
    theta = (1 + a.dot(keys)) * (1 + float(a.gamma(rescalings))) * (1 + rounded) - 1
    tau = (1 + tau) * (1 + a.gamma(keys + 1 + rescalings)) - 1
    error = (p * (epsilon + theta * (1 + epsilon))) @ (size + rho) + p @ rho
    y = p @ size
    loss = keys * ((1 + ulps) * a.tiny + (float_format(a.operands).least if narrow else 0.0))
    anyone = np.any(seen, axis=2)[..., None]
    reach = np.max(np.where(anyone, size + rho, 0.0), axis=2, keepdims=True, initial=0.0)
    bound = np.where(tau < 1, (error + y * tau + float(a.gamma(2)) * (y + error)) / (1 - tau), np.inf)
    of_sums = float(a.gamma(keys + 4 + rescalings))
    bound = np.minimum(bound, y + (1 + 2 * (theta + of_sums)) * reach if of_sums <= 0.5 else np.inf)
    return unless_beyond(bound + loss * reach + (keys + 2) * a.tiny, a, keys * reach), y


def _scores(
    q: Reals, k: Reals, q_moves: Reals, k_moves: Reals, scale: float, cap: float | None, ulps: float, a: Arithmetic
) -> tuple[Reals, Reals]:
    """(B, H, T, K), (B, H, S, K) -> (B, H, T, S) twice: the scores and how far each may lie from its exact value."""
    k, k_moves = np.swapaxes(k, -1, -2), np.swapaxes(k_moves, -1, -2)
    width = q.shape[-1]
    scores = scale * (q @ k)
    size = np.abs(q) @ np.abs(k)
    moved = abs(scale) * (q_moves @ np.abs(k) + (np.abs(q) + q_moves) @ k_moves)
    grown = abs(scale) * size + moved
    theta = (1 + a.dot(width)) * (1 + float(a.gamma(2))) - 1
    delta = moved + theta * grown + (2 + width * abs(scale) + size) * a.tiny
    delta = unless_beyond(delta, a, (grown + delta) / min(1.0, abs(scale)))
    if cap is None:
        return scores, np.asarray(delta * SLACK)
    scores = cap * np.tanh(scores / cap)
    capped = a.gamma(2 * ulps + 4) * (np.abs(scores) + delta) + (cap * (1 + ulps) + 1) * a.tiny
    return scores, np.asarray((delta + capped) * SLACK)


def _weights(distance: Reals, delta: Reals, widest: Reals, units: Reals, a: Arithmetic) -> tuple[Reals, Reals]:
    """exp(−d) and its relative error ε, or 0 where the weight is 0 or the score not finite."""
    weights = np.where(np.isfinite(distance), np.exp(-distance), 0.0)
    exponent = delta + a.gamma(SPAN * (np.maximum(distance, 0.0) + 2 * widest) + units)
    return weights, np.where(weights > 0, np.expm1(exponent + 4 * UNIT * distance) * SLACK, 0.0)
