"""A weight file of any kind, opened for a look: GGUF, safetensors, or a folder whose packed matrices are made one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lepton_ref.files import FileFormatError, TensorFile, read_folder, read_gguf, read_safetensors
from lepton_ref.models.packed import group
from lepton_ref.models.reader import Reader


def open_file(path: str | os.PathLike[str], /) -> TensorFile:
    """Open it; nothing is decoded.

    Args:
        path: a .gguf file, a .safetensors file or index, or a folder with config.json.

    Raises:
        FileNotFoundError: nothing there.
        FileFormatError: a damaged file, or one of another kind.
        ValueError: packed matrices whose parts do not fit together, or whose layout is not known.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a .gguf, a .safetensors or a model's folder")
    if path.is_dir():
        checkpoint = read_folder(path)
        file = checkpoint.tensors
        config = Reader(checkpoint.config, where=str(path / "config.json")).section("quantization_config")
        others = [*file.integers, *file.refused]
        grouped = group(config, file.tensors, file.integers, others=others, where=str(path), codes=file.codes)
        return replace(file, path=path, tensors=grouped.tensors)
    if path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
        return read_safetensors(path)
    raise FileFormatError(path, "path", f"ends in {path.suffix!r}", "give a .gguf, a .safetensors or a model's folder")
