"""What is to be compressed: a GGUF, a safetensors file or a model's folder, its tensors still in the file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_ref.files import FileFormatError, TensorFile, read_folder, read_gguf, read_safetensors
from lepton_ref.files.safetensors import INDEX_NAME
from lepton_ref.interface import HostArray
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight

PIECE = 1 << 22
"""Bytes of a file that are hashed at a time."""

Progress = Callable[[list[str]], Iterable[str]]
"""What shows how far the names of tensors have been worked through."""

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """What is read.

    Attributes:
        path: as it was given.
        files: all that were read, in order: what its SHA-256 are of.
        tensors: name → weight, as the target will name them, in order.
        integers: tensors that are no weights.
        metadata: of the target.
        metadata_types: key → type, for GGUF.
        notes: what the target cannot say.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Weight]
    integers: Mapping[str, HostArray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_types: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def digests(self, *, progress: Progress | None = None) -> list[str]:
        """The SHA-256 of each file, in hexadecimal; `progress` wraps the list of all their pieces."""
        found = {path: hashlib.sha256() for path in self.files}
        pieces = [(path, at) for path in self.files for at in range(0, path.stat().st_size, PIECE)]
        names = [path.name for path, _ in pieces]
        for _, (path, at) in zip(names if progress is None else progress(names), pieces, strict=True):
            with path.open("rb") as file:
                file.seek(at)
                found[path].update(file.read(PIECE))
        return [digest.hexdigest() for digest in found.values()]

    @property
    def architecture(self) -> str:
        """GGUF's name of the family, "" where it is not known."""
        name = self.metadata.get("general.architecture", "")
        return name if isinstance(name, str) else ""

    @property
    def sharing(self) -> int:
        """Query heads to a key/value head, 1 where it is not known."""
        heads, shared = (self.metadata.get(f"{self.architecture}.attention.head_count{end}") for end in ("", "_kv"))
        known = isinstance(heads, int) and isinstance(shared, int) and shared > 0
        return int(heads) // int(shared) if known else 1  # type: ignore[arg-type]  # `known` says that they are


def open_source(path: str | os.PathLike[str], /, *, gguf: bool) -> Source:
    """Open what is to be compressed; no weight is read yet.

    Args:
        path: a .gguf file, a .safetensors file, or a folder with config.json.
        gguf: whether it becomes a GGUF: a folder's tensors then have GGUF's names and order of rows.

    Raises:
        FileNotFoundError: nothing there.
        FileFormatError: a damaged file.
        ValueError: what cannot become what is asked for; the message says what can.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; give a .gguf or .safetensors file, or a model's folder"
        )
    if path.is_dir():
        return _folder(path, gguf=gguf)
    if path.suffix == ".gguf":
        if not gguf:
            raise ValueError(f"{path} is a GGUF and becomes one; end the path of the new file in .gguf")
        file = read_gguf(path)
        return _source(file, _members(path))
    if path.suffix == ".safetensors":
        if gguf:
            raise ValueError(f"{path} is one file of a model; give its folder, whose config.json a GGUF needs")
        return _source(read_safetensors(path), (path,))
    raise FileFormatError(path, "path", f"ends in {path.suffix!r}", "give a .gguf, a .safetensors or a model's folder")


def _source(file: TensorFile, files: tuple[Path, ...]) -> Source:
    if file.refused:
        name, kind = next(iter(file.refused.items()))
        raise FileFormatError(file.path, f"tensor {name}", f"is stored as {kind}", "decode it with its own tool first")
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith("split.")}
    tensors = {name: file.tensors[name] for name in file.tensors}
    return Source(file.path, files, tensors, file.integers, metadata, file.metadata_types)


def _folder(path: Path, *, gguf: bool) -> Source:
    checkpoint = read_folder(path)
    files = {path / "config.json", *path.glob("*.safetensors")}
    if not (path / "model.safetensors").exists():
        files.add(path / INDEX_NAME)
    if not gguf:
        packed = Reader(checkpoint.config, where=str(path / "config.json")).section("quantization_config")
        if packed.fields:
            raise packed.wrong("quant_method", packed.raw("quant_method", None), "absent: decode the model first")
        return _source(checkpoint.tensors, tuple(sorted(files)))
    from lepton_ref.compress.to_gguf import to_gguf

    made = to_gguf(checkpoint)
    read = tuple(sorted(files.union(made.files)))
    return Source(path, read, made.tensors, {}, made.metadata, made.types, made.notes)


def _members(path: Path) -> tuple[Path, ...]:
    """The files of a split set, or the one file."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return (path,)
    return tuple(sorted(path.parent.glob(f"{match['stem']}-?????-of-{match['count']}.gguf")))
