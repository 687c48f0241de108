"""Random bytes in every block format, and what the reference package of the format decodes them to.

Random bytes reach what real models hide: scales that are inf, NaN, subnormal or negative, and sums that round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

SEED = 2
BLOCKS = {"Q4_0": 200, "Q4_1": 200, "Q5_0": 200, "Q8_0": 200, "Q4_K": 48, "Q6_K": 48}
"""Format → how many blocks; those of 256 elements are fewer, to keep the file small."""


def make_gguf_goldens(folder: Path) -> dict[str, Any]:
    """Write blocks.npz: for each format NAME_raw, (N, bytes) uint8, and NAME_value, (N, elements) float32."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    arrays: dict[str, np.ndarray] = {}
    for name, count in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        _, nbytes = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, size=(count, nbytes), dtype=np.uint8)
        with np.errstate(invalid="ignore"):
            value = gguf.quants.dequantize(raw, kind)
        arrays |= {f"{name}_raw": raw, f"{name}_value": value}
    np.savez(folder / "blocks.npz", **arrays)
    return {"blocks": BLOCKS}


GROUPS = [
    (
        "storage",
        "random blocks of the six GGUF formats of the first release and their values",
        "bytes from numpy.random.default_rng; gguf.quants.dequantize",
        make_gguf_goldens,
        SEED,
    )
]
