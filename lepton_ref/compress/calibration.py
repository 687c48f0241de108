"""A calibration: what a model's linear layers were given over a set of tokens, and Hessians when they are asked for.

seen = calibrate(model, ids)                    # one pass: statistics of channels, a record of what was seen
write_imatrix("imatrix.gguf", seen.imatrix())
for group, h in seen.hessians():                # one pass more, one Hessian at a time
    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.activations import LENGTH, Corpus, Progress, Seen, corpus, stream
from lepton_ref.compress.hessian import hessian
from lepton_ref.compress.imatrix import Entry, ImportanceMatrix
from lepton_ref.compress.statistics import Channels, channels
from lepton_ref.compress.to_gguf_families import FORMS
from lepton_ref.models import FAMILIES, GGUF_FAMILIES
from lepton_ref.models.names import NameTable, WeightsError
from lepton_ref.models.program import Op
from lepton_ref.plain.shown import shown
from lepton_ref.storage import Weight

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """What was seen.

    Attributes:
        model: of which model.
        over: which tokens, with their number, SHA-256 and seed.
        channels: name of a linear op's matrix in the program, such as "layers.0.attn.q.weight" → its inputs.
    """

    model: Any
    over: Corpus
    channels: Mapping[str, Channels]

    def record(self) -> dict[str, Any]:
        """What to write down beside whatever is made from this."""
        return {
            "tokens": self.over.tokens,
            "sequences": len(self.over.sequences),
            "sha256": self.over.sha256,
            "seed": self.over.seed,
            "precision": self.model.precision.name,
        }

    def importance(self, names: Mapping[str, str] | None = None, /) -> dict[str, NDArray[np.float32]]:
        """Weight → (I) float32, the mean of x², what `storage.encode` takes as weights; under `names` where given.

        Raises:
            TypeError: names that are no mapping.
        """
        if names is not None and not isinstance(names, Mapping):
            raise TypeError(f"names must map names in the program to others, got {shown(names)}; gguf_names makes one")
        return {
            name if names is None else names[name]: seen.importance.astype(np.float32)
            for name, seen in self.channels.items()
            if names is None or name in names
        }

    def imatrix(self, *, dataset: str = "") -> ImportanceMatrix:
        """The importance matrix under GGUF's names; of a tied head under the embedding's.

        Raises:
            ValueError: a family that GGUF does not know.
            TypeError: a data set's name that is no word.
        """
        if not isinstance(dataset, str):
            raise TypeError(f"dataset is the name of what was seen, got {shown(dataset)}; give a str")
        names = gguf_names(self.model)
        entries = {
            names[name]: Entry(seen.squares[None], np.array([seen.tokens], dtype=np.int64))
            for name, seen in self.channels.items()
        }
        size = max(map(len, self.over.sequences))
        datasets = (dataset,) if dataset else ()
        return ImportanceMatrix(entries, datasets, -(-self.over.tokens // size), size)

    def hessians(
        self, *, weights: MutableMapping[str, Weight] | None = None, progress: Progress | None = None
    ) -> Iterator[tuple[Seen, Reals]]:
        """Yield each group of linear ops that share an input, with (I, I) Σ x·xᵀ; one is held at a time.

        `weights` may be changed between two groups: see `lepton_ref.compress.activations.stream`.
        """
        for seen in stream(self.model, self.over, weights=weights, progress=progress):
            yield seen, hessian(seen.sequences)


def calibrate(
    model: Any,
    ids: Any,
    /,
    *,
    length: int = LENGTH,
    samples: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run the model over tokens and keep what its linear layers were given.

    Args:
        model: a `lepton_ref.Model`.
        ids: a flat list, cut into sequences of `length`, or a list of lists: see `activations.corpus`.
        length: tokens of a sequence that is cut.
        samples: how many sequences to draw; None for all.
        seed: of the drawing.
        progress: called with (ops done, ops in all, name of the next).

    Raises:
        ValueError: no tokens, an id outside the vocabulary, activations that are not finite.
        TypeError: ids that are not integers, what is no model, or progress that cannot be called.
    """
    over = corpus(ids, length=length, samples=samples, seed=seed)
    found: dict[str, Channels] = {}
    for seen in stream(model, over, progress=progress):
        one = channels(seen.sequences)
        found.update({matrix_of(op): one for op in seen.ops})
    return Calibration(model, over, found)


def matrix_of(op: Op, /) -> str:
    """The name of a linear op's matrix."""
    return op.weights["w"]


def gguf_names(model: Any, /) -> dict[str, str]:
    """Name in the program → name in GGUF, of the matrices of linear ops.

    Raises:
        ValueError: a family that GGUF does not know.
    """
    table = name_table(model)
    names = {}
    for op in model.program.ops:
        if op.kind == "linear":
            try:
                names[matrix_of(op)] = table.source(matrix_of(op))[1]
            except WeightsError as error:
                raise ValueError(f"GGUF has no name for {matrix_of(op)!r} of {model.parts.architecture}") from error
    return names


def name_table(model: Any, /) -> NameTable:
    """GGUF's names of the model's family, or of the one as which GGUF holds it: a mistral is a llama there.

    Raises:
        ValueError: a family that GGUF does not know.
    """
    architecture = model.parts.architecture
    family = GGUF_FAMILIES.get(architecture)
    if family is None:
        family = next((each for each in FAMILIES.values() if architecture in each.architectures), None)
    if family is not None and family.gguf is None and family.model_type in FORMS:
        family = GGUF_FAMILIES[FORMS[family.model_type].architecture]
    if family is None or family.gguf is None:
        raise ValueError(f"GGUF has no names for {architecture}; use the calibration by the program's names")
    return family.gguf.names
