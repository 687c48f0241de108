r"""SmoothQuant (Xiao et al. 2022): outliers of activations are moved into the weights that read them.

    s_i = max|x_i|^α / max|w_i|^(1−α),   x/s and W·diag(s) instead of x and W

max|w_i| is over the columns of all weights that read x. α = ½ shares the range evenly. Powers of two (`exact`, the
default) keep the model's bits until something is quantised, see `lepton_ref.compress.fold`; otherwise the scales are
the formula's, rounded to float32. Channels of which nothing was seen, or that no weight reads, keep 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.awq import FURTHEST, log2
from lepton_ref.compress.hqq import power

Reals = NDArray[np.float64]


def smooth_scales(absmax: Reals, weights: Sequence[Reals], /, *, alpha: float = 0.5, exact: bool = True) -> Reals:
    """`(I), each (O, I) -> (I)` what the input is divided by and the weights' columns are multiplied by.

    Raises:
        ValueError: no weights, widths that differ, α outside [0, 1], or activations that are negative or not finite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}; give 0 (all to the activations) to 1 (all to the weights)")
    if not weights or any(w.ndim != 2 or w.shape[1] != len(absmax) for w in weights):
        raise ValueError(
            f"weights of shapes {[w.shape for w in weights]} for {len(absmax)} channels; give their readers"
        )
    if not np.isfinite(absmax).all() or (absmax < 0).any():
        raise ValueError("the largest activations hold a negative number, NaN or infinity; calibrate again")
    columns = np.max([np.abs(w).max(axis=0) for w in weights], axis=0).astype(np.float64)
    some = (absmax > 0) & (columns > 0)
    scale = np.ones(len(absmax))
    if not some.any():
        return scale
    if exact:
        exponents = np.rint(alpha * log2(absmax[some]) - (1 - alpha) * log2(columns[some]))
        scale[some] = np.ldexp(1.0, np.clip(exponents, -FURTHEST, FURTHEST).astype(np.int64))
    else:
        scale[some] = power(absmax[some], alpha) / power(columns[some], 1 - alpha)
    return scale.astype(np.float32).astype(np.float64)
