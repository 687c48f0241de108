"""A Llama-like model's folder as a GGUF holds it: names, order of rows, metadata.

The converter of llama.cpp is followed for llama, mistral (a llama there), qwen2 and qwen3. Rows of W_q and W_k of a
llama go from RoPE's halves to its pairs: row i·K/2 + j of a head becomes row 2j + i. Vectors become float32. Llama 3's
scaling of frequencies becomes the tensor of the divisors:

    λ = 2π·θ^(2i/K):  1 where λ < c/high,  factor where λ > c/low,
    else 1/((1 − s)/factor + s) with s = (c/λ − low)/(high − low)

Source: conversion of LlamaForCausalLM in convert_hf_to_gguf.py of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_ref.compress.tokenizer_to_gguf import tokenizer_metadata
from lepton_ref.files import Checkpoint
from lepton_ref.models import FAMILIES, GGUF_FAMILIES
from lepton_ref.models.names import bind
from lepton_ref.models.reader import Reader
from lepton_ref.ops import Rope
from lepton_ref.storage import Dense, RowView, Weight

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` in config.json → GGUF's architecture, for the families that are converted."""


@dataclass(frozen=True)
class Converted:
    """A folder as GGUF holds it.

    Attributes:
        tensors: by GGUF's names.
        metadata: keys and values.
        types: of some of the metadata.
        notes: what could not be said.
    """

    tensors: dict[str, Weight]
    metadata: dict[str, Any]
    types: dict[str, str]
    notes: tuple[str, ...]


def to_gguf(checkpoint: Checkpoint, /) -> Converted:
    """A folder as GGUF holds it; nothing is decoded but vectors.

    Raises:
        ValueError: a family, a head or a setting that a GGUF of it cannot say; the message names it.
    """
    where = str(checkpoint.path / "config.json")
    fields = Reader(checkpoint.config, where=where)
    kind = fields.text("model_type")
    if kind not in ARCHITECTURES:
        raise fields.wrong("model_type", kind, f"one of {', '.join(ARCHITECTURES)}, to be converted to GGUF")
    packed = fields.section("quantization_config")
    if packed.fields:
        raise packed.wrong("quant_method", packed.raw("quant_method", None), "absent: decode the model first")
    family, architecture = FAMILIES[kind], ARCHITECTURES[kind]
    config = family.read(fields)
    window = getattr(config, "sliding_window", None) or max(filter(None, getattr(config, "windows", ())), default=None)
    if window is not None:
        raise fields.wrong("sliding_window", window, f"null: the GGUF of a {architecture} has no window")
    if config.hidden_act != "silu":
        raise fields.wrong(
            "hidden_act", fields.raw("hidden_act"), f"'silu', which the GGUF of a {architecture} implies"
        )
    program = family.program(config, "causal_lm")
    bound = bind(program, family.names, checkpoint.tensors.tensors, config=config, where=str(checkpoint.path))
    names = GGUF_FAMILIES[architecture].gguf
    assert names is not None, "it is among the families that GGUF knows"
    tensors: dict[str, Weight] = {}
    for weight, stored in bound.items():
        part, name = names.names.source(weight)
        placed = stored if part.rows is None else RowView(stored, np.argsort(part.rows(config)))
        tensors[name] = _vector(placed) if len(placed.shape) == 1 else placed
    rope, more = _rope(config.rope, config, fields)
    found: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(np.float32(config.rms_norm_eps)),
        "vocab_size": config.vocab_size,
        **rope,
    }
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    words, types, why = tokenizer_metadata(checkpoint.path, config.vocab_size)
    metadata = {"general.architecture": architecture, **{f"{architecture}.{k}": v for k, v in found.items()}, **words}
    return Converted(tensors | more, metadata, types, (why,) if why else ())


def _vector(weight: Weight) -> Dense:
    with np.errstate(over="ignore"):
        return Dense(weight.decode().astype("<f4"), format="F32")


def _rope(rope: Rope, config: Any, fields: Reader) -> tuple[dict[str, Any], dict[str, Weight]]:
    """Metadata and tensors that say how heads turn."""
    found: dict[str, Any] = {"rope.freq_base": float(np.float32(rope.theta)), "rope.dimension_count": rope.width}
    if rope.kind == "default":
        return found, {}
    if rope.kind == "linear":
        return found | {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}, {}
    if rope.kind == "llama3":
        return found, {"rope_freqs.weight": Dense(_llama3(rope), format="F32")}
    name = "rope_scaling" if fields.has("rope_scaling") else "rope_parameters"
    kinds = json.dumps(["default", "linear", "llama3"])
    raise fields.wrong(name, rope.kind, f"of one of the types {kinds}, to be converted to GGUF")


def _llama3(rope: Rope) -> np.ndarray[Any, np.dtype[np.float32]]:
    low, high = (rope.original_length / f for f in (rope.low_freq_factor, rope.high_freq_factor))
    divisors = []
    for i in range(rope.width // 2):
        length = 2 * math.pi * rope.theta ** (2 * i / rope.width)
        if length < high:
            divisors.append(1.0)
        elif length > low:
            divisors.append(rope.factor)
        else:
            smooth = (rope.original_length / length - rope.low_freq_factor) / (
                rope.high_freq_factor - rope.low_freq_factor
            )
            divisors.append(1 / ((1 - smooth) / rope.factor + smooth))
    return np.array(divisors, dtype="<f4")
