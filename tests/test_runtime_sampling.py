"""Sampling: the scalar twin, transformers' own processors, exact shares of draws, a second Philox, bad input, bugs."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.runtime import sampling as real

LOGITS = [1.5, -0.5, 3.25, 3.0, -2.0, 0.75, 2.5, -1.25]
SEEN = [2, 4, 2, 6]

TRANSFORMERS: list[tuple[dict[str, Any], list[float]]] = [
    (
        {"temperature": 0.5},
        [
            0.016171681302824124, 0.000296194674966221, 0.535532535274955, 0.3248169019178976,
            1.4746664532740483e-05, 0.0036083898389685154, 0.11949346036059535, 6.608996526032501e-05,
        ],
    ),
    ({"temperature": 1.0, "top_k": 3}, [0, 0, 0.4442139791616654, 0.3459541948223697, 0, 0, 0.2098318260159648, 0]),
    ({"temperature": 1.0, "top_p": 0.75}, [0, 0, 0.4442139791616654, 0.3459541948223697, 0, 0, 0.2098318260159648, 0]),
    ({"temperature": 1.0, "min_p": 0.2}, [0, 0, 0.4442139791616654, 0.3459541948223697, 0, 0, 0.2098318260159648, 0]),
    (
        {"temperature": 1.0, "repetition_penalty": 1.5},
        [
            0.10760183023667985, 0.014562324171858983, 0.20957974763176762, 0.4822379465201,
            0.0011953483596078129, 0.05082750561752434, 0.12711654259350325, 0.00687875486895818,
        ],
    ),
    (
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
        [0, 0, 0.34171901294160834, 0.5183524759960678, 0, 0, 0.13992851106232393, 0],
    ),
    (
        {"temperature": 2.0, "top_k": 6, "top_p": 0.6, "repetition_penalty": 0.5},
        [0, 0, 0.679178699175393, 0, 0, 0, 0.320821300824607, 0],
    ),
    ({"temperature": 1.0, "top_p": 0.0}, [0, 0, 1, 0, 0, 0, 0, 0]),
    ({"temperature": 1.0, "top_k": 4, "min_p": 0.5}, [0, 0, 0.5621765008857981, 0.4378234991142019, 0, 0, 0, 0]),
]  # fmt: skip
"""Options → what transformers 5.23 makes of LOGITS in float64: RepetitionPenaltyLogitsProcessor with SEEN, then the
Temperature, TopK, TopP and MinP warpers in the order of its `_get_logits_processor`, then softmax."""

UNITS = 128
"""Both sides take x/T with |x/T| ≤ 6.5 (one rounding, or two with the penalty, each of at most 6.5·2⁻⁵³), a subtraction
of that size, exp with its error, a sum of 8 and a division: below 60·2⁻⁵³ each, relative to a result of at most 1."""


def agrees_with_transformers(m: ModuleType) -> None:
    for options, expected in TRANSFORMERS:
        found = m.probabilities(LOGITS, m.Sampling(**options), seen=SEEN)
        assert [p == 0 for p in found] == [p == 0 for p in expected], options
        assert np.abs(found - expected).max() <= UNITS * 2.0**-53, options


def lower_index_wins(m: ModuleType) -> None:
    tied = [1.0, 2.0, 0.0, 2.0, 2.0]
    assert m.choose(tied, m.Sampling()) == 1
    assert m.probabilities(tied, m.Sampling(temperature=1.0, top_k=2)).tolist() == [0, 0.5, 0, 0.5, 0]
    assert m.probabilities(tied, m.Sampling(temperature=1.0, top_p=0.5)).tolist() == [0, 0.5, 0, 0.5, 0]


def each_id_is_penalised_once(m: ModuleType) -> None:
    scores = m.filtered([3.0, -3.0, 1.0], m.Sampling(repetition_penalty=2.0), seen=[0, 0, 1, 1, 0])
    assert scores.tolist() == [1.5, -6.0, 1.0]
    assert m.choose([3.0, -3.0, 2.0], m.Sampling(repetition_penalty=2.0), seen=[0]) == 2


def draws_have_the_exact_shares(m: ModuleType) -> None:
    """Over N equally spaced u an interval of length p holds between N·p − 1 and N·p + 1 of them."""
    n = 4096
    for options, expected in [*TRANSFORMERS, ({"temperature": 1.0, "top_k": 1}, [0, 0, 1, 0, 0, 0, 0, 0])]:
        how = m.Sampling(**options)
        drawn = [m.choose(LOGITS, how, seen=SEEN, u=(k + 0.5) / n) for k in range(n)]
        counts = np.bincount(drawn, minlength=len(LOGITS))
        assert (np.abs(counts - n * np.array(expected)) <= 1).all(), options
        assert not counts[np.array(expected) == 0].any(), "an id of probability zero was drawn"
        assert drawn == sorted(drawn), "the inverse of the distribution function goes up with u"


def extreme_draws_are_possible(m: ModuleType) -> None:
    """u = 0 takes the first id that has a probability, the largest u the last, whatever the total rounds to."""
    hot = m.Sampling(temperature=1.0)
    for size in (1, 2, 3, 7, 1000):
        x = np.linspace(-3, 0, size)
        assert m.choose(x, hot, u=0.0) == 0
        assert m.choose(x, hot, u=1 - 2.0**-53) == size - 1
    assert m.choose([-np.inf, 0.0, -np.inf], hot, u=0.0) == 1
    assert m.choose([-np.inf, 0.0, -np.inf], hot, u=1 - 2.0**-53) == 1
    assert m.choose([-1e308, 1e308], m.Sampling(temperature=5e-324), u=0.9) == 1


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x64-10 of Salmon et al. 2011, in Python's integers."""
    word = 2**64 - 1
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & word, (p0 >> 64) ^ c3 ^ k1, p0 & word
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
    return [c0, c1, c2, c3]


