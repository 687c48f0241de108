"""Which panels a weight gets where activations are multiplied as they are.

What is multiplied is the weight decoded to float32. Dense weights stay as stored. A quantised one keeps its integers if
none of its elements is rounded on the way to float32: always so for scale·code, and for scale·code + minimum in every
model seen. One of numbers of 8 bits or less, with scales, keeps those, and the kernel rounds as decoding does. All else
becomes panels of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_bytes import int_to_f64
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import Panels, pack
from lepton_ref.backends.numba_panels_dense import STEP, pack_dense
from lepton_ref.backends.numba_panels_scaled import pack_scaled
from lepton_ref.backends.numba_real_blocks import scales_of
from lepton_ref.backends.numba_rounding import splat_i32, to_f32, to_f64
from lepton_ref.backends.numba_vectors import bits_of
from lepton_ref.storage.base import Weight
from lepton_ref.storage.dense import FORMATS as DENSE_FORMATS
from lepton_ref.storage.encoded import Encoded, Unrounded
from lepton_ref.storage.kept import Kept

LARGEST = (0, 0, 15, 0, 31, 15, 31, 0, 255, 15)
"""Kind → the largest code where an element may be rounded to float32; 0 where none can be."""


def pack_real(weight: Weight, /) -> Panels | None:
    """`(O, I) -> Panels`; None for float64, and for what is no matrix."""
    while isinstance(weight, Kept):
        weight = weight.base
    if len(weight.shape) == 2 and 0 not in weight.shape and weight.format not in DENSE_FORMATS:
        panels = pack(weight)
        if panels is not None and _exact(panels.kind, panels.data, panels.at, panels.panels, panels.blocks):
            return panels
        scaled = pack_scaled(weight)
        if scaled is not None:
            return scaled
    return pack_dense(weight)


def pack_unrounded(weight: Encoded | Unrounded, /) -> Panels | None:
    """`(O, I) -> Panels` of what is multiplied unrounded, or encoded to fp8; None where an element is no float32."""
    if isinstance(weight, Encoded) and weight.encoding != "fp8":
        return None
    step = max(1, STEP // weight.shape[1])
    for first in range(0, weight.shape[0], step):
        numbers = weight.operand(np.arange(first, min(first + step, weight.shape[0])))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if not np.array_equal(numbers.astype(np.float32), numbers, equal_nan=True):
                return None
    return pack_scaled(weight) if isinstance(weight, Encoded) else pack_real(weight.base)


@njit(nogil=True, cache=True, _nrt=False)
def _exact(kind: Any, W: Any, at: Any, panels: Any, blocks: Any) -> bool:
    """Whether every code that may stand in a block stands for a float32."""
    largest = LARGEST[kind]
    if largest == 0:
        return True
    step = at[5] if kind >= 8 else 1
    for panel in range(panels):
        for b in range(0, blocks, step):
            scale, other = scales_of(kind, W, 0, at, panel, blocks, b)
            for code in range(largest + 1):
                number = int_to_f64(splat_i32(np.int32(code)))
                value = (number - other) * scale if kind >= 8 else number * scale + other
                if bits_of(to_f64(to_f32(value)) != value) != 0:
                    return False
    return True
