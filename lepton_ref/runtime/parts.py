"""What a model is put together from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ref.files import TensorFile
from lepton_ref.models.program import Program
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class Parts:
    """What `load` puts a model together from.

    Attributes:
        path: the folder or file.
        architecture: the class name in config.json, or GGUF's architecture.
        head: what the program ends with: "causal_lm", "base", "masked_lm", …
        config: the family's record.
        program: the op list.
        weights: by name, as stored or kept decoded.
        file: the tensors as they lie in the file.
        fields: config.json or the GGUF's metadata.
    """

    path: Path
    architecture: str
    head: str
    config: Any
    program: Program
    weights: Mapping[str, Weight]
    file: TensorFile
    fields: Mapping[str, Any]
