"""AWQ checkpoints, version "gemm": codes of 4 bits packed along the outputs. Value s·(q − z).

    qweight   int32 (I, O/8): nibble n of word c, lowest first, is output 8c + [0, 2, 4, 6, 1, 3, 5, 7][n]
    qzeros    int32 (G, O/8): the zeros, in the same order; stored as they are, without GPTQ's − 1
    scales    (G, O), F16, BF16 or F32

Input i is in group ⌊i·G/I⌋.

Engines. AutoAWQ computes (q − z)·scale in float16, one rounding that ours does not have.
Source: AutoAWQ 0.2.9, utils/packing_utils.py and modules/linear/gemm.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage import detect
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.packed import Packed, columns, require_scales, require_words, scaled, stored_number

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibble of a word, lowest first → output modulo 8."""

NIBBLE = tuple(ORDER.index(output) for output in range(8))
"""Output modulo 8 → nibble of a word."""


def pack_awq(codes: NDArray[Any]) -> NDArray[np.int32]:
    """`(rows, O) -> (rows, O/8)` codes from 0 to 15 as AWQ orders them.

    Raises:
        ValueError: no matrix of integers from 0 to 15, or outputs that are no multiple of 8.
    """
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.shape[1] % 8:
        raise ValueError(f"AWQ packs an integer matrix of 8·n columns, got {codes.dtype} {codes.shape}")
    if codes.size and (codes.min() < 0 or codes.max() > 15):
        raise ValueError(f"AWQ codes are 0 … 15, got {codes.min()} … {codes.max()}")
    eights = codes.reshape(len(codes), -1, 8).astype(np.uint32)
    words = np.zeros(eights.shape[:2], dtype=np.uint32)
    for n, output in enumerate(ORDER):
        words |= eights[:, :, output] << np.uint32(BITS * n)
    return words.view(np.int32)


def pick_awq(words: NDArray[np.int32], index: NDArray[np.int64]) -> NDArray[np.uint8]:
    """`(rows, O/8), (N,) -> (N, rows)` the codes of these outputs."""
    shift = np.uint32(BITS) * np.array(NIBBLE, dtype=np.uint32)[index % 8]
    return ((words.view(np.uint32)[:, index // 8] >> shift) & np.uint32(15)).astype(np.uint8).T


class AWQ(Packed):
    """A matrix of an AWQ checkpoint.

    Args:
        qweight: the packed codes.
        qzeros: the packed zeros.
        scales: `(G, O)`.

    Raises:
        ValueError: a tensor of another dtype or shape, or inputs that are not whole groups.
    """

    formula = "s·(q − z)"
    tensors = {"q": "qweight", "z": "qzeros", "s": "scales"}  # noqa: RUF012 - a constant mapping

    def __init__(self, qweight: HostArray, qzeros: HostArray, scales: Dense) -> None:
        self.qweight = require_words("qweight", qweight)
        self.qzeros = require_words("qzeros", qzeros)
        inputs, outputs, groups = len(qweight), 8 * qweight.shape[1], len(qzeros)
        if isinstance(scales, Dense) and detect.packing(qweight.shape, scales.shape, BITS).answer == "gptq":
            raise ValueError(f"qweight {qweight.shape} beside scales {scales.shape} is GPTQ's layout; set quant_method")
        self.scales = require_scales("scales", scales, (groups, outputs))
        if qzeros.shape[1] != qweight.shape[1]:
            raise ValueError(f"qzeros {qzeros.shape} must have the {qweight.shape[1]} columns of qweight")
        if groups == 0 or inputs % groups:
            raise ValueError(f"{inputs} inputs are not {groups} whole groups, as qzeros {qzeros.shape} says")
        self.groups = np.arange(inputs) // max(1, inputs // groups)
        self.format = "AWQ4"
        self.shape = (outputs, inputs)
        self.nbytes = qweight.nbytes + qzeros.nbytes + scales.nbytes

    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        zeros = pick_awq(self.qzeros, index).astype(np.int16)
        return scaled(pick_awq(self.qweight, index), zeros, columns(self.scales, index), self.groups, dtype)

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """Scale, code and zero of one element."""
        self._require_element(row, column)
        at, group = np.array([row]), int(self.groups[column])
        s = float(columns(self.scales, at)[0, group])
        q, z = int(pick_awq(self.qweight, at)[0, column]), int(pick_awq(self.qzeros, at)[0, group])
        return (
            stored_number("s", self.scales.array, group * self.shape[0] + row, s),
            Part("q", (self._nibble(row, column),), q, float(q)),
            Part("z", (self._nibble(row, group),), z, float(z)),
        )

    def _nibble(self, output: int, line: int) -> Bits:
        bit = BITS * NIBBLE[output % 8]
        return Bits(4 * (line * self.qweight.shape[1] + output // 8) + bit // 8, bit % 8, BITS)
