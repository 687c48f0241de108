"""GGUF files from model folders, by hand: tensor names, metadata and orders of rows as llama.cpp's converter has them.

Written from that format and not from the tables in lepton_ref/models, so that reading such a file tests the tables.
Names: `gguf` 0.19, constants.py, MODEL_TENSORS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.files import read_folder, write_gguf

Array = NDArray[Any]

_LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_BOTH_SIDES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_MLP = {"mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
BLOCKS: Mapping[str, Mapping[str, str]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | _HEAD_NORMS,
    "gemma2": _LLAMA | _BOTH_SIDES,
    "gemma3_text": _LLAMA | _BOTH_SIDES | _HEAD_NORMS,
    "olmo2": _LLAMA | _BOTH_SIDES | _HEAD_NORMS,
    "phi3": _LLAMA | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
    "gpt2": {
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    },
    "gpt_neox": {
        **_LLAMA, **_MLP, "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    },
}  # fmt: skip
TOP = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
    "embed_in": "token_embd", "final_layer_norm": "output_norm", "embed_out": "output",
}  # fmt: skip
ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}


def _pairs(rows: Array, heads: int) -> Array:
    """Rows of q or k from half-split to interleaved RoPE, as the converter does for llama."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _tensor(kind: str, name: str, value: Array, config: Mapping[str, Any]) -> Array:
    """A tensor as the file holds it."""
    if kind in ("llama", "mistral") and ".self_attn.q_proj." in name:
        return _pairs(value, config["num_attention_heads"])
    if kind in ("llama", "mistral") and ".self_attn.k_proj." in name:
        return _pairs(value, config["num_key_value_heads"])
    if kind in ("gemma2", "gemma3_text") and "norm" in name:
        return value.astype(np.float64) + 1  # the converter rounds this to float32; here it is kept exact
    if kind == "gpt2" and re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):
        return np.ascontiguousarray(value.T)
    if kind == "gpt_neox" and ".query_key_value." in name:
        by_head = value.reshape(config["num_attention_heads"], 3, -1, *value.shape[1:])
        return np.concatenate([by_head[:, part].reshape(-1, *value.shape[1:]) for part in range(3)])
    return value


def _name(kind: str, name: str) -> str:
    """The tensor's name in the file."""
    stem, _, suffix = name.rpartition(".")
    stem = re.sub(r"^(model|transformer|gpt_neox)\.", "", stem)
    found = re.fullmatch(r"(?:layers|h)\.(\d+)\.(.*)", stem)
    return f"{TOP[stem]}.{suffix}" if found is None else f"blk.{found[1]}.{BLOCKS[kind][found[2]]}.{suffix}"


def _rope(kind: str, config: Mapping[str, Any], width: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """Metadata and tensors that say how heads rotate."""
    rope = config.get("rope_parameters", {})
    found: dict[str, Any] = {}
    if kind == "gemma3_text":
        found["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if "rope_theta" in rope:
        found["rope.freq_base"] = rope["rope_theta"]
    rotated = int(width * rope.get("partial_rotary_factor", 1.0))
    if kind in ("llama", "mistral", "phi3", "gpt_neox"):
        found["rope.dimension_count"] = rotated
    original = rope.get("original_max_position_embeddings")
    match rope.get("rope_type", "default"):
        case "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
        case "yarn":
            found |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"]}
            found |= {f"rope.scaling.yarn_{name}": rope[name] for name in ("beta_fast", "beta_slow")}
            found["rope.scaling.original_context_length"] = original
        case "llama3":
            return found, {"rope_freqs.weight": _llama3_factors(rope, width)}
        case "longrope":
            scale = config["max_position_embeddings"] / original
            found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
            found["rope.scaling.original_context_length"] = original
            lists = {f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"]) for name in ("long", "short")}
            return found, lists
    return found, {}


def _llama3_factors(rope: Mapping[str, Any], width: int) -> Array:
    """By how much each frequency is divided, as the converter computes it."""
    low, high, factor = (rope[name] for name in ("low_freq_factor", "high_freq_factor", "factor"))
    context = rope["original_max_position_embeddings"]
    factors = []
    for frequency in rope["rope_theta"] ** -(np.arange(0, width, 2) / width):
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors)


def _metadata(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What every file says."""
    get = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    get |= {"n_positions": "max_position_embeddings"}
    c = {get.get(name, name): value for name, value in config.items()}
    found = {
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "block_count": c["num_hidden_layers"],
        "attention.head_count": c["num_attention_heads"],
        "feed_forward_length": c.get("intermediate_size", c.get("n_inner")) or 4 * c["hidden_size"],
    }
    if kind in ("gpt2", "gpt_neox"):
        found["attention.layer_norm_epsilon"] = c.get("layer_norm_epsilon", c.get("layer_norm_eps"))
    else:
        found["attention.head_count_kv"] = c["num_key_value_heads"]
        found["attention.layer_norm_rms_epsilon"] = c["rms_norm_eps"]
    if kind == "gpt_neox":
        found["use_parallel_residual"] = c["use_parallel_residual"]
    if kind in ("qwen3", "gemma2", "gemma3_text") or "head_dim" in c:
        found |= {f"attention.{name}_length": c["head_dim"] for name in ("key", "value")}
    if kind in ("gemma2", "gemma3_text", "phi3"):
        found["attention.sliding_window"] = c["sliding_window"] or 0
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if c.get(cap) is not None:
            found[cap] = c[cap]
    return found


def contents(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and the metadata of the GGUF of a folder."""
    checkpoint = read_folder(folder)
    config, kind = checkpoint.config, checkpoint.config["model_type"]
    architecture = ARCHITECTURES.get(kind, kind)
    heads = config.get("num_attention_heads", config.get("n_head"))
    width = config.get("head_dim") or config.get("hidden_size", config.get("n_embd")) // heads
    keys, more = _rope(kind, config, width)
    tensors = {
        _name(kind, name): _tensor(kind, name, np.asarray(weight.decode()), config)
        for name, weight in checkpoint.tensors.tensors.items()
        if not name.endswith(("inv_freq", ".attn.bias"))
    }
    metadata = {f"{architecture}.{key}": value for key, value in (_metadata(kind, config) | keys).items()}
    return tensors | more, {"general.architecture": architecture, **metadata}


def convert(folder: Path, path: Path, **changes: Any) -> Path:
    """Write the GGUF of a folder; `changes` replaces metadata (None takes a key out), without the architecture."""
    tensors, metadata = contents(folder)
    architecture = metadata["general.architecture"]
    metadata |= {f"{architecture}.{key.replace('__', '.')}": value for key, value in changes.items()}
    write_gguf(path, tensors, {key: value for key, value in metadata.items() if value is not None}, overwrite=True)
    return path
