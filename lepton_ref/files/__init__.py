"""Weight files: safetensors and GGUF, memory-mapped, read as if they came from a stranger."""

from __future__ import annotations

from lepton_ref.files.errors import FileFormatError
from lepton_ref.files.folder import Checkpoint, read_folder
from lepton_ref.files.gguf import read_gguf, write_gguf
from lepton_ref.files.safetensors import read_safetensors, write_safetensors
from lepton_ref.files.tensor_file import TensorFile

__all__ = [
    "Checkpoint",
    "FileFormatError",
    "TensorFile",
    "read_folder",
    "read_gguf",
    "read_safetensors",
    "write_gguf",
    "write_safetensors",
]
