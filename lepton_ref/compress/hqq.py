r"""Half-quadratic quantisation (Badri and Shaji 2023): zero points that fit most weights and let outliers be outliers.

    min over z, e of  ‖e‖_p^p + β/2·‖W − s·(Q − z) − e‖²,   Q = codes of W/s + z,   p = 0.7

by turns: e ← shrink(W − s·(Q − z)), sign(x)·max(0, |x| − |x|^(p−1)/β); z ← the mean over the group of Q − (W − e)/s;
β ← 1.01·β. s stays that of the range, z is rounded to float16. It needs no activations. Each group keeps the best of
what it passes by Σ |W − s·(Q − z)|, and all stop when none gets better: never worse there than rounding to nearest.

Where the storage needs whole zero points (`whole`), rounding z leaves nothing to gain, and the scale is what moves:
s ← Σ (W − e)·(Q − z)/Σ (Q − z)², the other half-quadratic step, then z rounded. |x|^(p−1) is e^((p−1)·ln |x|) by the
package's own functions, so that the result is the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.grid import Coded, Grid, fit, matrix, stored_scales
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
    """`(...) -> (...)` the e of least ‖e‖_p^p + β/2·(x − e)², to first order: sign(x)·max(0, |x| − |x|^(p−1)/β).

    Nothing is left of |x| ≤ β^(−1/(2−p)), which is most of a weight's errors: powers are taken only of what is larger,
    or smaller by so little that a rounding of the limit could matter.
    """
    size = np.abs(x)
    out = np.zeros_like(x)
    some = size > max(2.0**-30, beta ** (-1 / (2 - norm)) * (1 - 2.0**-20))
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
    """`(O, I) -> codes` with scales and zero points from the procedure.

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
    best, error = (scale, zero), _error(groups, grid, scale, zero)
    for _ in range(rounds):
        q = grid.codes(groups, scale, zero)
        target = groups - shrink(groups - scale * (q - zero), beta, norm)
        if whole:
            scale = _least_squares(target, q - zero, scale, grid)
        wanted = np.add.reduce(q - target / scale, axis=0) / length
        zero = np.clip(np.rint(wanted), 0, grid.last) if whole else round_array(wanted, "fp16")
        tried = _error(groups, grid, scale, zero)
        better = tried < error
        if not better.any():
            break
        best = np.where(better, scale, best[0]), np.where(better, zero, best[1])
        error = np.where(better, tried, error)
        beta *= GROWTH
    codes = grid.codes(groups, *best)
    shape = (len(w64), w64.shape[1] // length)
    columns = np.ascontiguousarray(codes.T).reshape(w64.shape).astype(np.uint8)
    return Coded(grid, columns, best[0].reshape(shape), best[1].reshape(shape))


def _least_squares(target: Reals, steps: Reals, scale: Reals, grid: Grid) -> Reals:
    """(length, N), (length, N) -> (N): the scale by which the steps are nearest to the target, where it is positive."""
    top, bottom = np.add.reduce(target * steps, axis=0), np.add.reduce(steps * steps, axis=0)
    some = (top > 0) & (bottom > 0)
    return stored_scales(np.where(some, top / np.where(some, bottom, 1.0), scale), grid)


def _error(groups: Reals, grid: Grid, scale: Reals, zero: Reals) -> Reals:
    """(length, N) -> (N): Σ |W − s·(Q − z)|, what the turns are judged by."""
    return np.asarray(np.add.reduce(np.abs(groups - scale * (grid.codes(groups, scale, zero) - zero)), axis=0))
