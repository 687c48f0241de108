r"""Affine integer codes in groups along the input axis, and how their scales are chosen.

    w ≈ s·(q − z),   q ∈ {0, …, 2^bits − 1},   one s and z for each row and group of inputs

z = 2^(bits−1) where the grid is symmetric, otherwise an integer code that holds 0 exactly. Scales are rounded to the
format in which they are stored before anything is measured by them, so that what is chosen is what is kept. A code is
the integer nearest to w/s + z in float64, half to even, cut off at the ends.

    minmax         the group's range, 0 included; symmetric: s = 2·max|w|/(2^bits − 1)
    clip           the t·range, t = j/steps down to ½ of it, of the least weighted error Σ h·(w − s(q − z))²
    least_squares  from `clip`'s, s ← Σ h·w·(q − z)/Σ h·(q − z)² and new codes, while that makes the error less

h are weights of the inputs, such as the mean of x²; 1 where there are none. `clip` includes `minmax`, and
`least_squares` starts from `clip`, and each keeps the best: their weighted errors are ordered, as a theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import round_array
from lepton_ref.plain.shown import shown

Reals = NDArray[np.float64]

SCALES = ("minmax", "clip", "least_squares")
STORED = ("fp16", "bf16", "fp32")
STEPS = 80
ROUNDS = 8


@dataclass(frozen=True)
class Grid:
    """An affine code.

    Attributes:
        bits: 2 to 8.
        group: inputs that share a scale; None for a whole row.
        symmetric: whether z is the middle code.
        stored: the format of the scales, one of `STORED`.

    Raises:
        ValueError: an attribute outside its range.
    """

    bits: int
    group: int | None = None
    symmetric: bool = False
    stored: str = "fp16"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}; an integer grid has 2 to 8")
        if self.group is not None and self.group < 1:
            raise ValueError(f"group={self.group}; give at least 1, or None for a whole row")
        if self.stored not in STORED:
            raise ValueError(f"stored={self.stored!r}; scales are stored as {', '.join(STORED)}")

    @property
    def last(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def length(self, width: int, /) -> int:
        """Inputs of a group in rows of this width.

        Raises:
            ValueError: rows that are not whole groups.
        """
        length = width if self.group is None else self.group
        if width % length:
            raise ValueError(
                f"rows of {width} are no whole groups of {length}; take a divisor, or one scale a row, such as int4"
            )
        return length

    def codes(self, w: Reals, scale: Reals, zero: Reals, /) -> Reals:
        """The codes of w, whole numbers in float64; the shapes broadcast."""
        q = w / scale
        q += zero
        np.rint(q, out=q)
        return np.clip(q, 0, self.last, out=q)


@dataclass(frozen=True, eq=False)
class Coded:
    """A matrix in codes.

    Attributes:
        grid: what the codes are of.
        codes: (O, I) uint8, columns in the matrix's own order.
        scales: (O, G) float64, numbers of the grid's stored format.
        zeros: (O, G) float64: whole numbers, but for HQQ's.
        objective: what the method made small: for GPTQ Σ D·η², otherwise None.
    """

    grid: Grid
    codes: NDArray[np.uint8]
    scales: Reals
    zeros: Reals
    objective: float | None = None

    def decode(self) -> Reals:
        """(O, I) float64: s·(q − z)."""
        groups = self.codes.reshape(*self.scales.shape, self.grid.length(self.codes.shape[1]))
        out = groups - self.zeros[:, :, None]
        out *= self.scales[:, :, None]
        return out.reshape(self.codes.shape)


def matrix(w: NDArray[np.floating], /) -> Reals:
    """A weight as float64.

    Raises:
        ValueError: not (O, I) floats, empty, or a number that is not finite.
    """
    array = np.asarray(w)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise ValueError(f"a weight of {array.dtype} {array.shape}; give floats of shape (outputs, inputs)")
    if not np.isfinite(array).all():
        o, i = map(int, np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"the weight is {array[o, i]} at ({o}, {i}); integer codes hold finite numbers alone")
    return array.astype(np.float64)


def importance_of(given: NDArray[np.floating] | None, width: int, /) -> Reals:
    """(I) weights of the inputs; ones where None.

    Raises:
        ValueError: another shape, or numbers that are negative or not finite.
    """
    if given is None:
        return np.ones(width)
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        raise ValueError(f"importance is {shown(given)}; give a NumPy array of {width} numbers, one for each input")
    array = given.astype(np.float64)
    if array.shape != (width,):
        raise ValueError(f"importance has shape {array.shape}; give one number for each of {width} inputs")
    if not np.isfinite(array).all() or array.min() < 0:
        worst = array[int(np.argmax(~np.isfinite(array) | (array < 0)))]
        raise ValueError(f"importance holds {worst:g}; give numbers that are finite and not negative")
    return array


def fit(w: Reals, grid: Grid, /, *, how: str = "minmax", importance: Reals | None = None) -> tuple[Reals, Reals]:
    """`(N, length), (length) -> (N), (N)` the scales and zeros of groups.

    Raises:
        ValueError: an unknown way, or a scale beyond its stored format.
    """
    if not isinstance(how, str) or how not in SCALES:
        raise ValueError(f"unknown way to choose scales {shown(how)}; known: {', '.join(SCALES)}")
    columns = np.ascontiguousarray(w.T)  # sums run over the first axis, one row after the other
    h = importance_of(importance, w.shape[1])[:, None]
    scale, zero = _ranged(columns, grid, 1.0)
    if how == "minmax":
        return scale, zero
    error = _error(columns, h, grid, scale, zero)
    for step in range(STEPS - 1, STEPS // 2 - 1, -1):
        tried = _ranged(columns, grid, step / STEPS)
        scale, zero, error, _ = _better(columns, h, grid, (scale, zero, error), tried)
    rounds = ROUNDS if how == "least_squares" else 0
    for _ in range(rounds):
        q = grid.codes(columns, scale, zero) - zero
        top, bottom = _sum(h * columns * q), _sum(h * q * q)
        tried_scale = stored_scales(
            np.where((bottom > 0) & (top > 0), top / np.where(bottom > 0, bottom, 1.0), scale), grid
        )
        scale, zero, error, won = _better(columns, h, grid, (scale, zero, error), (tried_scale, zero))
        if not won:
            break
    return scale, zero


def _ranged(columns: Reals, grid: Grid, share: float) -> tuple[Reals, Reals]:
    """(length, N) -> scales and zeros that cover so much of each group's range."""
    low, high = np.minimum(columns.min(axis=0), 0.0) * share, np.maximum(columns.max(axis=0), 0.0) * share
    if grid.symmetric:
        scale = stored_scales(2 * np.maximum(-low, high) / grid.last, grid)
        return scale, np.full_like(scale, 2.0 ** (grid.bits - 1))
    scale = stored_scales((high - low) / grid.last, grid)
    return scale, np.clip(np.rint(-low / scale), 0, grid.last)


