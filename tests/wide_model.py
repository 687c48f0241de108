"""A Llama of one or more layers whose rows are whole blocks of 256, as a GGUF: for what quantises and compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from talking_model import METADATA as WORDS

from lepton_ref.files import write_gguf

WIDTH, VOCABULARY, HEADS, SHARED = 256, 61, 4, 2

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": SHARED,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.rope.freq_base": 10000.0,
    "llama.rope.dimension_count": WIDTH // HEADS,
}


def wide_tensors(layers: int = 1, *, tied: bool = True, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Tensors by GGUF name, float32."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, WIDTH)) / 16).astype("<f4")

    def vector() -> NDArray[np.float32]:
        return (1 + rng.standard_normal(WIDTH) / 8).astype("<f4")

    found = {"token_embd.weight": matrix(VOCABULARY)}
    for layer in range(layers):
        rows = {
            "attn_q": WIDTH, "attn_k": WIDTH // 2, "attn_v": WIDTH // 2, "attn_output": WIDTH,
            "ffn_gate": WIDTH, "ffn_up": WIDTH, "ffn_down": WIDTH,
        }  # fmt: skip
        found[f"blk.{layer}.attn_norm.weight"] = vector()
        found[f"blk.{layer}.ffn_norm.weight"] = vector()
        found |= {f"blk.{layer}.{name}.weight": matrix(count) for name, count in rows.items()}
    found["output_norm.weight"] = vector()
    if not tied:
        found["output.weight"] = matrix(VOCABULARY)
    return found


def wide_gguf(
    path: Path, layers: int = 1, *, words: bool = True, tied: bool = True, seed: int = 0, **more: Any
) -> Path:
    """The file; `more` replaces tensors by name with "." written "__"."""
    metadata = {**METADATA, "llama.block_count": layers, **(WORDS if words else {})}
    tensors: dict[str, Any] = {**wide_tensors(layers, tied=tied, seed=seed)}
    tensors |= {name.replace("__", "."): value for name, value in more.items()}
    write_gguf(path, tensors, metadata, overwrite=True)
    return path
