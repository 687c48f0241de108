r"""Qwen 3 (Yang et al. 2025), the dense models: RMSNorm on each head of q and k before RoPE, one weight for all heads.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention(rope(norm(W_q·n)), rope(norm(W_k·n)), W_v·n)   with n = rmsnorm(x)
                     x ← x + W_down·(silu(W_gate·n) · W_up·n)                            with n = rmsnorm(x)
    logits ← W_head·rmsnorm(x)

Windows are Qwen 2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_ref.models import qwen2
from lepton_ref.models.constants import inverse_root
from lepton_ref.models.decoder import gated_mlp, logits, no_gguf_window, read_decoder, read_gguf_decoder
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.qwen2 import Qwen2Config, read_qwen_windows
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class Qwen3Config(Qwen2Config):
    """A Qwen 3.

    Attributes:
        attention_bias: q, k, v and o have biases.
    """

    attention_bias: bool


def program(c: Qwen3Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    for layer, window in enumerate(c.windows):
        b = p.at(f"layers.{layer}")
        n = b.rms_norm("attn_norm", x, eps=c.rms_norm_eps)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        q = b.rms_norm("attn.q_norm", q, eps=c.rms_norm_eps, heads=c.num_attention_heads)
        k = b.rms_norm("attn.k_norm", k, eps=c.rms_norm_eps, heads=c.num_key_value_heads)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads,
            scale=inverse_root(c.head_dim), window=window,
        )  # fmt: skip
        x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size, bias=c.attention_bias))
        n = b.rms_norm("mlp_norm", x, eps=c.rms_norm_eps)
        x = b.add("mlp_residual", x, gated_mlp(b, c, n))
    x = p.rms_norm("norm", p.last("last", x), eps=c.rms_norm_eps)
    if head == "causal_lm":
        logits(p, c, x)
    return p


def read(fields: Reader) -> Qwen3Config:
    """config.json → config."""
    common = read_decoder(
        fields, vocab_size=151936, hidden_size=4096, intermediate_size=22016, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, head_dim=128, rms_norm_eps=1e-6,
        max_position_embeddings=32768,
    )  # fmt: skip
    windows = read_qwen_windows(fields, common["num_hidden_layers"])
    return Qwen3Config(**common, windows=windows, attention_bias=fields.flag("attention_bias", False))


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Qwen3Config:
    """GGUF metadata → config."""
    common = read_gguf_decoder(fields, tensors)
    no_gguf_window(fields)
    windows = (None,) * common["num_hidden_layers"]
    return Qwen3Config(**common, windows=windows, attention_bias="blk.0.attn_q.bias" in tensors)


SAFETENSORS = NameTable(
    {
        **qwen2.SAFETENSORS.names,
        "layers.{l}.attn.q_norm": "model.layers.{l}.self_attn.q_norm",
        "layers.{l}.attn.k_norm": "model.layers.{l}.self_attn.k_norm",
    },
    prefix="model.",
    copies={"lm_head.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        **qwen2.GGUF_NAMES.names,
        "layers.{l}.attn.q_norm": "blk.{l}.attn_q_norm",
        "layers.{l}.attn.k_norm": "blk.{l}.attn_k_norm",
    },
    ignored=(r"rope_freqs\.weight",),
)

FAMILY = Family(
    model_type="qwen3",
    architectures={"Qwen3ForCausalLM": "causal_lm", "Qwen3Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("qwen3", read_gguf, GGUF_NAMES),
)
