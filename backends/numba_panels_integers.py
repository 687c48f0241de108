"""Panels of formats whose elements are small integers times scales, as kinds that other formats have.

    IQ4_NL          Q8_0    its levels
    IQ4_XS          INT8    the same, and a float32 scale d·(s − 32) for each block
    MXFP4           Q5_0    twice the E2M1 numbers, and 2^(e − 128) in fp16; INT8 where fp16 has not all of these
    Q3_K            Q6_K    q − 4, and sc − 32 for each half of a block
    Q1_0, Q2_0      Q4_0    −1, 0, 1 and 2, and d for each block
    TQ1_0, TQ2_0

A panel is up to 2.5 times as large as what the file stores, of TQ1_0 2.7 and of Q1_0 4.1 times; nothing has to be
looked up in the kernel. The integers of a block are what it decodes to if its scales are 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_panels import BLOCK, KINDS, ROWS, Bytes, Panels, Parts, panels_of
from lepton_ref.backends.numba_panels_blocks import by_panel, fifth_bits, filled, halves, interleaved, paired
from lepton_ref.backends.numba_panels_k import upper_pairs
from lepton_ref.storage.base import Weight
from lepton_ref.storage.bits import nibbles, pairs
from lepton_ref.storage.formats import FORMATS

ONE = np.array(1.0, dtype="<f2").tobytes()

SCALES: Mapping[str, tuple[tuple[int, bytes], ...]] = MappingProxyType(
    {
        **{"Q1_0": ((0, ONE),), "Q2_0": ((0, ONE),), "TQ1_0": ((52, ONE),), "TQ2_0": ((64, ONE),)},
        **{"IQ4_NL": ((0, ONE),), "IQ4_XS": ((0, ONE), (2, b"\xaa\xaa" + 4 * b"\x11")), "MXFP4": ((0, b"\x80"),)},
        "Q3_K": ((108, ONE), (96, 8 * b"\x11" + 4 * b"\xaa")),
    }
)
"""Format → where its scales lie in a block, and the bytes that make all of them 1."""

Codes = NDArray[np.int8]


def integers_of(name: str, raw: Bytes) -> Codes:
    """`(N, blocks of the format, bytes) -> (N, blocks of 32, 32)`: what elements are times their scales."""
    alike = raw.copy()
    for at, one in SCALES[name]:
        alike[:, :, at : at + len(one)] = np.frombuffer(one, dtype=np.uint8)
    form = FORMATS[name]
    return form.decode(alike.reshape(-1, form.nbytes)).astype(np.int8).reshape(len(raw), -1, BLOCK)


def _moved(codes: Codes, offset: int) -> Bytes:
    """From 0 on."""
    return (codes.astype(np.int16) + offset).astype(np.uint8)


def _half(raw: Bytes, at: int) -> NDArray[np.uint16]:
    """`(N, n, bytes) -> (N, n)`: the bits of an fp16 number."""
    return np.ascontiguousarray(raw[:, :, at : at + 2]).view("<u2")[:, :, 0]


def _levels(name: str, raw: Bytes) -> Parts:
    return interleaved(_moved(integers_of(name, raw), 128)), halves(_half(raw, 0))


def _few(name: str, raw: Bytes) -> Parts:
    codes = integers_of(name, raw)
    scales = np.repeat(_half(raw, SCALES[name][0][0]), codes.shape[1] // raw.shape[1], axis=1)
    return interleaved(paired(_moved(codes, 8))), halves(scales)


def _groups(codes: Codes, scales: NDArray[np.float32]) -> Parts:
    """INT8 with a scale for each block."""
    both = np.stack([scales.view(np.int32), np.full(scales.shape, 128, dtype=np.int32)], axis=-1)
    return interleaved(_moved(codes, 128)), by_panel(both).reshape(-1).view(np.uint8)


def _levels_and_scales(name: str, raw: Bytes) -> Parts:
    low = nibbles(raw[:, :, 4:8, np.newaxis]).reshape(len(raw), -1, 8)
    fine = (low | pairs(raw[:, :, 2:4, np.newaxis]).reshape(low.shape) << np.uint8(4)).view(np.int8) - np.int8(32)
    with np.errstate(invalid="ignore"):  # ∞·0
        scales = _half(raw, 0).view(np.float16)[:, :, np.newaxis].astype(np.float32) * fine
    return _groups(integers_of(name, raw), scales.reshape(len(raw), -1))


def _three(name: str, raw: Bytes) -> Parts:
    code = _moved(integers_of(name, raw), 32)
    fine = nibbles(raw[:, :, 96:104]).reshape(len(raw), -1, 16)
    fine = (fine | pairs(raw[:, :, 104:108]).reshape(fine.shape) << np.uint8(4)) - np.uint8(32)
    return (
        interleaved(paired(code & np.uint8(15))),
        halves(_half(raw, 108)),
        by_panel(fine.reshape(len(raw), -1, 2)).reshape(-1),
        upper_pairs(code >> np.uint8(4)),
    )


def _mxfp4(weight: Weight) -> Panels:
    """Blocks of zeros alone have any scale: 1."""
    shape, blocks = (weight.shape[0], weight.shape[1]), weight.shape[1] // BLOCK

    def read(first: int, last: int) -> tuple[Codes, NDArray[np.float32]]:
        raw = filled(weight.blocks(np.arange(first * ROWS, min(last * ROWS, shape[0]))))
        codes = integers_of("MXFP4", raw)
        power = np.where(codes.any(axis=-1), raw[:, :, 0].astype(np.int32) - 128, 0)
        return codes, np.ldexp(np.float32(1), power)

    def narrow(first: int, last: int) -> Parts:
        codes, scales = read(first, last)
        code = _moved(codes, 16)
        half = scales.astype(np.float16).view(np.uint16)
        return interleaved(paired(code & np.uint8(15))), halves(half), np.empty(0, np.uint8), fifth_bits(code >> 4)

    raw = weight.blocks(np.arange(shape[0]))
    powers = np.where((raw[:, :, 1:] & np.uint8(0x77)).any(axis=-1), raw[:, :, 0].astype(np.int32) - 128, 0)
    if powers.min() >= -24 and powers.max() <= 15:
        return panels_of(KINDS["Q5_0"], shape, (256 * blocks, 32 * blocks, 0, 64 * blocks), narrow, 1)
    return panels_of(KINDS["INT8"], shape, (512 * blocks, 128 * blocks), lambda *ends: _groups(*read(*ends)), 1)


Make = Callable[[str, Bytes], Parts]

AS: Mapping[str, tuple[str, tuple[int, ...], int, Make]] = MappingProxyType(
    {
        "IQ4_NL": ("Q8_0", (512, 32), 1, _levels),
        "IQ4_XS": ("INT8", (512, 128), 1, _levels_and_scales),
        "Q3_K": ("Q6_K", (256, 4, 32, 128), 8, _three),
        **dict.fromkeys(("Q1_0", "Q2_0", "TQ1_0", "TQ2_0"), ("Q4_0", (256, 32), 1, _few)),
    }
)
"""Format → the kind of its panels, bytes of the parts of a panel's block, blocks that share a scale, and the parts."""


def pack_integers(weight: Weight) -> Panels | None:
    """A weight in one of these formats; None for another."""
    if weight.format not in SCALES:
        return None
    if weight.format == "MXFP4":
        return _mxfp4(weight)
    blocks = weight.shape[1] // BLOCK
    kind, sizes, shared, make = AS[weight.format]

    def parts(first: int, last: int) -> Parts:
        raw = filled(weight.blocks(np.arange(first * ROWS, min(last * ROWS, weight.shape[0]))))
        return make(weight.format, raw)

    whole = tuple(size * blocks for size in sizes)
    return panels_of(KINDS[kind], (weight.shape[0], weight.shape[1]), whole, parts, shared)
