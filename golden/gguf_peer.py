"""The weights of a GGUF file in a transformers model, through the peer's decoder, and a GGUF of the decoded weights.

Nothing here uses lepton_ref's own readers: these are the other side of the comparison.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import quants
from numpy.typing import NDArray

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    """The file's key-value pairs as plain values."""
    return {key: field.contents() for key, field in reader.fields.items()}


def decode(tensor: gguf.ReaderTensor) -> NDArray[np.float32]:
    """The tensor's values, in NumPy's order of axes."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)


def _half_split(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the reordering of llama's q and k rows from half-split RoPE to interleaved RoPE."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _minus_one(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo the 1 that the file adds to Gemma's norm weights.

    Raises:
        ValueError: the subtraction is not exact, so the model would not be that of the file.
    """
    less = weight - np.float32(1)
    if not np.array_equal(less.astype(np.float64) + 1, weight.astype(np.float64)):
        raise ValueError("a norm weight minus 1 is not a float32: decode these norms to float64 instead")
    return less


def _renamed(name: str, architecture: str) -> str:
    """The name in transformers of a GGUF tensor."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("blk."):
        return f"{_TOP[stem]}.weight"
    _, layer, kind = stem.split(".")
    return f"model.layers.{layer}.{({**_BLOCK, **_NORMS[architecture]})[kind]}.weight"


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Every weight of the file, decoded to float32, under its name in transformers."""
    reader = gguf.GGUFReader(path)
    data = metadata(reader)
    architecture = data["general.architecture"]
    heads = {"attn_q": data[f"{architecture}.attention.head_count"]}
    heads["attn_k"] = data[f"{architecture}.attention.head_count_kv"]
    found = {}
    for tensor in reader.tensors:
        values, kind = decode(tensor), tensor.name.split(".")[-2]
        if architecture == "llama" and kind in heads:
            values = _half_split(values, heads[kind])
        if architecture == "gemma3" and "norm" in kind:
            values = _minus_one(values)
        found[_renamed(tensor.name, architecture)] = torch.from_numpy(np.array(values))
    found.setdefault("lm_head.weight", found["model.embed_tokens.weight"])
    return found


def config(path: Path) -> Any:
    """The transformers configuration of the file; what it does not say is as the model's authors published it."""
    data = metadata(gguf.GGUFReader(path))
    architecture = data["general.architecture"]
    get = {key.removeprefix(f"{architecture}."): value for key, value in data.items()}
    shared = {
        "vocab_size": len(data["tokenizer.ggml.tokens"]),
        "hidden_size": get["embedding_length"],
        "intermediate_size": get["feed_forward_length"],
        "num_hidden_layers": get["block_count"],
        "num_attention_heads": get["attention.head_count"],
        "num_key_value_heads": get["attention.head_count_kv"],
        "rms_norm_eps": get["attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": get["context_length"],
        "tie_word_embeddings": True,
    }
    base = {"rope_type": "default", "rope_theta": get["rope.freq_base"]}
    if architecture == "llama":
        return transformers.LlamaConfig(**shared, rope_parameters=base)
    local = {"rope_type": "default", "rope_theta": 10000.0}  # the file gives the base of the full layers alone
    return transformers.Gemma3TextConfig(
        **shared,
        head_dim=get["attention.key_length"],
        query_pre_attn_scalar=256,
        sliding_window=get["attention.sliding_window"],
        rope_parameters={"full_attention": base, "sliding_attention": local},
    )


def write_float32(path: Path, out: Path) -> None:
    """The same file with every tensor decoded to F32: the same weights for a peer that reads only GGUF."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, metadata(reader)["general.architecture"])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        element = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], element)
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.ascontiguousarray(decode(tensor)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
