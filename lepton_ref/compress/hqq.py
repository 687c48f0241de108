r"""Half-quadratic quantisation (Badri and Shaji 2023): zero points that fit most weights and let outliers be outliers.

    min over z, e of  ‖e‖_p^p + β/2·‖W − s·(Q − z) − e‖²,   Q = codes of W/s + z,   p = 0.7

by turns: e ← shrink(W − s·(Q − z)), sign(x)·max(0, |x| − |x|^(p−1)/β); z ← the mean over the group of Q − (W − e)/s;
β ← 1.01·β. s stays that of the range. It needs no activations. It stops when the mean of |W − s·(Q − z)|, over all
groups of a row, no longer falls, and keeps the best z of each row; so it is never worse there than rounding to nearest.

Zero points are rounded to float16, and are whole numbers where the storage needs it (`whole`): then what is chosen is
the best of the whole numbers passed on the way. |x|^(p−1) is e^((p−1)·ln |x|) by the package's own functions, so that
the zero points are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.grid import Coded, Grid, fit, matrix
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import exp, log
from lepton_ref.numerics.formats import round_array

Reals = NDArray[np.float64]

NORM, BETA, GROWTH, ROUNDS = 0.7, 10.0, 1.01, 20


def power(x: Reals, exponent: float, /) -> Reals:
    """`(...) -> (...)` x^exponent of positive numbers, the same bits on every machine."""
    if x.size == 0:
        return x
    return np.asarray(exp(log(Pair.of(np.ascontiguousarray(x))) * exponent).high)


def shrink(x: Reals, beta: float, norm: float, /) -> Reals:
    """`(...) -> (...)` the e of least ‖e‖_p^p + β/2·(x − e)², to first order: sign(x)·max(0, |x| − |x|^(p−1)/β)."""
    size = np.abs(x)
    out = np.zeros_like(x)
    some = size > 2.0**-30  # where less is left than any shrinking takes
    out[some] = np.maximum(size[some] - power(size[some], norm - 1) / beta, 0.0) * np.sign(x[some])
    return out


def hqq(
    w: NDArray[np.floating],
    grid: Grid,
    /,
    *,
    norm: float = NORM,
    beta: float = BETA,
    rounds: int = ROUNDS,
    whole: bool = False,
) -> Coded:
    """`(O, I) -> codes` with the scales of the range and zero points from the procedure.

    Args:
        w: the weight.
        grid: the codes, not symmetric.
        norm: p, above 0 and at most 1.
        beta: β at the beginning.
        rounds: how many turns, at most.
        whole: whether zero points are whole numbers from 0 to the last code.

    Raises:
        ValueError: a weight or a setting that does not fit.
    """
    w64 = matrix(w)
    length = grid.length(w64.shape[1])
    if grid.symmetric:
        raise ValueError("HQQ chooses zero points, and a symmetric grid has one; give symmetric=False")
    if not 0 < norm <= 1 or not beta > 0 or rounds < 1:
        raise ValueError(f"norm={norm}, beta={beta}, rounds={rounds}; give 0 < norm ≤ 1, beta > 0, rounds ≥ 1")
    groups = np.ascontiguousarray(w64.reshape(-1, length).T)
    scale, zero = fit(np.ascontiguousarray(groups.T), grid)
    best, error = zero, _error(groups, grid, scale, zero)
    for _ in range(rounds):
        q = grid.codes(groups, scale, zero)
        away = groups - scale * (q - zero)
        wanted = np.add.reduce(q - (groups - shrink(away, beta, norm)) / scale, axis=0) / length
        zero = np.clip(np.rint(wanted), 0, grid.last) if whole else round_array(wanted, "fp16")
        tried = _error(groups, grid, scale, zero)
        better = tried < error
        if not better.any():
            break
        best, error = np.where(better, zero, best), np.where(better, tried, error)
        beta *= GROWTH
    codes = grid.codes(groups, scale, best)
    shape = (len(w64), w64.shape[1] // length)
    columns = np.ascontiguousarray(codes.T).reshape(w64.shape).astype(np.uint8)
    return Coded(grid, columns, scale.reshape(shape), best.reshape(shape))


def _error(groups: Reals, grid: Grid, scale: Reals, zero: Reals) -> Reals:
    """(length, N) -> (N): Σ |W − s·(Q − z)|, what the turns are judged by."""
    return np.asarray(np.add.reduce(np.abs(groups - scale * (grid.codes(groups, scale, zero) - zero)), axis=0))
