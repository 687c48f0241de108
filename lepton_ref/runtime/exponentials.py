"""Sums of exponentials compared with a share of their total, decided as real numbers: what sampling asks.

float64 decides almost always: its running sums are within (V + 2e + 2)·2⁻⁵³ of themselves, exp being within e ulps. For
the few comparisons that lie within that, double-double decides, and where it cannot, the specification: by Lindemann
and Weierstrass two sides are equal only where the terms of each exponent cancel.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import exp
from lepton_ref.numerics.exact_sum import exact_sums
from lepton_ref.numerics.rounding import Index, Repair, settle
from lepton_ref.plain import functions
from lepton_ref.plain.attention import Exponent, sign_of_sum, softmax
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real, Value

Reals = NDArray[np.float64]

ULPS = 4.0
"""What is assumed of NumPy's exp: the most that its vectorised loops allow themselves."""

DOUBLE_ERROR = 2.0**-85
"""Of a sum of exponentials in double-double, relative to the total."""


@dataclass(frozen=True, eq=False)
class Exponentials:
    """exp(z) of float64 numbers z ≤ 0, of which the largest is 0; −inf is no term.

    Attributes:
        z: (V), in the order in which they are summed.

    Raises:
        ValueError: NaN, a number above 0, or none that is 0.
    """

    z: Reals

    def __post_init__(self) -> None:
        if self.z.size == 0 or self.z.max() != 0.0:
            raise ValueError("the largest exponent must be 0, and none be NaN; subtract the largest first")

    def first(self, share: float, *, beyond: bool) -> int:
        """The least i with Σ_{j≤i} exp(zⱼ) above share·Σⱼ exp(zⱼ), or, not `beyond`, at least that.

        Args:
            share: of [0, 1]; below 1 where `beyond`.
            beyond: whether equality is not enough.
        """
        with np.errstate(under="ignore"):
            sums = np.cumsum(np.exp(self.z))
        target = share * sums[-1]
        error = 3 * (self.z.size + 2 * ULPS + 2) * UNIT
        possible, certain = (
            int(np.searchsorted(sums, target * factor, side="right")) for factor in (1 - error, 1 + error)
        )
        last = int(np.flatnonzero(self.z > -np.inf)[-1])
        for at in range(possible, min(certain, last)):
            if self.z[at] > -np.inf and self._compare(at, share) >= int(beyond):
                return at
        return min(certain, last)

    def at_least(self, share: float) -> NDArray[np.bool_]:
        """(V) whether exp(zᵢ) ≥ share, element by element, for a share of [0, 1]."""
        with np.errstate(under="ignore"):
            values = np.exp(self.z)
        found = values >= share
        near = np.abs(values - share) <= (2 * ULPS + 2) * UNIT * np.maximum(values, share) + 2.0**-1070
        for at in np.flatnonzero(near & (self.z > -np.inf) & (self.z < 0.0)):
            found[at] = _exponential(float(self.z[at])).compare(Fraction(share)) > 0  # equal it cannot be (Lindemann)
        return np.asarray(found)

    def shares(self) -> Reals:
        """(V) exp(zᵢ)/Σⱼ exp(zⱼ), rounded once to float64."""
        found = np.zeros(self.z.size)
        present = np.flatnonzero(self.z > -np.inf)
        z = self.z[present]

        def double(places: Index) -> tuple[Pair, Reals]:
            weights = exp(Pair.of(z))
            share = weights / exact_sums(np.concatenate([weights.high, weights.low])[None]).pair()
            size = share.high[places]
            return share[places], np.where(size > 2.0**-600, size * DOUBLE_ERROR, np.inf)

        def plain(place: tuple[int, ...]) -> Value:
            return softmax(z.tolist())[place[0]]

        found[present], _ = settle((np.arange(z.size),), Repair(plain, double), "fp64")
        return found

    def _compare(self, at: int, share: float) -> int:
        """The sign of Σ_{j≤at} exp(zⱼ) − share·Σⱼ exp(zⱼ)."""
        weights = exp(Pair.of(np.where(self.z > -np.inf, self.z, -1000.0)))
        before, whole = (
            exact_sums(np.concatenate([weights.high[:n], weights.low[:n]])[None]).pair() for n in (at + 1, self.z.size)
        )
        difference = before - whole * share
        if abs(difference.high[0]) > DOUBLE_ERROR * whole.high[0]:
            return int(np.sign(difference.high[0]))
        return self._exactly(at, share)

    def _exactly(self, at: int, share: float) -> int:
        terms: dict[Exponent, Fraction] = defaultdict(Fraction)
        for j, z in enumerate(self.z.tolist()):
            if z > -np.inf:
                terms[Exponent(Fraction(z))] += (j <= at) - Fraction(share)
        return Real(lambda digits: sign_of_sum(terms, digits)).compare(0)


def _exponential(z: float) -> Real:
    return Real(lambda digits: functions.exp(Interval.of(z, digits)))
