r"""Gemma 3 (Gemma team 2025), the text models: Gemma 2 with q and k normed by head, mostly windows, and two RoPEs.

    x ← √D · embed(ids)
    for each layer:  x ← x + norm(Wₒ·attention(rope(norm(W_q·n)), rope(norm(W_k·n)), W_v·n))   with n = norm(x)
                     x ← x + norm(W_down·(gelu(W_gate·n) · W_up·n))                            with n = norm(x)
    logits ← W_head·norm(x), capped where the config says so

norm is RMSNorm times 1 + w: checkpoints store w, GGUF files 1 + w. Five layers of six see a window, and turn by a base
of their own without scaling. `attn_logit_softcapping` is in transformers' config and nowhere in the model, nor here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_ref.models import gemma2
from lepton_ref.models.constants import inverse_root, root
from lepton_ref.models.decoder import gated_mlp, logits, read_cap, read_window, read_windows
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.gemma2 import Gemma2Config, read_gemma, read_gguf_gemma
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.models.rope_reader import rope_of
from lepton_ref.ops import Rope
from lepton_ref.storage import Weight

LAYERS_OF_27B = 62
"""Gemma 3 27B divides by the root of D/H, not of the head width, and its GGUF does not say so."""

LOCAL_THETA = 10000.0
GLOBAL_THETA = 1000000.0


@dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    """A Gemma 3; `rope` is that of the layers that see everything.

    Attributes:
        local_rope: how the layers with a window rotate.
    """

    local_rope: Rope


def program(c: Gemma3Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size, scale=root(c.hidden_size))
    for layer, window in enumerate(c.windows):
        b = p.at(f"layers.{layer}")
        rope = c.rope if window is None else c.local_rope
        n = c.norm(b, "attn_norm", x)
        q = b.linear("attn.q", n, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        k = b.linear("attn.k", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        v = b.linear("attn.v", n, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        q = c.norm(b, "attn.q_norm", q, heads=c.num_attention_heads)
        k = c.norm(b, "attn.k_norm", k, heads=c.num_key_value_heads)
        q = b.rope("attn.q_rope", q, rope, heads=c.num_attention_heads)
        k = b.rope("attn.k_rope", k, rope, heads=c.num_key_value_heads)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads,
            scale=inverse_root(c.query_pre_attn_scalar), window=window,
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


def read(fields: Reader) -> Gemma3Config:
    """config.json → config."""
    ropes = {kind: _rope_fields(fields, kind) for kind in ("full_attention", "sliding_attention")}
    plain = {name: value for name, value in fields.fields.items() if name not in ("rope_parameters", "rope_scaling")}
    common = read_gemma(Reader(plain, where=fields.where), vocab_size=262208, max_position_embeddings=131072)
    layers, width, positions = (common[name] for name in ("num_hidden_layers", "head_dim", "max_position_embeddings"))
    truncate = fields.section("rope_parameters").flag("truncate", True)  # of all layer types together in transformers
    sizes: dict[str, Any] = {"width": width, "max_positions": positions, "original": None, "truncate": truncate}
    pattern = fields.integer("sliding_window_pattern", 6)
    sliding = [(layer + 1) % pattern != 0 for layer in range(layers)]
    common["rope"] = rope_of(ropes["full_attention"], theta=fields.number("rope_theta", GLOBAL_THETA), **sizes)
    return Gemma3Config(
        **common,
        windows=read_windows(fields, read_window(fields, 4096), sliding),
        attn_logit_softcapping=None,
        final_logit_softcapping=read_cap(fields, "final_logit_softcapping", None),
        local_rope=rope_of(
            ropes["sliding_attention"], theta=fields.number("rope_local_base_freq", LOCAL_THETA), **sizes
        ),
    )


def _rope_fields(fields: Reader, kind: str) -> Reader:
    """A layer type's entry in `rope_parameters`; before transformers 5, `rope_scaling` of the full layers."""
    section = fields.section("rope_parameters")
    for name in section.fields:
        if name not in ("full_attention", "sliding_attention", "truncate"):
            raise section.wrong(name, section.raw(name), "inside full_attention or sliding_attention")
    section = section.section(kind)
    if kind == "full_attention" and fields.has("rope_scaling"):
        scaling = fields.section("rope_scaling")
        section = Reader({**section.fields, **scaling.fields}, where=scaling.where)
    section.only("partial_rotary_factor", 1.0, 1.0)
    return section


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> Gemma3Config:
    """GGUF metadata → config. Its scaling is that of the full layers; the others' base may stand beside it."""
    window = fields.integer("attention.sliding_window")
    common = read_gguf_gemma(fields, tensors, window=window, pattern=6, layers_of_27b=LAYERS_OF_27B)
    rope: Rope = common["rope"]
    theta = fields.number("rope.freq_base_swa", LOCAL_THETA)
    return Gemma3Config(
        **common,
        attn_logit_softcapping=None,
        final_logit_softcapping=read_cap(fields, "final_logit_softcapping", None),
        local_rope=Rope(theta=theta, width=rope.width),
    )


SAFETENSORS = dataclasses.replace(
    gemma2.SAFETENSORS,
    names={
        **gemma2.SAFETENSORS.names,
        "layers.{l}.attn.q_norm": "model.layers.{l}.self_attn.q_norm",
        "layers.{l}.attn.k_norm": "model.layers.{l}.self_attn.k_norm",
    },
)

GGUF_NAMES = NameTable(
    {
        **gemma2.GGUF_NAMES.names,
        "layers.{l}.attn.q_norm": "blk.{l}.attn_q_norm",
        "layers.{l}.attn.k_norm": "blk.{l}.attn_k_norm",
    }
)

FAMILY = Family(
    model_type="gemma3_text",
    architectures={"Gemma3ForCausalLM": "causal_lm", "Gemma3TextModel": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("gemma3", read_gguf, GGUF_NAMES),
)
