"""What ggml's own C decoders make of every scale and every byte of codes, as one hash a format.

They are the functions `dequantize_row_*` of ggml-quants.c, among them those of formats that the package gguf does not
decode: Q8_K, Q1_0 and Q2_0. Q8_1 has none. The library is the one inside llama-cpp-python, or the one whose path the
environment variable GGML_BASE gives, as this makes it in a checkout of ggml (a stub takes the place of ggml.c):

    gcc -O1 -ffp-contract=off -fPIC -shared -Iinclude -Isrc src/ggml-quants.c stub.c -lm -o libggml-quants.so
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.golden.block_bytes import every
from lepton_ref.storage import FORMATS


def library() -> ctypes.CDLL:
    """The shared library that holds ggml's decoders."""
    path = os.environ.get("GGML_BASE")
    if path is None:
        found = importlib.util.find_spec("llama_cpp")
        if found is None or found.origin is None:
            raise SystemExit("storage_ggml needs llama-cpp-python, or GGML_BASE=path of ggml's shared library")
        path = str(Path(found.origin).parent / "lib" / "libggml-base.so")
    return ctypes.CDLL(path)


def make_ggml_goldens(folder: Path) -> dict[str, Any]:
    """Write every.npz: NAME_ggml, the SHA-256 of the float32 values of `block_bytes.every`, every NaN the same."""
    loaded, arrays = library(), {}
    for name, block in FORMATS.items():
        function = getattr(loaded, f"dequantize_row_{name[:-1].lower()}{name[-1]}", None)
        function = function or getattr(loaded, f"dequantize_row_{name.lower()}", None)
        if function is None:
            continue
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        raw = every(block.nbytes, [field.at for field in block.fields if field.what == "fp16"])
        values = np.empty((len(raw), block.length), dtype=np.float32)
        function(raw.ctypes.data, values.ctypes.data, values.size)
        one_nan = np.where(np.isnan(values), np.float32(np.nan), values)
        arrays[f"{name}_ggml"] = np.frombuffer(hashlib.sha256(one_nan.tobytes()).digest(), dtype=np.uint8)
    folder.mkdir(parents=True)
    np.savez(folder / "every.npz", **arrays)
    return {"formats": [name.removesuffix("_ggml") for name in arrays]}


GROUPS = [
    (
        "storage_ggml",
        "hashes of the values of every scale and code in the block formats that ggml decodes",
        "bytes by arithmetic; dequantize_row_* of ggml d99724f2b141 in C, compiled without contraction",
        make_ggml_goldens,
        None,
    )
]
