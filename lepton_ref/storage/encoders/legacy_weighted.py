"""Q4_0, Q5_0, Q4_1 and Q5_1 where numbers have weights: the search for the scale and minimum with the least Σw(v − x)².

A row of scales is tried, each with the codes nearest to x and the least squares for these, d and m rounded to fp16 and
the codes taken anew; the best of them and of the reference encoders' scales is fitted again. Without weights the
formats are those of `legacy`, whose bytes everybody's files have; equal weights are searched all the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders.search import (
    LARGEST_HALF,
    Floats,
    codes,
    fp16,
    groups,
    moments,
    ratio,
    relative,
    squares,
    total,
    weighed,
    weight_sum,
)

Bytes = NDArray[np.uint8]

TRIED = 12
"""How many scales, of each sign where both are different."""
FITS = 3
"""How often the best is fitted again."""


def symmetric(x: Floats, weights: Floats, half: int) -> tuple[Floats, Floats]:
    """`(N, 32), (N, 32) -> (N, 1), (N, 32)` the scale, an fp16 number, and the codes from 0 to 2·half − 1."""
    y, w = groups(x, 32), relative(weights, 32)
    amax = np.abs(y).max(axis=0)
    peak = np.take_along_axis(y, np.argmax(np.abs(y), axis=0)[np.newaxis], axis=0)[0]
    d = fp16(peak / np.float32(-half))
    q, error = _symmetric_codes(y, w, d, half)
    offsets = np.linspace(-half / 4, 0.8, TRIED).astype(np.float32)
    starts = [amax / (sign * (half + offset)) for sign in (-1, 1) for offset in offsets]
    for start in [*starts, *[None] * FITS]:
        of = moments(q if start is None else codes(y, start, -half, half - 1), y, w)
        d_new = fp16(ratio(of.qx, of.qq))
        q_new, other = _symmetric_codes(y, w, d_new, half)
        better = other < error
        d, q, error = np.where(better, d_new, d), np.where(better, q_new, q), np.where(better, other, error)
    return d.T, _flat(q) + np.float32(half)


def _symmetric_codes(y: Floats, w: Floats | None, d: Floats, half: int) -> tuple[Floats, Floats]:
    """The codes for this scale, and their error."""
    q = codes(y, d, -half, half - 1)
    return q, squares(d * q - y, w)


def affine(x: Floats, weights: Floats, most: int) -> tuple[Floats, Floats, Floats]:
    """`(N, 32), (N, 32) -> (N, 1), (N, 1), (N, 32)` scale and minimum, fp16 numbers, and the codes from 0 to `most`."""
    y, w = groups(x, 32), relative(weights, 32)
    low = y.min(axis=0)
    width = y.max(axis=0) - low
    sw, sy = weight_sum(y, w), total(weighed(y - low, w))
    d, m = fp16(width / np.float32(most)), _minimum(low)
    q, error = _affine_codes(y, w, d, m, most)
    offsets = np.linspace(-most / 8, 0.8, TRIED).astype(np.float32)
    for offset in [*offsets, *[None] * FITS]:
        tried = q if offset is None else codes(y - low, ratio(width, np.full_like(width, most + offset)), 0, most)
        of = moments(tried, y - low, w)
        determinant = sw * of.qq - of.q * of.q
        d_new = fp16(ratio(sw * of.qx - sy * of.q, determinant))
        m_new = _minimum(low + ratio(sy - d_new * of.q, sw))
        q_new, other = _affine_codes(y, w, d_new, m_new, most)
        better = other < error
        d, m, q = np.where(better, d_new, d), np.where(better, m_new, m), np.where(better, q_new, q)
        error = np.where(better, other, error)
    return d.T, m.T, _flat(q)


def _affine_codes(y: Floats, w: Floats | None, d: Floats, m: Floats, most: int) -> tuple[Floats, Floats]:
    """The codes for this scale and minimum, and the error of what they decode to."""
    q = codes(y - m, d, 0, most)
    return q, squares((d * q + m) - y, w)


def _minimum(m: Floats) -> Floats:
    """The fp16 number nearest to m, which may be 0."""
    return np.clip(m, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)


def _flat(q: Floats) -> Floats:
    """`(32, 1, N) -> (N, 32)`."""
    return np.ascontiguousarray(q[:, 0].T)
