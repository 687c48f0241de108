r"""Attention (Vaswani et al. 2017): one op from queries, keys and values to the weighted sum, one rounding at its end.

    score[s] = cap(scale · Σₖ q[t, k]·key[s, k])  for the keys that the mask lets t see;  cap(z) = c·tanh(z/c) or z
    y[t]     = Σₛ exp(score[s])·value[s] / (Σₛ exp(score[s]) + exp(sink))

Query head h reads key/value head ⌊h·G/H⌋: one each is MHA, one for all is MQA, between them GQA. What is masked does
not take part at all: a NaN there has no effect. A query that sees nothing gives zero. A sink (gpt-oss) is a learned
score without a value.

Bound, with u = 2⁻⁵³, p the weights, exp and tanh within e ulps. Weights may be taken relative to any number, so let it
be the largest computed score. A score errs by δ = γ_{K+3}·|scale|·‖q‖·maxₛ‖key‖ (tanh does not raise it, but adds
γ_{2e+3}·c), the rounding of its distance dₛ to that number enters exp absolutely, so a weight errs by
ε = δ + (maxₛ dₛ + 2e)·u, distances beyond exp's range not counted; numerator and denominator each by ε + γ_{S+3}; so y
by A·(2ε + 2γ_{S+3} + 6u)·(1 + 2⁻⁷) where ε < 2⁻¹⁰, with A = Σₛ pₛ·|value[s]|, and what underflows,
S·2⁻¹⁰⁷⁰·maxₛ |value|. Where ε is larger, nothing is promised and the element is repaired.

Signs: y is −0 only if every value that is seen is −0.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT, gamma
from lepton_ref.numerics.cast import cast
from lepton_ref.numerics.lengths import lengths
from lepton_ref.ops.attention_otherwise import fast_attention, machine_attention
from lepton_ref.ops.attention_repair import Attended, AttentionRepair
from lepton_ref.ops.base import op, require_axis, require_booleans
from lepton_ref.ops.checks import require_cap, require_numbers, require_scale

TILE = 1 << 18
"""Scores that lie in memory at once; queries are taken in tiles of as many rows as that allows."""

LIMIT = 746.0
"""exp of −LIMIT is zero: what is further away is no weight."""


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
        ValueError: H is not a multiple of G, axes disagree, or scale or cap is out of range.
    """
    for what, given in (("q", q_bthk), ("k", k_bsgk), ("v", v_bsgk)):
        require_numbers(what, given, axes=4, backend=backend, precision=precision)
    if sinks_h is not None:
        require_numbers("sinks", sinks_h, axes=1, any_size=True, backend=backend, precision=precision)
    require_scale("the scale of attention", scale)
    if cap is not None:
        require_cap(cap)
    _require(q_bthk, k_bsgk, v_bsgk, mask_bts, sinks_h)
    require_booleans("the mask", mask_bts, backend=backend)
    on_machine = precision.machine is not None and precision.operands != "fp8"
    if on_machine or precision.accumulate == "float32":
        other = machine_attention if on_machine else fast_attention
        return other(
            q_bthk, k_bsgk, v_bsgk, mask_bts, sinks_h, scale=scale, cap=cap, backend=backend, precision=precision
        )
    if precision.attended is not None:
        q_bthk, k_bsgk, v_bsgk = (
            cast(lift(x, backend=backend), precision.attended, backend=backend) for x in (q_bthk, k_bsgk, v_bsgk)
        )
    b, t, h, k = q_bthk.shape
    s, g = k_bsgk.shape[1:3]
    xp = backend.xp
    q = xp.permute_dims(xp.reshape(lift(q_bthk, backend=backend), (b, t, g, h // g, k)), (0, 2, 3, 1, 4))
    keys = xp.expand_dims(xp.permute_dims(lift(k_bsgk, backend=backend), (0, 2, 1, 3)), axis=2)
    values = xp.expand_dims(xp.permute_dims(lift(v_bsgk, backend=backend), (0, 2, 1, 3)), axis=2)
    sinks = None if sinks_h is None else xp.reshape(lift(sinks_h, backend=backend), (1, g, h // g, 1, 1))
    attended = Attended(q_bthk, k_bsgk, v_bsgk, mask_bts, sinks_h, scale, cap, backend)
    tile = max(1, TILE // max(1, b * h * s))
    parts = []
    for start in range(0, max(1, t), tile):
        stop = min(start + tile, t)
        mask = xp.expand_dims(xp.expand_dims(mask_bts[:, start:stop, :], axis=1), axis=1)
        value, bound = _attend(q[:, :, :, start:stop, :], keys, values, mask, sinks, scale, cap, backend, precision)
        repair = AttentionRepair(attended, start).functions()
        parts.append(round_once(value, bound, op="attention", repair=repair, backend=backend, precision=precision))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=3)
    return xp.reshape(xp.permute_dims(y, (0, 3, 1, 2, 4)), (b, t, h, v_bsgk.shape[-1]))


def _attend(
    q: Array, keys: Array, values: Array, mask: Array, sinks: Array | None, scale: float, cap: float | None,
    backend: Backend, precision: Precision,
) -> tuple[Array, Array | float]:  # fmt: skip
    """(B, G, R, T, K), (B, G, 1, S, K) twice, (B, 1, 1, T, S) -> (B, G, R, T, K), R = H/G: the value and its bound."""
    xp = backend.xp
    scores = backend.matmul(q, xp.permute_dims(keys, (0, 1, 2, 4, 3)), accumulate="float64") * scale
    if cap is not None:
        scores = xp.tanh(scores / cap) * cap
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
    value = xp.where(seen, summed / total, 0.0)
    if not precision.proven:
        return value, 0.0
    error = _weight_error(q, keys, distance, mask, scale, cap, backend)
    sizes = xp.where(xp.isfinite(values), xp.abs(values), 0.0)  # what a NaN or an infinity gives is no matter of bounds
    size = backend.matmul(weights, sizes, accumulate="float64") / total
    return _bounded(value, size, error, sizes, values, mask, seen, backend)


def _weight_error(
    q: Array, keys: Array, distance: Array, mask: Array, scale: float, cap: float | None, backend: Backend
) -> Array:
    """(B, G, R, T, 1): ε of the page above; infinite where it is not below 2⁻¹⁰."""
    xp = backend.xp
    farthest = xp.max(xp.where(mask & (distance > -LIMIT), -distance, 0.0), axis=-1, keepdims=True)
    longest = xp.max(
        xp.where(xp.isfinite(of_keys := lengths(keys, backend=backend)), of_keys, 0.0), axis=3, keepdims=True
    )
    delta = lengths(q, backend=backend) * longest * (abs(scale) * float(gamma(q.shape[-1] + 3)))
    if cap is not None:
        delta = delta + cap * float(gamma(2 * backend.ulps + 3))
    error = delta + (farthest + 2 * backend.ulps) * UNIT
    return xp.where(error < 2.0**-10, error, math.inf)


def _bounded(
    value: Array, size: Array, error: Array, sizes: Array, values: Array, mask: Array, seen: Array, backend: Backend
) -> tuple[Array, Array]:
    """The value, zeros signed as they should be, and its bound."""
    xp = backend.xp
    s = mask.shape[-1]
    relative = (2.0 * error + (2 * float(gamma(s + 3)) + 6 * UNIT)) * (1 + 2.0**-7)
    lost = xp.max(sizes, axis=3, keepdims=True) * (s * 2.0**-1070) + 2.0**-1070  # the product may underflow
    bound = xp.where(seen, size * relative + lost, 0.0)
    if not backend.to_numpy(xp.any((size == 0.0) & seen)):
        return value, bound
    # Σ p·|value| is zero where all seen values are zeros, or where all weights of those that are not underflow.
    minus = (values < 0.0) | ((values == 0.0) & (1.0 / values < 0.0))
    count = backend.matmul(xp.astype(mask, xp.float64), xp.astype(minus, xp.float64), accumulate="float64")
    other = backend.matmul(xp.astype(mask, xp.float64), xp.astype(values != 0.0, xp.float64), accumulate="float64")
    all_minus = count == backend.sum(xp.astype(mask, xp.float64), axis=-1, keepdims=True, accumulate="float64")
    zeros = (size == 0.0) & seen & (other == 0.0)
    return xp.where(zeros, xp.where(all_minus, -0.0, 0.0 * count), value), xp.where(zeros, 0.0, bound)


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


def _require(q: Array, k: Array, v: Array, mask: Array, sinks: Array | None) -> None:
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
