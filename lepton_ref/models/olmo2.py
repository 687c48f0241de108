r"""OLMo 2 (OLMo team 2024): the norms stand after attention and MLP, before the sum, and q and k are normed whole.

    x ← embed(ids)
    for each layer:  x ← x + rmsnorm(Wₒ·attention(rope(rmsnorm(W_q·x)), rope(rmsnorm(W_k·x)), W_v·x))
                     x ← x + rmsnorm(W_down·(silu(W_gate·x) · W_up·x))
    logits ← W_head·rmsnorm(x)

The norm of q runs over all heads together, H·K numbers; that of k over G·K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.decoder import (
    DecoderConfig,
    gated_mlp,
    logits,
    no_gguf_window,
    read_decoder,
    read_gguf_decoder,
)
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class Olmo2Config(DecoderConfig):
    """An OLMo 2.

    Attributes:
        attention_bias: q, k, v and o have biases.
    """

    attention_bias: bool


def program(c: Olmo2Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        q = b.linear("attn.q", x, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        k = b.linear("attn.k", x, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        v = b.linear("attn.v", x, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        q = b.rms_norm("attn.q_norm", q, eps=c.rms_norm_eps)
        k = b.rms_norm("attn.k_norm", k, eps=c.rms_norm_eps)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v,
            heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, scale=inverse_root(c.head_dim),
        )  # fmt: skip
        o = b.linear("attn.o", a, c.hidden_size, bias=c.attention_bias)
        x = b.add("attn_residual", x, b.rms_norm("attn_post_norm", o, eps=c.rms_norm_eps))
        f = gated_mlp(b, c, x)
        x = b.add("mlp_residual", x, b.rms_norm("mlp_post_norm", f, eps=c.rms_norm_eps))
    x = p.rms_norm("norm", p.last("last", x), eps=c.rms_norm_eps)
    if head == "causal_lm":
        logits(p, c, x)
    return p


def read(fields: Reader) -> Olmo2Config:
    """config.json → config."""
    common = read_decoder(
        fields, vocab_size=50304, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=None, rms_norm_eps=1e-5, max_position_embeddings=2048,
    )  # fmt: skip
    return Olmo2Config(**common, attention_bias=fields.flag("attention_bias", False))


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Olmo2Config:
    """GGUF metadata → config."""
    no_gguf_window(fields)  # OLMo 3 is stored under the same name, with windows
    return Olmo2Config(**read_gguf_decoder(fields, tensors), attention_bias="blk.0.attn_q.bias" in tensors)


SAFETENSORS = NameTable(
    {
        "embed": "model.embed_tokens",
        "layers.{l}.attn.q": "model.layers.{l}.self_attn.q_proj",
        "layers.{l}.attn.k": "model.layers.{l}.self_attn.k_proj",
        "layers.{l}.attn.v": "model.layers.{l}.self_attn.v_proj",
        "layers.{l}.attn.q_norm": "model.layers.{l}.self_attn.q_norm",
        "layers.{l}.attn.k_norm": "model.layers.{l}.self_attn.k_norm",
        "layers.{l}.attn.o": "model.layers.{l}.self_attn.o_proj",
        "layers.{l}.attn_post_norm": "model.layers.{l}.post_attention_layernorm",
        "layers.{l}.mlp.gate": "model.layers.{l}.mlp.gate_proj",
        "layers.{l}.mlp.up": "model.layers.{l}.mlp.up_proj",
        "layers.{l}.mlp.down": "model.layers.{l}.mlp.down_proj",
        "layers.{l}.mlp_post_norm": "model.layers.{l}.post_feedforward_layernorm",
        "norm": "model.norm",
        "head": "lm_head",
    },
    prefix="model.",
    copies={"lm_head.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "layers.{l}.attn.q": "blk.{l}.attn_q",
        "layers.{l}.attn.k": "blk.{l}.attn_k",
        "layers.{l}.attn.v": "blk.{l}.attn_v",
        "layers.{l}.attn.q_norm": "blk.{l}.attn_q_norm",
        "layers.{l}.attn.k_norm": "blk.{l}.attn_k_norm",
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.attn_post_norm": "blk.{l}.post_attention_norm",
        "layers.{l}.mlp.gate": "blk.{l}.ffn_gate",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "layers.{l}.mlp_post_norm": "blk.{l}.post_ffw_norm",
        "norm": "output_norm",
        "head": "output",
    },
    ignored=(r"rope_freqs\.weight",),
)

FAMILY = Family(
    model_type="olmo2",
    architectures={"Olmo2ForCausalLM": "causal_lm", "Olmo2Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("olmo2", read_gguf, GGUF_NAMES),
)
