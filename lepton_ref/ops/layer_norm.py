r"""LayerNorm (Ba, Kiros and Hinton 2016): subtract the mean, divide by the standard deviation; ε inside the root.

    y[…, d] = (x[…, d] − μ) / √(Σⱼ (x[…, j] − μ)² / D + ε) · w[d] + b[d],    μ = Σⱼ x[…, j] / D

Bound: the computed mean errs by at most ρ = γ_D·Σⱼ |xⱼ|/D, which the centred x inherits, while the variance gains only
ρ² (Σⱼ (xⱼ − μ) = 0). With r the root and A = |x − μ|·|w|/r, all else being products:
(1 + γ)·(ρ·|w|/r + A·ρ²/(2r²)) + γ·(A + |b|), γ = γ_{⌈D/2⌉+7}. It scales with mean |x|, not with |x − μ| alone: the
subtraction of the mean may cancel. The running bound takes γ_{⌈D/2⌉+10}, for the rounding test, and the computed r²
less what ρ may have added to it.

Exactly, on which side of m does y lie? With C = D·x − Σx and V = D·Σx² − (Σx)² + D²·ε it is C·w/√V + b, so the signs of
C·w and of t = m − b decide, and where they are one, that of C²·w² − t²·V: sums of products, which are exact.
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
"""Of the double-double form, relative to |x − μ|·|w|/r + |b|: some twenty operations within 2⁻¹⁰⁰ each."""


@op
def layer_norm(
    x: Array, w_d: Array, b_d: Array | None = None, *, eps: float, backend: Backend, precision: Precision
) -> Array:
    """(B, T, D), (D), (D) -> (B, T, D), the norm over the last axis.

    Any number of leading axes.

    Raises:
        ValueError: w or b is not of length D, or eps is negative or beyond 2¹³⁰.
    """
    require_numbers("x", x, backend=backend, precision=precision)
    require_numbers("the norm's weight", w_d, axes=1, any_size=True, backend=backend, precision=precision)
    if b_d is not None:
        require_numbers("the norm's bias", b_d, axes=1, any_size=True, backend=backend, precision=precision)
    require_number("a norm's eps", eps, least=0.0, most=NORM_EPS_MOST)
    if x.shape[-1] == 0:
        raise ValueError("a norm over an empty axis has no value; give at least one number")
    require_axis("the length of the norm's weight", w_d.shape[0], x.shape[-1])
    if b_d is not None:
        require_axis("the length of the norm's bias", b_d.shape[0], x.shape[-1])
    xp, width = backend.xp, x.shape[-1]
    x64, w64 = lift(x, backend=backend), lift(w_d, backend=backend)
    mean = backend.sum(x64, axis=-1, keepdims=True, accumulate="float64") / width
    centred = x64 - mean
    square = backend.sum(centred * centred, axis=-1, keepdims=True, accumulate="float64") / width + eps
    value = centred / xp.sqrt(square) * w64
    relative = float(gamma(math.ceil(width / 2) + 10))
    size = xp.abs(value)
    if b_d is not None:
        bias = lift(b_d, backend=backend)
        value, size = value + bias, size + xp.abs(bias)
    moved, near = _from_mean(x64, centred, square, w64, backend)
    bound = size * relative + moved
    if precision.proven:  # 0·∞ and the sign of ∞ are the repair's, which is asked of finite values alone
        value = xp.where(near & (xp.abs(w64) == math.inf), 0.0, value)
    repair = _Repair(x, w_d, b_d, eps, backend).functions()
    return round_once(value, bound, op="layer_norm", repair=repair, backend=backend, precision=precision)


def _from_mean(x: Array, centred: Array, square: Array, w: Array, backend: Backend) -> tuple[Array, Array]:
    """(…, D) twice: what the error of the mean does to the result, and where x − μ may have either sign."""
    xp, width = backend.xp, x.shape[-1]
    rho = backend.sum(xp.abs(x), axis=-1, keepdims=True, accumulate="float64") * (1.01 * float(gamma(width)) / width)
    least = square * (1 - 2.0**-20) - 2.0 * rho * rho  # the exact r² is not less
    least = xp.where(least > 0.0, least, math.nan)
    grown = rho + (xp.abs(centred) + rho) * (rho * rho / least)
    bound = (grown / xp.sqrt(least)) * xp.abs(w) * 1.01
    # The sign of a zero is not known where x − μ may have either: a sum of zeros, or a weight of zero near the mean.
    near = (xp.abs(centred) <= 2.0 * rho) & (rho < math.inf)
    unsigned = (rho == 0.0) | (near & ((w == 0.0) | (xp.abs(w) == math.inf)))
    return xp.where(unsigned, math.inf, bound), near


class _Repair:
    """Single elements of a norm, from its inputs on the host."""

    def __init__(self, x: Array, w_d: Array, b_d: Array | None, eps: float, backend: Backend) -> None:
        self.x, self.w_d, self.b_d, self.eps, self.backend = x, w_d, b_d, eps, backend
        self.plain_rows: dict[tuple[int, ...], list[Value]] = {}

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, double=self.double, side=self.side)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """The formula in double-double, with D·x − Σ x in the place of x − μ, which is exact before it is cut."""
        host = host_reals(self.x, backend=self.backend)
        width = host.shape[-1]
        rows, where = distinct_rows(host, places)
        mean = exact_sums(rows).pair() / Pair.of(width)
        centred, spread = _centred(rows, mean)
        root = (spread / width + self.eps).sqrt()
        x = host[places]
        ours = exact_sums(
            np.concatenate([*(part[:, None] for part in two_product(x, np.array(float(width)))), -rows[where]], axis=1)
        )
        w = host_reals(self.w_d, backend=self.backend)[places[-1]]
        top = ours.pair()
        value = top / Pair.of(width) * Pair.of(w) / root[where]
        size = np.abs(value.high)
        # Exactly: what is left is a signed zero, and the bias; but for a row of ε = 0 that may be level.
        still = ((top.high == 0.0) | (w == 0.0)) & ((self.eps > 0) | (root.high > 2.0**-40 * np.abs(mean.high)))[where]
        minus = np.where(top.high == 0.0, _negative_zero(x, rows[where]), top.high < 0.0)
        zero = np.where(minus != np.signbit(w), -0.0, 0.0)
        if self.b_d is not None:
            bias = host_reals(self.b_d, backend=self.backend)[places[-1]]
            value, size, zero = value + Pair.of(bias), size + np.abs(bias), zero + bias
        value = Pair(np.where(still, zero, value.high), np.where(still, 0.0, value.low))
        lost = (np.abs(mean.high) / root.high) * 2.0**-90  # of the spread's root, from the mean's own error
        usual = (root.high > 2.0**-200) & (root.high < 2.0**200) & (centred < 2.0**200) & (lost < 2.0**-40)
        error = size * (DOUBLE_ERROR + lost[where])
        error = np.where(usual[where] & ((size == 0) | (size > 2.0**-400)), error, np.inf)
        finite = np.isfinite(size) & np.isfinite(w)
        value = Pair(np.where(finite, value.high, 0.0), np.where(finite, value.low, 0.0))
        return value, np.where(finite, np.where(still, 0.0, error), np.inf)

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """The sign of y − m, as the page says; unknown where a product might leave the range of exact ones."""
        host, w_d = host_reals(self.x, backend=self.backend), host_reals(self.w_d, backend=self.backend)
        width = np.array(float(host.shape[-1]))
        rows, where = distinct_rows(host, places)
        w, x = w_d[places[-1]], host[places]
        bias = np.zeros(w.shape) if self.b_d is None else host_reals(self.b_d, backend=self.backend)[places[-1]]
        finite = np.isfinite(w) & np.isfinite(bias)
        w, bias = np.where(finite, w, 1.0), np.where(finite, bias, 0.0)
        total = expansion(rows)
        centred = expansion(np.concatenate([*(part[:, None] for part in two_product(x, width)), -total[where]], axis=1))
        spread = expansion(np.concatenate(self._spread(rows, total, width), axis=1))[where]
        rest = np.stack(two_sum(middle, -bias), axis=1)
        eps = self._many_eps(np.abs(rest[:, 0]), width)
        top = products(centred, w[:, None])
        squares = [products(top, top), products(-rest, rest, spread), products(-rest, rest, eps)]
        signs = [exact_sums(part).sign() for part in (top, rest, np.concatenate(squares, axis=1))]
        sign = np.where(signs[0] != signs[1], np.sign(signs[0] - signs[1]), signs[2] * signs[0]).astype(np.int8)
        numbers = np.abs(np.stack([w, middle, bias, np.max(np.abs(rows), axis=1)[where]], axis=1))
        known = (numbers.max(axis=1) < 2.0**60) & (np.abs(w) > 2.0**-60)
        known &= np.min(np.where(rows == 0, 1.0, np.abs(rows)), axis=1)[where] > 2.0**-60
        known &= short(w, bias) & np.asarray(short(rows).all(axis=1))[where]
        return np.where(known & finite, sign, np.int8(UNKNOWN)).astype(np.int8)

    def _spread(self, rows: Reals, total: Reals, width: Reals) -> list[Reals]:
        """Terms of D·Σ x² − (Σ x)²."""
        squares = expansion(np.concatenate(two_product(rows, rows), axis=1))
        return [products(squares, np.full((len(rows), 1), width)), products(-total, total)]

    def _many_eps(self, rest: Reals, width: Reals) -> Reals:
        """(N) -> (N, 2): terms of D²·ε, or of more where (m − b)²·D²·ε is so small that only its sign counts.

        Without ε, what is asked for the sign of is a multiple of 2⁻⁴⁶⁶: m and b are ones of 2⁻¹⁵⁰; x and w, where this
        is asked, of 2⁻⁸³. So an ε that makes it 2⁻⁵⁰⁰ does what a smaller one does, and its products do not underflow.
        """
        many = width * width
        eps = np.zeros(rest.shape)
        if self.eps:
            eps = np.maximum(self.eps, 2.0**-500 / (np.maximum(rest * rest, 2.0**-300) * many))
        return np.stack(two_product(np.full(rest.shape, many), eps), axis=1)

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        *row, d = place
        if tuple(row) not in self.plain_rows:
            x, w = (host_reals(array, backend=self.backend) for array in (self.x, self.w_d))
            b = None if self.b_d is None else host_reals(self.b_d, backend=self.backend).tolist()
            self.plain_rows[tuple(row)] = algebraic.layer_norm(x[tuple(row)].tolist(), w.tolist(), b, eps=self.eps)
        return self.plain_rows[tuple(row)][d]


def _negative_zero(x: Reals, rows: Reals) -> NDArray[np.bool_]:
    """(N), (N, D) -> (N): whether x − μ, where it is zero, is −0: −0 − (+0) is, and every other difference is +0."""
    return np.asarray((x == 0.0) & np.signbit(x) & ~np.signbit(rows).all(axis=1))


def _centred(rows: Reals, mean: Pair) -> tuple[NDArray[np.float64], Pair]:
    """(R, D), (R) -> (R), (R): the largest |x − μ| of each row, and Σ (x − μ)²."""
    shape = rows.shape
    each = Pair.of(rows) - Pair(np.broadcast_to(mean.high[:, None], shape), np.broadcast_to(mean.low[:, None], shape))
    square = each * each
    return np.max(np.abs(each.high), axis=1), exact_sums(np.concatenate([square.high, square.low], axis=1)).pair()
