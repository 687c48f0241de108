"""Matrices of small integers in the one form that every packed format can be made from, whatever they are kept as.

    value = s·(q − z)     q and z from 0 to 2^b − 1, an s and a z for each row and group of inputs

Codes in two's complement, and those without zero points, become such by adding 2^(b−1) to q and z; a scale that rows
share stands in each of them. No number is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage import Dense, RowView, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ, pick_awq
from lepton_ref.storage.byte_codes import pack, unpack
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.scales import Scales

Codes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class IntegerCodes:
    """A matrix (O, I) in integers.

    Attributes:
        bits: of a code.
        codes: (O, I) q.
        zeros: (O, G) z.
        scales: (O, G) s, as stored.
        groups: (I,) the group of each input.
        per_tensor: whether one scale serves the whole matrix.
    """

    bits: int
    codes: Codes
    zeros: Codes
    scales: Dense
    groups: NDArray[np.int64]
    per_tensor: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether every z is the middle code."""
        return bool((self.zeros == 1 << (self.bits - 1)).all())

    @property
    def group_size(self) -> int:
        """Inputs of a group: equal groups of neighbours, or of an order that `groups` says; I where there is one."""
        return int(self.codes.shape[1]) // max(1, int(self.zeros.shape[1]))

    @property
    def in_order(self) -> bool:
        """Whether input i is in group ⌊i/group_size⌋."""
        return bool(np.array_equal(self.groups, np.arange(len(self.groups)) // max(1, self.group_size)))


def integer_codes(weight: Weight, /) -> IntegerCodes:
    """The codes of a weight.

    Raises:
        ValueError: a weight that is not kept as integers with scales, or whose groups are not equal.
    """
    if isinstance(weight, Affine):
        return _affine(weight)
    if isinstance(weight, RowView):
        return _of_rows(integer_codes(weight.base), weight.index)
    if not isinstance(weight, GPTQ | AWQ | PackQuantized):
        raise ValueError(f"is kept as {weight.format}; integers with scales are packed: quantise it to a grid")
    rows = np.arange(weight.shape[0])
    if isinstance(weight, AWQ):
        codes, zeros = pick_awq(weight.qweight, rows), pick_awq(weight.qzeros, rows)
        scales, bits = Dense(weight.scales.array.T, format=weight.scales.format), 4
    elif isinstance(weight, GPTQ):
        codes, zeros, bits = weight.codes(rows), weight.zeros(rows).astype(np.uint8), weight.bits
        scales = Dense(weight.scales.array.T, format=weight.scales.format)
    else:
        codes, zeros, bits = weight.codes(rows), weight.zeros(rows).astype(np.uint8), weight.bits
        stored = weight.stored_scales.array
        scales = Dense(np.broadcast_to(stored, zeros.shape), format=weight.scale.format)
    groups = np.asarray(weight.groups, dtype=np.int64)
    _require_equal(groups, zeros.shape[1])
    shared = isinstance(weight, PackQuantized) and weight.stored_scales.shape == (1, 1) != zeros.shape
    return IntegerCodes(bits, codes, zeros, scales, groups, shared)


def _is_integers(weight: Weight) -> bool:
    base = weight.base if isinstance(weight, RowView) else weight
    return isinstance(base, Affine | GPTQ | AWQ | PackQuantized)


def _require_equal(groups: NDArray[np.int64], count: int) -> None:
    sizes = np.bincount(groups, minlength=count)
    if (sizes != sizes[0]).any():
        raise ValueError(f"has groups of {sizes.min()} to {sizes.max()} inputs; groups of one size are packed")


def _of_rows(c: IntegerCodes, index: NDArray[np.int64]) -> IntegerCodes:
    scales = Dense(c.scales.array[index], format=c.scales.format)
    return IntegerCodes(c.bits, c.codes[index], c.zeros[index], scales, c.groups)


def _affine(weight: Affine) -> IntegerCodes:
    (outputs, inputs), (rows, size) = weight.shape, weight.tile
    if inputs % size:
        raise ValueError(f"has rows of {inputs}, no whole groups of {size}; take a divisor, or a scale for each row")
    flip = 1 << (weight.bits - 1) if weight.signed else 0
    codes = unpack(weight.packed, weight.bits, inputs) ^ np.uint8(flip)
    index = np.arange(outputs) // rows
    stored = np.full(weight.scales.array.shape, 0) if weight.zeros is None else weight.zeros.astype(np.int16)
    zeros = (stored[index] + flip).astype(np.uint8)
    scales = Dense(weight.scales.array[index], format=weight.scales.format)
    shared = weight.scales.array.shape == (1, 1) != zeros.shape
    return IntegerCodes(weight.bits, codes, zeros, scales, np.arange(inputs) // size, shared)


def joined(pieces: Sequence[tuple[NDArray[np.int64], Weight]], outputs: int, /) -> Affine:
    """Matrices that a file keeps as one: each with the rows that are its own.

    Args:
        pieces: (the numbers of its rows in the whole, the matrix).
        outputs: rows of the whole.

    Raises:
        ValueError: matrices that are not integers of one width, one size of groups and one format of scales.
    """
    for _, weight in pieces:
        if not _is_integers(weight):
            told = "joined ones take integers alone: a grid such as int4-g64, or leave them dense"
            raise ValueError(f"joins several matrices, kept as {weight.format}; {told}")
    parts = [(rows, integer_codes(weight)) for rows, weight in pieces]
    first = parts[0][1]
    kinds = {(p.bits, p.group_size, p.scales.format) for _, p in parts}
    if len(kinds) > 1 or not all(p.in_order for _, p in parts):
        shown = " and ".join(f"INT{b} in groups of {size}, scales {kept}" for b, size, kept in sorted(kinds))
        raise ValueError(f"parts of one matrix differ: {shown}; quantise them alike")
    codes = np.zeros((outputs, first.codes.shape[1]), dtype=np.uint8)
    zeros = np.zeros((outputs, first.zeros.shape[1]), dtype=np.uint8)
    scales = np.zeros(zeros.shape, dtype=first.scales.array.dtype)
    for rows, part in parts:
        codes[rows], zeros[rows], scales[rows] = part.codes, part.zeros, part.scales.array
    stored = Scales(scales, first.scales.format)
    tile = (1, first.group_size)
    return Affine(pack(codes, first.bits), stored, zeros, bits=first.bits, columns=codes.shape[1], tile=tile)
