"""GGUF: what other parts of the package use of it. Types, reader and writer have a page each."""

from __future__ import annotations

from lepton_ref.files.gguf_read import read_gguf
from lepton_ref.files.gguf_write import write_gguf

__all__ = ["read_gguf", "write_gguf"]
