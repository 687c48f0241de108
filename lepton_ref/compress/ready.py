"""A program's matrices in blocks as a GGUF's tensors: names, rows in the file's order, parts of one put together.

Some tensors of a file hold the rows of a matrix in another order (a llama's W_q and W_k go from RoPE's halves to its
pairs) or the rows of several (phi3's q, k and v). Rows of blocks are whole bytes, so they are moved as they are and
nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_ref.compress.activations import Progress
from lepton_ref.compress.calibration import Calibration, gguf_names, name_table
from lepton_ref.compress.gptq_blocks import BLOCKS
from lepton_ref.compress.layers import matrices, quantise_layers
from lepton_ref.compress.quantise import effective_settings
from lepton_ref.compress.recipe import Choice
from lepton_ref.models.names import Part
from lepton_ref.storage import BlockQuantised, Weight


@dataclass(frozen=True)
class Ready:
    """Tensors of a file that are encoded already.

    Attributes:
        tensors: by GGUF's names; their bytes are written as they are.
        record: how they were made, for the manifest: the method, its settings, the calibration.
    """

    tensors: Mapping[str, BlockQuantised]
    record: Mapping[str, Any] = field(default_factory=dict)

    def require(self, source: Mapping[str, Weight], formats: Mapping[str, str], /) -> None:
        """Raise ValueError unless each takes the place of a tensor of the source, in the format that it is to have."""
        for name, weight in self.tensors.items():
            if name not in source or weight.shape != source[name].shape:
                given = "no such tensor" if name not in source else f"it has shape {source[name].shape} there"
                raise ValueError(f"{name!r} {weight.shape} is ready, but not in the source: {given}; is it another's?")
            if weight.format != formats[name]:
                raise ValueError(
                    f"{name!r} is ready in {weight.format}, but is to be {formats[name]}; quantise to what `plan` says"
                )


def gguf_tensors(model: Any, weights: Mapping[str, Weight], /) -> dict[str, BlockQuantised]:
    """Name in the program → weight  ->  name in GGUF → the tensor, as `Ready` takes it.

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


def by_gptq(
    seen: Calibration,
    choices: Mapping[str, Choice],
    /,
    *,
    sequential: bool = True,
    progress: Progress | None = None,
    **how: Any,
) -> Ready:
    """The matrices of layers by GPTQ, each in the format that a file is to have it in.

    Args:
        seen: a calibration of the model whose file it is.
        choices: name in GGUF → its format: `lepton_ref.compress.quantise_file.plan`. Formats that GPTQ is not for, and
            what is kept, are left to the encoder, as are heads that are the embedding too.
        sequential: see `lepton_ref.compress.layers.quantise_layers`.
        progress: likewise.
        how: settings of `lepton_ref.compress.gptq_blocks`: damp, act_order, follow.

    Raises:
        ValueError: a family that GGUF does not know, no matrix that GPTQ is for, or what GPTQ refuses.
    """
    names, alone = gguf_names(seen.model), matrices(seen.model.program)
    formats = {
        name: choices[full].format
        for name, full in names.items()
        if name in alone and full in choices and choices[full].format in BLOCKS and not choices[full].kept
    }
    if not formats:
        given = ", ".join(sorted({choice.format for choice in choices.values()}))
        raise ValueError(
            f"no matrix of a layer becomes a format that GPTQ is for, but {given}; take {', '.join(BLOCKS)}"
        )
    settings = effective_settings(next(iter(formats.values())), "gptq", **how)  # the same for all blocks
    changed = quantise_layers(seen, formats, method="gptq", sequential=sequential, progress=progress, **how)
    record = {"method": "gptq", "sequential": sequential, **settings, "calibration": seen.record()}
    return Ready(gguf_tensors(seen.model, changed), record)
