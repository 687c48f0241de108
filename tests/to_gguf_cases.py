"""Tiny folders of every family that a GGUF can say, and what a wrong conversion would make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import decoder_cases
import numpy as np
from decoder_cases import ABSENT, case
from numpy.typing import NDArray

from lepton_ref.compress.to_gguf import to_gguf
from lepton_ref.files import read_folder, read_safetensors, write_gguf, write_safetensors

Tensors = dict[str, NDArray[Any]]
Bug = Callable[[Tensors, dict[str, Any]], None]
"""Changes the tensors and the metadata of a GGUF."""

ENCODERS = ("bert", "distilbert", "roberta")
PLAIN_ROPE = {"rope_scaling": ABSENT, "rope_theta": ABSENT}


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 100.0, **parameters}, **PLAIN_ROPE, "max_position_embeddings": 64}


EPS = {"rms_norm_eps": 2.0**-17}
GEMMA: dict[str, Any] = {**EPS, "query_pre_attn_scalar": 8}
FIVE_OF_SIX = (["sliding_attention"] * 5 + ["full_attention"]) * 2
TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 3.0, "factor": 64.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0 + 2**-20}
LONG = {"rope_type": "longrope", "attention_factor": 1.25}
LISTS = {"short_factor": [1.0, 1.25, 1.5, 1.75], "long_factor": [1.5, 2.5, 4.0, 7.0]}
CASES: Mapping[str, tuple[str, int | None, dict[str, Any]]] = {
    "llama": ("llama", None, EPS),
    "llama_biased": ("llama_biased", None, EPS),
    "llama_tied": ("llama_tied", None, EPS),
    "llama_wide_heads": ("llama_head_width", None, {**EPS, "hidden_act": "silu"}),
    "llama_linear": ("llama", None, EPS | _rope(rope_type="linear", factor=4.0)),
    "llama_llama3": ("llama", None, EPS | _rope(**LLAMA3, original_max_position_embeddings=24)),
    "llama_yarn": ("llama", None, EPS | _rope(**YARN)),
    "mistral": ("mistral_full", None, EPS),
    "mistral_wide_window": ("mistral", None, {**EPS, "sliding_window": 64}),
    "qwen2": ("qwen2", None, EPS),
    "qwen2_yarn": ("qwen2", None, EPS | _rope(**YARN)),
    "qwen3": ("qwen3", None, EPS),
    "gemma2": ("gemma2", None, GEMMA),
    "gemma3": ("gemma3", 12, GEMMA | {"layer_types": FIVE_OF_SIX, "rope_parameters": TWO_ROPES}),
    "phi3": ("phi3", None, {**EPS, "sliding_window": 64}),
    "phi3_partial": ("phi3_partial", None, EPS | _rope(partial_rotary_factor=0.5)),
    "phi3_longrope": (
        "phi3_longrope", None, EPS | _rope(**LONG, **LISTS, original_max_position_embeddings=256)
        | {"original_max_position_embeddings": 256, "max_position_embeddings": 1024},
    ),
    "phi3_longrope_long": (
        "phi3_longrope", None, EPS | _rope(**LONG, **LISTS, original_max_position_embeddings=16)
        | {"original_max_position_embeddings": 16},
    ),
    "llama_longrope": (
        "llama", None, EPS | _rope(**LONG, short_factor=[1.0, 1.5, 2.0],
        long_factor=[2.0, 3.0, 4.0], original_max_position_embeddings=256) | {"max_position_embeddings": 1024},
    ),
    "olmo2": ("olmo2", None, EPS),
    "olmo2_tied": ("olmo2", None, {**EPS, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", None, {"layer_norm_epsilon": 2.0**-17}),
    "gpt_neox": ("gpt_neox", None, {"layer_norm_eps": 2.0**-17}),
    "gpt_neox_sequential": ("gpt_neox", None, {"layer_norm_eps": 2.0**-17, "use_parallel_residual": False}),
    "bert": ("bert", None, {"layer_norm_eps": 2.0**-17}),
    "roberta": ("roberta", None, {"layer_norm_eps": 2.0**-17}),
    "distilbert": ("distilbert", None, {}),
}  # fmt: skip
"""Name → golden, layers, changed fields: constants are float32 numbers, so that a GGUF holds the very same model."""


def folder_of(name: str, into: Path) -> Path:
    """The case's folder; Gemma's norms are such that 1 + w is a float32 number."""
    golden, layers, fields = CASES[name]
    made = decoder_cases.changed(golden, into, layers=layers, **fields)
    file = read_safetensors(made / "model.safetensors")
    tensors: dict[str, NDArray[Any]] = {key: np.array(weight.decode()) for key, weight in file.tensors.items()}
    if name.startswith("gemma"):
        tensors |= {key: np.round(v * 1024) / np.float32(1024) for key, v in tensors.items() if "norm" in key}
    if name == "olmo2_tied":
        del tensors["lm_head.weight"]
    write_safetensors(made / "model.safetensors", tensors, {"format": "pt"}, overwrite=True)
    return made


def ids_of(name: str) -> list[list[int]]:
    """Two texts of the case's golden."""
    ids: list[list[int]] = case(CASES[name][0]).expected["input_ids"].tolist()
    return ids


