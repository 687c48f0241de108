"""Random bytes in the IQ formats, what their reference package decodes them to, and its lattice tables.

The first blocks have the scales that random bytes hardly reach: zeros, the least subnormal number, the greatest number,
infinities and NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

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
    """Write blocks.npz: NAME_raw and NAME_value for each format, NAME_points for each table, and the sign codes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    arrays: dict[str, np.ndarray] = {}
    for name, count in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        _, nbytes = gguf.GGML_QUANT_SIZES[kind]
        raw = with_scales(name, rng.integers(0, 256, size=(count, nbytes), dtype=np.uint8))
        with np.errstate(invalid="ignore"):
            value = gguf.quants.dequantize(raw, kind)
        arrays |= {f"{name}_raw": raw, f"{name}_value": value}
    for name in TABLES:
        quant = getattr(gguf.quants, name)
        quant.init_grid()
        arrays[f"{name}_points"] = quant.grid.reshape(quant.grid_shape).astype(np.int8)
    arrays["sign_codes"] = np.frombuffer(gguf.quants.IQ2_XXS.ksigns, dtype=np.uint8)
    np.savez_compressed(folder / "blocks.npz", **arrays)
    return {"blocks": BLOCKS}


GROUPS = [
    (
        "storage_iq",
        "random blocks of the nine IQ formats, some with special scales, their values, and the lattice tables",
        "bytes from numpy.random.default_rng; gguf.quants.dequantize; its tables",
        make_iq_goldens,
        SEED,
    )
]
