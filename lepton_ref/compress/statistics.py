"""What is kept of activations: per channel Σx², the largest and smallest number; and a histogram of all of them.

Sums are float64 over tokens in the order in which they are seen, one addition a token: the squares of float32 are exact
in float64, so a sum depends on the order of the sequences and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray

Reals = NDArray[np.float64]

BINS = 2048


@dataclass(frozen=True, eq=False)
class Channels:
    """What was seen of each channel.

    Attributes:
        tokens: how many.
        squares: (I) Σx².
        lows: (I) the smallest x.
        highs: (I) the largest x.
        magnitudes: (I) Σ|x|, what AWQ goes by.
    """

    tokens: int
    squares: Reals
    lows: Reals
    highs: Reals
    magnitudes: Reals

    @property
    def importance(self) -> Reals:
        """(I) the mean of x²."""
        return np.asarray(self.squares / self.tokens)

    @property
    def absmax(self) -> Reals:
        """(I) the largest |x|."""
        return np.maximum(np.abs(self.lows), np.abs(self.highs))


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many numbers fall into equal bins of [low, high]; a number on an edge belongs to the bin above it.

    Attributes:
        low: the left edge of the first bin.
        high: the right edge of the last bin, which belongs to it.
        counts: (bins) int64.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def edges(self) -> Reals:
        """(bins + 1)."""
        return np.asarray(self.low + (self.high - self.low) * (np.arange(len(self.counts) + 1) / len(self.counts)))


def checked(x: HostArray, /, *, width: int | None = None) -> Reals:
    """(T, I) as float64.

    Raises:
        ValueError: another number of axes or channels, no token, or a number that is not finite.
    """
    array = np.asarray(x)
    if array.ndim != 2 or array.shape[0] == 0 or (width is not None and array.shape[1] != width):
        raise ValueError(f"activations have shape {array.shape}; give (tokens, {width or 'channels'}), at least one")
    if array.dtype.kind != "f":
        raise ValueError(f"activations are {array.dtype}; give floats")
    if not np.isfinite(array).all():
        t, i = map(int, np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"activations hold {array[t, i]} at token {t}, channel {i}; leave that sequence out")
    return array.astype(np.float64)


def channels(sequences: Iterable[HostArray], /) -> Channels:
    """Sequences of (T, I) -> what was seen of the channels.

    Raises:
        ValueError: no sequences, or what `checked` refuses.
    """
    found: Channels | None = None
    for sequence in sequences:
        x = checked(sequence, width=None if found is None else len(found.squares))
        if found is None:
            zeros = np.zeros(x.shape[1])
            found = Channels(0, zeros, np.full_like(zeros, np.inf), np.full_like(zeros, -np.inf), zeros)
        found = Channels(
            found.tokens + len(x),
            _added(found.squares, x * x),
            np.minimum(found.lows, x.min(axis=0)),
            np.maximum(found.highs, x.max(axis=0)),
            _added(found.magnitudes, np.abs(x)),
        )
    if found is None:
        raise ValueError("no activations were seen; the calibration set is empty")
    return found


def _added(total: Reals, rows: Reals) -> Reals:
    """The rows added to the total one after the other: `add.accumulate` has no freedom to pair them."""
    return np.asarray(np.add.accumulate(np.concatenate([total[None], rows]), axis=0)[-1].copy())


def histogram(sequences: Iterable[HostArray], seen: Channels, /, *, bins: int = BINS) -> Histogram:
    """The second pass: counts between the smallest and the largest number that the first pass has seen.

    Raises:
        ValueError: fewer than one bin, or a number outside what was seen.
    """
    if bins < 1:
        raise ValueError(f"a histogram of {bins} bins; give at least 1")
    low, high = float(seen.lows.min()), float(seen.highs.max())
    if low == high:  # one value alone: from it to zero, so that there is a width
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (-0.5, 0.5)
    counts = np.zeros(bins, dtype=np.int64)
    edges = Histogram(low, high, counts).edges
    for sequence in sequences:
        x = checked(sequence).reshape(-1)
        if x.min() < low or x.max() > high:
            raise ValueError(f"a number in {x.min():g} … {x.max():g} is outside the {low:g} … {high:g} that was seen")
        place = np.searchsorted(edges[1:-1], x, side="right")
        counts += np.bincount(place, minlength=bins)
    return Histogram(low, high, counts)