def stored_scales(scale: Reals, grid: Grid, /) -> Reals:
    """`(...) -> (...)` rounded to the stored format; 1 where that is zero, since all codes are then alike.

    Raises:
        ValueError: a scale beyond the format.
    """
    rounded = round_array(scale, grid.stored)
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"a scale of {scale[~np.isfinite(rounded)][0]:g} is beyond {grid.stored}; store scales as fp32"
        )
    return np.where(rounded > 0, rounded, 1.0)


def _sum(rows: Reals) -> Reals:
    return np.asarray(np.add.reduce(rows, axis=0))


def _error(columns: Reals, h: Reals, grid: Grid, scale: Reals, zero: Reals) -> Reals:
    away = columns - scale * (grid.codes(columns, scale, zero) - zero)
    return _sum(h * away * away)


def _better(
    columns: Reals, h: Reals, grid: Grid, best: tuple[Reals, Reals, Reals], tried: tuple[Reals, Reals]
) -> tuple[Reals, Reals, Reals, bool]:
    """For each group, what has the lower error; the first where they are equal; and whether any was changed."""
    error = _error(columns, h, grid, *tried)
    won = error < best[2]
    scale, zero, error = (np.where(won, new, old) for new, old in zip((*tried, error), best, strict=True))
    return scale, zero, error, bool(won.any())


def round_to_nearest(
    w: NDArray[np.floating], grid: Grid, /, *, how: str = "minmax", importance: NDArray[np.floating] | None = None
) -> Coded:
    """`(O, I) -> codes`, each number on its own.

    Raises:
        ValueError: a weight that is no matrix of finite floats, rows that are not whole groups, an unknown way.
    """
    w64 = matrix(w)
    length = grid.length(w64.shape[1])
    h = importance_of(importance, w64.shape[1])
    parts = [
        fit(w64[:, at : at + length], grid, how=how, importance=h[at : at + length])
        for at in range(0, w64.shape[1], length)
    ]
    scales, zeros = (np.stack(each, axis=1) for each in zip(*parts, strict=True))
    codes = grid.codes(w64.reshape(*scales.shape, length), scales[:, :, None], zeros[:, :, None])
    return Coded(grid, codes.astype(np.uint8).reshape(w64.shape), scales, zeros)
