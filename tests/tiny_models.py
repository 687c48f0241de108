"""Small changed copies of golden/tiny's checkpoints, and the same model as a GGUF, for tests of loading and saving."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from golden_cases import GOLDEN
from numpy.typing import NDArray

import lepton_ref
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.files import read_safetensors, write_gguf
from lepton_ref.models import llama

BACKEND = NumpyBackend()
"""As an object: looking the name up costs more than loading so small a model."""

Stored = tuple[str, tuple[int, ...], bytes]
"""dtype, shape and bytes of a tensor in safetensors."""


class _Gone:
    def __repr__(self) -> str:  # tests are named by it, the same in every process
        return "GONE"


GONE = _Gone()
"""In a change of a config: the field is left out."""


def load(path: Path, **how: Any) -> lepton_ref.Model:
    return lepton_ref.load(path, **{"backend": BACKEND, **how})


def config_of(name: str = "llama") -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / "tiny" / name / "config.json").read_text(encoding="utf-8"))
    return config


def stored_tensors(name: str = "llama") -> dict[str, Stored]:
    """The golden's tensors, all float32, as they are stored."""
    file = read_safetensors(GOLDEN / "tiny" / name)
    return {tensor: f32(weight.decode()) for tensor, weight in file.tensors.items()}


def f32(values: NDArray[Any]) -> Stored:
    return "F32", values.shape, np.ascontiguousarray(values, dtype="<f4").tobytes()


def write_stored(path: Path, tensors: Mapping[str, Stored]) -> None:
    """A safetensors file of any types, also of those that the package's writer does not know."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values()))


def changed(
    folder: Path,
    name: str = "llama",
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Callable[[dict[str, Stored]], dict[str, Stored]] | None = None,
) -> Path:
    """A copy of a golden in `folder`, with fields of its config and tensors changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (GOLDEN / "tiny" / name).iterdir():
        if path.name != "expected.npz":
            shutil.copyfile(path, folder / path.name)
    if config is not None:
        merged = {field: value for field, value in {**config_of(name), **config}.items() if value is not GONE}
        (folder / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    if tensors is not None:
        write_stored(folder / "model.safetensors", tensors(stored_tensors(name)))
    return folder


@cache
def _llama() -> lepton_ref.Model:
    return load(GOLDEN / "tiny" / "llama")


def llama_metadata() -> dict[str, Any]:
    """What llama.cpp's converter says of the tiny Llama."""
    c = _llama().config
    return {
        "general.architecture": "llama",
        "llama.block_count": c.num_hidden_layers,
        "llama.context_length": c.max_position_embeddings,
        "llama.embedding_length": c.hidden_size,
        "llama.feed_forward_length": c.intermediate_size,
        "llama.attention.head_count": c.num_attention_heads,
        "llama.attention.head_count_kv": c.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "llama.rope.freq_base": c.rope.theta,
        "llama.rope.dimension_count": c.head_dim,
    }


def llama_gguf(path: Path, *, metadata: Mapping[str, Any] | None = None, **tensors: NDArray[Any] | None) -> Path:
    """The tiny Llama as llama.cpp's converter writes it; `tensors` adds or, as None, takes away."""
    model = _llama()
    merged = {key: value for key, value in {**llama_metadata(), **(metadata or {})}.items() if value is not GONE}
    found: dict[str, NDArray[Any] | None] = {}
    for weight, stored in model.parts.weights.items():
        part, tensor = llama.GGUF_NAMES.source(weight)
        order = None if part.rows is None else np.argsort(part.rows(model.config))
        found[tensor] = np.array(stored.decode()) if order is None else stored.decode()[order]
    found.update(tensors)
    write_gguf(path, {tensor: value for tensor, value in found.items() if value is not None}, merged)
    return path
