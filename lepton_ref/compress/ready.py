"""A program's matrices in blocks as a GGUF's tensors: names, rows in the file's order, parts of one put together.

Some tensors of a file hold the rows of a matrix in another order (a llama's W_q and W_k go from RoPE's halves to its
pairs) or the rows of several (phi3's q, k and v). Rows of blocks are whole bytes, so they are moved as they are and
nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_ref.compress.calibration import name_table
from lepton_ref.models.names import Part
from lepton_ref.storage import BlockQuantised, Weight


def gguf_tensors(model: Any, weights: Mapping[str, Weight], /) -> dict[str, BlockQuantised]:
    """Name in the program → weight  ->  name in GGUF → the tensor, for `quantise_file`'s `ready`.

    Args:
        model: the `lepton_ref.Model` whose weights they are.
        weights: in blocks, as `lepton_ref.compress.layers.quantise_layers` gives them.

    Raises:
        ValueError: a family that GGUF does not know, a weight that is not in blocks, or a part of a tensor whose other
            parts are missing or in another format.
    """
    table = name_table(model)
    parts: dict[str, list[tuple[str, Part, BlockQuantised]]] = {}
    for name, weight in weights.items():
        if not isinstance(weight, BlockQuantised):
            raise ValueError(f"{name} is {weight.format}, which GGUF does not have; quantise to blocks such as Q4_K")
        part, full = table.source(name)
        parts.setdefault(full, []).append((name, part, weight))
    for name in model.program.weights:
        full = table.source(name)[1]
        if full in parts and name not in weights:
            raise ValueError(f"{full} holds {name} too; quantise all that it holds, or nothing of it")
    return {full: _whole(full, some, model) for full, some in parts.items()}


def _whole(full: str, parts: list[tuple[str, Part, BlockQuantised]], model: Any) -> BlockQuantised:
    """One tensor of its parts, each of whose rows goes where the file has it."""
    names, formats = ", ".join(name for name, _, _ in parts), sorted({weight.format for _, _, weight in parts})
    if len(formats) > 1:
        raise ValueError(f"{full} holds {names} in {', '.join(formats)}; give all of them one format")
    places = [np.arange(weight.shape[0]) if part.rows is None else part.rows(model.config) for _, part, weight in parts]
    first = parts[0][2]
    raw = np.empty((sum(map(len, places)), first.raw.shape[1]), dtype=np.uint8)
    for place, (_, _, weight) in zip(places, parts, strict=True):
        raw[place] = weight.raw
    return BlockQuantised(raw, format=first.block)
