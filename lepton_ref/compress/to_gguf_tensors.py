"""A folder's tensors under GGUF's names, in GGUF's order of rows; nothing is decoded but vectors and small tables.

Both files' tables say which rows of which tensor a weight of the program is. So a row of GGUF's tensor is the row of
the folder's that holds the same row of the same weight:

    GGUF's row r_g(w, j) ← the folder's row r_f(w, j)       for every weight w of the tensor, and every row j of it

A fused matrix of the one is a fused matrix of the other, in every family that has any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.names import NameTable, Part
from lepton_ref.models.program import Program
from lepton_ref.storage import Dense, RowView, Weight

SMALL = ("position_embd.weight", "token_types.weight")
"""Tables that llama.cpp adds to float32 numbers and wants as float32."""

Rows = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each weight of a tensor, its rows in GGUF's tensor and in the folder's."""


def tensors_to_gguf(
    program: Program, here: NameTable, there: NameTable, tensors: Mapping[str, Weight], config: Any
) -> dict[str, Weight]:
    """Name in GGUF → weight, in the program's order.

    Args:
        program: the op list, to which the folder's tensors are known to fit.
        here: the folder's names.
        there: GGUF's.
        tensors: the folder's.
        config: what the program was made from.
    """
    bare = bool(here.prefix) and not any(name.startswith(here.prefix) for name in tensors)
    sources: dict[str, Weight] = {}
    rows: dict[str, Rows] = {}
    for weight, shape in program.weights.items():
        part, name = here.source(weight)
        place, target = there.source(weight)
        source = _turned(tensors[here.found_as(name, tensors, bare=bare)], part)
        assert target not in sources or sources[target].shape == source.shape, "fused here is fused there"
        sources[target] = source
        rows.setdefault(target, []).append((_rows(place, shape, config), _rows(part, shape, config)))
    return {name: _placed(source, rows[name], small=name in SMALL) for name, source in sources.items()}


def _turned(tensor: Weight, part: Part) -> Weight:
    """GPT-2's matrices lie (in, out)."""
    if not part.transpose or len(tensor.shape) == 1:
        return tensor
    assert isinstance(tensor, Dense), "`bind` has refused what cannot be turned"
    return Dense(tensor.array.T, format=tensor.format)


def _rows(part: Part, shape: tuple[int, ...], config: Any) -> NDArray[np.int64]:
    return np.arange(shape[0]) if part.rows is None else part.rows(config)


def _placed(source: Weight, rows: Rows, *, small: bool) -> Weight:
    """The folder's tensor in GGUF's order."""
    index = np.empty(sum(len(place) for place, _ in rows), dtype=np.int64)
    for place, origin in rows:
        index[place] = origin
    placed = source if np.array_equal(index, np.arange(source.shape[0])) else RowView(source, index)
    return as_float32(placed) if small or len(placed.shape) == 1 else placed


def as_float32(weight: Weight, offset: float = 0.0) -> Dense:
    """The weight's numbers plus the offset, rounded once to float32."""
    with np.errstate(over="ignore"):
        return Dense((weight.decode().astype(np.float64) + offset).astype("<f4"), format="F32")
