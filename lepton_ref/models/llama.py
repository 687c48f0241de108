r"""Llama (Touvron et al. 2023; Llama 2 and 3), hence SmolLM2 and many more: the plain modern decoder.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention(rope(W_q·n), rope(W_k·n), W_v·n)   with n = rmsnorm(x)
                     x ← x + W_down·(silu(W_gate·n) · W_up·n)                with n = rmsnorm(x)
    logits ← W_head·rmsnorm(x)

GGUF files hold the rows of W_q and W_k in the order of interleaved RoPE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.decoder import DecoderConfig, gated_mlp, logits, read_decoder, read_gguf_decoder
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable, Part
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """A Llama.

    Attributes:
        attention_bias: q, k, v and o have biases.
        mlp_bias: gate, up and down have biases.
    """

    attention_bias: bool = False
    mlp_bias: bool = False


def program(c: LlamaConfig, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        n = b.rms_norm("attn_norm", x, eps=c.rms_norm_eps)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v,
            heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, scale=inverse_root(c.head_dim),
        )  # fmt: skip
        x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size, bias=c.attention_bias))
        f = gated_mlp(b, c, b.rms_norm("mlp_norm", x, eps=c.rms_norm_eps), bias=c.mlp_bias)
        x = b.add("mlp_residual", x, f)
    x = p.rms_norm("norm", p.last("last", x), eps=c.rms_norm_eps)
    if head == "causal_lm":
        logits(p, c, x)
    return p


def read(fields: Reader) -> LlamaConfig:
    """config.json → config."""
    return LlamaConfig(
        **read_decoder(
            fields, vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=None, rms_norm_eps=1e-6, max_position_embeddings=2048,
        ),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
    )  # fmt: skip


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> LlamaConfig:
    """GGUF metadata → config."""
    return LlamaConfig(
        **read_gguf_decoder(fields, tensors),
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
    )


SAFETENSORS = NameTable(
    {
        "embed": "model.embed_tokens",
        "layers.{l}.attn_norm": "model.layers.{l}.input_layernorm",
        "layers.{l}.attn.q": "model.layers.{l}.self_attn.q_proj",
        "layers.{l}.attn.k": "model.layers.{l}.self_attn.k_proj",
        "layers.{l}.attn.v": "model.layers.{l}.self_attn.v_proj",
        "layers.{l}.attn.o": "model.layers.{l}.self_attn.o_proj",
        "layers.{l}.mlp_norm": "model.layers.{l}.post_attention_layernorm",
        "layers.{l}.mlp.gate": "model.layers.{l}.mlp.gate_proj",
        "layers.{l}.mlp.up": "model.layers.{l}.mlp.up_proj",
        "layers.{l}.mlp.down": "model.layers.{l}.mlp.down_proj",
        "norm": "model.norm",
        "head": "lm_head",
    },
    prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    copies={"lm_head.weight": "embed.weight"},
)


def halves_of_pairs(heads: int, width: int) -> NDArray[np.int64]:
    """-> (H·K) the rows that undo GGUF's order for interleaved RoPE: row 2j + i of a head is row i·K/2 + j of ours."""
    pairs = np.arange(heads * width).reshape(heads, width // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": Part("blk.{l}.attn_q", lambda c: halves_of_pairs(c.num_attention_heads, c.head_dim)),
        "layers.{l}.attn.k": Part("blk.{l}.attn_k", lambda c: halves_of_pairs(c.num_key_value_heads, c.head_dim)),
        "layers.{l}.attn.v": "blk.{l}.attn_v",
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.gate": "blk.{l}.ffn_gate",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    ignored=(r"rope_(freqs|factors_long|factors_short)\.weight",),
)

FAMILY = Family(
    model_type="llama",
    architectures={"LlamaForCausalLM": "causal_lm", "LlamaModel": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("llama", read_gguf, GGUF_NAMES),
)
