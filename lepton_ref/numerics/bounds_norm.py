"""The bounds of norms and pooling; see `bounds` for what all bounds share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lepton_ref.numerics.arithmetic import (
    SLACK,
    UNIT,
    Arithmetic,
    Reals,
    finish,
    gamma,
    get_arithmetic,
    reals,
    unless_beyond,
)


@np.errstate(all="ignore")
def rms_norm_bound(
    x: ArrayLike,
    w_d: ArrayLike,
    *,
    eps: float,
    offset: float = 0.0,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., D), (D) -> (..., D): γ_{⌈D/2⌉+7}·|y|, and what underflows.

    Let R² = Σ x²/D + ε. A term of it passes its square's rounding, D − 1 additions, the mean's quotient (or the product
    by a rounded 1/D: two), the addition of ε; ε is rounded itself. Nothing cancels, so the computed R² is the exact one
    times D + 4 factors within 1 ± u, and the root of the product has half as many. Root, reciprocal, product,
    offset + w and product add five. (In whichever order x, 1/R and w are multiplied.)

    Underflow: squares, mean and ε lose 1½·η of R², a fraction t of it, and (1 − t)^(−1/2) − 1 ≤ t/(2(1 − t)); the three
    products lose η each, multiplied by what follows: η·(|w| + 1/R + 1).

    With a radius ρ: R is the length of the vector (x/√D, √ε), so it moves by ‖ρ‖/√D at most and stays above √ε. From
    y' − y = w·((x' − x)/R' + x/R·(R − R')/R') comes |w|·(ρ + |x|/R·‖ρ‖/√D)/R'; all else is taken at the largest |y'|
    and the smallest R'. And |x'/R'| is √D at most, which y' − y cannot exceed by more than y.
    """
    a = get_arithmetic(arithmetic)
    x64, w64 = reals(x), reals(w_d)
    width, w = x64.shape[-1], np.abs(w64 + offset)
    rho = np.broadcast_to(a.read(x64, radius), x64.shape)
    omega = a.read(w64) + a.read(np.asarray(float(offset)))
    total = np.sum((np.abs(x64) + rho) ** 2, axis=-1, keepdims=True)
    root = np.sqrt(np.mean(x64 * x64, axis=-1, keepdims=True) + eps)
    step, least = _root_moves(rho, root, eps)
    scaled = np.abs(x64) / root
    moved = (w + omega) * (rho + scaled * step) / least + scaled * omega
    moved = np.minimum(moved, (w + omega) * math.sqrt(width) * SLACK + scaled * w)
    own = _relative(a, width / 2 + 7, least) * (scaled * w + moved) + a.tiny * (w + omega + 1 / least + 1)
    bound = unless_beyond(moved + own, a, total, 1 / least, (np.abs(x64) + rho) * (w + omega))
    return finish(scaled * w, bound, a, output)


