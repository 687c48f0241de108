"""Quantised weights in panels of sixteen rows, so that one vector of 64 bytes has four neighbouring inputs of each row.

A panel is sixteen rows (the last is filled with rows of scale 0), cut into blocks of 32 inputs (the last is filled
with the code that stands for 0); g counts panels, b blocks, and an axis of sixteen is the panel's rows. A weight is one
run of bytes, its parts at `at`, each at a multiple of 64:

    0  codes       8 bits: [g][b][8][16][4]; others: [g][b][4][16][4], the low nibbles being inputs 0 … 15 of the block,
                   the high ones inputs 16 … 31
    1  scales      fp16, [g][B][16], or [g][B][2][16] where there is a minimum: d, then m. B counts blocks, or 256s of
                   the K formats, or groups, whose scale is float32 and whose zero point int32
    2  fine        bytes of the K formats, [g][b][2][16]: scale and minimum of the block, of Q6_K of either half
    3  high        bits above a nibble. Fifth bits: [g][b][8] words, bit 4r + j of word v being row r, input 4v + j;
                   sixth and fifth (Q6_K): [g][b][2] vectors, whose bits 2n, 2n + 1 are those of inputs 4(4h + n) + j
    4  lengths     float32, [g][2][16]: at least the length of |scale·code| + |minimum| of a row, and the same divided
                   by the largest power of two that divides all scales and minima of the row
    5              (no offset) blocks that share a scale

What an element is worth, of its code c from 0 on: `scale·(c − offset) + minimum`, the offset of a group being its zero
point. That is exactly what `lepton_ref.storage.encoded` multiplies: nothing is quantised again here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_memory import ALIGNED, aligned
from lepton_ref.storage.base import Weight
from lepton_ref.storage.encoded import Encoded, Unrounded, as_operand
from lepton_ref.storage.kept import Joined, Kept

Bytes = NDArray[np.uint8]

BLOCK = 32
"""Inputs of a block."""

ROWS = 16
"""Rows of a panel."""

KINDS: Mapping[str, int] = MappingProxyType(
    {
        **{"Q8_0": 0, "Q4_0": 1, "Q4_1": 2, "Q5_0": 3, "Q5_1": 4},
        **{"Q4_K": 5, "Q5_K": 6, "Q6_K": 7, "INT8": 8, "INT4": 9},
    }
)
"""Kind of panel → its number in kernels."""

OFFSETS = (128, 8, 0, 16, 0, 0, 0, 32, 0, 0)
"""Kind → the code that stands for 0 where there is no minimum."""


@dataclass(frozen=True, eq=False)
class Panels:
    """A weight in panels.

    Attributes:
        kind: what the parts mean; see `KINDS`.
        outputs: O.
        width: I.
        data: flat uint8, all parts.
        at: int64 (8,), where the parts begin in data.
    """

    kind: int
    outputs: int
    width: int
    data: Bytes
    at: NDArray[np.int64]

    @property
    def panels(self) -> int:
        """How many there are."""
        return -(-self.outputs // ROWS)

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.width // BLOCK)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.data.nbytes


Parts = tuple[Bytes, ...]
"""Codes, scales, fine scales and high bits of some panels, each flat."""


def panels_of(
    kind: int, shape: tuple[int, int], sizes: tuple[int, ...], parts: Callable[[int, int], Parts], shared: int
) -> Panels:
    """Write panels part by part.

    Args:
        kind: a value of `KINDS`.
        shape: O and I.
        sizes: bytes of one panel's codes, scales, fine scales and high bits.
        parts: (first panel, last) -> those of these panels.
        shared: blocks that share a scale.
    """
    count = -(-shape[0] // ROWS)
    at = np.zeros(8, dtype=np.int64)
    end = 0
    for number, size in enumerate((*(*sizes, 0, 0)[:4], 8 * ROWS)):
        at[number] = end
        end += -(-count * size // ALIGNED) * ALIGNED
    at[5] = shared
    data = aligned(end)
    step = max(1, AT_ONCE // max(1, ROWS * shape[1]))
    for first in range(0, count, step):
        last = min(first + step, count)
        for number, part in enumerate(parts(first, last)):
            size = sizes[number]
            data[at[number] + first * size : at[number] + last * size] = part
    _measure(kind, shape, data, at)
    return Panels(kind, shape[0], shape[1], data, at)


AT_ONCE = 1 << 22
"""Elements that are packed at a time."""


def _measure(kind: int, shape: tuple[int, int], data: Bytes, at: NDArray[np.int64]) -> None:
    from lepton_ref.backends.numba_panels_lengths import row_lengths

    count = -(-shape[0] // ROWS)
    room = data[at[4] : at[4] + 8 * ROWS * count].view(np.float32)
    row_lengths(kind, data, at, count, -(-shape[1] // BLOCK), room)


def pack(weight: Weight, operands: str = "w8a8") -> Panels | None:
    """A weight in panels, as a linear layer under these operands multiplies it; None where it has no kind.

    Args:
        weight: as stored, as `as_operand` gives it, or kept.
        operands: "w8a8" or "w4a8", for a weight as stored.

    Raises:
        ValueError: other operands, or a weight that is no matrix.
    """
    if operands not in ("w8a8", "w4a8"):
        raise ValueError(f"operands {operands!r} have no integer panels; give 'w8a8' or 'w4a8'")
    if len(weight.shape) != 2 or 0 in weight.shape:
        raise ValueError(f"panels are those of a matrix, none of its axes 0; got a weight of shape {weight.shape}")
    while isinstance(weight, Kept):
        weight = weight.base
    if isinstance(weight, Joined):
        return None  # its parts are packed each
    if not isinstance(weight, (Unrounded, Encoded)):
        weight = as_operand(weight, operands)
    if isinstance(weight, Encoded):
        from lepton_ref.backends.numba_panels_blocks import pack_encoded

        return _typed(pack_encoded(weight))
    assert isinstance(weight, Unrounded), "the one other form that these operands have"
    from lepton_ref.backends.numba_panels_blocks import pack_blocks
    from lepton_ref.backends.numba_panels_groups import pack_groups

    packed = pack_blocks(weight.base)
    return _typed(packed if packed is not None else pack_groups(weight.base))


def _typed(panels: Any) -> Panels | None:
    assert panels is None or isinstance(panels, Panels), "mypy knows these files under another name"
    return panels
