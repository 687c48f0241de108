"""Comparisons of sums of exponentials: against 500 digits, on ties, and with bugs planted."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.runtime import exponentials as real
from lepton_ref.runtime.exponentials import Exponentials


def sums(z: list[float]) -> list[Decimal]:
    with localcontext(prec=500):
        running, found = Decimal(0), []
        for each in z:
            running += Decimal(each).exp() if each > -np.inf else 0
            found.append(running)
        return found


def first(z: list[float], share: float) -> int:
    with localcontext(prec=500):
        found = sums(z)
        return next(at for at, running in enumerate(found) if running > Decimal(share) * found[-1])


FINE = st.integers(-(2**26), 0).map(lambda k: k / 2**20) | st.integers(-(2**9), 0).map(float)
"""Numbers of which 500 digits tell exponentials and their sums apart."""

scores = st.lists(FINE | st.sampled_from([0.0, -np.inf, -1.0, -800.0]), min_size=0, max_size=12).map(
    lambda z: [*z, 0.0]
)


@given(scores, st.integers(0, 2**53 - 1))
def test_a_random_share(z: list[float], k: int) -> None:
    share = k / 2**53
    assert Exponentials(np.array(z)).first(share, beyond=True) == first(z, share)


@given(scores, st.integers(0, 12))
def test_a_share_next_to_a_running_sum(z: list[float], at: int) -> None:
    """The float64 neighbours of Σ_{j≤at}/Σ: the comparison is near the edge, and its answer is the decimals'."""
    found = sums(z)
    nearest = float(found[at % len(z)] / found[-1])
    for share in (np.nextafter(nearest, 0), nearest, np.nextafter(nearest, 1)):
        if share < 1:
            assert Exponentials(np.array(z)).first(float(share), beyond=True) == first(z, float(share))


def ties_are_seen(module: object) -> None:
    for n in (2, 4, 64, 1024):
        z = np.full(n, 0.0)
        exponentials = module.Exponentials(z)  # type: ignore[attr-defined]
        for k in (1, n // 2, n - 1):
            assert exponentials.first(k / n, beyond=True) == k
            assert exponentials.first(k / n, beyond=False) == k - 1


def test_ties_are_seen() -> None:
    ties_are_seen(real)


def test_what_is_no_term_is_never_chosen() -> None:
    z = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    assert [Exponentials(z).first(share, beyond=True) for share in (0.0, 0.25, 0.5, 1 - 2.0**-53)] == [1, 1, 3, 3]


@given(st.lists(FINE, max_size=9).map(lambda z: [*z, 0.0]))
def test_each_is_compared_with_a_share_next_to_it(z: list[float]) -> None:
    exponentials = Exponentials(np.array(z))
    for each in z:
        with localcontext(prec=500):
            exact = [Decimal(other).exp() for other in z]
            for share in (float(Decimal(each).exp()), float(np.nextafter(float(Decimal(each).exp()), 0))):
                assert exponentials.at_least(share).tolist() == [value >= Decimal(share) for value in exact]


@given(scores)
def test_shares_are_rounded_once(z: list[float]) -> None:
    with localcontext(prec=500):
        total = sums(z)[-1]
        want = [float(Decimal(each).exp() / total) if each > -np.inf else 0.0 for each in z]
    assert Exponentials(np.array(z)).shares().tolist() == want


@pytest.mark.parametrize(
    ("place", "bug"),
    [
        (">= int(beyond)", "> 0"),
        (">= int(beyond)", ">= 0"),
        ("for at in range(possible, min(certain, last)):", "for at in range(0):"),
        ("(j <= at) - Fraction(share)", "(j < at) - Fraction(share)"),
    ],
)
def test_a_planted_bug_is_seen(place: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        ties_are_seen(mutated(real, place, bug))
