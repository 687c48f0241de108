"""The IQ formats whose codes are points of a table: signs, the search of `lattice`, and the bytes.

Where signs are free, an element has its own and the points meet |x|. Where they are coded their number of minus signs
is even: of eight numbers with an odd number of minus signs one changes its sign, and meets the lowest level from the
other side: that for which w·(|x| + c·lowest)² is least above the error of the nearest level. The scale c is not known
yet; 0.8 of the group's largest number over the largest level is near enough.

ggml changes the one with the least w·x², weighs errors by w·√(mean of x² + x²) (twice the mean for some formats), and
looks for points near the rounded number alone; so the bytes are not ggml's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.encoders.lattice import Fit, Form, fit
from lepton_ref.storage.iq_grids import TABLES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

AT_ONCE = 64
"""Blocks that are searched together."""

TERNARY = (1.0, 0.8, 0.65, 0.55, 0.45, 0.35, 0.27)
FINE = (1.25, 1.15, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
FORMS = {
    "IQ1_S": Form("IQ1_S", group=32, most=7, unit=1.0, shifted=4, tries=TERNARY),
    "IQ1_M": Form("IQ1_S", group=16, most=7, unit=1.0, shifted=1, tries=TERNARY),
    "IQ2_XXS": Form("IQ2_XXS", group=32, most=15, unit=0.125),
    "IQ2_XS": Form("IQ2_XS", group=16, most=15, unit=0.125),
    "IQ2_S": Form("IQ2_S", group=16, most=15, unit=0.125),
    "IQ3_XXS": Form("IQ3_XXS", group=32, most=15, unit=0.25, tries=FINE),
    "IQ3_S": Form("IQ3_S", group=32, most=15, unit=1.0, tries=FINE),
}
"""Name → what the search needs to know."""


def encode_iq1_s(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 50)`: d, qs[32], qh[8] (u16)."""
    return np.concatenate([_iq1_s(fit(FORMS["IQ1_S"], *part)) for part in _parts(x, weights)])


def _iq1_s(found: Fit) -> Bytes:
    codes = found.codes.reshape(-1, 8, 4)
    high = np.bitwise_or.reduce((codes >> 8 & 7) << np.arange(0, 12, 3), axis=2)
    word = high | found.s << 12 | codes[:, :, 0] >> 11 << 15
    return np.concatenate([_half(found.d), _low(found), _words(word, "<u2")], axis=1)


def encode_iq1_m(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 56)`: qs[32], qh[16], scales[4] (u16) with the pieces of d."""
    return np.concatenate([_iq1_m(fit(FORMS["IQ1_M"], *part)) for part in _parts(x, weights)])


def _iq1_m(found: Fit) -> Bytes:
    d = found.d.astype("<f2").view("<u2").astype(np.int64)[:, np.newaxis]
    word = np.bitwise_or.reduce(found.s.reshape(-1, 4, 4) << np.arange(0, 12, 3), axis=2)
    word |= (d >> np.arange(0, 16, 4) & 15) << 12
    return np.concatenate([_low(found), _nibbles(found.codes >> 8), _words(word, "<u2")], axis=1)


def encode_iq2_xxs(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 66)`: d, eight times four codes and a word of sign codes and scale."""
    out = []
    for part in _parts(x, weights):
        size, minus = even_signs(FORMS["IQ2_XXS"], *part)
        found = fit(FORMS["IQ2_XXS"], size, part[1])
        pieces = [_low(found).reshape(-1, 8, 4), _words(_signs_and_scale(minus, found), "<u4").reshape(-1, 8, 4)]
        out.append(np.concatenate([_half(found.d), np.concatenate(pieces, axis=2).reshape(-1, 64)], axis=1))
    return np.concatenate(out)


def encode_iq2_xs(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 74)`: d, qs[32] (u16), scales[8]."""
    out = []
    for part in _parts(x, weights):
        size, minus = even_signs(FORMS["IQ2_XS"], *part)
        found = fit(FORMS["IQ2_XS"], size, part[1])
        word = found.codes | (minus.astype(np.int64) & 127) << 9
        out.append(np.concatenate([_half(found.d), _words(word, "<u2"), _nibbles(found.s)], axis=1))
    return np.concatenate(out)


