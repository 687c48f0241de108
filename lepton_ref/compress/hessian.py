r"""The Hessian of a linear layer's squared output error, and what quantising and pruning take from it.

    ‖(W − Q)·X‖² = tr(Δ·H·Δᵀ),   Δ = W − Q,   H = Σ x·xᵀ over the tokens

One H serves all linear ops that read the same input, for GPTQ and for pruning alike. H is a sum over pieces of at most
`AT_ONCE` tokens, each by `lepton_ref.compress.reproducible.gram`, added in order: exactly symmetric, and the same bits
with any BLAS and any number of threads. Only one layer's H is held at a time: see `lepton_ref.compress.activations`.

    H = U·D·Uᵀ,   U upper triangular with ones on its diagonal

is what GPTQ needs of it: `factor`. The trailing sums of squares D are Schur complements: D_j is what the error of
column j costs when the columns behind it make good what they can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.reproducible import exact_sum, gram, product
from lepton_ref.compress.statistics import checked
from lepton_ref.interface import HostArray
from lepton_ref.plain.shown import shown

Reals = NDArray[np.float64]

AT_ONCE = 2048
"""Tokens of one Gram matrix."""

BLOCK = 64
"""Columns that are eliminated one by one before the rest is brought up to date."""


def hessian(sequences: Iterable[HostArray], /) -> Reals:
    """Sequences of (T, I) -> (I, I) float64, Σ x·xᵀ.

    Raises:
        ValueError: no sequences, widths that differ, or numbers that are not finite.
    """
    total: Reals | None = None
    for sequence in sequences:
        x = checked(sequence, width=None if total is None else len(total))
        for at in range(0, len(x), AT_ONCE):
            part = gram(x[at : at + AT_ONCE])
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no activations were seen; the calibration set is empty")
    return total


def damped(h: Reals, damp: float, /) -> Reals:
    """(I, I) -> H + damp·mean(diag H)·1.

    Raises:
        ValueError: not a symmetric matrix of finite numbers, or damping that is negative or not finite.
    """
    require_hessian(h)
    if not isinstance(damp, int | float) or isinstance(damp, bool) or not 0 <= damp < math.inf:
        raise ValueError(f"damp={shown(damp)}; give a share of the mean of the diagonal, such as 0.01, or 0 for none")
    out = h.copy()
    diagonal = np.diag(h)
    out[np.diag_indices(len(h))] = diagonal + damp * (math.fsum(diagonal.tolist()) / len(h))
    return out


def require_hessian(h: Reals, /, *, width: int | None = None) -> None:
    """Raise ValueError unless H is float64, square, symmetric to the bit, finite, and of that width."""
    if not isinstance(h, np.ndarray) or h.dtype != np.float64:
        raise ValueError(f"a Hessian is a NumPy array of float64, got {shown(h)}; `hessian` makes one of activations")
    if h.ndim != 2 or h.shape[0] != h.shape[1] or h.size == 0 or (width is not None and len(h) != width):
        raise ValueError(f"a Hessian of shape {h.shape}; give ({width or 'I'}, {width or 'I'}), one for each input")
    if not np.isfinite(h).all():
        raise ValueError("the Hessian holds NaN or infinity; leave the sequences out whose activations do")
    if not np.array_equal(h, h.T):
        i, j = map(int, np.argwhere(h != h.T)[0])
        raise ValueError(f"the Hessian is not symmetric: {h[i, j]} at ({i}, {j}), {h[j, i]} at ({j}, {i}); add both up")


def factor(h: Reals, /) -> tuple[Reals, Reals]:
    """(I, I) -> (I, I), (I): U and D with H = U·D·Uᵀ.

    Eliminates from the last column to the first, `BLOCK` at a time; only + − × ÷ on elements in a fixed order and
    `reproducible.product` take part.

    Raises:
        ValueError: a Hessian that is not positive definite; the message names the column.
    """
    require_hessian(h)
    n = len(h)
    rest = np.ascontiguousarray(h[::-1, ::-1])
    lower, d = np.eye(n), np.zeros(n)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        panel = rest[start:, start:stop].copy()
        for j in range(stop - start):
            pivot = panel[j, j]
            if not pivot > 0:
                where = n - 1 - (start + j)
                raise ValueError(
                    f"the Hessian is not positive definite: {pivot:g} is left of column {where}; "
                    "give damping above 0, such as damp=0.01, or more tokens"
                )
            d[start + j] = pivot
            column = panel[j + 1 :, j] / pivot
            lower[start + j + 1 :, start + j] = column
            across = panel[j + 1 : stop - start, j].copy()
            panel[j + 1 :, j + 1 :] -= column[:, None] * across
        if stop < n:
            left = lower[stop:, start:stop]
            rest[stop:, stop:] -= product(left * d[start:stop], np.ascontiguousarray(left.T))
    return np.ascontiguousarray(lower[::-1, ::-1]), np.ascontiguousarray(d[::-1])


def layer_error(delta: Reals, h: Reals, /) -> float:
    """`(O, I), (I, I)` -> tr(Δ·H·Δᵀ): the squared error of the layer's outputs over the tokens of H.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    require_hessian(h, width=delta.shape[-1])
    return exact_sum(product(delta, h) * delta)
