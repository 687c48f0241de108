"""Logits side by side: by hand, against sums in plain Python, in any pieces, and with planted mistakes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.audit import logits as page
from lepton_ref.audit.logits import Estimate, compare_logits

LOG = [math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]
HALF, QUARTER = np.array([LOG]), np.array([[LOG[1], LOG[0], *LOG[2:]]])  # the first two exchanged


def check_literals(page: Any = page) -> None:
    a = [np.concatenate([HALF, HALF, QUARTER]).astype(np.float64), HALF]
    b = [np.concatenate([HALF, QUARTER, QUARTER]) + 7.0, HALF]  # a constant is no difference of predictions
    found = page.compare_logits(a, b, [[3, 0, 1], [2]])
    assert (found.positions, found.windows, found.seed) == (4, 2, 0)
    assert found.agreement == 0.75
    # one position of four differs, by 0.5·log 2 − 0.25·log 2
    assert math.isclose(found.kl.value, 0.25 * math.log(2) / 4, rel_tol=1e-12)
    assert math.isclose(found.kl_largest, 0.25 * math.log(2), rel_tol=1e-12)
    # a gives token 0 a half, token 1 a quarter; b gives both a half
    assert math.isclose(found.perplexity_a.value, math.sqrt(2 * 4), rel_tol=1e-12)
    assert math.isclose(found.perplexity_b.value, math.sqrt(2 * 2), rel_tol=1e-12)
    assert math.isclose(found.ratio.value, 1 / math.sqrt(2), rel_tol=1e-12)
    assert math.isclose(found.largest, 7 + math.log(2), rel_tol=1e-12)
    squares = 8 * 49.0 + 2 * 49 + (7 + math.log(2)) ** 2 + (7 - math.log(2)) ** 2
    assert math.isclose(found.rms, math.sqrt(squares / 16), rel_tol=1e-12)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    check_literals()
    monkeypatch.setattr(page, "AT_ONCE", 1)
    check_literals()
    monkeypatch.setattr(page, "AT_ONCE", 9)
    check_literals()


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("window[at + 1 : at + 1 + step]", "window[at : at + step]"),  # each token scored by its own logits
        ("kl_divergence(left, right)", "kl_divergence(right, right)"),
        ("surprises[1] - surprises[0]", "surprises[0] - surprises[1]"),
        ("for at in range(0, len(window), step)", "for at in range(0, 1, step)"),
        ("kl_largest=float(every.max())", "kl_largest=float(every.min())"),
        ("zip(scores, (left, right), strict=True)", "zip(scores, (left, left), strict=True)"),
    ],
)
def test_a_mistake_is_found(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug)
    wrong.AT_ONCE = 4
    with pytest.raises((AssertionError, ValueError, AttributeError)):
        check_literals(wrong)


logit = st.floats(-30, 30)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 5), st.data())
def test_perplexities_against_the_definition(count: int, width: int, data: st.DataObject) -> None:
    rows = st.lists(st.lists(logit, min_size=width, max_size=width), min_size=count, max_size=count)
    a, b = data.draw(rows), data.draw(rows)
    ids = data.draw(st.lists(st.integers(0, width - 1), min_size=count, max_size=count))
    found = compare_logits([np.array(a)], [np.array(b)], [ids])
    assert found.kl.low <= found.kl.value <= found.kl.high
    assert found.largest == max(
        abs(y - x) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )
    if count == 1:
        assert found.perplexity_a is found.perplexity_b is found.ratio is None
        return
    for rows_, estimate in ((a, found.perplexity_a), (b, found.perplexity_b)):
        losses = [
            math.log(math.fsum(math.exp(x - row[token]) for x in row))
            for row, token in zip(rows_, ids[1:], strict=False)
        ]
        mean = math.fsum(losses) / len(losses)
        assert estimate is not None
        # Differences are at most 60: each of the two roundings there moves exp by 60 units, and so do exp, log, the
        # sum of `width` terms by 2 and `width`; both sides do it; e to the mean and its logarithm add 3·62.
        assert abs(math.log(estimate.value) - mean) <= (500 + 2 * width) * 2.0**-53


def most_held(page: Any) -> int:
    """How many windows of a are alive when the next is asked for, at most."""
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def windows() -> Iterator[Any]:
        for shift in range(4):
            alive.append(sum(each() is not None for each in made))
            x = np.full((2, 3), float(shift))
            made.append(weakref.ref(x))
            yield x
            del x

    found = page.compare_logits(windows(), (np.ones((2, 3)) for _ in range(4)), ([0, 1] for _ in range(4)))
    listed = page.compare_logits([np.full((2, 3), float(n)) for n in range(4)], [np.ones((2, 3))] * 4, [[0, 1]] * 4)
    assert found == listed
    return max(alive)


def test_windows_are_held_one_by_one() -> None:
    assert most_held(page) == 0
    assert most_held(mutated(page, "iter(a), iter(b)", "iter(list(a)), iter(b)")) > 0


def test_nothing_between_logits_and_themselves() -> None:
    x = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)
    x[3, 4] = -np.inf
    found = compare_logits([x], [x.copy()], [[1] * 50])
    assert found.kl == Estimate(0.0, 0.0, 0.0)
    assert (found.largest, found.rms, found.agreement, found.kl_largest) == (0, 0, 1, 0)
    assert found.ratio == Estimate(1.0, 1.0, 1.0)


def test_the_ratio_s_interval_is_of_pairs() -> None:
    rng = np.random.default_rng(1)
    x = 4 * rng.standard_normal((200, 20))
    ids = rng.integers(0, 20, 200).tolist()
    found = compare_logits([x], [x + 0.01 * rng.standard_normal(x.shape)], [ids])
    assert found.perplexity_a is not None
    assert found.ratio is not None
    assert found.ratio.high / found.ratio.low < 1 + 0.01 * math.log(found.perplexity_a.high / found.perplexity_a.low)
    assert str(Estimate(1.0, 0.5, 2.0)) == "1 (0.5 – 2)"


X = np.zeros((2, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("a", "b", "ids", "message"),
    [
        ([], [], [], "got 0, 0 and 0 windows"),
        ([X], [X], [[0, 1], [1]], "got 1, 1 and 2 windows"),
        (iter([X, X]), iter([X]), iter([[0, 1]] * 5), "got 2, 1 and 2 windows of a, b and ids, up to the first that"),
        (iter([]), [X], [[0, 1]], "got 0, 1 and 1 windows"),
        ([X], [X[:, :2]], [[0, 1]], r"\(2, 3\) and \(2, 2\)"),
        ([X], [X], [[0]], "for 1 tokens"),
        ([X[0]], [X[0]], [[0, 1, 2]], r"shapes \(3,\)"),
        ([X], [X], [[0, 3]], "id 3 is outside the vocabulary of 3"),
        ([X], [X], [[-1, 0]], "id -1 is outside"),
        ([X], [X * np.nan], [[0, 1]], "6 logits of b are NaN or infinite"),
        ([X + np.inf], [X], [[0, 1]], "6 logits of a are NaN or infinite"),
    ],
)
def test_bad_input(a: Any, b: Any, ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_logits(a, b, ids)
