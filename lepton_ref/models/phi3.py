r"""Phi-3 (Abdin et al. 2024): Llama with q, k, v stored as one matrix, gate and up as another; RoPE may be longrope.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention(rope(W_q·n), rope(W_k·n), W_v·n)   with n = rmsnorm(x)
                     x ← x + W_down·(silu(W_gate·n) · W_up·n)                with n = rmsnorm(x)
    logits ← W_head·rmsnorm(x)

    W_qkv = [W_q; W_k; W_v],  W_gate_up = [W_gate; W_up]

RoPE turns the first `partial_rotary_factor` of each head. longrope takes its long factors where the context is longer
than `original_max_position_embeddings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.decoder import (
    DecoderConfig,
    gated_mlp,
    logits,
    read_decoder,
    read_gguf_decoder,
    read_window,
)
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable, Part
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class Phi3Config(DecoderConfig):
    """A Phi-3.

    Attributes:
        sliding_window: how many tokens a query sees, or None for all.
    """

    sliding_window: int | None


def program(c: Phi3Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        n = b.rms_norm("attn_norm", x, eps=c.rms_norm_eps)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads,
            scale=inverse_root(c.head_dim), window=c.sliding_window,
        )  # fmt: skip
        x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size))
        n = b.rms_norm("mlp_norm", x, eps=c.rms_norm_eps)
        x = b.add("mlp_residual", x, gated_mlp(b, c, n))
    x = p.rms_norm("norm", p.last("last", x), eps=c.rms_norm_eps)
    if head == "causal_lm":
        logits(p, c, x)
    return p


def read(fields: Reader) -> Phi3Config:
    """config.json → config."""
    kinds = [fields.section(name).text("rope_type", None) for name in ("rope_parameters", "rope_scaling")]
    kinds += [fields.section("rope_scaling").text("type", None)]
    for kind in kinds:
        if kind not in (None, "default", "longrope", "su"):
            raise fields.wrong("rope_type", kind, "default or longrope in this family")
    given = fields.fields
    original = fields.integer("original_max_position_embeddings", 4096)
    common = read_decoder(
        Reader({**given, "original_max_position_embeddings": original}, where=fields.where),
        vocab_size=32064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=None, rms_norm_eps=1e-5, max_position_embeddings=4096, part=1.0,
    )  # fmt: skip
    return Phi3Config(**common, sliding_window=read_window(fields, None))


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Phi3Config:
    """GGUF metadata → config; a window of 0 is none."""
    window = fields.integer("attention.sliding_window", 0, minimum=0)
    return Phi3Config(**read_gguf_decoder(fields, tensors), sliding_window=window or None)


def query_rows(c: Phi3Config) -> NDArray[np.int64]:
    """The rows of q in [q; k; v]."""
    return np.arange(c.num_attention_heads * c.head_dim)


def key_rows(c: Phi3Config) -> NDArray[np.int64]:
    """The rows of k in [q; k; v]."""
    return np.arange(c.num_key_value_heads * c.head_dim) + c.num_attention_heads * c.head_dim


def value_rows(c: Phi3Config) -> NDArray[np.int64]:
    """The rows of v in [q; k; v]."""
    return key_rows(c) + c.num_key_value_heads * c.head_dim


def gate_rows(c: Phi3Config) -> NDArray[np.int64]:
    """The rows of gate in [gate; up]."""
    return np.arange(c.intermediate_size)


def up_rows(c: Phi3Config) -> NDArray[np.int64]:
    """The rows of up in [gate; up]."""
    return gate_rows(c) + c.intermediate_size


SAFETENSORS = NameTable(
    {
        "embed": "model.embed_tokens",
        "layers.{l}.attn_norm": "model.layers.{l}.input_layernorm",
        "layers.{l}.attn.q": Part("model.layers.{l}.self_attn.qkv_proj", query_rows),
        "layers.{l}.attn.k": Part("model.layers.{l}.self_attn.qkv_proj", key_rows),
        "layers.{l}.attn.v": Part("model.layers.{l}.self_attn.qkv_proj", value_rows),
        "layers.{l}.attn.o": "model.layers.{l}.self_attn.o_proj",
        "layers.{l}.mlp_norm": "model.layers.{l}.post_attention_layernorm",
        "layers.{l}.mlp.gate": Part("model.layers.{l}.mlp.gate_up_proj", gate_rows),
        "layers.{l}.mlp.up": Part("model.layers.{l}.mlp.gate_up_proj", up_rows),
        "layers.{l}.mlp.down": "model.layers.{l}.mlp.down_proj",
        "norm": "model.norm",
        "head": "lm_head",
    },
    prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    copies={"lm_head.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": Part("blk.{l}.attn_qkv", query_rows),
        "layers.{l}.attn.k": Part("blk.{l}.attn_qkv", key_rows),
        "layers.{l}.attn.v": Part("blk.{l}.attn_qkv", value_rows),
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.gate": Part("blk.{l}.ffn_up", gate_rows),
        "layers.{l}.mlp.up": Part("blk.{l}.ffn_up", up_rows),
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    ignored=(r"rope_factors_(long|short)\.weight",),
)

FAMILY = Family(
    model_type="phi3",
    architectures={"Phi3ForCausalLM": "causal_lm", "Phi3Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("phi3", read_gguf, GGUF_NAMES),
)
