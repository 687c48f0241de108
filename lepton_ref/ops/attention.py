r"""Attention (Vaswani et al. 2017): one op from queries, keys and values to the weighted sum, one rounding at its end.

    score[s] = cap(scale · Σₖ q[t, k]·key[s, k])  for the keys that the mask lets t see;  cap(z) = c·tanh(z/c) or z
    y[t]     = Σₛ exp(score[s])·value[s] / (Σₛ exp(score[s]) + exp(sink))

Query head h reads key/value head ⌊h·G/H⌋: one each is MHA, one for all is MQA, between them GQA. What is masked does
not take part at all: a NaN there has no effect. A query that sees nothing gives zero. A sink (gpt-oss) is a learned
score without a value.

Bound, to first order, with u = 2⁻⁵³, p the weights, exp and tanh within e ulps: a score errs by
δₛ = γ_{K+1}·|scale|·Σₖ |q·key| (tanh does not raise it, but adds (2e + 2)·u·|score|), the rounding of its distance dₛ
to the largest enters exp absolutely, so a weight errs by εₛ = δₛ + (|dₛ| + 2e)·u, and the quotient of the two sums by

    Σₛ pₛ·|value[s]|·(εₛ + ε̄ + (2S + 2)·u),    ε̄ = Σₛ pₛ·εₛ + p_sink·ε_sink.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum, require_axis, require_booleans

TILE = 1 << 18
"""Scores that lie in memory at once; queries are taken in tiles of as many rows as that allows."""


@op
def attention(
    q_bthk: Array,
    k_bsgk: Array,
    v_bsgk: Array,
    mask_bts: Array,
    sinks_h: Array | None = None,
    *,
    scale: float,
    cap: float | None = None,
    backend: Backend,
    precision: Precision,
) -> Array:
    """(B, T, H, K), (B, S, G, K), (B, S, G, K), (B, T, S), (H) -> (B, T, H, K), the weighted sum of the values.

    Args:
        q_bthk: queries.
        k_bsgk: keys.
        v_bsgk: values; their width may differ from the keys'.
        mask_bts: booleans, True where the query sees the key.
        sinks_h: a score for each head that joins the denominator alone.
        scale: the factor of the scores, 1/√K in most families.
        cap: the soft cap of the scores, applied before the mask.
        backend: whose arrays these are.
        precision: what the output is rounded to.

    Raises:
        ValueError: H is not a multiple of G, axes disagree, or the cap is not positive.
    """
    b, t, h, k = q_bthk.shape
    s, g = k_bsgk.shape[1:3]
    xp = backend.xp
    _require(q_bthk, k_bsgk, v_bsgk, mask_bts, sinks_h, cap)
    require_booleans("the mask", mask_bts, backend=backend)
    q = xp.permute_dims(xp.reshape(lift(q_bthk, backend=backend), (b, t, g, h // g, k)), (0, 2, 3, 1, 4))
    keys = xp.expand_dims(xp.permute_dims(lift(k_bsgk, backend=backend), (0, 2, 3, 1)), axis=2)
    values = xp.expand_dims(xp.permute_dims(lift(v_bsgk, backend=backend), (0, 2, 1, 3)), axis=2)
    sinks = None if sinks_h is None else xp.reshape(lift(sinks_h, backend=backend), (1, g, h // g, 1, 1))
    tile = max(1, TILE // max(1, b * h * s))
    parts = []
    for start in range(0, max(1, t), tile):
        stop = min(start + tile, t)
        mask = xp.expand_dims(xp.expand_dims(mask_bts[:, start:stop, :], axis=1), axis=1)
        scores = backend.matmul(q[:, :, :, start:stop, :], keys, accumulate="float64") * scale
        if cap is not None:
            scores = xp.tanh(scores / cap) * cap
        part = _weighted_sum(scores, values, mask, sinks, backend)
        parts.append(round_once(part, backend=backend, precision=precision))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=3)
    return xp.reshape(xp.permute_dims(y, (0, 3, 1, 2, 4)), (b, t, h, v_bsgk.shape[-1]))


def _weighted_sum(scores: Array, values: Array, mask: Array, sinks: Array | None, backend: Backend) -> Array:
    """(B, G, R, T, S), (B, G, 1, S, K), (B, 1, 1, T, S) -> (B, G, R, T, K), R = H/G."""
    xp = backend.xp
    scores = xp.where(mask, scores, -math.inf)
    top = xp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        top = xp.where(top < sinks, sinks, top)
    seen = xp.any(mask, axis=-1, keepdims=True)
    top = xp.where(seen, top, 0.0)
    distance = scores - top
    weights = xp.where(mask, xp.exp(distance), 0.0)
    total = backend.sum(weights, axis=-1, keepdims=True, accumulate="float64")
    if sinks is not None:
        total = total + xp.where(sinks == top, 1.0, xp.exp(sinks - top))  # an infinite sink is its own distance 0 away
    summed = _matmul_of_seen(weights, distance, values, mask, backend)
    return xp.where(seen, summed / total, 0.0)


def _matmul_of_seen(weights: Array, distance: Array, values: Array, mask: Array, backend: Backend) -> Array:
    """The product weights @ values, in which 0 × NaN and 0 × inf of masked keys do not take part."""
    xp = backend.xp
    summed = backend.matmul(weights, values, accumulate="float64")
    if backend.to_numpy(xp.all(xp.isfinite(summed))):  # no NaN or infinity came in, nor could one hide
        return summed
    finite = xp.isfinite(values)
    healthy = backend.to_numpy(xp.all(xp.all(xp.all(finite, axis=-1), axis=1), axis=0))[0]
    summed = backend.matmul(weights, xp.where(finite, values, 0.0), accumulate="float64")
    underflowed = (weights == 0.0) & (distance > -math.inf)  # a positive real number: its product with inf is inf
    weights = xp.where(underflowed, 1.0, weights)
    for s in (~healthy).nonzero()[0]:  # few: one pass for each key that holds a NaN or an infinity
        at = slice(int(s), int(s) + 1)
        column = weights[..., at] * xp.where(finite[..., at, :], 0.0, values[..., at, :])
        summed = summed + xp.where(mask[..., at] & ~finite[..., at, :], column, 0.0)
    return summed


def _require(q: Array, k: Array, v: Array, mask: Array, sinks: Array | None, cap: float | None) -> None:
    b, t, h, width = q.shape
    s, g = k.shape[1:3]
    require_axis("the head width of the keys", k.shape[3], width)
    require_axis("the batch of the keys", k.shape[0], b)
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"keys and values are of one (B, S, G), got {tuple(k.shape[:3])} and {tuple(v.shape[:3])}")
    if s == 0:
        raise ValueError("attention needs at least one key, got none; mask what must not be seen")
    if g == 0 or h % g:
        raise ValueError(f"{h} query heads cannot share {g} key/value heads evenly")
    if tuple(mask.shape) != (b, t, s):
        raise ValueError(f"the mask must be of shape (B, T, S) = {(b, t, s)}, got {tuple(mask.shape)}")
    if sinks is not None and tuple(sinks.shape) != (h,):
        raise ValueError(f"there is one sink for each query head, ({h},), got {tuple(sinks.shape)}")
    if cap is not None and not cap > 0:
        raise ValueError(f"a soft cap must be positive, got {cap}; None is no cap")


def _positive_exp(x: float) -> float:
    """exp(x), not below the least float64 where x is finite: a weight times an infinite value is infinite."""
    return max(math.exp(x), 5e-324) if x > -math.inf else math.exp(x)


def attention_scalar(
    q_k: list[float],
    keys: list[list[float]],
    values: list[list[float]],
    seen: list[bool],
    *,
    scale: float,
    cap: float | None = None,
    sink: float | None = None,
) -> list[float]:
    """One query of one head: the specification."""
    if not any(seen):
        return [0.0] * len(values[0])
    scores = []
    for key in (key for key, see in zip(keys, seen, strict=True) if see):
        score = scale * real_sum(q * k for q, k in zip(q_k, key, strict=True))
        scores.append(score if cap is None else cap * math.tanh(score / cap))
    top = max(scores if sink is None else [*scores, sink])
    weights = [_positive_exp(score - top) for score in scores]
    sunk = 0.0 if sink is None else 1.0 if sink == top else math.exp(sink - top)
    total = real_sum([*weights, sunk])
    kept = [value for value, see in zip(values, seen, strict=True) if see]
    return [real_sum(w * v for w, v in zip(weights, column, strict=True)) / total for column in zip(*kept, strict=True)]
