r"""AWQ (Lin et al. 2023): inputs that matter are made coarser, their weights finer, before the weights are rounded.

    W·x = (W·diag(s))·(x/s),    s_i = 2^⌊log₂ a_i^α⌉,   a_i the root mean square of input i, over their geometric mean

α is searched for in {0, 1/20, …, 1}; the loss is that of the layer's output,

    Σ over the weights that share the input of tr(Δ·H·Δᵀ),   Δ = W − Q(W·diag(s))·diag(s)⁻¹

or of its diagonal alone, Σ h·Δ², where only importance is known. α = 0 is rounding to nearest as it is, and the first
of equal losses wins: AWQ is never worse by its own loss, as a theorem. 1/s is folded into what makes the input, see
`lepton_ref.compress.fold`. Scales are powers of two, so folding is exact: before anything is quantised the model gives
the same bits with and without it. (The paper's are not, and go by the mean of |x|.) Logarithms are the package's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.grid import Grid, importance_of, round_to_nearest
from lepton_ref.compress.hessian import layer_error, require_hessian
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import log

Reals = NDArray[np.float64]

STEPS = 20
LN2 = 0.6931471805599453
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
    best, found = math.inf, np.ones(width)
    tried: set[bytes] = set()
    for step in range(STEPS + 1):
        s = powers(h, step / STEPS)
        if s.tobytes() in tried:
            continue
        tried.add(s.tobytes())
        loss = math.fsum(_loss(w, s, grid, h, hessian, how) for w in weights)
        if loss < best:
            best, found = loss, s
    return found


def _loss(w: Reals, s: Reals, grid: Grid, h: Reals, hessian: Reals | None, how: str) -> float:
    delta = w - round_to_nearest(w * s, grid, how=how, importance=h / s**2).decode() / s
    if hessian is not None:
        return layer_error(delta, hessian)
    return math.fsum((delta * delta * h).ravel().tolist())
