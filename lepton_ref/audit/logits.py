r"""Logits of any two programs over the same tokens: how far their predictions are from one another, and from the text.

    KL(a‖b)      at each position, Σᵥ p_a(v)·(log p_a(v) − log p_b(v)), in nats: `lepton_ref.audit.compare`
    perplexity   e to the mean of −log p(xₜ₊₁ | x₁ … xₜ) over all positions of a window but its last
    ratio        e to the mean of the difference of both, token by token: perplexity of b over that of a
    top-1        how often both put the same token first

A window is run on its own, from position 0. Every estimate has the interval between the 2.5 % and 97.5 % quantiles of
the same statistic of resampled positions (`lepton_ref.audit.compare.bootstrap_interval`); the ratio's is of pairs, so
it is narrow where the two err together. Everything is computed in float64, some positions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def compare_logits(
    a: Sequence[HostArray], b: Sequence[HostArray], ids: Sequence[Sequence[int]], /, *, seed: int = 0
) -> LogitsDifference:
    """Compare what two programs give at the same tokens.

    Args:
        a: what is measured against: for each window (T, V) logits, row t those of the token after token t.
        b: the other's, of the same shapes.
        ids: for each window its T tokens.
        seed: of the bootstrap.

    Raises:
        ValueError: no windows, shapes that do not fit together, an id outside the vocabulary, or logits that are NaN.
    """
    if not len(a) == len(b) == len(ids) > 0:
        raise ValueError(
            f"got {len(a)}, {len(b)} and {len(ids)} windows of a, b and ids; give as many of each, 1 or more"
        )
    kl, same, squares, largest = [], [], [], 0.0
    scores: tuple[list[Reals], list[Reals]] = ([], [])
    for x, y, window in zip(a, b, ids, strict=True):
        _check(x, y, window)
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
    every = np.concatenate(kl)
    surprises = [np.concatenate(one) for one in scores]
    counted = surprises[0].size > 0
    return LogitsDifference(
        kl=_mean(every, seed),
        kl_largest=float(every.max()),
        agreement=float(np.concatenate(same).mean()),
        rms=math.sqrt(math.fsum(squares) / sum(x.size for x in a)),
        largest=largest,
        perplexity_a=_power(_mean(surprises[0], seed)) if counted else None,
        perplexity_b=_power(_mean(surprises[1], seed)) if counted else None,
        ratio=_power(_mean(surprises[1] - surprises[0], seed)) if counted else None,
        positions=len(every),
        windows=len(ids),
        seed=seed,
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
