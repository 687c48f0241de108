"""What the tests of FP8, MX, NVFP4 and small integers share: matrices that reach every edge, and scalar scales."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from golden_cases import GOLDEN
from numpy.typing import NDArray

from lepton_ref.audit.explain import explain
from lepton_ref.plain.formats import FloatFormat, get_format, round_to
from lepton_ref.storage.scales import FORMATS
from lepton_ref.storage.tiled import Tiled

Matrix = NDArray[np.float32]
Tile = tuple[int, int]


def golden() -> dict[str, NDArray[np.generic]]:
    """The arrays of the golden group."""
    with np.load(GOLDEN / "storage_scaled" / "scaled.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def numbers(seed: int, columns: int = 64, *, grid: float = 0.25, top: float = 6.0) -> Matrix:
    """(9, columns): ordinary rows, ±0, ties where the scale is a power of two, subnormal, the largest, and steps."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, columns)) * np.exp2(rng.integers(-12, 12, (9, 1)).astype(float))
    x[1] = 0.0 * rng.choice([-1, 1], columns)
    x[2] = rng.integers(-int(top / grid), int(top / grid) + 1, columns) * grid
    x[2, ::16] = top  # the scale of every group is a power of two, or 1
    x[3] = rng.integers(-200, 201, columns) * 2.0**-149
    x[4] = rng.choice([-1, 1], columns) * rng.uniform(0.3, 1.0, columns) * 3.4e38
    x[4, 0] = -3.4028234663852886e38
    x[5] = np.abs(x[5]) + 1.0
    x[6] = -np.abs(x[6]) - 1.0
    edge = rng.choice([1.0, 1.25, 1.5, 1.75, 1.875, 1.9375])
    x[7] = rng.uniform(-1, 1, columns)
    x[7, ::16] = np.nextafter(np.float32(edge), np.float32(rng.choice([0.0, 9.0])))
    x[8, : columns // 2] = 0.0
    return x.astype(np.float32)


def each_tile(x: Matrix, tile: Tile) -> Iterator[tuple[int, int, Matrix]]:
    """The tiles of a matrix with their places, one after the other."""
    for r, row in enumerate(range(0, x.shape[0], tile[0])):
        for c, column in enumerate(range(0, x.shape[1], tile[1])):
            yield r, c, x[row : row + tile[0], column : column + tile[1]]


def scale_twin(exact: Fraction, format: str) -> float:
    """A scale from the exact quotient: rounded once, at least the least number; 1 for 0."""
    f = get_format(FORMATS[format][1])
    assert isinstance(f, FloatFormat)
    if exact == 0:
        return 1.0
    return max(round_to(exact, f, mode="even" if f.signed else "up", saturate=True), f.least)


def single(exact: Fraction) -> float:
    """A float32 number, the nearest to a fraction."""
    return round_to(exact, "fp32")


def same(got: NDArray[np.generic], want: object) -> bool:
    """Equal bits, every NaN being one."""
    other = np.asarray(want, dtype=got.dtype)
    nan = np.isnan(got)
    if got.shape != other.shape or not np.array_equal(nan, np.isnan(other)):
        return False
    unsigned = np.dtype(f"u{got.dtype.itemsize}")
    return np.array_equal(got[~nan].view(unsigned), other[~nan].view(unsigned))


def check_weight(weight: Tiled) -> None:
    """rows, take, unrounded, operand and decode tell one story, and what `read` gives makes its value."""
    whole = weight.decode()
    assert whole.dtype == np.float32
    assert whole.shape == weight.shape
    index = np.array([weight.shape[0] - 1, 0, 0])
    assert same(weight.take(index), whole[index])
    assert same(weight.rows(1, 3), whole[1:3])
    assert same(weight.operand(index), whole[index].astype(np.float64))
    with np.errstate(over="ignore"):
        assert same(weight.unrounded(index).astype(np.float32), whole[index])
    for row, column in ((0, 0), (weight.shape[0] - 1, weight.shape[1] - 1), (weight.shape[0] // 2, 5)):
        parts = weight.read(row, column)
        assert set(weight.tensors) >= {part.name for part in parts}
        explanation = explain(weight, "w", row, column)
        assert explanation.agrees, str(explanation)
        assert same(np.float32(explanation.value)[None], whole[row, column : column + 1])
    for element in ((weight.shape[0], 0), (0, weight.shape[1]), (-1, 0)):
        with pytest.raises(ValueError, match=r"element \(-?\d+, \d+\) of a matrix"):
            weight.read(*element)
