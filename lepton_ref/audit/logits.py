r"""Logits of any two programs over the same tokens: how far their predictions are from one another, and from the text.

    KL(a‖b)      at each position, Σᵥ p_a(v)·(log p_a(v) − log p_b(v)), in nats: `lepton_ref.audit.compare`
    perplexity   e to the mean of −log p(xₜ₊₁ | x₁ … xₜ) over all positions of a window but its last
    ratio        e to the mean of the difference of both, token by token: perplexity of b over that of a
    top-1        how often both put the same token first

A window is run on its own, from position 0. KL, the perplexities and their ratio have the interval between the 2.5 %
and 97.5 % quantiles of the same statistic of resampled positions (`lepton_ref.audit.compare.bootstrap_interval`), drawn
as if positions were independent; the ratio's is of pairs, so it is narrow where the two err together. Everything is
computed in float64, some positions at a time, and windows that are made one by one are held one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lepton_ref.audit.compare import bootstrap_interval, kl_divergence
from lepton_ref.interface import HostArray

Reals = NDArray[np.float64]

AT_ONCE = 1 << 22
"""Logits of each that are held in float64 at a time."""


@dataclass(frozen=True)
class Estimate:
    """A mean over positions, and the interval of the bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} – {self.high:.4g})"


@dataclass(frozen=True)
class LogitsDifference:
    """Two programs' logits side by side.

    Attributes:
        kl: KL(a‖b), in nats.
        kl_largest: of one position.
        agreement: the share of positions where both put the same token first.
        rms: √ of the mean of (b − a)² over all logits.
        largest: the largest |b − a|.
        perplexity_a: of the tokens, by a; None of windows of one token.
        perplexity_b: by b.
        ratio: perplexity of b over that of a.
        positions: how many were compared.
        windows: in how many windows.
        seed: of the bootstrap.
    """

    kl: Estimate
    kl_largest: float
    agreement: float
    rms: float
    largest: float
    perplexity_a: Estimate | None
    perplexity_b: Estimate | None
    ratio: Estimate | None
    positions: int
    windows: int
    seed: int


@dataclass(frozen=True)
class _Window:
    """What is kept of one window: of each position its KL and agreement, of each token that follows its surprises."""

    kl: Reals
    same: NDArray[np.bool_]
    squares: list[float]
    largest: float
    size: int
    surprises: tuple[Reals, Reals]


def compare_logits(
    a: Iterable[HostArray], b: Iterable[HostArray], ids: Iterable[Sequence[int]], /, *, seed: int = 0
) -> LogitsDifference:
    """Compare what two programs give at the same tokens.

    Args:
        a: what is measured against: for each window (T, V) logits, row t those of the token after token t.
        b: the other's, of the same shapes.
        ids: for each window its T tokens. All three may be generators: no window is held when the next is asked for.
        seed: of the bootstrap.

    Raises:
        ValueError: no windows, not as many of each, shapes that do not fit together, an id outside the vocabulary, or
            logits that are NaN.
    """
    done: list[_Window] = []
    left, right, tokens = iter(a), iter(b), iter(ids)
    while (one := _compared(len(done), next(left, None), next(right, None), next(tokens, None))) is not None:
        done.append(one)
    every = np.concatenate([one.kl for one in done])
    surprises = [np.concatenate([one.surprises[which] for one in done]) for which in (0, 1)]
    counted = surprises[0].size > 0
    return LogitsDifference(
        kl=_mean(every, seed),
        kl_largest=float(every.max()),
        agreement=float(np.concatenate([one.same for one in done]).mean()),
        rms=math.sqrt(math.fsum(chain.from_iterable(one.squares for one in done)) / sum(one.size for one in done)),
        largest=max(one.largest for one in done),
        perplexity_a=_power(_mean(surprises[0], seed)) if counted else None,
        perplexity_b=_power(_mean(surprises[1], seed)) if counted else None,
        ratio=_power(_mean(surprises[1] - surprises[0], seed)) if counted else None,
        positions=len(every),
        windows=len(done),
        seed=seed,
    )


def _compared(before: int, x: HostArray | None, y: HostArray | None, window: Sequence[int] | None) -> _Window | None:
    """One window of each; None where all have ended, with some windows before."""
    if x is None or y is None or window is None:
        counts = [before + (one is not None) for one in (x, y, window)]
        if counts == [before] * 3 and before > 0:
            return None
        raise ValueError(
            f"got {counts[0]}, {counts[1]} and {counts[2]} windows of a, b and ids, "
            "up to the first that is missing; give as many of each, 1 or more"
        )
    _check(x, y, window)
    kl, same, squares, largest = [], [], [], 0.0
    scores: tuple[list[Reals], list[Reals]] = ([], [])
    step = max(1, AT_ONCE // x.shape[1])
    for at in range(0, len(window), step):
        left, right = x[at : at + step], y[at : at + step]
        kl.append(kl_divergence(left, right))
        same.append(left.argmax(axis=-1) == right.argmax(axis=-1))
        with np.errstate(invalid="ignore"):  # −∞ − −∞: a token without a chance in both
            apart = np.where(left == right, 0.0, right.astype(np.float64) - left)
        squares.append(float(np.sum(apart * apart)))
        largest = max(largest, float(np.max(np.abs(apart))))
        following = np.asarray(window[at + 1 : at + 1 + step], dtype=np.int64)
        for into, logits in zip(scores, (left, right), strict=True):
            into.append(_surprise(logits[: len(following)], following))
    return _Window(
        np.concatenate(kl),
        np.concatenate(same),
        squares,
        largest,
        x.size,
        (np.concatenate(scores[0]), np.concatenate(scores[1])),
    )


def _check(x: HostArray, y: HostArray, window: Sequence[int]) -> None:
    if x.ndim != 2 or x.shape != y.shape or len(x) != len(window) or x.size == 0:
        raise ValueError(
            f"logits of shapes {x.shape} and {y.shape} for {len(window)} tokens; "
            "give (tokens, vocabulary) of both, of the same text and the same vocabulary"
        )
    outside = [token for token in window if not 0 <= token < x.shape[1]]
    if outside:
        raise ValueError(f"id {outside[0]} is outside the vocabulary of {x.shape[1]}; are these the model's tokens?")


def _surprise(logits: HostArray, following: NDArray[np.int64]) -> Reals:
    """`(N, V), (N) -> (N)` −log p of each following token."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(x).sum(axis=-1)) - x[np.arange(len(x)), following])


def _mean(values: Reals, seed: int) -> Estimate:
    return Estimate(math.fsum(values) / len(values), *bootstrap_interval(values, seed=seed))


def _power(one: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        return Estimate(*(float(np.exp(value)) for value in (one.value, one.low, one.high)))
