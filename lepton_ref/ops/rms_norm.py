r"""RMSNorm (Zhang and Sennrich 2019): divide by the root of the mean square; ε inside the root.

    y[…, d] = x[…, d] / √(Σⱼ x[…, j]² / D + ε) · (offset + w[d])

Offset is 0; Gemma's checkpoints store w − 1 and add it back. Bound: γ_{⌈D/2⌉+5}·|y|: the mean square and ε do not
cancel, so that their sum's relative error is at most γ_{D+2}, which the root halves; root, quotient, offset + w and the
product add one rounding each. Three units more cover the rounding test.

Exactly, on which side of m does y lie? Where y and m have one sign, y² − m² decides: with w' = offset + w, the sign of
x²·w'²·D − m²·(Σⱼ xⱼ² + D·ε), a sum of products, which is exact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import gamma
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import exact_sums, two_product, two_sum
from lepton_ref.numerics.expansions import expansion, products
from lepton_ref.numerics.rounding import UNKNOWN, Index, Reals, Repair
from lepton_ref.ops.base import distinct_rows, host_reals, op, require_axis, short
from lepton_ref.ops.checks import NORM_EPS_MOST, require_number, require_numbers
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value

DOUBLE_ERROR = 2.0**-90
"""Of the double-double form: some ten operations within 2⁻¹⁰⁰ each."""

SAFE = 2.0**200
"""Products of a few numbers between 1/SAFE and SAFE stay within the range of error-free transformations."""


@op
def rms_norm(x: Array, w_d: Array, *, eps: float, offset: float = 0.0, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (D) -> (B, T, D), the norm over the last axis.

    Any number of leading axes: (B, T, H, K) with a weight of length K norms each head.

    Raises:
        ValueError: w is not of length D, or eps is negative or beyond 2¹³⁰.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    require_numbers("the norm's weight", w_d, axes=1, any_size=True, backend=backend, precision=precision)
    require_number("a norm's eps", eps, least=0.0, most=NORM_EPS_MOST)
    require_number("a norm's offset", offset)
    require_axis("the length of the norm's weight", w_d.shape[0], x.shape[-1])
    width = x.shape[-1]
    x64 = lift(x, backend=backend)
    w64 = lift(w_d, backend=backend) + offset
    square = backend.sum(x64 * x64, axis=-1, keepdims=True, accumulate="float64") / width
    value = x64 / backend.xp.sqrt(square + eps) * w64
    bound = backend.xp.abs(value) * float(gamma(math.ceil(width / 2) + 8))
    repair = _Repair(x, w_d, eps, offset, backend).functions()
    return round_once(value, bound, op="rms_norm", repair=repair, backend=backend, precision=precision)


class _Repair:
    """Single elements of a norm, from its inputs on the host."""

    def __init__(self, x: Array, w_d: Array, eps: float, offset: float, backend: Backend) -> None:
        self.x, self.w_d, self.eps, self.offset, self.backend = x, w_d, eps, offset, backend
        self.plain_rows: dict[tuple[int, ...], list[Value]] = {}

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, double=self.double, side=self.side)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """The formula in double-double; each distinct row's mean square once."""
        rows, where, x, w = self._inputs(places)
        square = exact_sums(np.concatenate(two_product(rows, rows), axis=1)).pair()
        root = (square / rows.shape[1] + self.eps).sqrt()
        value = Pair.of(x) * Pair(*two_sum(w, np.array(self.offset))) / root[where]
        usual = (np.abs(value.high) > 1 / SAFE) & (root.high[where] < SAFE) & (root.high[where] > 1 / SAFE)
        return value, np.where(usual, np.abs(value.high) * DOUBLE_ERROR, np.inf)

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """The sign of y − m, as the page says; unknown where a product might leave the range of exact ones."""
        rows, where, x, w = self._inputs(places)
        width = rows.shape[1]
        squares = expansion(np.concatenate(two_product(rows, rows), axis=1))
        factor = np.stack(two_sum(w, np.full(w.shape, self.offset)), axis=1)
        top = products(x[:, None], factor)
        numerator = products(top, top, np.full((len(x), 1), float(width)))
        minus = [products(-middle[:, None], middle[:, None], part) for part in (squares[where], self._many_eps(middle))]
        sign = exact_sums(np.concatenate([numerator, *minus], axis=1)).sign()
        size = np.max(np.abs(np.concatenate([middle[:, None], factor], axis=1)), axis=1)
        size = np.maximum(size, np.max(np.abs(rows), axis=1)[where])
        least = np.min(np.abs(np.stack([x, middle, factor[:, 0]], axis=1)), axis=1)
        known = (size < 2.0**130) & (least > 2.0**-150)
        known &= short(x, w) & np.asarray(short(rows).all(axis=1))[where]
        known &= self.offset == 0 or abs(self.offset) > 2.0**-90  # a multiple of 2⁻¹⁴⁹
        return np.where(known, sign * np.sign(middle).astype(np.int8), np.int8(UNKNOWN)).astype(np.int8)

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        *row, d = place
        if tuple(row) not in self.plain_rows:
            x, w = (host_reals(array, backend=self.backend) for array in (self.x, self.w_d))
            values = algebraic.rms_norm(x[tuple(row)].tolist(), w.tolist(), eps=self.eps, offset=self.offset)
            self.plain_rows[tuple(row)] = values
        return self.plain_rows[tuple(row)][d]

    def _many_eps(self, middle: Reals) -> Reals:
        """(N) -> (N, 2): terms of D·ε, or of more where m²·D·ε is so small that only its sign counts.

        Without ε, x²·w'²·D − m²·Σⱼ xⱼ² is a multiple of 2⁻⁵⁹⁸, since float32's x and w' are ones of 2⁻¹⁴⁹ and m of
        2⁻¹⁵⁰. So an ε of which m²·D·ε is 2⁻⁶⁴⁰ does what a smaller one does, and its products do not underflow.
        """
        width = np.full(middle.shape, float(self.x.shape[-1]))
        eps = np.maximum(self.eps, 2.0**-640 / (middle * middle * width)) if self.eps else np.zeros(middle.shape)
        return np.stack(two_product(width, eps), axis=1)

    def _inputs(self, places: Index) -> tuple[Reals, NDArray[np.intp], Reals, Reals]:
        """The distinct rows (R, D), each place's row (N), and x and w at each place (N)."""
        x = host_reals(self.x, backend=self.backend)
        rows, where = distinct_rows(x, places)
        return rows, where, x[places], host_reals(self.w_d, backend=self.backend)[places[-1]]
