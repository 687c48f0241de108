"""Single elements of panels, one after the other: for tests, for exact repairs, and to say what the bytes mean.

See `lepton_ref.backends.numba_panels` for the layout. W is an arena of bytes in which the weight begins at w0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import one_f32, one_half, one_i32
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import OFFSETS

NO_MINIMUM = (0, 1, 3)
"""Kinds of blocks of 32 with a scale alone."""


@njit(nogil=True)
def stored_code(kind: Any, W: Any, w0: Any, at: Any, blocks: Any, row: Any, k: Any) -> Any:
    """The code of one element, from 0 on."""
    panel, r, b, place = row // 16, row % 16, k // 32, k % 32
    block = panel * blocks + b
    if kind in (0, 8):
        return np.int64(W[w0 + at[0] + 512 * block + 64 * (place // 4) + 4 * r + place % 4])
    byte = np.int64(W[w0 + at[0] + 256 * block + 64 * (place % 16 // 4) + 4 * r + place % 4])
    code = byte & 15 if place < 16 else byte >> 4
    if kind in (3, 4, 6):
        bit = 64 * (place // 4) + 4 * r + place % 4
        code |= (np.int64(W[w0 + at[3] + 64 * block + bit // 8]) >> bit % 8 & 1) << 4
    elif kind == 7:
        plane = np.int64(W[w0 + at[3] + 128 * block + 64 * (place // 16) + 4 * r + place % 4])
        code |= (plane >> 2 * (place % 16 // 4) & 3) << 4
    return code


@njit(nogil=True)
def code_at(kind: Any, W: Any, w0: Any, at: Any, blocks: Any, row: Any, k: Any) -> Any:
    """The code of one element, less its kind's offset or its group's zero point."""
    code = stored_code(kind, W, w0, at, blocks, row, k)
    if kind < 8:
        return code - OFFSETS[kind]
    group = row // 16 * ((blocks + at[5] - 1) // at[5]) + k // 32 // at[5]
    return code - one_i32(W, w0 + at[1] + 128 * group + 64 + 4 * (row % 16))


@njit(nogil=True)
def scale_at(kind: Any, W: Any, w0: Any, at: Any, blocks: Any, row: Any, k: Any) -> Any:
    """Scale and minimum of one element, whose value is scale·code + minimum, exactly."""
    panel, r, b = row // 16, row % 16, k // 32
    shared = at[5]
    group = panel * ((blocks + shared - 1) // shared) + b // shared
    scales, fine = w0 + at[1], w0 + at[2] + 32 * (panel * blocks + b) + r
    if kind in NO_MINIMUM:
        return one_half(W, scales + 32 * group + 2 * r), 0.0
    if kind >= 8:
        return np.float64(one_f32(W, scales + 128 * group + 4 * r)), 0.0
    if kind == 7:
        part = np.int64(np.int8(W[fine + 16 * (k % 32 // 16)]))
        return one_half(W, scales + 32 * group + 2 * r) * part, 0.0
    scale, minimum = one_half(W, scales + 64 * group + 2 * r), one_half(W, scales + 64 * group + 32 + 2 * r)
    if kind in (2, 4):
        return scale, minimum
    return scale * np.int64(W[fine]), -(minimum * np.int64(W[fine + 16]))


@njit(nogil=True)
def value_at(kind: Any, W: Any, w0: Any, at: Any, blocks: Any, row: Any, k: Any) -> Any:
    """One element, the sign of a zero included."""
    scale, minimum = scale_at(kind, W, w0, at, blocks, row, k)
    code = code_at(kind, W, w0, at, blocks, row, k)
    return scale * code + minimum if kind in (2, 4, 5, 6) else scale * code


@njit(nogil=True, cache=True)
def decode_row(kind: Any, W: Any, w0: Any, at: Any, row: Any, width: Any, out: Any) -> None:
    """One row, float64, into the first `width` elements of `out`: what `Weight.operand` gives."""
    blocks = (width + 31) // 32
    for k in range(width):
        out[k] = value_at(kind, W, w0, at, blocks, row, k)
