"""Write a model down again: its tensors' bytes as they are stored, with config and tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lepton_ref.files import TensorFile, write_gguf, write_safetensors
from lepton_ref.files.model_folder import copy_companions, replacing_folder
from lepton_ref.files.stored import Stored, small_floats
from lepton_ref.interface import HostArray
from lepton_ref.runtime.find import as_path
from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Weight


def save(parts: Parts, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the model to `path`, complete or not at all; tensors keep their stored bytes.

    Args:
        parts: the model's.
        path: a folder for a model that was read from a folder, a .gguf file for one read from GGUF.
        overwrite: whether a model there may be replaced. Files in its folder whose names are not a model's stay.

    Returns:
        The path.

    Raises:
        FileExistsError: something is there and `overwrite` is False, or it is no model's folder.
        TypeError: a path that is no path.
        ValueError: an empty path, a folder asked of a GGUF model or the other way round, or a tensor of a type that is
            not written.
    """
    target = as_path(path)
    if parts.file.kind == "gguf" and target.suffix != ".gguf":
        raise ValueError(f"{target}: this model was read from GGUF and is saved as GGUF; end the path in .gguf")
    if parts.file.kind != "gguf" and target.suffix == ".gguf":
        raise ValueError(f"{target}: this model was read from a folder and is saved as one; give a folder's path")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True")
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_written(parts.file)
    tensors: dict[str, Weight | HostArray] = {**parts.file.tensors, **parts.file.integers}
    if parts.file.kind == "gguf":
        plain = {key: value for key, value in parts.fields.items() if not key.startswith("split.")}
        write_gguf(target, tensors, plain, metadata_types=parts.file.metadata_types, overwrite=overwrite)
        return target
    codes = {name: small_floats(kind, array) for name, (kind, array) in parts.file.codes.items()}
    with replacing_folder(target, overwrite=overwrite) as fresh:
        _write_folder(parts, {**tensors, **codes}, fresh)
    return target


def _require_written(file: TensorFile) -> None:
    lost = [name for name in file.refused if name not in file.codes]
    if lost:
        kind = file.refused[lost[0]]
        raise ValueError(f"tensor {lost[0]!r} is stored as {kind}, which is not written; copy the file instead")


def _write_folder(parts: Parts, tensors: Mapping[str, Weight | HostArray | Stored], folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", tensors, dict(parts.file.metadata) or {"format": "pt"})
    text = json.dumps(dict(parts.fields), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    copy_companions(parts.path, folder)