def encode_iq2_s(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 82)`: d, qs[32], signs[32], qh[8], scales[8]."""
    out = []
    for part in _parts(x, weights):
        size, minus = own_signs(part[0])
        found = fit(FORMS["IQ2_S"], size, part[1])
        high = np.bitwise_or.reduce((found.codes >> 8).reshape(-1, 8, 4) << np.arange(0, 8, 2), axis=2).astype(np.uint8)
        out.append(np.concatenate([_half(found.d), _low(found), minus, high, _nibbles(found.s)], axis=1))
    return np.concatenate(out)


def encode_iq3_xxs(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 98)`: d, qs[64], eight words of sign codes and scale."""
    out = []
    for part in _parts(x, weights):
        size, minus = even_signs(FORMS["IQ3_XXS"], *part)
        found = fit(FORMS["IQ3_XXS"], size, part[1])
        out.append(np.concatenate([_half(found.d), _low(found), _words(_signs_and_scale(minus, found), "<u4")], axis=1))
    return np.concatenate(out)


def encode_iq3_s(x: Floats, weights: Floats | None) -> Bytes:
    """`(N, 256) -> (N, 110)`: d, qs[64], qh[8], signs[32], scales[4]."""
    out = []
    for part in _parts(x, weights):
        size, minus = own_signs(part[0])
        found = fit(FORMS["IQ3_S"], size, part[1])
        high = np.packbits((found.codes >> 8).astype(np.uint8), axis=1, bitorder="little")
        out.append(np.concatenate([_half(found.d), _low(found), high, minus, _nibbles(found.s)], axis=1))
    return np.concatenate(out)


def own_signs(x: Floats) -> tuple[Floats, Bytes]:
    """`(N, 256) -> (N, 256), (N, 32)` the sizes, and a bit for each minus sign."""
    return np.abs(x), np.packbits(x < 0, axis=1, bitorder="little")


def even_signs(form: Form, x: Floats, w: Floats) -> tuple[Floats, Bytes]:
    """`(N, 256) twice -> (N, 256), (N, 32)` the same with an even number of minus signs in each eight.

    What changed its sign for that has a negative size.
    """
    size, minus = own_signs(x)
    levels = np.array(TABLES[form.table].levels, dtype=np.float32)
    levels *= np.float32(0.8) / levels[-1]
    top = np.repeat(size.reshape(len(x), -1, form.group).max(axis=2), form.group, axis=1)
    part = np.divide(size, top, out=np.zeros_like(size), where=top > 0)
    off = np.abs(part - levels[0])
    for level in levels[1:]:
        np.minimum(off, np.abs(part - level), out=off)
    cheapest = np.argmin((w * (np.square(part + levels[0]) - np.square(off))).reshape(-1, 8), axis=1)
    odd = (np.bitwise_count(minus) & 1).reshape(-1)
    flip = odd[:, np.newaxis] & (np.arange(8) == cheapest[:, np.newaxis])
    flipped = np.packbits(flip, axis=1, bitorder="little").reshape(minus.shape)
    return np.where(flip.reshape(x.shape) == 1, -size, size), minus ^ flipped


def _parts(x: Floats, weights: Floats | None) -> list[tuple[Floats, Floats]]:
    """Some blocks at a time, with weights: over the largest of the block, all 1 where there are none or zeros alone."""
    parts = []
    for at in range(0, max(len(x), 1), AT_ONCE):
        here = x[at : at + AT_ONCE]
        w = np.ones_like(here)
        if weights is not None:
            most = weights[at : at + AT_ONCE].max(axis=1, keepdims=True)
            np.divide(weights[at : at + AT_ONCE], most, out=w, where=most > 0)
        parts.append((here, w))
    return parts


def _signs_and_scale(minus: Bytes, found: Fit) -> NDArray[np.int64]:
    """`(N, 32) -> (N, 8)` four sign codes and s in one word."""
    code = minus.reshape(-1, 8, 4).astype(np.int64) & 127
    return np.asarray(np.bitwise_or.reduce(code << np.arange(0, 28, 7), axis=2) | found.s << 28)


def _half(d: NDArray[np.float64]) -> Bytes:
    return d.astype("<f2")[:, np.newaxis].view(np.uint8)


def _low(found: Fit) -> Bytes:
    return (found.codes & 255).astype(np.uint8)


def _words(words: NDArray[np.int64], kind: str) -> Bytes:
    return np.ascontiguousarray(words.astype(kind)).view(np.uint8)


def _nibbles(q: NDArray[np.int64]) -> Bytes:
    """`(N, 2B) -> (N, B)` neighbours in one byte."""
    return (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)
