"""Panels of numbers of one byte with scales: FP8, MX and NVFP4, a byte an element.

    data[at[0] + 16·(width·g + k) + r]       the code of row 16·g + r, column k
    data[at[1] + 64·(n·g + j) + 4·r]         float32, the scale of its columns at[5]·j … at[5]·(j + 1) − 1, n of these
                                             one vector more of the kinds TIMES and OVER: a factor
    data[at[4] + 4·(16·g + r)]               the row's length, as in `lepton_ref.backends.numba_panels_dense`

A code is the part of an fp16 number that is not always 0: of the kind E5M2 its upper byte, of the kind E4M3 its sign
and bits 13 … 7, the highest bit of the exponent being 0. fp16 has another bias than most formats of 8 bits, and the
power of two between them is in the scale. Sign, exponent and fraction stay what they were, so that subnormal numbers,
zeros, and the infinities and NaN of E5M2 are right by themselves; codes that are worth something else in their format,
such as the NaN of E4M3FN, have no place here. Smaller formats, E2M1 among them, are numbers of E4M3.

An element is code·scale, rounded once to float32: just what the formats' decoding gives, for any scale. Of NVFP4 with
two levels code·scale is a number of 6 bits, and what is rounded is that times the factor, or divided by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_memory import ALIGNED, aligned
from lepton_ref.backends.numba_panels import ROWS, Bytes, Panels
from lepton_ref.backends.numba_panels_dense import E4M3, E5M2, OVER, STEP, TIMES, lengths_upward, transpose
from lepton_ref.numerics.formats import decode_array, encode_array
from lepton_ref.storage.base import Weight
from lepton_ref.storage.bits import nibbles
from lepton_ref.storage.byte_codes import unpack
from lepton_ref.storage.encoded import Encoded
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.mx import ELEMENTS, MX
from lepton_ref.storage.mxfp4 import E2M1_TWICE
from lepton_ref.storage.nvfp4 import half_scale
from lepton_ref.storage.nvfp4_two_level import GROUP, NVFP4TwoLevel
from lepton_ref.storage.views import RowView

Index = NDArray[np.int64]
Reals = NDArray[np.float64]

ROUTES = ((E4M3, 2.0**8), (E5M2, 1.0), (E4M3, 2.0**7))
"""Kinds, and what their fp16 numbers are multiplied by. The last is for E4M3FNUZ, whose exponents are one lower.

