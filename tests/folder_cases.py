"""A small Llama whose matrices all packed formats can hold, as a folder, and models with some weights changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import Stored, config_of, f32, write_stored

import lepton_ref
from lepton_ref.compress.calibration import Calibration, calibrate
from lepton_ref.storage import Weight
from lepton_ref.storage.encoders.affine import AffineScheme, encode_affine

HIDDEN, WIDTH, INNER, VOCABULARY, LAYERS = 64, 32, 96, 64, 2
IDS = np.random.default_rng(0).integers(3, 50, 40).tolist()


def llama_tensors(*, tied: bool = False, seed: int = 0) -> dict[str, Stored]:
    """Tensors by name, float32: two heads of queries, one of keys and values."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Stored:
        return f32(rng.standard_normal((rows, columns)) / np.sqrt(columns))

    def vector() -> Stored:
        return f32(1 + rng.standard_normal(HIDDEN) / 8)

    found = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "model.norm.weight": vector()}
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (WIDTH, HIDDEN), "self_attn.v_proj": (WIDTH, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    for layer in range(LAYERS):
        before = f"model.layers.{layer}."
        found |= {f"{before}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        found |= {f"{before}{name}.weight": vector() for name in ("input_layernorm", "post_attention_layernorm")}
    return found if tied else {**found, "lm_head.weight": matrix(VOCABULARY, HIDDEN)}


def llama(folder: Path, *, tied: bool = False, seed: int = 0, **fields: Any) -> Path:
    """The folder, with `fields` of config.json beside the usual ones."""
    sizes: dict[str, Any] = {
        "hidden_size": HIDDEN, "head_dim": WIDTH, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": INNER, "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS,
        "max_position_embeddings": 64, "tie_word_embeddings": tied,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config_of(), **sizes, **fields}), encoding="utf-8")
    write_stored(folder / "model.safetensors", llama_tensors(tied=tied, seed=seed))
    return folder


def with_weights(model: lepton_ref.Model, changed: Mapping[str, Weight]) -> lepton_ref.Model:
    """The model with these weights in memory."""
    parts = dataclasses.replace(model.parts, weights={**model.parts.weights, **changed})
    return type(model)(parts, backend=model.backend, precision=model.precision)


def forward(model: lepton_ref.Model) -> bytes:
    return model.forward([IDS[:9]]).tobytes()


def seen(model: lepton_ref.Model) -> Calibration:
    return calibrate(model, IDS, length=20)


def of_layers(name: str) -> bool:
    """Whether a matrix is one of the layers', as against the head's."""
    return name.startswith("layers.")


def encoded(model: lepton_ref.Model, scheme: AffineScheme, *, head: bool = False) -> dict[str, Weight]:
    """Every matrix of the layers, and the head or not, in these integers."""
    names = dict.fromkeys(op.weights["w"] for op in model.program.ops if op.kind == "linear")
    return {
        name: encode_affine(model.parts.weights[name].decode(), scheme=scheme)
        for name in names
        if head or of_layers(name)
    }
