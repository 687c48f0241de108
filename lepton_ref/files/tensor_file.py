"""What every weight file reads as: named weights, still in the file, and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lepton_ref.files.errors import FileFormatError
from lepton_ref.interface import HostArray
from lepton_ref.storage import Weight

_NONE: Mapping[str, Any] = MappingProxyType({})


class Weights(Mapping[str, Weight]):
    """The weights of a file by name.

    Iterating gives the weights. A tensor of the file that is no weight is `in` it and fails, by name and with the
    reason, when it is asked for, so that nobody reports it as missing.

    Args:
        weights: the weights.
        refused: for the other tensors of the file, name → the error that says why it is no weight.
    """

    def __init__(self, weights: Mapping[str, Weight], refused: Mapping[str, FileFormatError]) -> None:
        self._weights = dict(weights)
        self._refused = dict(refused)

    def __getitem__(self, name: str) -> Weight:
        if name in self._refused:
            raise self._refused[name]
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights or name in self._refused

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


@dataclass(frozen=True)
class TensorFile:
    """A weight file, or the several files of one model, memory-mapped: nothing is decoded until it is used.

    Attributes:
        path: what was opened.
        kind: "safetensors" or "gguf".
        tensors: name as in the file → weight.
        metadata: as in the file: str → str in safetensors; numbers, strings, lists and arrays in GGUF.
        nbytes: the size of the file or files.
        integers: tensors of integers or booleans, which are no weights, as read-only arrays.
        refused: tensors whose type cannot be decoded, name → type. Asking `tensors` for one raises.
        codes: those of them that are small floats of a byte each: name → type, such as "F8_E4M3", and read-only uint8.
        metadata_types: in GGUF, key → stored type, so that a copy can be written with the same types.
    """

    path: Path
    kind: Literal["safetensors", "gguf"]
    tensors: Mapping[str, Weight]
    metadata: Mapping[str, Any]
    nbytes: int
    integers: Mapping[str, HostArray] = field(default_factory=lambda: _NONE)
    refused: Mapping[str, str] = field(default_factory=lambda: _NONE)
    metadata_types: Mapping[str, str] = field(default_factory=lambda: _NONE)
    codes: Mapping[str, tuple[str, HostArray]] = field(default_factory=lambda: _NONE)

    def __repr__(self) -> str:
        return f"TensorFile({str(self.path)!r}, {self.kind}, {len(self.tensors)} weights, {self.nbytes:,} bytes)"