E5M2FNUZ, whose exponents are so too, takes fp16's: its least odd numbers have no place then, rather than its largest.
"""


@dataclass(frozen=True)
class Source:
    """A weight as codes and scales.

    Attributes:
        values: what each code is worth.
        codes: (N,) -> (N, I).
        scales: (N,) -> (N, G), float64.
        columns: that share a scale.
        factor: what multiplies or divides code·scale; None for nothing.
        divides: whether it divides.
    """

    values: Reals
    codes: Callable[[Index], Bytes]
    scales: Callable[[Index], Reals]
    columns: int
    factor: float | None = None
    divides: bool = False


def pack_scaled(weight: Weight, /) -> Panels | None:
    """`(O, I) -> Panels`; of a dense weight encoded to fp8 as well.

    None for another storage class, for a code that has no place here, for a scale that is no float32 number once the
    power of two is in it, and for groups that are not whole fours of columns.
    """
    rows, base = np.arange(weight.shape[0]), weight
    while isinstance(base, RowView):
        rows, base = base.index[rows], base.base
    source = _source(base)
    if source is None or 0 in weight.shape:
        return None
    outputs, width = weight.shape
    shared = min(source.columns, width)
    if shared % 4 and shared < width:
        return None
    kind, unit, table = route(source.values)
    panels, groups, vectors = -(-outputs // ROWS), -(-width // shared), -(-width // shared)
    if source.factor is not None:
        assert kind == E4M3, "E2M1 is the only format with a factor"
        kind, vectors = OVER if source.divides else TIMES, groups + 1
    ends = np.cumsum([-(-panels * size // ALIGNED) * ALIGNED for size in (ROWS * width, 4 * ROWS * vectors)])
    data = aligned(int(ends[1]) + 4 * ROWS * panels)
    data[...] = 0
    codes = data[: panels * ROWS * width].reshape(panels, width, ROWS)
    scales = data[ends[0] : ends[1]].view(np.float32).reshape(panels, vectors, ROWS)
    scales[:, groups:] = 1.0 if source.factor is None else source.factor
    lengths = data[ends[1] :].view(np.float32)
    step = max(1, STEP // (ROWS * width)) * ROWS
    for first in range(0, outputs, step):
        index = rows[first : first + step]
        code, scale = table[source.codes(index)], source.scales(index) * unit
        with np.errstate(over="ignore", under="ignore"):
            single = scale.astype(np.float32)
        if (code < 0).any() or not np.array_equal(single.astype(np.float64), scale, equal_nan=True):
            return None
        transpose(code.astype(np.uint8), codes[first // ROWS :])
        transpose(single, scales[first // ROWS :, :groups])
        lengths[first : first + len(index)] = lengths_upward(base.operand(index))
    at = np.array([0, ends[0], ends[1], ends[1], ends[1], shared, 0, 0], dtype=np.int64)
    return Panels(kind, outputs, width, data, at)


def as_fp16(kind: int) -> Reals:
    """`-> (256)` float64: the fp16 number that each code is a part of."""
    code = np.arange(256, dtype=np.uint16)
    bits = code << 8 if kind == E5M2 else (code & 0x80) << 8 | (code & 0x7F) << 7
    numbers = bits.astype(np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        return np.where(np.isnan(numbers), np.nan, numbers.astype(np.float64))


def route(values: Reals) -> tuple[int, float, NDArray[np.int16]]:
    """What codes are worth → a kind, its power of two, and the code of each value there: −1 for those without one."""
    found = []
    for kind, unit in ROUTES:
        places = {_bits(value): code for code, value in enumerate(as_fp16(kind) * unit)}
        table = np.array([places.get(_bits(value), -1) for value in values], dtype=np.int16)
        found.append((kind, unit, table))
    return max(found, key=lambda each: np.count_nonzero(each[2] >= 0))


def _bits(value: float) -> int:
    return -1 if np.isnan(value) else int(np.float64(value).view(np.int64))


def _source(base: Weight) -> Source | None:
    if isinstance(base, FP8):
        values = decode_array(np.arange(256), base.number)
        return Source(values, base.codes.__getitem__, lambda i: base.scales.values(i // base.tile[0]), base.tile[1])
    if isinstance(base, MX):
        number, unit = ELEMENTS[base.elements]
        values = decode_array(np.arange(1 << base.bits), number) * unit
        width = base.shape[1]
        return Source(values, lambda i: unpack(base.packed[i], base.bits, width), base.exponents.values, base.tile[1])
    if isinstance(base, NVFP4TwoLevel):
        values, width = decode_array(np.arange(16), "e2m1"), base.shape[1]
        return Source(values, lambda i: unpack(base.packed[i], 4, width), base.scales.values, base.tile[1],
                      base.global_scale, base.convention == "divide")  # fmt: skip
    if isinstance(base, Encoded):
        values = decode_array(np.arange(256), "e4m3fn")
        return Source(values, lambda i: encode_array(base.scaled(i)[0], "e4m3fn"), lambda i: base.scaled(i)[1],
                      base.shape[1])  # fmt: skip
    if base.format == "NVFP4":
        return Source(np.array(E2M1_TWICE, dtype=np.float64), partial(_codes, base), partial(_scales, base), GROUP)
    return None


def _codes(base: Weight, index: Index) -> Bytes:
    raw = base.blocks(index)[:, :, 4:]
    return nibbles(raw.reshape(*raw.shape[:2], 4, 8)).reshape(len(raw), -1)


def _scales(base: Weight, index: Index) -> Reals:
    each = np.array([half_scale(byte) for byte in range(256)])
    return each[base.blocks(index)[:, :, :4]].reshape(len(index), -1)
