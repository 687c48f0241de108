"""ggml's own encoders, called in its library: the peer that files of block formats come from.

The library is libggml-base, which llama-cpp-python brings (`llama_cpp/lib`) and any build of llama.cpp; the environment
variable GGML_BASE names another copy.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

import numpy as np

TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41, "Q2_0": 42,
}  # fmt: skip
"""Format → its number in `enum ggml_type`, of those that `ggml_quantize_chunk` encodes."""
OF_ACTIVATIONS = {"Q8_1": "quantize_row_q8_1_ref", "Q8_K": "quantize_row_q8_K_ref"}
"""Format → the function, of those that ggml encodes activations in."""


def library() -> Path:
    """Where libggml-base lies.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    named = os.environ.get("GGML_BASE")
    if named is not None:
        return Path(named)
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations if spec is not None else None) or []:
        for found in sorted(Path(folder).glob("lib/*ggml-base*")):
            return found
    raise FileNotFoundError("no libggml-base: pip install llama-cpp-python, or name a copy in GGML_BASE")


def version() -> str:
    """The library's own version."""
    ggml = ctypes.CDLL(str(library()))
    ggml.ggml_version.restype = ctypes.c_char_p
    return str(ggml.ggml_version().decode())


def quantize(name: str, x: np.ndarray, nbytes: int, imatrix: np.ndarray | None = None) -> np.ndarray:
    """`(R, I) float32 -> (R, bytes)`: what ggml makes of these rows.

    Args:
        name: a key of `TYPES` or of `OF_ACTIVATIONS`.
        x: the rows.
        nbytes: the bytes of a row.
        imatrix: `(I,)` how much the columns matter.
    """
    ggml = ctypes.CDLL(str(library()))
    x = np.ascontiguousarray(x, dtype=np.float32)
    out = np.zeros((len(x), nbytes), dtype=np.uint8)
    source, target = x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)
    if name in OF_ACTIVATIONS:
        encode = ggml[OF_ACTIVATIONS[name]]
        encode.restype = None
        encode(source, target, ctypes.c_int64(x.size))
        return out
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    weights = None if imatrix is None else np.ascontiguousarray(imatrix, dtype=np.float32)
    pointer = None if weights is None else weights.ctypes.data_as(ctypes.c_void_p)
    rows, width = ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1])
    made = ggml.ggml_quantize_chunk(TYPES[name], source, target, ctypes.c_int64(0), rows, width, pointer)
    if made != out.size:
        raise ValueError(f"{name}: {made} bytes, not {out.size}: another ggml than this file knows")
    return out
