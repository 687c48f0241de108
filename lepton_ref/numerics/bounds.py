"""How far an op's float64 value may lie from the exact value, element by element, whatever the order of evaluation.

The standard model of floating point (Higham, Accuracy and Stability of Numerical Algorithms, §2.2): each of + − × ÷ √
gives its exact result times 1 + δ with |δ| ≤ u = 2⁻⁵³; products and quotients that underflow lose at most η = 2⁻¹⁰⁷⁵
besides. n such factors are within γₙ = nu/(1 − nu) of 1 (Lemma 3.1). Library functions are assumed within `ulps` ulps;
an ulp is at most 2u of its number. Fused multiply-adds round less often, so they obey the same bounds.

All arrays here are NumPy's, with the values that the op had; a bound is float64 of the op's output shape. Where it
cannot be told (overflow inside, a root of zero), it is infinite or NaN: nothing is promised there. The bounds of
softmax and attention are in `bounds_softmax`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reals = NDArray[np.float64]

UNIT = 2.0**-53
"""u: half the distance from 1 to the next float64."""

TINY = 2.0**-1074
"""The least subnormal float64; a rounding there errs by half of it."""

SLACK = 1 + 2.0**-30
"""Covers the rounding of the bounds' own arithmetic, and what is of second order where first-order terms are small."""

ULPS = 4.0
"""What is assumed of exp, log, tanh, cos, sin and pow where a backend says nothing."""


@np.errstate(all="ignore")
def gamma(n: ArrayLike, /) -> Reals:
    """γₙ = nu/(1 − nu), how far a product of n roundings may be from 1; infinite where nu ≥ 1."""
    count = np.asarray(n, dtype=np.float64) * UNIT
    return np.asarray(np.where(count < 1, count / (1 - count), np.inf))


def reals(array: ArrayLike, /) -> Reals:
    """The array as float64: exact from every float of 64 bits or fewer."""
    return np.asarray(array, dtype=np.float64)


def outward(bound: Reals, /, *, underflows: float) -> Reals:
    """A bound stepped outward for its own rounding, with the underflows of that many products added."""
    return np.asarray((bound + underflows * TINY) * SLACK)


@np.errstate(all="ignore")
def linear_bound(x: ArrayLike, w_oi: ArrayLike, b_o: ArrayLike | None = None) -> Reals:
    """A term passes at most I roundings (its product's and I − 1 sums', or I with a bias): γ_{I+1}·(Σ |x·w| + |b|)."""
    x64, w64 = reals(x), reals(w_oi)
    bias = 0.0 if b_o is None else np.abs(reals(b_o))
    size = np.abs(x64) @ np.abs(w64).T + bias
    return outward(gamma(w64.shape[1] + 1) * size, underflows=w64.shape[1])


@np.errstate(all="ignore")
def embed_bound(rows: ArrayLike, *, scale: float = 1.0) -> Reals:
    """One product: u·|y|."""
    return outward(UNIT * np.abs(reals(rows) * scale), underflows=1)


@np.errstate(all="ignore")
def add_bound(x: ArrayLike, f: ArrayLike) -> Reals:
    """One sum, which never underflows inexactly: u·|y|."""
    return np.asarray(UNIT * SLACK * np.abs(reals(x) + reals(f)))


@np.errstate(all="ignore")
def rms_norm_bound(x: ArrayLike, w_d: ArrayLike, *, eps: float, offset: float = 0.0) -> Reals:
    """The mean square + ε is within γ_{D+2}, halved by the root; root, quotient, offset + w, product: γ_{⌈D/2⌉+5}·|y|.

    Where squares underflow, they lose at most η each, relative to the mean square plus ε.
    """
    x64, w64 = reals(x), reals(w_d)
    width = x64.shape[-1]
    square = np.mean(x64 * x64, axis=-1, keepdims=True) + eps
    y = x64 / np.sqrt(square) * (w64 + offset)
    relative = gamma(math.ceil(width / 2) + 5) + 2 * TINY / square
    return outward(relative * np.abs(y) + TINY * np.abs(w64 + offset), underflows=1)


@np.errstate(all="ignore")
def layer_norm_bound(x: ArrayLike, w_d: ArrayLike, b_d: ArrayLike | None = None, *, eps: float) -> Reals:
    """See `lepton_ref.ops.layer_norm`: the mean errs by ρ = γ_D·mean |x|, the variance by ρ² and γ_{D+3} of itself.

    Quotient, product and root add three roundings, centring one, ε one, the root halves D + 4 of them, the bias adds
    one: γ_{⌈D/2⌉+7}·(A + |b|) with A = |x − μ|·|w|/r, and (1 + γ)·(ρ·|w|/r + A·ρ²/(2r²)) from the mean.
    """
    x64, w64 = reals(x), np.abs(reals(w_d))
    bias = 0.0 if b_d is None else np.abs(reals(b_d))
    width = x64.shape[-1]
    rho = SLACK * gamma(width) * np.mean(np.abs(x64), axis=-1, keepdims=True)
    centred = np.abs(x64 - np.mean(x64, axis=-1, keepdims=True))
    least = np.mean(np.maximum(centred - rho, 0.0) ** 2, axis=-1, keepdims=True) + eps  # the exact r² is not less
    root = np.sqrt(least)
    size = (centred + rho) * w64 / root
    relative = gamma(math.ceil(width / 2) + 7)
    from_mean = rho * w64 / root + size * (rho * rho + TINY) / (2 * least)
    return outward((1 + relative) * from_mean + relative * (size + bias), underflows=3)


