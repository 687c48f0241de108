"""Which side of a midpoint attention lies on: against the stdlib's decimals, and with mistakes planted."""

from __future__ import annotations

from decimal import Decimal, localcontext
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.rounding import UNKNOWN
from lepton_ref.ops import attention_side

SCORES = st.sampled_from([0.0, 1.0, -1.0, 2.5, -40.0, -3000.0, 1e6, -1e30])
VALUES = st.integers(-3, 3).map(float) | st.sampled_from([2.0**-140, -(2.0**-140), 2.0**100])


def oracle(scores: list[float], values: list[float], middle: float) -> int:
    """The sign of Σ exp(score)·(value − m), in 400 digits; groups whose sum is zero are left out."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 400, 10**8, -(10**8)
        groups: dict[float, Decimal] = {}
        for score, value in zip(scores, values, strict=True):
            groups[score] = groups.get(score, Decimal(0)) + Decimal(value) - Decimal(middle)
        left = {score: total for score, total in groups.items() if total}
        if not left:
            return 0
        top = max(left)
        near = {Decimal(score) - Decimal(top): total for score, total in left.items()}
        total = sum((total * distance.exp() for distance, total in near.items() if distance > -(10**5)), Decimal(0))
        return int(total > 0) - int(total < 0)


def ranked(module: ModuleType, scores: np.ndarray, error: float = 0.0) -> object:
    """Scores that are exact but for what is said; those that are equal are groups."""
    group = np.stack([np.unique(-row, return_inverse=True)[1] for row in scores])
    return module.Ranked(Pair.of(scores), np.full(scores.shape, error), group)


def sides(module: ModuleType, scores: list[float], values: list[float], middle: float, error: float = 0.0) -> int:
    given_ = np.array([scores]), np.array([values])
    return int(module.side_of(np.array([middle]), given_[1], ranked(module, given_[0], error))[0])


CALLS: list[tuple[list[float], list[float], float]] = [
    ([0.0, 0.0], [1.0, 3.0], 2.0),
    ([0.0, 0.0], [1.0, 3.0], 1.5),
    ([0.0, 0.0], [2.0**-140, 2.0], 1.0),
    ([0.0, -3000.0], [2.0, 1.0], 2.0),
    ([0.0, -3000.0], [2.0, 3.0], 2.0),
    ([0.0, -3000.0, -3001.0], [2.0, 3.0, 1.0], 2.0),
    ([0.0, -3000.0, -3000.5], [2.0, 3.0, -3.0], 2.0),
    ([0.0, -3000.0, -3000.5], [2.0, 3.0, -30.0], 2.0),
    ([5.0, 5.0, 0.0, 0.0, -1.0], [1.0, 3.0, 0.0, 4.0, 1.0], 2.0),
    ([5.0, 5.0, 0.0, 0.0], [1.0, 3.0, 0.0, 4.0], 2.0),
    ([0.0, -1e30, -2e30], [2.0, 3.0, -1e9], 2.0),
    ([0.0, -0.5, -50.0], [2.0 + 2.0**-60, 2.0 - 2.0**-60, 7.0], 2.0),
    ([0.0, -700.0, -710.0], [2.0, 2.0 + 2.0**-20, 1.0], 2.0),
]


def check(module: ModuleType) -> None:
    for scores, values, middle in CALLS:
        assert sides(module, scores, values, middle) == oracle(scores, values, middle), (scores, values, middle)
    assert sides(module, [0.0, -1.0], [1.0, 3.0], 1.0 + 2 / (1 + np.e)) in (UNKNOWN, oracle(*CALLS[0]), 1, -1)
    unsure: list[tuple[list[float], list[float], float, float]] = [
        ([0.0, -1.0], [1.0, -1.0 - np.e * 0.99 + 1.0], 0.0, 0.1),  # the difference is within the error
        ([0.0, -1.0], [1.0, -1.45], 0.0, 0.4),  # a weight between e^-1.8 and e^-0.2
        ([0.0, -1.0], [1.0, -2.0], 0.0, 1e30),
        ([0.0, -1.0, -1.0], [1.0, -1.0, -1.7182], 0.0, 1e-4),
    ]
    for scores, values, middle, error in unsure:
        assert sides(module, scores, values, middle, error) == UNKNOWN, (scores, values, error)
    unseen = module.Ranked(Pair.of(np.zeros((1, 2))), np.zeros((1, 2)), np.array([[0, -1]]))
    assert module.side_of(np.array([1.0]), np.array([[1.0, 5.0]]), unseen).tolist() == [0]


def test_literals_and_errors() -> None:
    check(attention_side)


@given(st.lists(st.tuples(SCORES, VALUES), min_size=1, max_size=6), st.integers(-3, 3).map(float))
def test_a_side_that_is_told_is_right(keys: list[tuple[float, float]], middle: float) -> None:
    scores, values = ([key[i] for key in keys] for i in (0, 1))
    got = sides(attention_side, scores, values, middle)
    assert got in (UNKNOWN, oracle(scores, values, middle))


@given(st.lists(st.tuples(st.sampled_from([0.0, -3000.0, -6000.0]), VALUES), min_size=1, max_size=6))
def test_scores_far_apart_are_always_told(keys: list[tuple[float, float]]) -> None:
    scores, values = ([key[i] for key in keys] for i in (0, 1))
    assert sides(attention_side, scores, values, 1.0) == oracle(scores, values, 1.0)


BUGS = {
    "no group is left": ("~(first & (found == 0)[:, None])", "~first"),
    "one group that cancels is enough": ("left = left[counts[left].any(axis=1)]", "left = left[:0]"),
    "the first key leads": ("leads.argmax(axis=1)", "np.zeros(len(leads), dtype=np.intp)"),
    "unseen keys count": ("np.where(seen, -middle[:, None], 0.0)", "-middle[:, None]"),
    "the rest is not looked at": ("alone = ~(live & ~leads).any(axis=1)", "alone = np.ones(len(rows), dtype=bool)"),
    "scores are exact": ("WEIGHT_ERROR + 1.01 * error", "WEIGHT_ERROR"),
    "a vague score is exact": ("(error < VAGUE) & ", ""),
    "far keys weigh nothing": ("np.exp(np.clip(most, -FAR, FAR))", "0.0"),
    "low parts are dropped": ("for part in (high, low)], axis=1)", "for part in (high, 0 * low)], axis=1)"),
    "what is unknown is a tie": ("np.sign(total), UNKNOWN)", "np.sign(total), 0)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_mistakes_are_caught(bug: str) -> None:
    broken = mutated(attention_side, *BUGS[bug])
    with pytest.raises((AssertionError, ValueError)):
        check(broken)