def a_draw_on_the_edge_takes_the_next(m: ModuleType) -> None:
    """Half of the probability of two equal ids is exactly the first one's, which u = ½ does not exceed."""
    for ids in (2, 4, 64):
        assert m.choose([0.1] * ids, m.Sampling(temperature=0.3), u=0.5) == ids // 2


def uniforms_are_philox(m: ModuleType) -> None:
    for seed, sequence, step in [(0, 0, 0), (7, 0, 0), (0, 7, 0), (0, 0, 7), (2**64 - 1, 3, 2**40), (1, 2**63, 5)]:
        # NumPy counts up by one before it draws.
        expected = (philox((seed, sequence), (1, step, 0, 0))[0] >> 11) * 2.0**-53
        assert m.uniform(seed, sequence, step) == expected


CHECKS: list[Callable[[ModuleType], None]] = [
    agrees_with_transformers,
    lower_index_wins,
    each_id_is_penalised_once,
    draws_have_the_exact_shares,
    extreme_draws_are_possible,
    a_draw_on_the_edge_takes_the_next,
    uniforms_are_philox,
]

BUGS: list[tuple[Callable[[ModuleType], None], str, str]] = [
    (agrees_with_transformers, "        x = _tempered(x, sampling.temperature)\n", "        x -= x.max()\n"),
    (agrees_with_transformers, "x[seen] * penalty, x[seen] / penalty", "x[seen] / penalty, x[seen] / penalty"),
    (agrees_with_transformers, "first(p, beyond=False) + 1]", "first(p, beyond=False)]"),
    (agrees_with_transformers, "Exponentials(x[order]).first(p", "Exponentials(x[order[::-1]]).first(p"),
    (agrees_with_transformers, "Exponentials(x).at_least(sampling.min_p)", "(x >= sampling.min_p)"),
    (agrees_with_transformers, "x = _top_k(x, sampling.top_k)", "x = _top_k(x, sampling.top_k - 1)"),
    (lower_index_wins, "return int(np.argmax(scores))", "return int(scores.size - 1 - np.argmax(scores[::-1]))"),
    (lower_index_wins, "[: k - int(kept.sum())]", ""),
    (lower_index_wins, "[: k - int(kept.sum())]", "[int(kept.sum()) - k :]"),
    (lower_index_wins, "order[np.argsort(-x[order], kind=\"stable\")]", "order[np.argsort(x[order], kind=\"stable\")][::-1]"),
    (each_id_is_penalised_once, "x[seen] = np.where(x[seen] < 0, x[seen] * penalty, x[seen] / penalty)", "for i in seen: x[i] = x[i] * penalty if x[i] < 0 else x[i] / penalty"),
    (each_id_is_penalised_once, "if sampling.repetition_penalty != 1:", "if sampling.repetition_penalty != 1 and sampling.temperature:"),
    (draws_have_the_exact_shares, "Exponentials(scores).first(u", "Exponentials(scores[::-1]).first(u"),
    (a_draw_on_the_edge_takes_the_next, "first(u, beyond=True)", "first(u, beyond=False)"),
    (extreme_draws_are_possible, "    x -= x.max()  # the largest is 0 before it is divided, so nothing overflows upwards\n    x /= temperature\n", "    x /= temperature\n    x -= x.max()\n"),
    (uniforms_are_philox, "[seed, sequence]", "[sequence, seed]"),
    (uniforms_are_philox, "counter=[0, step, 0, 0]", "counter=[step, 0, 0, 0]"),
]  # fmt: skip
"""(the check, a place in the source, the bug that is planted there)."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sampling_is_right(check: Callable[[ModuleType], None]) -> None:
    check(real)


@pytest.mark.parametrize(("check", "place", "bug"), BUGS)
def test_a_planted_bug_is_caught(check: Callable[[ModuleType], None], place: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)), np.errstate(all="ignore"):
        check(mutated(real, place, bug))


def options() -> st.SearchStrategy[real.Sampling]:
    return st.builds(
        real.Sampling,
        temperature=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
        top_k=st.none() | st.integers(1, 9),
        top_p=st.none() | st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
        min_p=st.none() | st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        repetition_penalty=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
    )


logits = st.lists(st.sampled_from([-math.inf, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=8).filter(
    lambda x: max(x) > -math.inf
)


@given(logits, options(), st.lists(st.integers(0, 7), max_size=4), st.integers(0, 2**20 - 1))
@example([-math.inf, 0.0], real.Sampling(temperature=1.0, top_k=2), [], 0)
def test_the_array_form_chooses_what_the_scalar_form_chooses(
    x: list[float], how: real.Sampling, seen: list[int], k: int
) -> None:
    """u is an odd multiple of 2⁻²¹: where sums of powers of e are irrational, no boundary is near enough to matter."""
    u, ids = (2 * k + 1) / 2**21, [index for index in seen if index < len(x)]
    assert real.choose(x, how, seen=ids, u=u) == real.choose_scalar(x, how, seen=ids, u=u)


@given(logits, options(), st.floats(-50, 50))
def test_probabilities_sum_to_one_and_no_shift_changes_what_is_kept(
    x: list[float], how: real.Sampling, c: float
) -> None:
    found = real.probabilities(x, how)
    assert abs(found.sum() - 1) <= 2 * len(x) * 2.0**-53  # each term is rounded, and so is each partial sum
    assert found[np.isneginf(x)].sum() == 0
    integers = [value + round(c) for value in x]  # a shift by an integer is exact here
    assert (real.probabilities(integers, how) == found).all()


def test_a_draw_depends_on_nothing_but_seed_sequence_and_step() -> None:
    first = [real.uniform(1, 2, step) for step in range(50)]
    for other in range(5):
        real.uniform(9, other, 0)
    assert [real.uniform(1, 2, step) for step in reversed(range(50))] == first[::-1]
    assert len({real.uniform(a, b, c) for a in range(6) for b in range(6) for c in range(6)}) == 216
    assert all(0 <= u < 1 for u in first)


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        (
            {"temperature": -0.1},
            ValueError,
            "temperature is -0.1, but must be at least 0 and finite; 0 takes the likeliest",
        ),
        ({"temperature": math.nan}, ValueError, "temperature is nan"),
        ({"temperature": math.inf}, ValueError, "temperature is inf"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
        ({"temperature": True}, TypeError, "temperature must be a number, got True"),
        ({"temperature": None}, TypeError, "temperature must be a number, got None"),
        ({"top_k": 0}, ValueError, "top_k is 0, but must be at least 1; leave it out to keep all"),
        ({"top_k": 2.0}, TypeError, r"top_k must be an integer, got 2\.0"),
        ({"top_k": True}, TypeError, "top_k must be an integer, got True"),
        ({"top_p": 1.01}, ValueError, r"top_p is 1\.01, but must be from 0 to 1; leave it out to keep all"),
        ({"top_p": -0.5}, ValueError, "top_p is -0.5"),
        ({"min_p": 2}, ValueError, "min_p is 2, but must be from 0 to 1"),
        ({"repetition_penalty": 0}, ValueError, "penalty is 0, but must be above 0 and finite; 1 changes nothing"),
        ({"repetition_penalty": math.inf}, ValueError, "penalty is inf, but must be above 0 and finite; 1 changes"),
        ({"repetition_penalty": -1.0}, ValueError, r"repetition_penalty is -1\.0"),
        ({"seed": -1}, ValueError, "seed is -1, but must be from 0 to 18446744073709551615"),
        ({"seed": 2**64}, ValueError, "seed is 18446744073709551616"),
        ({"seed": 0.5}, TypeError, r"seed must be an integer, got 0\.5"),
    ],
)
def test_an_option_outside_its_range_is_refused(given_: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        real.Sampling(**given_)


def test_numpys_numbers_are_numbers() -> None:
    how = real.Sampling(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.uint64(2**64 - 1))
    assert real.choose(LOGITS, how, u=0.0) == 2


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.0, math.nan, 1.0], r"logits\[1\] is nan, one of 1 .* run_with_trace"),
        ([0.0, math.nan, math.inf], r"logits\[1\] is nan, one of 2"),
        ([math.inf, 0.0], r"logits\[0\] is inf"),
        ([-math.inf, -math.inf], "all 2 logits are −inf"),
        ([], r"logits must be one row of shape \(V\), got \(0,\)"),
        ([[0.0]], r"got \(1, 1\)"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_give_no_token_are_refused(x: list[Any], message: str, temperature: float) -> None:
    with pytest.raises(ValueError, match=message):
        real.choose(x, real.Sampling(temperature=temperature))


def test_a_penalty_that_overflows_is_refused_and_one_that_underflows_is_not() -> None:
    with pytest.raises(ValueError, match="repetition_penalty 1e-300 makes the logits overflow"):
        real.choose([1e30, 0.0], real.Sampling(repetition_penalty=1e-300), seen=[0])
    assert real.choose([-1e30, 0.0], real.Sampling(repetition_penalty=1e300), seen=[0]) == 1


def test_the_logits_are_left_as_they_are() -> None:
    x = np.array(LOGITS)
    real.choose(x, real.Sampling(temperature=0.5, top_k=2, top_p=0.5, min_p=0.5, repetition_penalty=2.0), seen=SEEN)
    assert x.tolist() == LOGITS
