"""IQ4_NL and IQ4_XS: codes and scales of least weighted error Σw(x − v)². The bytes are not ggml's: see below.

IQ4_NL: no scale and no codes have a smaller error. For one scale d an element's best code is its nearest level; as 1/d
grows from 0 an element passes, one by one, the middles between levels, so that a block has at most 2·(32·8 + 1) best
lists of codes, half of them for d < 0. They are visited in the order of 1/d, Σwxk and Σwk² carried along. For a fixed
list the error is a parabola in d with its least value at Σwxk/Σwk²; the best stored d is the fp16 number nearest to
that (of two, the even one). The best of all lists is found so, in float64; then every element takes its nearest level.

IQ4_XS: each group of 32 wants such a scale c, unrounded. A block stores c ≈ d·k, k from −32 to 31. Candidates for d
are c/k for the group whose |c| is largest, and for k from −32 to −29 and 29 to 31; also what rounding each group's
largest number to −127 gives, and 0. For each candidate every group takes the k next to c/d, above or below, that makes
its error least. Then d is refitted to the codes and the codes to d while the error falls, a few times.

ggml's own encoder tries 16 scales for each 32, weighs errors by w·√(mean of 2x² + x²), or by x² without weights, and
takes the nearest k alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.iq4_nl import LEVELS

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

GROUP = 32
LARGEST_HALF = 65504.0
ZERO = 8
"""The code of the level that is nearest to zero."""
REFITS = 3
AT_ONCE = 256
"""Groups whose lists of codes are visited together: their arrays stay in the cache."""

_LEVELS = np.array(LEVELS, dtype=np.float64)
_MIDDLES = (_LEVELS[1:] + _LEVELS[:-1]) / 2
_FIRST, _LAST = 2 * _LEVELS[0], 2 * _LEVELS[-1]
_NEAREST = np.searchsorted(2 * _MIDDLES, np.arange(_FIRST, _LAST + 1), side="right").astype(np.uint8)
"""Code by ⌊2x/d⌋: twice a middle is an integer."""
_UP, _DOWN = np.append(_LEVELS[ZERO:], _LEVELS[-1]), _LEVELS[ZERO::-1]
_OUTWARD = np.stack([np.append(_MIDDLES[ZERO:], np.inf), -_MIDDLES[ZERO - 1 :: -1]])
"""The middles that a positive (seven of them) and a negative element pass on the way out from zero."""
_GROWTH = np.stack([np.diff(_UP), np.diff(_DOWN)])
_GROWTH_OF_SQUARES = np.stack([np.diff(_UP**2), np.diff(_DOWN**2)])
"""By how much k and k² grow with each."""
_PASSAGE = np.uint64(255)


def encode_iq4_nl(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 32) -> (N, 18)`: d, qs[16]."""
    out = np.empty((len(x), 18), dtype=np.uint8)
    for at in range(0, len(x), AT_ONCE):
        here = slice(at, at + AT_ONCE)
        wide, w = x[here].astype(np.float64), _weights(x[here], weights, here)
        d = best_scales(wide, w, stored=True)[:, np.newaxis]
        out[here, :2] = d.astype("<f2").view(np.uint8)
        out[here, 2:] = _packed(nearest(wide, d))
    return out


