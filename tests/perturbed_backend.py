"""A backend that computes as badly as a backend may: sums in any order, fused or not, library functions off by ulps.

Everything here stays within what `lepton_ref.interface.Backend` promises, so no op may give another bit on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from lepton_ref.backends.numpy_backend import Namespace, NumpyBackend
from lepton_ref.interface import XP_NAMES, Array

UNIT = 2.0**-53
KINDS = ("one after the other", "in blocks", "in long doubles", "as far off as may be")
"""How sums are taken: shuffled, term by term; shuffled, in blocks of random length; in 64 bits, rounded once; the exact
sum moved by as much as n − 1 roundings can, where any order rounds at all."""


class PerturbedBackend(NumpyBackend):
    """NumPy's numbers, moved.

    Args:
        seed: of all choices.
        ulps: what it declares. Library functions are moved by whole ulps, so that with the half ulp of their own
            rounding they stay within that.
        excess: by how much more than it may it moves every number; 1 for an honest backend.
    """

    name = "perturbed"

    def __init__(self, seed: int, *, ulps: float = 4.0, excess: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ulps = ulps
        self.excess = excess
        self.kind = KINDS[seed % len(KINDS)]
        moved = {name: functools.partial(self._library, getattr(np, name)) for name in ("exp", "log", "tanh")}
        self.xp = SimpleNamespace(**{name: getattr(Namespace, name) for name in XP_NAMES} | moved)

    def matmul(self, a: Array, b: Array, /, *, accumulate: str) -> Array:
        assert accumulate == "float64"
        terms = a[..., :, :, None] * b[..., None, :, :]  # exact where both were float32
        size = np.matmul(np.abs(a), np.abs(b))
        return self._sum(np.moveaxis(terms, -2, 0), size)

    def sum(self, a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        assert accumulate == "float64"
        size = np.add.reduce(np.abs(a), axis=axis, dtype=np.float64)
        total = self._sum(np.moveaxis(a, axis, 0).astype(np.float64), size)
        return np.expand_dims(total, axis) if keepdims else total

    def _sum(self, terms: Array, size: Array) -> Array:
        """The terms along axis 0, of absolute sum `size`."""
        n = len(terms)
        shuffled = terms[self.rng.permutation(n)]
        if self.kind == KINDS[0]:
            return _one_after_the_other(shuffled)
        if self.kind == KINDS[1]:
            cuts = np.flatnonzero(self.rng.random(max(n - 1, 0)) < 0.3) + 1
            return _one_after_the_other(np.stack([_one_after_the_other(part) for part in np.split(shuffled, cuts)]))
        if self.kind == KINDS[2]:
            return np.add.reduce(shuffled.astype(np.longdouble), axis=0).astype(np.float64)
        total = np.add.reduce(terms, axis=0)
        if not np.isfinite(size).all() or _exact_in_any_order(terms, size):
            return total
        here = self._directions(total.shape) * size * (max(n - 2, 0) * UNIT)  # of n − 1 roundings the last comes below
        honest = np.add.reduce(terms.astype(np.longdouble), axis=0)
        return (honest + self.excess * here).astype(np.float64)

    def _directions(self, shape: tuple[int, ...]) -> Array:
        """How far to go, in [−1, 1]: half the time as far as may be, all in one direction or each in its own."""
        which = self.rng.integers(4)
        if which == 0:
            return np.full(shape, self.rng.choice([-1.0, 1.0]))
        return self.rng.choice([-1.0, 1.0], shape) if which == 1 else self.rng.uniform(-1, 1, shape)

    def _library(self, function: Callable[..., Any], x: Array) -> Array:
        exact = function(np.asarray(x, dtype=np.longdouble)).astype(np.float64)
        if x.dtype != np.float64 or self.ulps < 1:
            return function(x)
        steps = np.rint(self._directions(exact.shape) * self.excess * (self.ulps - 1))
        moved = exact + steps * np.spacing(np.abs(exact))
        kept = ~np.isfinite(exact) | (x == 0.0) | np.isinf(x) | ((exact == 0.0) & (function is np.log))
        same_sign = (moved > 0) == (exact > 0)
        return np.where(kept | ((exact != 0.0) & ~same_sign), exact, np.where(exact == 0.0, np.abs(moved), moved))


def _one_after_the_other(terms: Array) -> Array:
    total = np.zeros(terms.shape[1:]) if not len(terms) else terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _exact_in_any_order(terms: Array, size: Array) -> bool:
    """Whether all terms are integers, as counts are, of which float64 loses none."""
    return bool((terms == np.rint(terms)).all() and (size < 2.0**53).all())
