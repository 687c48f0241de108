"""Random bytes in the IQ formats, what their reference package decodes them to, its tables; and ggml's encoders.

The first blocks have the scales that random bytes hardly reach: zeros, the least subnormal number, the greatest number,
infinities and NaN. The hash reaches every fp16 scale and every byte: see `lepton_ref.golden.block_bytes`. Of the
encoders there are the bytes that ggml makes of a few rows, to compare errors with.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

from lepton_ref.golden.block_bytes import every
from lepton_ref.golden.ggml_peer import library, version

SEED = 4
SCALES = (0x0000, 0x8000, 0x0001, 0x8001, 0x7BFF, 0x7C00, 0xFC00, 0x7E00)
BLOCKS = {
    "IQ1_S": 16, "IQ1_M": 16, "IQ2_XXS": 16, "IQ2_XS": 16, "IQ2_S": 16, "IQ3_XXS": 16, "IQ3_S": 16,
    "IQ4_NL": 96, "IQ4_XS": 16,
}  # fmt: skip
"""Format → how many blocks."""
TABLES = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


def with_scales(name: str, raw: np.ndarray) -> np.ndarray:
    """The blocks, the first of them with the special scales."""
    out = raw.copy()
    for block, scale in zip(out, SCALES, strict=False):
        if name == "IQ1_M":  # four bits of it in the top of each of four words
            words = block[48:].view("<u2")
            words[:] = (words & 0x0FFF) | (((scale >> np.arange(0, 16, 4)) & 15) << 12).astype(np.uint16)
        else:
            block[:2] = np.array([scale], dtype="<u2").view(np.uint8)
    return out


def make_iq_goldens(folder: Path) -> dict[str, Any]:
    """Write blocks.npz: NAME_raw, NAME_value, NAME_every of each format, NAME_points of each table, sign_codes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    arrays: dict[str, np.ndarray] = {}
    for name, count in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        _, nbytes = gguf.GGML_QUANT_SIZES[kind]
        raw = with_scales(name, rng.integers(0, 256, size=(count, nbytes), dtype=np.uint8))
        with np.errstate(invalid="ignore"):
            value = gguf.quants.dequantize(raw, kind)
            values = gguf.quants.dequantize(every(nbytes, () if name == "IQ1_M" else (0,)), kind)
        one_nan = np.where(np.isnan(values), np.float32(np.nan), values)
        hashed = np.frombuffer(hashlib.sha256(one_nan.tobytes()).digest(), dtype=np.uint8)
        arrays |= {f"{name}_raw": raw, f"{name}_value": value, f"{name}_every": hashed}
    for name in TABLES:
        quant = getattr(gguf.quants, name)
        quant.init_grid()
        arrays[f"{name}_points"] = quant.grid.reshape(quant.grid_shape).astype(np.int8)
    arrays["sign_codes"] = np.frombuffer(gguf.quants.IQ2_XXS.ksigns, dtype=np.uint8)
    np.savez_compressed(folder / "blocks.npz", **arrays)
    return {"blocks": BLOCKS}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """`(6, 256), (256,)` float32 rows like a layer's, and how much each column matters. 11 bits, to keep them small."""
    rng = np.random.default_rng(SEED + 1)
    x = np.concatenate([rng.standard_normal((2, 256)), rng.laplace(size=(2, 256)), rng.standard_t(3, size=(2, 256))])
    weights = np.exp(rng.standard_normal(256))
    return tuple((0.02 * part).astype(np.float16).astype(np.float32) for part in (x, weights))


def quantize(name: str, x: np.ndarray, nbytes: int, imatrix: np.ndarray | None) -> np.ndarray:
    """`(R, 256) -> (R, nbytes)` what ggml makes of these rows. Some formats ask for an imatrix."""
    ggml = ctypes.CDLL(str(library()))
    ggml.ggml_quantize_init(int(gguf.GGMLQuantizationType[name]))
    out = np.zeros((len(x), nbytes), dtype=np.uint8)
    pointers = [None if a is None else a.ctypes.data_as(ctypes.c_void_p) for a in (x, out, imatrix)]
    call = getattr(ggml, f"quantize_{name.lower()}")
    call.restype = ctypes.c_size_t
    call(*pointers[:2], ctypes.c_int64(len(x)), ctypes.c_int64(x.shape[1]), pointers[2])
    return out


def make_encoder_goldens(folder: Path) -> dict[str, Any]:
    """Write encoders.npz: x (6, 256), imatrix (256,), and bytes: NAME_weighted, and NAME_flat with weights of 1."""
    folder.mkdir(parents=True)
    x, imatrix = rows()
    arrays = {"x": x, "imatrix": imatrix}
    for name in BLOCKS:
        length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        for what, weights in (("weighted", imatrix), ("flat", np.ones_like(imatrix))):
            arrays[f"{name}_{what}"] = quantize(name, x, 256 // length * size, weights)
    np.savez_compressed(folder / "encoders.npz", **arrays)
    return {"ggml": version()}


GROUPS = [
    (
        "storage_iq",
        "blocks of the nine IQ formats and their values, hashes of every scale and byte's, and the lattice tables",
        "bytes from numpy.random.default_rng and by arithmetic; gguf.quants.dequantize; its tables",
        make_iq_goldens,
        SEED,
    ),
    (
        "storage_iq_encoders",
        "six rows in the nine IQ formats, with an imatrix and with equal weights",
        "numbers from numpy.random.default_rng; ggml's quantize_NAME",
        make_encoder_goldens,
        SEED + 1,
    ),
]
