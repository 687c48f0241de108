r"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on q, k and v, and windows in some layers if asked.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention(rope(W_q·n + b_q), rope(W_k·n + b_k), W_v·n + b_v)   with n = rmsnorm(x)
                     x ← x + W_down·(silu(W_gate·n) · W_up·n)                                  with n = rmsnorm(x)
    logits ← W_head·rmsnorm(x)

With `use_sliding_window`, the layers from `max_window_layers` on see a window, unless `layer_types` says which do.
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
    read_window,
    read_windows,
)
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class Qwen2Config(DecoderConfig):
    """A Qwen 2.

    Attributes:
        windows: for each layer, how many tokens a query sees, or None for all.
    """

    windows: tuple[int | None, ...]


def program(c: Qwen2Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    for layer, window in enumerate(c.windows):
        b = p.at(f"layers.{layer}")
        n = b.rms_norm("attn_norm", x, eps=c.rms_norm_eps)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim, bias=True)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim, bias=True)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim, bias=True)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads,
            scale=inverse_root(c.head_dim), window=window,
        )  # fmt: skip
        x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size))
        n = b.rms_norm("mlp_norm", x, eps=c.rms_norm_eps)
        x = b.add("mlp_residual", x, gated_mlp(b, c, n))
    x = p.rms_norm("norm", p.last("last", x), eps=c.rms_norm_eps)
    if head == "causal_lm":
        logits(p, c, x)
    return p


def read_qwen_windows(fields: Reader, layers: int) -> tuple[int | None, ...]:
    """Qwen's windows: none unless `use_sliding_window`; then in the layers from `max_window_layers` on."""
    window = read_window(fields, 4096) if fields.flag("use_sliding_window", False) else None
    first = fields.integer("max_window_layers", 28, minimum=0)
    return read_windows(fields, window, [window is not None and layer >= first for layer in range(layers)])


def read(fields: Reader) -> Qwen2Config:
    """config.json → config."""
    common = read_decoder(
        fields, vocab_size=151936, hidden_size=4096, intermediate_size=22016, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, rms_norm_eps=1e-6, max_position_embeddings=32768,
    )  # fmt: skip
    return Qwen2Config(**common, windows=read_qwen_windows(fields, common["num_hidden_layers"]))


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Qwen2Config:
    """GGUF metadata → config."""
    common = read_gguf_decoder(fields, tensors)
    no_gguf_window(fields)
    return Qwen2Config(**common, windows=(None,) * common["num_hidden_layers"])


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

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": "blk.{l}.attn_q",
        "layers.{l}.attn.k": "blk.{l}.attn_k",
        "layers.{l}.attn.v": "blk.{l}.attn_v",
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.gate": "blk.{l}.ffn_gate",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    ignored=(r"rope_freqs\.weight",),
)

FAMILY = Family(
    model_type="qwen2",
    architectures={"Qwen2ForCausalLM": "causal_lm", "Qwen2Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("qwen2", read_gguf, GGUF_NAMES),
)
