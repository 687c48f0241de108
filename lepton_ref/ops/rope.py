r"""RoPE (Su et al. 2021): each pair of a head's numbers is turned by an angle that grows with the position.

    (y₀, y₁) = (x₀·cos θ − x₁·sin θ,  x₀·sin θ + x₁·cos θ),    θ = position · frequency[pair]

Which two numbers are a pair is a convention: half-split pairs j with j + R/2 (transformers), interleaved pairs 2j with
2j + 1 (the paper, GGUF's llama); R ≤ K is the rotary width, what lies beyond passes unchanged. YaRN and longrope scale
the result by an attention factor. Bound: factor·(|x₀| + |x₁|)·γ with (2e + 3 + (1 + φ)·|θ|)·2⁻⁵³ for γ, where cos and
sin err by e ulps and the frequency by φ·2⁻⁵³ of itself: the angle is rounded, and a turn by a slightly other angle
moves the result by that angle.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, require_axis


def rope_tables(
    positions_bt: NDArray[np.int64], frequencies: NDArray[np.float64], *, factor: float = 1.0, backend: Backend
) -> tuple[Array, Array]:
    """(B, T), (B, 1, R/2) -> (B, T, R/2), (B, T, R/2): factor·cos θ and factor·sin θ in float64, on the host."""
    angles = np.asarray(positions_bt, dtype=np.float64)[..., None] * frequencies
    return backend.from_numpy(np.cos(angles) * factor), backend.from_numpy(np.sin(angles) * factor)


@op
def rope(
    x: Array, cos_btr: Array, sin_btr: Array, *, interleaved: bool = False, backend: Backend, precision: Precision
) -> Array:
    """(B, T, H, K), (B, T, R/2), (B, T, R/2) -> (B, T, H, K), each pair turned by its angle.

    Raises:
        ValueError: R exceeds K, the two tables differ in shape, or they belong to other positions.
    """
    if cos_btr.shape != sin_btr.shape:
        raise ValueError(f"cosines and sines are of one shape, got {tuple(cos_btr.shape)} and {tuple(sin_btr.shape)}")
    if cos_btr.shape[0] != 1:
        require_axis("the batch of the rotary tables", cos_btr.shape[0], x.shape[0])
    xp = backend.xp
    rotary = 2 * cos_btr.shape[-1]
    if rotary > x.shape[-1]:
        raise ValueError(f"the rotary width {rotary} exceeds the head width {x.shape[-1]}")
    require_axis("the positions of the rotary tables", cos_btr.shape[1], x.shape[1])
    x64 = lift(x, backend=backend)
    turned, rest = x64[..., :rotary], x64[..., rotary:]
    first, second = _pairs(turned, interleaved, backend)
    cos, sin = xp.expand_dims(cos_btr, axis=2), xp.expand_dims(sin_btr, axis=2)
    value = _unpair(first * cos - second * sin, first * sin + second * cos, interleaved, backend)
    if rotary < x.shape[-1]:
        value = xp.concat([value, rest], axis=-1)
    return round_once(value, backend=backend, precision=precision)


def _pairs(x: Array, interleaved: bool, backend: Backend) -> tuple[Array, Array]:
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _unpair(first: Array, second: Array, interleaved: bool, backend: Backend) -> Array:
    xp = backend.xp
    if not interleaved:
        return xp.concat([first, second], axis=-1)
    pairs = xp.concat([xp.expand_dims(first, axis=-1), xp.expand_dims(second, axis=-1)], axis=-1)
    return xp.reshape(pairs, (*first.shape[:-1], 2 * first.shape[-1]))


def rope_scalar(
    x_k: list[float], position: int, frequencies: list[float], *, factor: float = 1.0, interleaved: bool = False
) -> list[float]:
    """One head at one position: the specification."""
    y = list(x_k)
    for pair, frequency in enumerate(frequencies):
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + len(frequencies))
        cos, sin = factor * math.cos(position * frequency), factor * math.sin(position * frequency)
        y[i], y[j] = x_k[i] * cos - x_k[j] * sin, x_k[i] * sin + x_k[j] * cos
    return y