def encode_iq4_xs(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 136)`: d, sh, sl[4], qs[128]."""
    out = np.empty((len(x), 136), dtype=np.uint8)
    step = AT_ONCE // 8
    for at in range(0, len(x), step):
        here = slice(at, at + step)
        groups = x[here].astype(np.float64).reshape(-1, 8, GROUP)
        w = _weights(x[here], weights, here).reshape(groups.shape)
        d, k = _scales_of_blocks(groups, w)
        s = (k + 32).astype(np.uint16)
        out[here, :2] = d.astype("<f2")[:, np.newaxis].view(np.uint8)
        high = (s >> 4) << np.arange(0, 16, 2, dtype=np.uint16)
        out[here, 2:4] = np.bitwise_or.reduce(high, axis=1).astype("<u2")[:, np.newaxis].view(np.uint8)
        out[here, 4:8] = (s[:, ::2] & 15) | (s[:, 1::2] & 15) << 4
        codes = nearest(groups, (d[:, np.newaxis] * k)[:, :, np.newaxis])
        out[here, 8:] = _packed(codes.reshape(-1, GROUP)).reshape(-1, 128)
    return out


def nearest(x: Doubles, d: Doubles) -> Bytes:
    """The code whose level is nearest to x/d, of two the greater; `ZERO` where d is 0."""
    twice = 2 * x / np.where(d == 0, np.inf, d)
    codes: Bytes = _NEAREST.take((np.clip(twice, _FIRST, _LAST) - _FIRST).astype(np.intp))
    return codes


def errors(x: Doubles, w: Doubles, d: Doubles) -> Doubles:
    """`(..., L), (..., L), (..., 1) -> (...)` Σw(x − v)² with the nearest levels."""
    return summed(w * np.square(x - d * _LEVELS[nearest(x, d)]))


def summed(a: Doubles) -> Doubles:
    """`(..., 2ᵏ) -> (...)` the sum over the last axis, in one order on every machine."""
    while a.shape[-1] > 1:
        half = a.shape[-1] // 2
        a = a[..., :half] + a[..., half:]
    return a[..., 0]


def best_scales(x: Doubles, w: Doubles, *, stored: bool) -> Doubles:
    """`(N, L), (N, L) -> (N,)` the scale of least error, of all real numbers or, if `stored`, of fp16's."""
    most, found = np.zeros(len(x)), np.zeros(len(x))
    for sign in (1.0, -1.0):
        xk, kk = _lists(sign * x, w)
        d = np.divide(xk, kk, out=np.zeros_like(xk), where=kk > 0)
        if stored:
            d = _half(d)
        gain = d * (2 * xk - d * kk)  # how much less the error is than that of d = 0
        at = np.arange(len(x)), np.argmax(gain, axis=1)
        found = np.where(gain[at] > most, sign * d[at], found)
        most = np.maximum(most, gain[at])
    return found


def _lists(x: Doubles, w: Doubles) -> tuple[Doubles, Doubles]:
    """`(N, 32) twice -> (N, 257) twice` Σwxk and Σwk² of every list of codes that is best for some d > 0."""
    count = len(x)
    side = (x < 0).astype(np.intp)
    with np.errstate(divide="ignore"):  # a zero never leaves the level that is nearest to zero
        when = _OUTWARD[side] / np.abs(x)[:, :, np.newaxis]
    # A middle has 8 bits and x 24: times that differ do so by 2⁻³³ of themselves, so the number of the passage may
    # take the place of the last eight bits. Equal times are in one order on every machine.
    key = (when.reshape(count, -1).view(np.uint64) & ~_PASSAGE) | np.arange(8 * GROUP, dtype=np.uint64)
    key.sort(axis=1)
    order = (key & _PASSAGE).astype(np.intp)
    order += 8 * GROUP * np.arange(count)[:, np.newaxis]
    sums = []
    for factor, start, step in ((w * x, _LEVELS[ZERO], _GROWTH), (w, _LEVELS[ZERO] ** 2, _GROWTH_OF_SQUARES)):
        list_ = np.empty((count, 8 * GROUP + 1))
        list_[:, 0] = summed(factor) * start
        np.take(factor[:, :, np.newaxis] * step[side], order, out=list_[:, 1:])
        sums.append(np.cumsum(list_, axis=1, out=list_))
    return sums[0], sums[1]


def _scales_of_blocks(x: Doubles, w: Doubles) -> tuple[Doubles, Doubles]:
    """`(N, 8, 32) twice -> (N,), (N, 8)` the d and the k of each block."""
    wanted = best_scales(x.reshape(-1, GROUP), w.reshape(-1, GROUP), stored=False).reshape(x.shape[:2])
    top = np.take_along_axis(x, np.argmax(np.abs(x), axis=2)[:, :, np.newaxis], axis=2)[:, :, 0] / LEVELS[0]
    best = _less(_block(x, w, wanted, np.zeros(len(x))), _block(x, w, top, _of_largest(top, -32)))
    for k in (*range(-32, -28), *range(29, 32)):
        best = _less(best, _block(x, w, wanted, _of_largest(wanted, k)))
    for _ in range(REFITS):
        _, d, ks = best
        levels = ks[:, :, np.newaxis] * _LEVELS[nearest(x, (d[:, np.newaxis] * ks)[:, :, np.newaxis])]
        xk, kk = (summed(part.reshape(len(x), -1)) for part in (w * x * levels, w * levels * levels))
        best = _less(best, _block(x, w, wanted, _half(np.divide(xk, kk, out=np.zeros_like(xk), where=kk > 0))))
    return best[1], best[2]


Found = tuple[Doubles, Doubles, Doubles]
"""`(N,), (N,), (N, 8)` errors, scales and multiples."""


def _block(x: Doubles, w: Doubles, c: Doubles, d: Doubles) -> Found:
    """What d gives: of the two k that are next to each c/d the one of less error."""
    unit = d[:, np.newaxis]
    low = np.clip(np.floor(np.divide(c, unit, out=np.zeros_like(c), where=unit != 0)), -32, 30)
    below, above = (errors(x, w, (unit * k)[:, :, np.newaxis]) for k in (low, low + 1))
    return summed(np.minimum(below, above)), d, low + (above < below)


def _of_largest(c: Doubles, k: int) -> Doubles:
    """`(N, 8) -> (N,)` the d whose multiple by k is the largest of these scales, as fp16 holds it."""
    return _half(np.take_along_axis(c, np.argmax(np.abs(c), axis=1)[:, np.newaxis], axis=1)[:, 0] / k)


def _less(a: Found, b: Found) -> Found:
    """Errors, scales and multiples of whichever has the smaller error, block by block."""
    better = b[0] < a[0]
    return (
        np.where(better, b[0], a[0]),
        np.where(better, b[1], a[1]),
        np.where(better[:, np.newaxis], b[2], a[2]),
    )


def _half(d: Doubles) -> Doubles:
    return np.clip(d, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float64)


def _weights(x: Floats, weights: Floats | None, here: slice) -> Doubles:
    """The weights, all 1 for a row that has none or zeros alone."""
    if weights is None:
        return np.ones(x.shape)
    w = weights[here].astype(np.float64)
    return np.where(w.max(axis=1, keepdims=True) > 0, w, 1.0)


def _packed(q: Bytes) -> Bytes:
    """`(N, 32) -> (N, 16)`."""
    return q[:, :16] | (q[:, 16:] << np.uint8(4))
