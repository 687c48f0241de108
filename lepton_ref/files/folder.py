"""A model folder as the Hugging Face hub lays it out: config.json beside safetensors weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_ref.files.errors import FileFormatError
from lepton_ref.files.json_reading import read_object
from lepton_ref.files.safetensors import INDEX_NAME, read_safetensors
from lepton_ref.files.tensor_file import TensorFile

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "consolidated.00.pth")
"""Names under which weights are published as pickles."""


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, opened.

    Attributes:
        path: the folder.
        config: what config.json says.
        tensors: the weights, memory-mapped.
    """

    path: Path
    config: dict[str, Any]
    tensors: TensorFile


def _check_weights(folder: Path) -> None:
    """Some safetensors are there; otherwise say what is there instead."""
    if (folder / "model.safetensors").exists() or (folder / INDEX_NAME).exists():
        return
    for name in _PICKLES:
        if (folder / name).exists():
            remedy = (
                "a pickle can run any code, so it is never read; where you trust it, convert it: "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
            )
            raise FileFormatError(folder / name, "weights", "are a pickle", remedy)
    remedy = f"expected model.safetensors, or {INDEX_NAME} and its shards; a .gguf file is opened by its own path"
    raise FileFormatError(folder, "weights", "none found", remedy)


def read_folder(path: str | Path) -> Checkpoint:
    """Open a model folder; no weight is read yet.

    Raises:
        FileNotFoundError: there is no such folder.
        FileFormatError: no config.json, no safetensors, or a file that is not what its format demands.
    """
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; give the folder of a model")
    if not folder.is_dir():
        raise FileFormatError(folder, "path", "is not a folder", "give the folder that holds config.json")
    if not (folder / "config.json").exists():
        raise FileFormatError(folder, "config.json", "is missing", "give the folder of a whole model; fetch it again")
    config = read_object(folder / "config.json")
    _check_weights(folder)
    return Checkpoint(folder, config, read_safetensors(folder))
