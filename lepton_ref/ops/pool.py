r"""Pooling: one vector for a sentence, from the unmasked positions alone.

    mean: Σₜ m[t]·x[t] / Σₜ m[t]      cls: x at the first unmasked position      max: maxₜ over m
    normalise: y / max(√Σ y², ε),  ε = 10⁻¹²

Mean and normalisation are one op where both are asked for. Bound: mean β = γ_n·Σₜ |x[t]|/n over the n unmasked; cls and
max are exact (β = 0). Normalised, with v the vector and L its length: (β + |v|·(‖β‖/L + γ_{⌈D/2⌉+3}))/L to first
order, since every element's error also changes the length: L is taken less ‖β‖, and a part in 2⁷ is added. Three units
more cover the rounding test. A length near ε, where the maximum might choose either, promises nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT, gamma
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import exact_sums, two_product
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import host_reals, op, require_booleans
from lepton_ref.ops.checks import require_numbers
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value

KINDS = ("mean", "cls", "max")
NORMALISE_EPS = 1e-12
"""What sentence-transformers and torch.nn.functional.normalize put below a vector's length; the decimal."""

DOUBLE_ERROR = 2.0**-90


@op
def pool(x_btd: Array, mask_bt: Array, *, kind: str, normalise: bool, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (B, T) -> (B, D), one vector a sequence.

    Raises:
        ValueError: an unknown kind, a mask of another shape, or a sequence without an unmasked position.
    """
    require_numbers("x", x_btd, axes=3, backend=backend, precision=precision)
    if kind not in KINDS:
        raise ValueError(f"unknown pooling {kind!r}; known: {', '.join(KINDS)}")
    if tuple(mask_bt.shape) != tuple(x_btd.shape[:2]):
        raise ValueError(f"the mask must be of shape {tuple(x_btd.shape[:2])}, got {tuple(mask_bt.shape)}")
    require_booleans("the mask", mask_bt, backend=backend)
    if not backend.to_numpy(backend.xp.any(mask_bt, axis=-1)).all():
        raise ValueError("a sequence has no unmasked position to pool; leave empty texts out")
    value, bound = _pooled(lift(x_btd, backend=backend), mask_bt, kind, backend)
    if normalise:
        value, bound = _normalised(value, bound, backend)
    repair = _Repair(x_btd, mask_bt, kind, normalise, backend).functions()
    return round_once(value, bound, op="pool", repair=repair, backend=backend, precision=precision)


def _pooled(x64: Array, mask_bt: Array, kind: str, backend: Backend) -> tuple[Array, Array]:
    """(B, T, D), (B, T) -> (B, D) twice: the vector and its bound."""
    xp = backend.xp
    mask = xp.expand_dims(mask_bt, axis=-1)
    if kind == "max":
        value = xp.max(xp.where(mask, x64, -math.inf), axis=1)
        plus = xp.any(mask & (x64 == 0.0) & (1.0 / x64 > 0.0), axis=1)
        value = xp.where((value == 0.0) & plus, 0.0, value)  # of +0 and −0 the larger is +0
        return value, xp.abs(value) * 0.0
    if kind == "cls":
        value = _first(x64, mask_bt, backend)
        return value, xp.abs(value) * 0.0
    kept = xp.where(mask, x64, 0.0)
    count = backend.sum(xp.astype(mask, xp.float64), axis=1, keepdims=False, accumulate="float64")
    value = backend.sum(kept, axis=1, keepdims=False, accumulate="float64") / count
    size = backend.sum(xp.abs(kept), axis=1, keepdims=False, accumulate="float64") / count
    minus = xp.all(~mask | (x64 < 0.0) | ((x64 == 0.0) & (1.0 / x64 < 0.0)), axis=1)
    value = xp.where(size == 0.0, xp.where(minus, -0.0, 0.0 * size), value)
    return value, size * ((count + 4.0) * (UNIT * 1.001))


def _normalised(value: Array, beta: Array, backend: Backend) -> tuple[Array, Array]:
    """(B, D) twice -> (B, D) twice."""
    xp = backend.xp
    length = xp.sqrt(backend.sum(value * value, axis=-1, keepdims=True, accumulate="float64"))
    spread = xp.sqrt(backend.sum(beta * beta, axis=-1, keepdims=True, accumulate="float64")) * 1.001
    relative = float(gamma(math.ceil(value.shape[-1] / 2) + 6))
    short = length < NORMALISE_EPS
    divisor = xp.where(short, NORMALISE_EPS, length)
    least = xp.where(divisor - 2.0 * spread > 0.0, divisor - 2.0 * spread, math.nan)
    bound = (beta + (xp.abs(value) + beta) * (spread / least + relative)) / least * (1 + 2.0**-7)
    near = xp.abs(length - NORMALISE_EPS) <= length * 2.0**-20 + spread
    return value / divisor, xp.where(near, math.inf, xp.where((value == 0.0) & (beta == 0.0), 0.0, bound))


def _first(x_btd: Array, mask_bt: Array, backend: Backend) -> Array:
    """(B, T, D), (B, T) -> (B, D), each sequence's first unmasked position."""
    b, t, d = x_btd.shape
    rows = backend.to_numpy(mask_bt).argmax(axis=1) + t * np.arange(b)
    return backend.xp.take(backend.xp.reshape(x_btd, (b * t, d)), backend.from_numpy(rows), axis=0)


class _Repair:
    """Single elements, from the inputs on the host."""

    def __init__(self, x_btd: Array, mask_bt: Array, kind: str, normalise: bool, backend: Backend) -> None:
        self.x = host_reals(x_btd, backend=backend)
        self.mask = np.asarray(backend.to_numpy(mask_bt))
        self.kind, self.normalise = kind, normalise

    def functions(self) -> Repair:
        """What `round_once` calls."""
        whole = self.kind == "mean" and not self.normalise
        return Repair(plain=self.plain, double=self.double, side=self.side if whole else None)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """Exact sums, the mean and the length in double-double."""
        unique, where = np.unique(places[0], return_inverse=True)
        whole = self._vectors(unique)
        value = whole[where, places[1]]
        if not self.normalise:
            return value, np.where(np.abs(value.high) > 2.0**-400, np.abs(value.high) * DOUBLE_ERROR, np.inf)
        healthy: NDArray[np.bool_] = np.asarray(np.isfinite(whole.high).all(axis=1))
        whole = Pair(*(np.where(healthy[:, None], half, 1.0) for half in (whole.high, whole.low)))
        value = whole[where, places[1]]
        square = whole * whole
        length = exact_sums(np.concatenate([square.high, square.low], axis=1)).pair().sqrt()
        eps = Pair.rational(Fraction(1, 10**12))
        near = np.abs(length.high - NORMALISE_EPS) < NORMALISE_EPS * 2.0**-40
        short = length.high < NORMALISE_EPS
        divisor = Pair(np.where(short, eps.high, length.high), np.where(short, eps.low, length.low))
        value = value / divisor[where]
        usual = (healthy & ~near)[where] & (np.abs(value.high) > 2.0**-400) & (length.high > 2.0**-300)[where]
        return value, np.where(usual, np.abs(value.high) * DOUBLE_ERROR, np.inf)

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """The sign of Σ x − n·m, exactly."""
        x = np.where(self.mask[places[0]], self.x[places[0], :, places[1]], 0.0)
        count = self.mask[places[0]].sum(axis=1).astype(np.float64)
        minus = two_product(count, -middle)
        return exact_sums(np.concatenate([x, *(part[:, None] for part in minus)], axis=1)).sign()

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        b, d = place
        rows = self.x[b][self.mask[b]].tolist()
        return algebraic.pool(rows, kind=self.kind, normalise=self.normalise)[d]

    def _vectors(self, b: NDArray[np.intp]) -> Pair:
        """(N) -> (N, D): the pooled vectors of some sequences; NaN where a mean takes in what is not finite."""
        mask, rows = self.mask[b], self.x[b]
        if self.kind == "cls":
            return Pair.of(rows[np.arange(b.size), mask.argmax(axis=1)])
        if self.kind == "max":
            return Pair.of(np.where(mask[:, :, None], rows, -np.inf).max(axis=1))
        seen = np.where(mask[:, :, None], rows, 0.0)
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(seen).all(axis=1))
        terms = np.where(finite[:, None], seen, 0.0).transpose(0, 2, 1).reshape(finite.size, mask.shape[1])
        mean = exact_sums(terms).pair().reshape(*finite.shape) / mask.sum(axis=1, keepdims=True)
        return Pair(np.where(finite, mean.high, np.nan), mean.low)
