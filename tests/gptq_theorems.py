"""What the tests of GPTQ share: drawn layers, and its objective against the trace in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.hessian import factor, hessian

Reals = NDArray[np.float64]


def drawn(seed: int, tokens: int = 64, inputs: int = 16, outputs: int = 6) -> tuple[Reals, Reals]:
    """(weight, Hessian) of correlated inputs."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs))
    x = (rng.standard_normal((tokens, inputs)) @ mixing).astype(np.float32)
    return rng.standard_normal((outputs, inputs)).astype(np.float32).astype(np.float64), hessian([x])


def exact_trace(delta: Reals, h: Reals) -> Fraction:
    """tr(Δ·H·Δᵀ) in fractions."""
    total = Fraction(0)
    exact_h = [[Fraction(x) for x in row] for row in h]
    for row in delta:
        r = [Fraction(x) for x in row]
        total += sum(r[i] * r[j] * exact_h[i][j] for i in range(len(r)) for j in range(len(r)))
    return total


def is_the_trace(objective: float, delta: Reals, h: Reals, *, act_order: bool) -> bool:
    """With any numbers: |H − U·D·Uᵀ| and |η − Δ·U| are a few roundings of the sums of absolute terms, γ each."""
    n = len(h)
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(n)
    u, d = factor(np.ascontiguousarray(h[order][:, order]))
    gamma = 4 * n * 2.0**-53  # products within 2u, n terms, one division and one subtraction each
    absolute = np.abs(delta[:, order]) @ np.abs(u)
    away = gamma * (((absolute @ np.abs(u).T) * np.abs(delta[:, order])).sum() * d.max())  # H, then the trace itself
    away += gamma * (d * (2 * absolute + gamma * absolute) * absolute).sum()  # η, then the sum of squares
    return abs(Fraction(objective) - exact_trace(delta, h)) <= away
