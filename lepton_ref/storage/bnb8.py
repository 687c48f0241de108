"""bitsandbytes' int8 (LLM.int8()): a signed byte an element and a scale a row. Value q·SCB/127.

    weight          int8 (O, I)
    SCB             F32 (O,): the largest size in each row when it was quantised
    weight_format   uint8, 0 for rows as they stand; other numbers are the tiles of old GPUs, which are not read

Why one division is enough. q·SCB has 8 + 24 bits, exact in float64. A quotient of it by 127 that is no midpoint between
two float32 numbers differs from every midpoint by a part in 2³² of itself, since 127 times the midpoint and q·SCB are
multiples of one unit; float64's rounding errs by a part in 2⁵³. So float64's quotient rounds to float32 as the real
number does.

Engines. bitsandbytes multiplies in float32 by 0.007874015718698502, the float32 nearest to 1/127: three roundings where
ours is one. As a linear layer it also quantises the activations, which reading the weights does not; there its
PyTorch code multiplies by 6.200124e-05, where 1/127² is 6.200012e-05, so that its outputs are too large by 1.8e-5.
Source: bitsandbytes 0.50.2, _ops.py (int8_vectorwise_dequant) and backends/default/ops.py (int8_mm_dequant).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.packed import Packed, require_float32, stored_number


class BitsAndBytes8(Packed):
    """A matrix of an 8-bit bitsandbytes checkpoint.

    Args:
        weight: the codes.
        scb: the scales.

    Raises:
        ValueError: a tensor of another dtype or shape.
    """

    formula = "q·SCB/127"
    tensors = {"q": "weight", "SCB": "SCB"}  # noqa: RUF012 - a constant mapping

    def __init__(self, weight: HostArray, scb: Dense) -> None:
        if weight.dtype != np.int8 or weight.ndim != 2:
            raise ValueError(f"weight must be an int8 matrix, got {weight.dtype} {weight.shape}")
        require_float32("SCB", scb, len(weight))
        self.codes = weight
        self.scb = scb
        self.format = "BNB8"
        self.shape = weight.shape
        self.nbytes = weight.nbytes + scb.nbytes

    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        out = self.codes[index].astype(np.float64)
        out *= self.scb.take(index).astype(np.float64)[:, np.newaxis]
        out /= 127.0
        return out.astype(dtype, copy=False)

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """Code and scale of one element."""
        self._require_element(row, column)
        q = int(self.codes[row, column])
        where = (Bits(row * self.shape[1] + column, 0, 8),)
        scale = stored_number("SCB", self.scb.array, row, float(self.scb.array[row]))
        return Part("q", where, q & 255, float(q)), scale
