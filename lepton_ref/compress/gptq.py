r"""GPTQ (Frantar et al. 2022): round one column after the other, and let the later ones make good the error.

With H = U·D·Uᵀ (see `lepton_ref.compress.hessian`) and Δ = W − Q, for j = 1, 2, …, I:

    w'_j = w_j + Σ_{k<j} Δ_k·U_kj,     q_j = nearest code to w'_j,     η_j = w'_j − q_j

This is the same function as the paper's updates by the rows of the Cholesky factor of H⁻¹ (Chee et al., QuIP, 2023,
theorem 6), and needs no inverse. Since η = Δ·U,

    tr(Δ·H·Δᵀ) = Σ_j D_j·‖η_j‖²

holds exactly, which is the objective that is returned; each step makes its own term least. With a diagonal H, U = 1 and
nothing is fed back: GPTQ is rounding to nearest, code for code. With act-order the columns are taken in falling order
of H's diagonal, the lower index first where two are equal; groups stay those of the matrix's own order.

Feedback from a block of columns to those behind it is one product, within a block it is column by column: the block
size changes roundings of w' at 2⁻⁵³, never the function. Everything is computed by elementwise IEEE operations in a
fixed order and `lepton_ref.compress.reproducible.product`, so the codes are the same with any BLAS and any threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.grid import Coded, Grid, fit, importance_of, matrix
from lepton_ref.compress.hessian import damped, factor, require_hessian
from lepton_ref.compress.reproducible import exact_sum, product
from lepton_ref.plain.shown import shown

Reals = NDArray[np.float64]
Nearest = Callable[[int, Reals], tuple[NDArray[np.uint8], Reals]]
"""(column of the matrix, (O) wanted values) → (O) codes, (O) the values they stand for."""

DAMP, BLOCK = 0.01, 128


@dataclass(frozen=True, eq=False)
class Rounded:
    """What `feed_back` gives.

    Attributes:
        codes: (O, I) uint8, columns in the matrix's own order.
        values: (O, I) float64, what they stand for.
        objective: Σ D·η², which is tr(Δ·H·Δᵀ) for the H that was given.
    """

    codes: NDArray[np.uint8]
    values: Reals
    objective: float


def feed_back(
    w: Reals,
    h: Reals,
    nearest: Nearest,
    /,
    *,
    act_order: bool = False,
    block: int = BLOCK,
    begin: Callable[[int, Reals], None] | None = None,
) -> Rounded:
    """The procedure for any codes: `nearest` rounds a column, with scales of its own.

    Args:
        w: (O, I) float64.
        h: (I, I), damped already.
        nearest: see `Nearest`.
        act_order: take the columns in falling order of H's diagonal.
        block: columns between two products.
        begin: called at each column that starts a block, with its number and (O, I) what the columns from it on are
            wanted to be by then, so that scales can follow; not together with act_order.

    Raises:
        ValueError: shapes that do not fit, a Hessian that is not positive definite, a block that is no number from 1.
    """
    require_hessian(h, width=w.shape[1])
    if not isinstance(block, int | np.integer) or isinstance(block, bool) or block < 1:
        raise ValueError(f"block={shown(block)}; give at least 1, as a whole number")
    if begin is not None and act_order:
        raise ValueError("scales that follow the feedback need groups of neighbours; leave act_order or the following")
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(len(h))
    u, d = factor(np.ascontiguousarray(h[order][:, order]))
    wanted = w[:, order].copy()
    codes = np.empty(w.shape, dtype=np.uint8)
    values, eta = np.empty_like(wanted), np.empty_like(wanted)
    ordered = wanted.copy()
    for start in range(0, len(h), block):
        stop = min(start + block, len(h))
        if begin is not None:
            begin(start, wanted)
        for j in range(start, stop):
            codes[:, j], values[:, j] = nearest(int(order[j]), wanted[:, j])
            eta[:, j] = wanted[:, j] - values[:, j]
            error = ordered[:, j] - values[:, j]
            wanted[:, j + 1 : stop] += error[:, None] * u[j, j + 1 : stop]
        if stop < len(h):
            wanted[:, stop:] += product(ordered[:, start:stop] - values[:, start:stop], u[start:stop, stop:])
    back = np.argsort(order)
    return Rounded(codes[:, back], values[:, back], exact_sum(d * eta * eta))


def gptq(
    w: NDArray[np.floating],
    h: Reals,
    grid: Grid,
    /,
    *,
    damp: float = DAMP,
    act_order: bool = False,
    block: int = BLOCK,
    scales: str = "minmax",
    follow: bool = False,
    importance: NDArray[np.floating] | None = None,
) -> Coded:
    """`(O, I), (I, I) -> codes` in an affine grid. Rows are independent: those of several weights can be one matrix.

    Args:
        w: the weight.
        h: its Hessian, undamped.
        grid: the codes.
        damp: what share of the mean of H's diagonal is added to the diagonal.
        act_order: see the module's page.
        block: columns between two products; with `follow`, the group's length.
        scales: how they are chosen: see `lepton_ref.compress.grid`.
        follow: choose a group's scales when its turn comes, from what its columns are wanted to be by then; otherwise
            from the weight before all. Not together with act_order.
        importance: (I) weights of the inputs when scales are chosen; H's diagonal where None.

    Raises:
        ValueError: a weight, a Hessian or a setting that does not fit; H not positive definite.
    """
    w64 = matrix(w)
    require_hessian(h, width=w64.shape[1])
    length = grid.length(w64.shape[1])
    weigh = importance_of(np.diag(h) if importance is None else importance, w64.shape[1])
    count = w64.shape[1] // length
    chosen = np.ones((len(w64), count)), np.zeros((len(w64), count))

    def choose(group: int, source: Reals) -> None:
        here = slice(group * length, (group + 1) * length)
        found = fit(source[:, here], grid, how=scales, importance=weigh[here])
        for each, new in zip(chosen, found, strict=True):
            each[:, group] = new

    def begin(start: int, wanted: Reals) -> None:
        choose(start // length, wanted)

    def nearest(column: int, wanted: Reals) -> tuple[NDArray[np.uint8], Reals]:
        scale, zero = (each[:, column // length] for each in chosen)
        q = grid.codes(wanted, scale, zero)
        return q.astype(np.uint8), scale * (q - zero)

    if not follow:
        for group in range(count):
            choose(group, w64)
    done = feed_back(
        w64, damped(h, damp), nearest,
        act_order=act_order, block=length if follow else block, begin=begin if follow else None,
    )  # fmt: skip
    return Coded(grid, done.codes, *chosen, objective=done.objective)
