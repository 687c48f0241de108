"""What a family's page says: how to read its config, its op list, and its tensors' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader


@dataclass(frozen=True)
class GGUF:
    """A family as GGUF stores it.

    Attributes:
        architecture: `general.architecture`.
        read: (metadata without the prefix, tensors by name) → config.
        names: the tensors' names.
    """

    architecture: str
    read: Callable[[Reader, Mapping[str, Any]], Any]
    names: NameTable


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        model_type: `model_type` in config.json.
        architectures: `architectures` in config.json → which head: "causal_lm", "base", "masked_lm", …
        read: config.json → config.
        program: (config, head) → op list.
        names: the tensors' names in safetensors.
        gguf: the same in GGUF, or None where GGUF does not know the family.
    """

    model_type: str
    architectures: Mapping[str, str]
    read: Callable[[Reader], Any]
    program: Callable[[Any, str], Program]
    names: NameTable
    gguf: GGUF | None = None
