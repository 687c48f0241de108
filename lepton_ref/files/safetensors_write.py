"""Writing safetensors. The layout is described in safetensors_read.py."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from lepton_ref.files.mapped import replacing
from lepton_ref.files.stored import Stored, stored
from lepton_ref.interface import HostArray
from lepton_ref.storage import Weight

_SMALL_FLOATS = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_ORDER = ("BOOL", *_SMALL_FLOATS, "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64")
"""From the least aligned type to the most. Tensors are written from the most, so that all are aligned, and by name."""


def _all_stored(tensors: Mapping[str, Weight | HostArray | Stored]) -> list[tuple[str, Stored]]:
    """Every tensor's bytes, in the order of the file."""
    found: list[tuple[str, Stored]] = []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} cannot be written; safetensors takes any string but '__metadata__'")
        kept = tensor if isinstance(tensor, Stored) else stored(name, tensor)
        if kept.format not in _ORDER:
            raise ValueError(
                f"tensor {name!r} is {kept.format}, which safetensors does not know; write GGUF, or decode it first"
            )
        found.append((name, kept))
    return sorted(found, key=lambda pair: (-_ORDER.index(pair[1].format), pair[0]))


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Weight | HostArray | Stored],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write one safetensors file, complete or not at all; the bytes of weights are kept as they are.

    Args:
        path: the file.
        tensors: name → dense weight or array of floats, integers or booleans; small floats as `Stored` bytes.
        metadata: strings for "__metadata__".
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: a tensor that the format cannot hold, or metadata that are not strings.
    """
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata {key!r}: {value!r} is not a pair of strings; safetensors takes strings alone")
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    found = _all_stored(tensors)
    at = 0
    for name, kept in found:
        end = at + kept.nbytes
        header[name] = {"dtype": kept.format, "shape": list(kept.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the data begin aligned
    with replacing(Path(path), overwrite=overwrite) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, kept in found:
            for piece in kept.pieces():
                file.write(piece)
