r"""On which side of a midpoint an attention's element lies.

y − m has the sign of Σₛ exp(score[s])·(value[s] − m), the sink being a key of value 0. Keys of exactly equal scores are
a group, and the sum over a group of value − m is exact. Groups where it is zero say nothing; if it is zero in all, y is
m. Otherwise weights are taken relative to the first group that is left, whose weight is then exactly 1, so that nothing
underflows by which y differs from m; the others are in double-double, each with its error.

Of a wrong order, or of equal scores taken for different ones, only this comes: that the sum does not exceed its error,
and the side is unknown. Different scores must not be taken for equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import exp
from lepton_ref.numerics.exact_sum import exact_sums, two_product, two_sum
from lepton_ref.numerics.rounding import UNKNOWN, Reals

Places = NDArray[np.intp]
Booleans = NDArray[np.bool_]

FAR = 600.0
"""A weight of e^−FAR or less, relative to the first group's, counts as an error alone."""

VAGUE = 2.0**-10
"""A score that errs by more tells no more than how large its weight may be."""

WEIGHT_ERROR = 2.0**-98
"""Of a weight in double-double and its product, relative; the error of its score comes on top."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The scores of N queries.

    Attributes:
        score: (N, S) up to a number that is one for the whole query.
        error: (N, S) how far they may lie from the exact ones.
        group: (N, S) keys of one number have exactly equal scores, and the first groups have the largest; −1 is unseen.
    """

    score: Pair
    error: Reals
    group: Places

    def __getitem__(self, index: Places) -> Ranked:
        return Ranked(self.score[index], self.error[index], self.group[index])


def side_of(middle: Reals, values: Reals, ranked: Ranked) -> NDArray[np.int8]:
    """(N), (N, S), (N, S) -> (N): the sign of y − m, or `UNKNOWN`. Numbers must be finite."""
    seen = ranked.group >= 0
    high, low = two_sum(np.where(seen, values, 0.0), np.where(seen, -middle[:, None], 0.0))
    counts = high != 0.0
    sign = np.zeros(len(middle), dtype=np.int8)
    left = np.flatnonzero(counts.any(axis=1))
    while left.size:
        group = np.where(counts[left], ranked.group[left], np.iinfo(np.intp).max)
        first = group == group.min(axis=1, keepdims=True)
        here = np.concatenate([np.where(first, part[left], 0.0) for part in (high, low)], axis=1)
        found = exact_sums(here).sign()
        counts[left] &= ~(first & (found == 0)[:, None])
        some = np.flatnonzero(found)
        rows = left[some]
        live, leads = counts[rows], first[some]
        alone = ~(live & ~leads).any(axis=1)
        sign[rows[alone]] = found[some][alone]
        mixed = np.flatnonzero(~alone)
        if mixed.size:
            at = rows[mixed]
            difference = Pair(*(np.where(live[mixed], part[at], 0.0) for part in (high, low)))
            sign[at] = _weighed(difference, leads[mixed], ranked[at])
        left = left[found == 0]
        left = left[counts[left].any(axis=1)]
    return sign


def _weighed(difference: Pair, leads: Booleans, ranked: Ranked) -> NDArray[np.int8]:
    """(N, S) thrice -> (N): the sign of Σ exp(score)·(value − m), where the leading group weighs 1."""
    rows, lead = np.arange(len(leads)), leads.argmax(axis=1)
    distance = ranked.score - ranked.score[rows, lead][:, None]
    error = ranked.error + ranked.error[rows, lead][:, None] + np.abs(distance.high) * 2.0**-103
    size = np.abs(difference.high)
    most = distance.high + error
    others = ~leads & (size != 0.0)
    clear = others & (error < VAGUE) & (np.abs(distance.high) < FAR)
    weight = exp(Pair(np.where(clear, distance.high, -1.0), np.where(clear, distance.low, 0.0)))
    parts = ((1.0, weight.high), (0.0, weight.low))
    weight = Pair(*(np.where(leads, one, np.where(clear, part, 0.0)) for one, part in parts))
    terms = [
        *two_product(weight.high, difference.high), weight.high * difference.low, weight.low * difference.high
    ]  # fmt: skip
    total = exact_sums(np.concatenate(terms, axis=1)).pair().high
    lost = np.where(clear, weight.high * (WEIGHT_ERROR + 1.01 * error), np.exp(np.clip(most, -FAR, FAR)))
    lost = np.where(most < FAR, lost, np.inf)
    bound = np.sum(np.where(others, lost, 0.0) * size, axis=1) * 1.01 + 2.0**-900
    return np.where(np.abs(total) > bound, np.sign(total), UNKNOWN).astype(np.int8)
