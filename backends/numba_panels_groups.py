"""Panels of integers of up to 8 bits with a scale and a zero point for each group of inputs, in order.

Element = scale·(code − zero), codes from 0 on: of AutoGPTQ, AutoAWQ, compressed-tensors, and of `Affine` and MXINT8,
whose signed codes are moved up. Codes of up to 4 bits lie as nibbles, others as bytes. A group must be whole blocks of
32 inputs that follow one another: with act-order there are no panels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_panels import BLOCK, KINDS, ROWS, Panels, Parts, panels_of
from lepton_ref.backends.numba_panels_blocks import by_panel, filled, interleaved, paired
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ, pick_awq
from lepton_ref.storage.base import Weight
from lepton_ref.storage.byte_codes import unpack
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.mx import ELEMENTS, MX
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.packed import columns
from lepton_ref.storage.views import RowView

Index = NDArray[np.int64]
Read = Callable[[Index], tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]]
"""(N,) -> (N, I) codes, (N, G) zeros, (N, G) scales."""


def pack_groups(weight: Weight) -> Panels | None:
    """A weight of such integers; None for another, and for groups that are no whole blocks."""
    rows = np.arange(weight.shape[0])
    base = weight
    while isinstance(base, RowView):
        rows, base = base.index[rows], base.base
    if isinstance(base, GPTQ | AWQ | PackQuantized):
        bits, read, groups = (4 if isinstance(base, AWQ) else base.bits), _packed(base), base.groups
    elif isinstance(base, Affine):
        bits, read, groups = base.bits, _affine(base), np.arange(base.shape[1]) // base.tile[1]
    elif isinstance(base, MX) and base.elements == "MXINT8":
        bits, read, groups = 8, _mxint8(base), np.arange(base.shape[1]) // base.tile[1]
    else:
        return None
    width = weight.shape[1]
    size = int(np.count_nonzero(groups == groups[0]))
    count = -(-width // size)
    if width % BLOCK or (count > 1 and size % BLOCK) or not np.array_equal(groups, np.arange(width) // size):
        return None
    wide = bits > 4
    blocks, shared = width // BLOCK, -(-size // BLOCK)

    def parts(first: int, last: int) -> Parts:
        code, zero, scale = read(rows[first * ROWS : last * ROWS])
        code = filled(code.reshape(len(code), blocks, BLOCK))
        both = np.stack([filled(scale).astype(np.float32).view(np.int32), filled(zero).astype(np.int32)], axis=-1)
        return interleaved(code if wide else paired(code)), by_panel(both).reshape(-1).view(np.uint8)

    sizes = (ROWS * (32 if wide else 16) * blocks, ROWS * 8 * count)
    return panels_of(KINDS["INT8" if wide else "INT4"], (weight.shape[0], width), sizes, parts, shared)


def _packed(base: GPTQ | AWQ | PackQuantized) -> Read:
    def read(index: Index) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
        if isinstance(base, AWQ):
            return (
                pick_awq(base.qweight, index),
                pick_awq(base.qzeros, index).astype(np.int64),
                columns(base.scales, index),
            )
        zeros = base.zeros(index).astype(np.int64)
        if isinstance(base, GPTQ):
            return base.codes(index), zeros, columns(base.scales, index)
        stored = base.stored_scales
        return base.codes(index), zeros, stored.take(index if stored.shape[0] == base.shape[0] else 0 * index)

    return read


def _affine(base: Affine) -> Read:
    middle = 1 << (base.bits - 1) if base.signed else 0

    def read(index: Index) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
        code = unpack(base.packed[index], base.bits, base.shape[1])
        if middle:  # two's complement, the sign's bit turned over
            code = code ^ np.uint8(middle)
        scale = base.scales.values(index // base.tile[0])
        zero = np.zeros(scale.shape, dtype=np.int64)
        if base.zeros is not None:
            zero += base.zeros[index // base.tile[0]]
        return code, zero + middle, scale.astype(np.float32)

    return read


def _mxint8(base: MX) -> Read:
    def read(index: Index) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
        scale = base.exponents.values(index) * ELEMENTS[base.elements][1]  # 2⁻¹³³ at least, which float32 has
        return base.packed[index] ^ np.uint8(0x80), np.full(scale.shape, 128), scale.astype(np.float32)

    return read