@np.errstate(all="ignore")
def layer_norm_bound(
    x: ArrayLike,
    w_d: ArrayLike,
    b_d: ArrayLike | None = None,
    *,
    eps: float,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(..., D), (D), (D) -> (..., D): the variance from the centred numbers, not as a difference of means of squares.

    The mean μ errs by m = γ_{D+1}·mean |x| (D − 1 additions and the quotient, or the product by a rounded 1/D), the
    same for all d. With c = x − μ exactly, the centred numbers are (c − m')(1 + δ), |m'| ≤ m, and as Σ c = 0 the mean
    of their squares is V + m'² with V the exact variance. So the root R of V + ε is raised by m²/(2R²) of itself,
    besides D + 6 factors within 1 ± u: centring twice, the square, D − 1 additions, two of the mean, ε and its
    addition; the root has half as many. Centring, root, reciprocal, product, product and the bias add six. So with
    A = |c|·|w|/R it is

        (1 + γ)·(m·|w|/R + A·m²/(2R²)) + γ·(A + |b|),    γ = γ_{⌈D/2⌉+9},

    and underflow as in `rms_norm_bound`. With a radius ρ, c moves by ρ + mean ρ, R by ‖ρ‖/√D (centring shortens), and
    y as there; m grows with mean ρ.
    """
    a = get_arithmetic(arithmetic)
    x64, w, b64 = reals(x), np.abs(reals(w_d)), np.zeros(()) if b_d is None else reals(b_d)
    width = x64.shape[-1]
    rho, omega, beta = np.broadcast_to(a.read(x64, radius), x64.shape), a.read(reals(w_d)), a.read(b64)
    mean, mean_size = np.mean(x64, axis=-1, keepdims=True), np.mean(np.abs(x64) + rho, axis=-1, keepdims=True)
    here = SLACK * gamma(width + 2) * mean_size + UNIT * np.abs(x64)  # how far the float64 centred numbers may err
    centred = np.abs(x64 - mean)
    least_centred, centred = np.maximum(centred - here, 0.0), centred + here
    root = np.sqrt(np.mean(least_centred * least_centred, axis=-1, keepdims=True) + eps)  # the exact R is not less
    step, least = _root_moves(rho, root, eps)
    scaled = centred / root
    moved = (w + omega) * (rho + rho.mean(axis=-1, keepdims=True) + scaled * step) / least + scaled * omega
    moved = np.minimum(moved, (w + omega) * math.sqrt(width) * SLACK + scaled * w) + beta
    size = scaled * w + moved
    of_mean = SLACK * a.gamma(width + 1) * mean_size + 2 * a.tiny
    from_mean = of_mean * (w + omega) / least + size * of_mean**2 / (2 * least**2)
    relative = _relative(a, width / 2 + 9, least)
    own = (1 + relative) * from_mean + relative * (size + np.abs(b64) + beta) + a.tiny * (w + omega + 1 / least + 1)
    total = np.sum((centred + rho + mean_size) ** 2, axis=-1, keepdims=True)
    bound = unless_beyond(moved + own, a, width * mean_size, total, 1 / least, (centred + rho) * (w + omega))
    return finish(scaled * w + np.abs(b64), bound, a, output)


@np.errstate(all="ignore")
def pool_bound(
    x_btd: ArrayLike,
    mask_bt: ArrayLike,
    *,
    kind: str,
    normalise: bool,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(B, T, D), (B, T) -> (B, D): mean: β = γ_{n+1}·mean |x| over the n unmasked; cls and max choose, so β = 0.

    Normalised, with v the vector, L its length and β what v errs by, its radius included: the length errs by ‖β‖, so
    that every element errs by (β + (|v| + β)·(‖β‖/L + γ))/(L − 2‖β‖), where γ = γ_{⌈D/2⌉+4} counts half of the square's
    rounding and of D − 1 additions, root, reciprocal, product and the rounding of the floor 10⁻¹², above which L stays.
    Squares that underflow move the length by √(D·η) at most.
    """
    a = get_arithmetic(arithmetic)
    x64, mask = reals(x_btd), np.asarray(mask_bt, dtype=np.bool_)[..., None]
    rho = np.where(mask, a.read(x64, radius), 0.0)
    count, first = mask.sum(axis=1), np.argmax(mask[..., 0], axis=1)
    size = (np.where(mask, np.abs(x64), 0.0) + rho).sum(axis=1)
    value, moved = {
        "mean": (np.where(mask, x64, 0.0).sum(axis=1) / count, rho.sum(axis=1) / count),
        "cls": (x64[np.arange(len(first)), first], rho[np.arange(len(first)), first]),
        "max": (np.where(mask, x64, -np.inf).max(axis=1), rho.max(axis=1)),
    }[kind]
    beta = np.broadcast_to(moved * SLACK, value.shape)
    if kind == "mean":
        own = a.gamma(count + 1) * size / count + a.tiny
        beta = unless_beyond((moved + own) * SLACK, a, size)
    if not normalise:
        return finish(value, beta, a, output)
    width = value.shape[-1]
    spread = np.sqrt(np.sum(beta * beta, axis=-1, keepdims=True)) * SLACK + math.sqrt(2 * width * a.tiny)
    square = np.sum((np.abs(value) + beta) ** 2, axis=-1, keepdims=True)
    length = np.maximum(np.sqrt(np.sum(value * value, axis=-1, keepdims=True)), 1e-12)
    least = np.maximum(length - 2 * spread, 0.0)
    relative = a.gamma(math.ceil(width / 2) + 4) + a.tiny / least
    bound = (beta + (np.abs(value) + beta) * (spread / least + relative)) / least + 2 * a.tiny
    return finish(value / length, unless_beyond(bound, a, square, 1 / least), a, output)


def _root_moves(rho: Reals, root: Reals, eps: float) -> tuple[Reals, Reals]:
    """‖ρ‖/√D, by how much the root moves at most, and the least that the root may be."""
    step = np.sqrt(np.mean(rho * rho, axis=-1, keepdims=True)) * SLACK
    return step, np.maximum(root / SLACK - step, math.sqrt(eps) / SLACK)


def _relative(a: Arithmetic, roundings: float, least: Reals) -> Reals:
    """γ of the roundings, and what underflows below the root."""
    lost = 1.5 * a.tiny / least**2 * (1 + a.gamma(2 * roundings))
    under = np.where(lost < 1, lost / (2 * (1 - lost)), np.inf)
    relative = a.gamma(math.ceil(roundings))
    return np.asarray(relative + under + relative * under)
