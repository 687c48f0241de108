r"""Gemma 2 (Gemma team 2024): norms on both sides of each block, soft caps, and windows in every other layer.

    x ← √D · embed(ids)
    for each layer:  x ← x + norm(Wₒ·attention_c(rope(W_q·n), rope(W_k·n), W_v·n))   with n = norm(x)
                     x ← x + norm(W_down·(gelu(W_gate·n) · W_up·n))                  with n = norm(x)
    logits ← cap(W_head·norm(x)),   cap(z) = c·tanh(z / c)

norm is RMSNorm times 1 + w: checkpoints store w, GGUF files 1 + w. attention_c caps the scores; they are scaled by
`query_pre_attn_scalar`^(−1/2), which need not be the head width. √D is the real number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_ref.models.constants import inverse_root, root
from lepton_ref.models.decoder import (
    DecoderConfig,
    gated_mlp,
    logits,
    read_cap,
    read_decoder,
    read_gguf_decoder,
    read_window,
    read_windows,
)
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight

LAYERS_OF_27B = 46
"""Gemma 2 27B divides by the root of D/H, not of the head width, and its GGUF does not say so."""


@dataclass(frozen=True)
class Gemma2Config(DecoderConfig):
    """A Gemma 2.

    Attributes:
        windows: for each layer, how many tokens a query sees, or None for all.
        attention_bias: q, k, v and o have biases.
        query_pre_attn_scalar: scores are divided by its root.
        attn_logit_softcapping: the scores' soft cap, or None.
        final_logit_softcapping: the logits' soft cap, or None.
        norm_offset: what is added to a norm's weight: 1, or 0 where the file has it added already.
    """

    windows: tuple[int | None, ...]
    attention_bias: bool
    query_pre_attn_scalar: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    norm_offset: float

    def norm(self, p: Program, name: str, x: Value, *, heads: int = 1) -> Value:
        """RMSNorm times 1 + w."""
        return p.rms_norm(name, x, eps=self.rms_norm_eps, offset=self.norm_offset, heads=heads)


def program(c: Gemma2Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size, scale=root(c.hidden_size))
    for layer, window in enumerate(c.windows):
        b = p.at(f"layers.{layer}")
        n = c.norm(b, "attn_norm", x)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        q = b.rope("attn.q_rope", q, c.rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, c.rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads,
            scale=inverse_root(c.query_pre_attn_scalar), window=window, cap=c.attn_logit_softcapping,
        )  # fmt: skip
        o = b.linear("attn.o", a, c.hidden_size, bias=c.attention_bias)
        x = b.add("attn_residual", x, c.norm(b, "attn_post_norm", o))
        f = gated_mlp(b, c, c.norm(b, "mlp_norm", x))
        x = b.add("mlp_residual", x, c.norm(b, "mlp_post_norm", f))
    x = c.norm(p, "norm", p.last("last", x))
    if head == "causal_lm":
        y = logits(p, c, x)
        if c.final_logit_softcapping is not None:
            p.softcap("softcap", y, c.final_logit_softcapping)
    return p


def read_gemma(fields: Reader, **sizes: Any) -> dict[str, Any]:
    """What the config.json of Gemma 2 and of Gemma 3 have in common."""
    fields.only("use_bidirectional_attention", False, False)
    scalar = fields.number("query_pre_attn_scalar", 256.0)
    if scalar == 0:
        raise fields.wrong("query_pre_attn_scalar", scalar, "above 0")
    return {
        **read_decoder(
            fields, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
            num_key_value_heads=4, head_dim=256, activation="hidden_activation", hidden_act="gelu_pytorch_tanh",
            rms_norm_eps=1e-6, tie_word_embeddings=True, **sizes,
        ),
        "attention_bias": fields.flag("attention_bias", False),
        "query_pre_attn_scalar": scalar,
        "norm_offset": 1.0,
    }  # fmt: skip


def read(fields: Reader) -> Gemma2Config:
    """config.json → config."""
    common = read_gemma(fields, vocab_size=256000, max_position_embeddings=8192)
    alternating = [layer % 2 == 0 for layer in range(common["num_hidden_layers"])]
    return Gemma2Config(
        **common,
        windows=read_windows(fields, read_window(fields, 4096), alternating),
        attn_logit_softcapping=read_cap(fields, "attn_logit_softcapping", 50.0),
        final_logit_softcapping=read_cap(fields, "final_logit_softcapping", 30.0),
    )


def read_gguf_gemma(
    fields: Reader, tensors: Mapping[str, Weight], *, window: int, pattern: int, layers_of_27b: int
) -> dict[str, Any]:
    """What the GGUF metadata of Gemma 2 and of Gemma 3 have in common: one layer in `pattern` sees everything."""
    common = read_gguf_decoder(fields, tensors, hidden_act="gelu_tanh")
    layers = common["num_hidden_layers"]
    fields.only("attention.sliding_window_pattern", pattern, pattern)
    by_width = common["hidden_size"] / common["num_attention_heads"]
    return {
        **common,
        "windows": tuple(None if (layer + 1) % pattern == 0 else window for layer in range(layers)),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "query_pre_attn_scalar": by_width if layers == layers_of_27b else float(common["head_dim"]),
        "norm_offset": 0.0,
    }


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Gemma2Config:
    """GGUF metadata → config. The first files say nothing of the window, which is 4096 in every published model."""
    window = fields.integer("attention.sliding_window", 4096)
    return Gemma2Config(
        **read_gguf_gemma(fields, tensors, window=window, pattern=2, layers_of_27b=LAYERS_OF_27B),
        attn_logit_softcapping=read_cap(fields, "attn_logit_softcapping", 50.0),
        final_logit_softcapping=read_cap(fields, "final_logit_softcapping", 30.0),
    )


SAFETENSORS = NameTable(
    {
        "embed": "model.embed_tokens",
        "layers.{l}.attn_norm": "model.layers.{l}.input_layernorm",
        "layers.{l}.attn.q": "model.layers.{l}.self_attn.q_proj",
        "layers.{l}.attn.k": "model.layers.{l}.self_attn.k_proj",
        "layers.{l}.attn.v": "model.layers.{l}.self_attn.v_proj",
        "layers.{l}.attn.o": "model.layers.{l}.self_attn.o_proj",
        "layers.{l}.attn_post_norm": "model.layers.{l}.post_attention_layernorm",
        "layers.{l}.mlp_norm": "model.layers.{l}.pre_feedforward_layernorm",
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
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": "blk.{l}.attn_q",
        "layers.{l}.attn.k": "blk.{l}.attn_k",
        "layers.{l}.attn.v": "blk.{l}.attn_v",
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.attn_post_norm": "blk.{l}.post_attention_norm",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.gate": "blk.{l}.ffn_gate",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "layers.{l}.mlp_post_norm": "blk.{l}.post_ffw_norm",
        "norm": "output_norm",
        "head": "output",
    }
)

FAMILY = Family(
    model_type="gemma2",
    architectures={"Gemma2ForCausalLM": "causal_lm", "Gemma2Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("gemma2", read_gguf, GGUF_NAMES),
)
