r"""AWQ (Lin et al. 2023): inputs that matter are made coarser, their weights finer, before the weights are rounded.

    W·x = (W·diag(s))·(x/s),    s_i = 2^⌊log₂ a_i^α⌉,   a_i the root mean square of input i, over their geometric mean

α is searched for in {0, 1/20, …, 1}; the loss is that of the layer's output,

    Σ over the weights that share the input of tr(Δ·H·Δᵀ),   Δ = W − Q(W·diag(s))·diag(s)⁻¹

or of its diagonal alone, Σ h·Δ², where only importance is known. α = 0 is rounding to nearest as it is, and the first
of equal losses wins: AWQ is never worse by its own loss, as a theorem. 1/s is folded into what makes the input, see
`lepton_ref.compress.fold`. Scales are powers of two, so folding is exact: before anything is quantised the model gives
the same bits with and without it. (The paper's are not, and go by the mean of |x|.) Logarithms are the package's own.

The loss that decides is `layer_error`, whose bits are the same everywhere, at the price of six products. Most α are
told apart by one product in any order of summation, as BLAS has it: see `Quadratic`. Only those that may still be the
least are computed in full, so the scales found are those of computing all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.grid import Grid, importance_of, round_to_nearest
from lepton_ref.compress.hessian import layer_error, require_hessian
from lepton_ref.compress.reproducible import exact_sum, slice_bits
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import log

Reals = NDArray[np.float64]

STEPS = 20
LN2 = 0.6931471805599453
U = 2.0**-53
FURTHEST = 20
"""Scales lie in 2^±FURTHEST."""


def log2(x: Reals, /) -> Reals:
    """`(...) -> (...)` of positive numbers, the same bits on every machine."""
    return np.asarray((log(Pair.of(np.ascontiguousarray(x))) / LN2).high)


def powers(importance: Reals, alpha: float, /) -> Reals:
    """`(I) -> (I)` the scales for one α; 1 for inputs of which nothing was seen."""
    seen = importance > 0
    exponents = np.zeros(len(importance))
    if seen.any():
        logs = log2(importance[seen]) / 2
        exponents[seen] = np.rint(alpha * (logs - math.fsum(logs.tolist()) / len(logs)))
    return np.asarray(np.ldexp(1.0, np.clip(exponents, -FURTHEST, FURTHEST).astype(np.int64)))


class Quadratic:
    """Bounds of what `layer_error` gives for one Hessian, by one product of any order of summation.

    With N elements of Δ, I columns and u = 2⁻⁵³, the product ΔH, its products with Δ and their sum err by at most
    (I + N + 3)·u·A at first order, A = Σ |Δ|·|H|·|Δ|ᵀ (Higham, Accuracy and Stability, § 3.1), `layer_error` by 3u·A
    and Σ|Δ|·R, where R is the second term of `reproducible.product`'s bound. With |H_ij| ≤ c·t_i·t_j,
    t the roots of H's diagonal, A ≤ c·Σ_o (Σ_i |Δ_oi|·t_i)². A twentieth on top is more than the terms of higher order
    and the roundings of the bound itself, and 2⁻¹⁰⁰⁰ more than all underflows.
    """

    def __init__(self, h: Reals) -> None:
        self.h = h
        self.roots = np.sqrt(np.diag(h).clip(0))
        sizes = self.roots[:, None] * self.roots
        unbounded = bool((h[sizes == 0] != 0).any())
        ratios = np.divide(np.abs(h), sizes, out=np.zeros_like(h), where=sizes != 0)
        self.most = math.inf if unbounded else float(ratios.max())
        tops = np.abs(h).max(axis=0)
        bits = slice_bits(len(h))
        self.rest = len(h) * (2.0 ** (1 - bits) * 5 * U + 2.0 ** (1 - 3 * bits))
        self.tops = np.where(tops > 0, 2 * tops, 1.0)

    def bounds(self, delta: Reals, /) -> tuple[float, float]:
        """`(O, I)` -> at most and at least so much is `layer_error(delta, h)`: (low, high)."""
        if self.most == math.inf:
            return -math.inf, math.inf
        near = float(np.vdot(delta @ self.h, delta))
        size = np.abs(delta)
        wide = self.most * float(np.square(size @ self.roots).sum())
        rest = self.rest * float((2 * size.max(axis=1) * (size @ self.tops)).sum())
        away = 1.05 * ((len(self.h) + delta.size + 6) * U * wide + rest) + 2.0**-1000
        return near - away, near + away


def search_scales(
    weights: Sequence[Reals],
    grid: Grid,
    /,
    *,
    importance: NDArray[np.floating] | None = None,
    hessian: Reals | None = None,
    how: str = "minmax",
) -> Reals:
    """The scales of an input that all of these weights read.

    Args:
        weights: each (O, I) float64.
        grid: what they are rounded to.
        importance: (I) the mean of x²; the Hessian's diagonal where None.
        hessian: (I, I); where None the loss takes importance for its diagonal, and nothing else.
        how: how scales of groups are chosen.

    Returns:
        (I) powers of two: what the input is divided by and the weights' columns are multiplied by.

    Raises:
        ValueError: no weights, widths that differ, or neither importance nor a Hessian.
    """
    if not weights or len({w.shape[-1] for w in weights}) != 1:
        raise ValueError(f"weights of shapes {[w.shape for w in weights]}; give those that read one input")
    width = weights[0].shape[1]
    if hessian is not None:
        require_hessian(hessian, width=width)
        h = importance_of(np.diag(hessian) if importance is None else importance, width)
    elif importance is not None:
        h = importance_of(importance, width)
    else:
        raise ValueError("neither importance nor a Hessian; calibrate first")
    tried = list(_tried(h))
    if hessian is not None:
        form = Quadratic(hessian)
        bounds = [_total([form.bounds(_away(w, s, grid, h, how)) for w in weights]) for s in tried]
        least = min(high for _, high in bounds)
        tried = [s for s, (low, _) in zip(tried, bounds, strict=True) if low <= least]
    if len(tried) == 1:
        return tried[0]
    losses = [math.fsum(_loss(_away(w, s, grid, h, how), h, hessian) for w in weights) for s in tried]
    return tried[losses.index(min(losses))]


def _tried(importance: Reals) -> Iterator[Reals]:
    """The different scales, α upwards."""
    known: set[bytes] = set()
    for step in range(STEPS + 1):
        s = powers(importance, step / STEPS)
        if s.tobytes() not in known:
            known.add(s.tobytes())
            yield s


def _total(bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The bounds of a sum that is rounded once."""
    low, high = (math.fsum(each) for each in zip(*bounds, strict=True))
    slack = 4 * U * max(abs(low), abs(high))
    return low - slack, high + slack


def _away(w: Reals, s: Reals, grid: Grid, h: Reals, how: str) -> Reals:
    return np.asarray(w - round_to_nearest(w * s, grid, how=how, importance=h / s**2).decode() / s)


def _loss(delta: Reals, h: Reals, hessian: Reals | None) -> float:
    if hessian is not None:
        return layer_error(delta, hessian)
    return exact_sum(delta * delta * h)
