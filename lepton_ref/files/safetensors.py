"""Safetensors: what other parts of the package use of it. Reader, index and writer have a page each."""

from __future__ import annotations

from pathlib import Path

from lepton_ref.files.safetensors_index import read_index
from lepton_ref.files.safetensors_read import join, read_header
from lepton_ref.files.safetensors_write import write_safetensors
from lepton_ref.files.tensor_file import TensorFile

__all__ = ["INDEX_NAME", "read_safetensors", "write_safetensors"]

INDEX_NAME = "model.safetensors.index.json"


def read_safetensors(path: str | Path) -> TensorFile:
    """Open safetensors weights; nothing is decoded, and the whole header is checked before anything is returned.

    Args:
        path: a .safetensors file, a .safetensors.index.json, or a folder that holds model.safetensors or
            model.safetensors.index.json.

    Returns:
        F64, F32, F16 and BF16 tensors as weights, a scalar as shape (1,); integers and booleans as plain arrays.

    Raises:
        FileNotFoundError: there is no such file, or no safetensors in the folder.
        FileFormatError: whatever is wrong with a file.
    """
    path = Path(path)
    if path.is_dir():
        folder = path
        path = folder / "model.safetensors"
        if not path.exists():
            path = folder / INDEX_NAME
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds neither model.safetensors nor {INDEX_NAME}")
    if path.name.endswith(".json"):
        return read_index(path)
    return join(path, [read_header(path)])
