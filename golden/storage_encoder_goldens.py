"""Numbers of every kind, and the bytes that ggml's own encoders make of them.

Left out is what C leaves undefined, where a scale's reciprocal overflows or a cast is out of range.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

from lepton_ref.golden.ggml_peer import OF_ACTIVATIONS, TYPES, quantize, version

SEED = 31
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
SEARCHED_IF_WEIGHTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")


def rows() -> np.ndarray:
    """`(R, 256)` float32: within fp16's range and beyond it, ties, zeros, twins, neighbours of powers of two."""
    rng = np.random.default_rng(SEED)
    normal = rng.standard_normal((4, 256)) * np.exp2([[0], [-14], [-22], [14]])
    ties = rng.integers(-16, 17, (3, 256)) / 2.0
    ties[:, ::32] = [[127.0], [-8.0], [16.0]]
    halves = rng.integers(-254, 255, 256) / 2.0
    halves[::32] = 127.0
    zeros = rng.choice([0.0, -0.0], (2, 256))
    zeros[1, ::32] = rng.choice([1.0, -1.0], 8)
    twins = rng.choice([0.75, -0.75, 0.25], (1, 256))
    powers = np.nextafter(np.exp2(rng.integers(-20, 20, (1, 256))).astype(np.float32), np.float32(0))
    below = np.nextafter(np.float32(2.0) ** np.arange(-120, 120, 7.5).astype(int), np.float32(0))  # one a block of 32
    logarithms = np.zeros((4, 256))
    logarithms[:, ::32] = below.reshape(4, 8)
    constant = np.full((1, 256), -0.3)
    positive = np.abs(rng.standard_normal((1, 256))) + 1
    spike = rng.standard_normal((1, 256))
    spike[0, ::64] = 1e6
    parts = (normal, ties, halves[None], zeros, twins, powers, logarithms, constant, positive, spike)
    return np.concatenate(parts).astype(np.float32)


def weights() -> np.ndarray:
    """`(6, 512)` float32 like a layer's: normal rows, some with long tails, one off zero; 11 bits, to stay small."""
    rng = np.random.default_rng(SEED + 1)
    parts = [rng.standard_normal((3, 512)), rng.laplace(size=(2, 512)), rng.standard_normal((1, 512)) + 1.5]
    return (0.02 * np.concatenate(parts)).astype(np.float16).astype(np.float32)


def nbytes(name: str, width: int) -> int:
    """The bytes of a row. gguf says 40 of Q8_1, whose two scales were once float32, and does not know Q2_0."""
    own = {"Q8_1": (32, 36), "Q2_0": (64, 18)}
    length, size = own[name] if name in own else gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return width // length * size


def make_encoder_goldens(folder: Path) -> dict[str, Any]:
    """Write encoders.npz.

    x (R, 256) and NAME (R, bytes) for the reference encoders; w (6, 512) and imatrix (512,) with NAME_plain and
    NAME_weighted (6, bytes) for the K-quants, with NAME_weighted alone for those that are searched only then.
    """
    folder.mkdir(parents=True)
    x, w = rows(), weights()
    imatrix = np.exp(np.random.default_rng(SEED + 2).standard_normal(512)).astype(np.float32)
    arrays = {"x": x, "w": w, "imatrix": imatrix}
    equal = {}
    for name in [*TYPES, *OF_ACTIVATIONS]:
        if name in SEARCHED:
            arrays[f"{name}_plain"] = quantize(name, w, nbytes(name, 512))
            arrays[f"{name}_weighted"] = quantize(name, w, nbytes(name, 512), imatrix)
            continue
        arrays[name] = quantize(name, x, nbytes(name, 256))
        if name in SEARCHED_IF_WEIGHTED:
            arrays[f"{name}_weighted"] = quantize(name, w, nbytes(name, 512), imatrix)
        try:
            with np.errstate(all="ignore"):
                ours = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
        except (NotImplementedError, KeyError):
            continue
        equal[name] = f"{int((ours == arrays[name]).all(axis=1).sum())} of {len(x)} rows"
    np.savez_compressed(folder / "encoders.npz", **arrays)
    return {"ggml": version(), "rows that gguf encodes as ggml does": equal}


GROUPS = [
    (
        "storage_encoders",
        "numbers of every kind as ggml encodes them, and weights as its K-quants, with an importance and without",
        "numpy.random.default_rng; libggml-base's quantize_row_*_ref and ggml_quantize_chunk",
        make_encoder_goldens,
        SEED,
    )
]
