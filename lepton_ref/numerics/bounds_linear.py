"""The bounds of linear layers, embedding, residual sums and RoPE; see `bounds` for what all bounds share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lepton_ref.numerics.arithmetic import (
    ULPS,
    Arithmetic,
    Reals,
    finish,
    get_arithmetic,
    matmul,
    reals,
    unless_beyond,
)

Radii = tuple[ArrayLike | None, ...]


@np.errstate(all="ignore")
def linear_bound(
    x: ArrayLike,
    w_oi: ArrayLike,
    b_o: ArrayLike | None = None,
    *,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
    held: str | None = None,
) -> Reals:
    """(..., I), (O, I), (O) -> (..., O): θ·(Σ |x·w| + |b|), and what reading the operands moves.

    Let x + ρ' and w + ω' be the operands as they are read, |ρ'| ≤ ρ and |ω'| ≤ ω: zero for numbers of the operands'
    format, otherwise half an ulp of it. Then Σ x·w moves by Σ (ρ·|w| + (|x| + ρ)·ω), and the sum as it is evaluated
    errs by θ·(Σ (|x| + ρ)(|w| + ω) + |b|) in any order: γ_{I+1} for pure arithmetics, since a term meets its product's
    rounding, I − 1 additions and the bias; for blocks see `arithmetic`. Each of I products may lose η.

    Infinite where the sum of absolute terms exceeds the largest number: a partial sum might overflow.
    """
    a = get_arithmetic(arithmetic)
    x64, w64 = reals(x), reals(w_oi)
    b64 = np.zeros(w64.shape[0]) if b_o is None else reals(b_o)
    rho = np.broadcast_to(a.read(x64, radius, product=True, held=held), x64.shape)
    omega = np.broadcast_to(a.read(w64, product=True), w64.shape)
    moved = matmul(rho, np.abs(w64)) + matmul(np.abs(x64) + rho, omega) + a.read(b64)
    size = (np.abs(x64) + rho) @ (np.abs(w64) + omega).T + (np.abs(b64) + a.read(b64))
    own = a.dot(w64.shape[1]) * size + w64.shape[1] * a.tiny
    return finish(x64 @ w64.T + b64, unless_beyond(moved + own, a, size + own), a, output)


@np.errstate(all="ignore")
def embed_bound(
    rows: ArrayLike, *, scale: float = 1.0, arithmetic: str | Arithmetic = "fp64", output: str | None = None
) -> Reals:
    """(..., D) -> (..., D): one product by a rounded scale, γ₂·|y|; nothing where the scale is 1."""
    a = get_arithmetic(arithmetic)
    rows64 = reals(rows)
    rho = a.read(rows64)
    size = (np.abs(rows64) + rho) * abs(scale)
    own = np.zeros(rows64.shape) if scale == 1 else a.gamma(2) * size + a.tiny * (1 + np.abs(rows64) + rho)
    return finish(rows64 * scale, rho * abs(scale) + own, a, output)


@np.errstate(all="ignore")
def add_bound(
    x: ArrayLike,
    f: ArrayLike,
    *,
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radii: Radii = (None, None),
) -> Reals:
    """(..., D), (..., D) -> (..., D): one sum, which never underflows inexactly: u·|y| at the inputs as read."""
    a = get_arithmetic(arithmetic)
    x64, f64 = reals(x), reals(f)
    moved = a.read(x64, radii[0]) + a.read(f64, radii[1])
    y = x64 + f64
    return finish(y, moved + a.unit * (np.abs(y) + moved), a, output)


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
    arithmetic: str | Arithmetic = "fp64",
    output: str | None = None,
    radius: ArrayLike | None = None,
) -> Reals:
    """(B, T, H, K), (B, T), (R/2) or (B, 1, R/2) -> (B, T, H, K): γ_{2e+4+(1+φ)·θ}·factor·(|x₀| + |x₁|).

    The angle θ = position·frequency errs by (1 + φ)·u of itself, one unit more where the position is no number of the
    working format. A turn by a slightly other angle moves y₀ and y₁ by that difference times |(x₀, x₁)| at most, which
    is (1 + φ)·u·θ·(|x₀| + |x₁|). Cosine and sine err by 2e·u of themselves, and each of two products passes the
    factor's rounding, its own product, the product by x and the sum: 2e + 4. Every product may lose η.

    With a radius ρ, y₀ moves by factor·(|cos θ|·ρ₀ + |sin θ|·ρ₁) and y₁ by factor·(|sin θ|·ρ₀ + |cos θ|·ρ₁); what lies
    beyond the rotary width passes as it is.

    Args:
        x: the numbers that are turned.
        positions_bt: the positions.
        frequencies: radians per position, as the definition has them.
        factor: the attention factor.
        interleaved: whether pairs are neighbours.
        frequency_units: φ, the error of the evaluation's frequencies in units of u of themselves.
        ulps: e.
        arithmetic: how the evaluation computes.
        output: the format of the result.
        radius: how far the evaluation's inputs may lie from x.
    """
    a = get_arithmetic(arithmetic)
    x64, pairs = reals(x), np.shape(frequencies)[-1]
    rho = np.broadcast_to(a.read(x64, radius), x64.shape)
    positions = np.abs(reals(positions_bt))[..., None]
    angle = (positions * np.abs(reals(frequencies)))[:, :, None, :]
    units = 2 * ulps + 4 + (1 + frequency_units + (positions > 1 / a.unit)[:, :, None, :]) * angle
    at = np.arange(2 * pairs).reshape(pairs, 2) if interleaved else np.arange(2 * pairs).reshape(2, pairs).T
    first, second = at[:, 0], at[:, 1]
    cos, sin = abs(factor) * np.abs(np.cos(angle)), abs(factor) * np.abs(np.sin(angle))
    aside = abs(factor) * angle * 2.0**-52  # what the float64 cosine and sine here may err by
    size = abs(factor) * (np.abs(x64[..., first]) + rho[..., first] + np.abs(x64[..., second]) + rho[..., second])
    own = unless_beyond(a.gamma(units) * size, a, size, angle) + 4 * a.tiny * (1 + size)
    bound = rho.copy()
    bound[..., first] = own + (cos + aside) * rho[..., first] + (sin + aside) * rho[..., second]
    bound[..., second] = own + (sin + aside) * rho[..., first] + (cos + aside) * rho[..., second]
    rotated = np.abs(x64)
    rotated[..., first] = rotated[..., second] = size  # |y| is not more
    return finish(rotated, bound, a, output)