@np.errstate(all="ignore")
def softcap_bound(x: ArrayLike, *, cap: float, ulps: float = ULPS) -> Reals:
    """Tanh's condition number is at most 1; quotient, tanh, product: γ_{2e+2}·|y|; an underflow grows by cap."""
    y = np.abs(cap * np.tanh(reals(x) / cap))
    return outward(gamma(2 * ulps + 2) * y + cap * (1 + ulps) * TINY, underflows=1)


@np.errstate(all="ignore")
def activation_bound(x: ArrayLike, *, kind: str, ulps: float = ULPS) -> Reals:
    """The relative errors of `lepton_ref.ops.activation`'s table, times |y|.

    Raises:
        ValueError: an unknown activation.
    """
    x64 = reals(x)
    return _activation_bound(x64, kind, ulps, more=0)


@np.errstate(all="ignore")
def gated_bound(gate: ArrayLike, up: ArrayLike, *, kind: str, ulps: float = ULPS) -> Reals:
    """The activation's bound times |up|, and one rounding more of the product."""
    gate64, up64 = reals(gate), np.abs(reals(up))
    return outward(_activation_bound(gate64, kind, ulps, more=1) * up64, underflows=1)


@np.errstate(all="ignore")
def rope_bound(
    x: ArrayLike,
    positions_bt: ArrayLike,
    frequencies: ArrayLike,
    *,
    factor: float = 1.0,
    interleaved: bool = False,
    frequency_units: float = 0.0,
    ulps: float = ULPS,
) -> Reals:
    """The angle errs by (1 + φ)·u·|θ|, cos and sin by 2e·u more, then factor, product, sum: see `lepton_ref.ops.rope`.

    `frequency_units` is φ: the error of the frequencies in units of u, 0 where the given ones are the definition's.
    """
    x64, frequency = np.abs(reals(x)), np.abs(reals(frequencies))
    pairs = frequency.shape[-1]
    angle = (np.abs(reals(positions_bt))[..., None] * frequency)[:, :, None, :]
    at = np.arange(2 * pairs).reshape(pairs, 2) if interleaved else np.arange(2 * pairs).reshape(2, pairs).T
    size = factor * (x64[..., at[:, 0]] + x64[..., at[:, 1]])
    moved = outward(gamma(2 * ulps + 3 + (1 + frequency_units) * angle) * size, underflows=4)
    bound = np.zeros(x64.shape)
    bound[..., at[:, 0]] = bound[..., at[:, 1]] = moved
    return bound


@np.errstate(all="ignore")
def pool_bound(x_btd: ArrayLike, mask_bt: ArrayLike, *, kind: str, normalise: bool) -> Reals:
    """Mean: β = γ_n·mean |x| over the n unmasked, cls and max 0; see `lepton_ref.ops.pool` for the normalised form."""
    x64, mask = reals(x_btd), np.asarray(mask_bt, dtype=np.bool_)[..., None]
    count = mask.sum(axis=1)
    first = np.argmax(mask[..., 0], axis=1)
    value = {
        "mean": np.where(mask, x64, 0.0).sum(axis=1) / count,
        "cls": x64[np.arange(len(first)), first],
        "max": np.where(mask, x64, -np.inf).max(axis=1),
    }[kind]
    beta = np.zeros(value.shape)
    if kind == "mean":
        beta = outward(gamma(count) * np.where(mask, np.abs(x64), 0.0).sum(axis=1) / count, underflows=1)
    if not normalise:
        return beta
    spread = np.sqrt(np.sum(beta * beta, axis=-1, keepdims=True)) * SLACK + 2.0**-530  # squares may underflow
    length = np.maximum(np.sqrt(np.sum(value * value, axis=-1, keepdims=True)), 1e-12)
    relative = gamma(math.ceil(value.shape[-1] / 2) + 3)
    least = np.maximum(length - 2 * spread, 0.0)
    return outward((beta + (np.abs(value) + beta) * (spread / least + relative)) / least, underflows=1)


@np.errstate(all="ignore")
def _activation_bound(x: Reals, kind: str, ulps: float, *, more: int) -> Reals:
    """The table's units, and `more`, times |y|; and what the exponential's underflow may lose, times |x|."""
    exponential = 2 * ulps + 3 + more
    if kind == "relu":
        return np.asarray(more * UNIT * SLACK * np.maximum(x, 0.0))
    if kind == "relu2":
        return outward((1 + more) * UNIT * np.maximum(x, 0.0) ** 2, underflows=1)
    if kind == "tanh":
        return outward(gamma(2 * ulps + more) * np.abs(np.tanh(x)), underflows=1 + ulps)
    if kind == "gelu":
        units = 4 * ulps + 19 + more + np.where(x < 0, 2 * x * x, 1.0)
        y = np.abs(x) / 2 * np.array([math.erfc(-z / math.sqrt(2)) for z in x.ravel()]).reshape(x.shape)
    elif kind == "gelu_tanh":
        z = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        units, y = exponential + np.where(x < 0, 8 * np.abs(z), 3.0), np.abs(x * _sigmoid(z))
    elif kind == "quick_gelu":
        units, y = exponential + np.where(x < 0, 2 * 1.702 * np.abs(x), 1.0), np.abs(x * _sigmoid(1.702 * x))
    elif kind == "silu":
        units, y = exponential + 0 * x, np.abs(x * _sigmoid(x))
    elif kind == "sigmoid":
        return outward(gamma(exponential - 1) * _sigmoid(x), underflows=2 + ulps)
    else:
        raise ValueError(
            f"unknown activation {kind!r}; known: relu, relu2, tanh, sigmoid, silu, quick_gelu, gelu, gelu_tanh"
        )
    lost = (2 * ulps + 6) * TINY * np.abs(x)
    return outward(np.where(y > 0, gamma(units) * y, 0.0) + lost, underflows=1)


@np.errstate(all="ignore")
def _sigmoid(x: Reals) -> Reals:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))
