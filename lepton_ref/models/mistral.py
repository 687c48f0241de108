r"""Mistral (Jiang et al. 2023): Llama, whose attention may see no further back than a window.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention_w(rope(W_q·n), rope(W_k·n), W_v·n)   with n = rmsnorm(x)
                     x ← x + W_down·(silu(W_gate·n) · W_up·n)                  with n = rmsnorm(x)
    logits ← W_head·rmsnorm(x)

attention_w sees the last w tokens, the query's own included. GGUF stores Mistral as a Llama.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.decoder import DecoderConfig, gated_mlp, logits, read_decoder, read_window
from lepton_ref.models.family import Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """A Mistral.

    Attributes:
        sliding_window: how many tokens a query sees, or None for all.
    """

    sliding_window: int | None


def program(c: MistralConfig, head: str) -> Program:
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


def read(fields: Reader) -> MistralConfig:
    """config.json → config."""
    common = read_decoder(
        fields, vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-6, max_position_embeddings=131072,
    )  # fmt: skip
    window = read_window(fields, 4096)
    alike = ["full_attention" if window is None else "sliding_attention"] * common["num_hidden_layers"]
    fields.only("layer_types", alike, alike)
    return MistralConfig(**common, sliding_window=window)


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

FAMILY = Family(
    model_type="mistral",
    architectures={"MistralForCausalLM": "causal_lm", "MistralModel": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
)
