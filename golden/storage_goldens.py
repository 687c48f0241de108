"""Bytes in every block format but the IQ ones, and what the reference package of the format decodes them to.

Random bytes reach what real models hide: scales that are inf, NaN, subnormal or negative, and sums that round. The hash
reaches every fp16 scale and every byte of codes: 65 536 blocks of `lepton_ref.golden.block_bytes` a format.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

from lepton_ref.golden.block_bytes import every

SEED = 2
BLOCKS = {
    "Q4_0": 24, "Q4_1": 24, "Q5_0": 24, "Q5_1": 24, "Q8_0": 24, "MXFP4": 24, "NVFP4": 12,
    "Q2_K": 6, "Q3_K": 6, "Q4_K": 6, "Q5_K": 6, "Q6_K": 6, "TQ1_0": 6, "TQ2_0": 6,
}  # fmt: skip
"""Format → how many random blocks; those of 256 elements are fewer, to keep the file small."""

HALVES = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "MXFP4": (), "NVFP4": (),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
"""Format → where its fp16 numbers stand in a block; (0,) for the others."""


def decoded(name: str, raw: np.ndarray) -> np.ndarray:
    """What the package makes of the bytes, float32."""
    with np.errstate(invalid="ignore", over="ignore"):
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def make_gguf_goldens(folder: Path) -> dict[str, Any]:
    """Write blocks.npz: for each format its random blocks, their values, and the hash of the values of every byte."""
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    for turn, (name, count) in enumerate(BLOCKS.items()):
        _, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        raw = np.random.default_rng([SEED, turn]).integers(0, 256, size=(count, nbytes), dtype=np.uint8)
        values = decoded(name, every(nbytes, HALVES.get(name, (0,))))
        one_nan = np.where(np.isnan(values), np.float32(np.nan), values)
        hashed = np.frombuffer(hashlib.sha256(one_nan.tobytes()).digest(), dtype=np.uint8)
        arrays |= {f"{name}_raw": raw, f"{name}_value": decoded(name, raw), f"{name}_every": hashed}
    np.savez_compressed(folder / "blocks.npz", **arrays)
    return {"blocks": BLOCKS}


GROUPS = [
    (
        "storage",
        "random blocks of fourteen GGUF formats and their values, and hashes of the values of every scale and code",
        "bytes from numpy.random.default_rng and by arithmetic; gguf.quants.dequantize",
        make_gguf_goldens,
        SEED,
    )
]