def contents(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """What the converter makes of a folder: tensors as float32, and metadata."""
    made = to_gguf(read_folder(folder))
    return {name: np.array(weight.decode(), dtype="<f4") for name, weight in made.tensors.items()}, made.metadata


def write(path: Path, tensors: Tensors, metadata: Mapping[str, Any]) -> Path:
    write_gguf(path, tensors, metadata, overwrite=True)
    return path


# --- what a converter may do wrong -----------------------------------------------------------------------------------


def swap(first: str, second: str) -> Bug:
    """Two tensors of each layer take each other's place."""

    def bug(tensors: Tensors, metadata: dict[str, Any]) -> None:
        for name in [key for key in tensors if f".{first}." in key]:
            other = name.replace(first, second)
            tensors[name], tensors[other] = tensors[other], tensors[name]

    return bug


def reorder(part: str, order: Callable[[NDArray[Any]], NDArray[Any]]) -> Bug:
    """The tensors of this name in another order."""

    def bug(tensors: Tensors, metadata: dict[str, Any]) -> None:
        names = [key for key in tensors if f".{part}." in f".{key}."]
        assert names
        for name in names:
            tensors[name] = np.ascontiguousarray(order(tensors[name]))

    return bug


def say(**changes: Any) -> Bug:
    """Other metadata, "." written "__"; None takes a key out."""

    def bug(tensors: Tensors, metadata: dict[str, Any]) -> None:
        for key, value in changes.items():
            full = f"{metadata['general.architecture']}.{key.replace('__', '.')}"
            assert metadata.get(full) != value
            if value is None:
                del metadata[full]
            else:
                metadata[full] = value

    return bug


def drop(name: str) -> Bug:
    def bug(tensors: Tensors, metadata: dict[str, Any]) -> None:
        del tensors[name]

    return bug


def unshifted(tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Gemma's norms are w, as in the folder."""
    for name in [key for key in tensors if key.endswith("norm.weight")]:
        tensors[name] = tensors[name] - np.float32(1)


def _halves(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of six-wide heads as a folder has them."""
    return rows.reshape(-1, 3, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _by_head(rows: NDArray[Any]) -> NDArray[Any]:
    """[q; k; v] of two heads, head by head."""
    return rows.reshape(3, 2, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def _thirds(rows: NDArray[Any]) -> NDArray[Any]:
    """[k; q; v]."""
    q, k, v = np.split(rows, 3)
    return np.concatenate([k, q, v])


def _other_half(rows: NDArray[Any]) -> NDArray[Any]:
    return np.roll(rows, len(rows) // 2, axis=0)


BUGS: tuple[tuple[str, str, Bug], ...] = (
    ("llama", "q in halves", reorder("attn_q", _halves)),
    ("llama", "k in halves", reorder("attn_k", _halves)),
    ("llama_biased", "the bias of q in halves", reorder("attn_q.bias", _halves)),
    ("llama", "gate for up", swap("ffn_gate", "ffn_up")),
    ("llama", "another base", say(rope__freq_base=10000.0)),
    ("llama_linear", "no scaling", say(rope__scaling__factor=1.0)),
    ("llama_llama3", "no divisors", drop("rope_freqs.weight")),
    ("llama_yarn", "no scaling", say(rope__scaling__type="none")),
    ("llama_yarn", "another length", say(rope__scaling__original_context_length=64)),
    ("qwen2", "no bias of q", reorder("attn_q.bias", np.zeros_like)),
    ("qwen3", "k's norm for q's", swap("attn_q_norm", "attn_k_norm")),
    ("gemma2", "w for 1 + w", unshifted),
    ("gemma2", "no cap of scores", say(attn_logit_softcapping=2.0**30)),
    ("gemma2", "no cap of logits", say(final_logit_softcapping=2.0**30)),
    ("gemma2", "another window", say(attention__sliding_window=64)),
    ("gemma2", "norms exchanged", swap("post_attention_norm", "ffn_norm")),
    ("gemma3", "w for 1 + w", unshifted),
    ("gemma3", "another window", say(attention__sliding_window=64)),
    ("gemma3", "one base", say(rope__freq_base_swa=900.0)),
    ("gemma3", "no scaling", say(rope__scaling__factor=1.0)),
    ("phi3", "up before gate", reorder("ffn_up", _other_half)),
    ("phi3_partial", "whole heads turn", say(rope__dimension_count=8)),
    ("phi3_longrope", "long for short", reorder("rope_factors_short", lambda v: np.array(LISTS["long_factor"], "<f4"))),
    ("phi3_longrope", "no attention factor", say(rope__scaling__attn_factor=1.0)),
    ("olmo2", "norms exchanged", swap("post_attention_norm", "post_ffw_norm")),
    ("gpt2", "not turned", reorder("attn_output.weight", np.transpose)),
    ("gpt2", "k before q", reorder("attn_qkv", _thirds)),
    ("gpt_neox", "head by head", reorder("attn_qkv", _by_head)),
    ("gpt_neox", "whole heads turn", say(rope__dimension_count=16)),
    ("gpt_neox", "sequential", say(use_parallel_residual=False)),
    ("bert", "no token types", reorder("token_types", np.zeros_like)),
    ("roberta", "positions from 0", reorder("position_embd", lambda rows: np.roll(rows, 2, axis=0))),
)
"""Case, what is wrong, and how."""
