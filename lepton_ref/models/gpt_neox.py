r"""GPT-NeoX (Black et al. 2022), hence Pythia: attention and MLP side by side, RoPE on the first part of each head.

    x ← embed(ids)
    for each layer:  x ← x + Wₒ·attention(rope(W_q·n), rope(W_k·n), W_v·n) + W_down·gelu(W_up·m)
                     with n = layernorm₁(x), m = layernorm₂(x)
    logits ← W_head·layernorm(x)

Every linear layer but the head has a bias. Without `use_parallel_residual` the MLP comes after: m is the norm of the
sum of x and attention. Checkpoints store q, k and v as one matrix, head by head: [q₀; k₀; v₀; q₁; k₁; v₁; …]; GGUF
files as [q; k; v].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable, Part
from lepton_ref.models.program import Program
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.models.rope_reader import read_gguf_rope, read_rope
from lepton_ref.ops import Rope
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class GPTNeoXConfig:
    """The numbers of a GPT-NeoX, under transformers' names.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        intermediate_size: F.
        num_hidden_layers: L.
        num_attention_heads: H, a divisor of D.
        hidden_act: the activation, by our name.
        layer_norm_eps: ε.
        max_position_embeddings: the longest context.
        use_parallel_residual: attention and MLP read the same x.
        attention_bias: q, k, v and o have biases.
        tie_word_embeddings: the output head is the embedding.
        rope: how queries and keys are rotated.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float
    max_position_embeddings: int
    use_parallel_residual: bool
    attention_bias: bool
    tie_word_embeddings: bool
    rope: Rope


def program(c: GPTNeoXConfig, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    heads, width = c.num_attention_heads, c.hidden_size
    x = p.embed("embed", c.vocab_size, width)
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        n = b.layer_norm("attn_norm", x, eps=c.layer_norm_eps)
        q = b.rope("attn.q_rope", b.linear("attn.q", n, width, bias=c.attention_bias), c.rope, heads=heads)
        k = b.rope("attn.k_rope", b.linear("attn.k", n, width, bias=c.attention_bias), c.rope, heads=heads)
        v = b.linear("attn.v", n, width, bias=c.attention_bias)
        a = b.attention("attn", q, k, v, heads=heads, kv_heads=heads, scale=inverse_root(width // heads))
        attended = b.add("attn_residual", x, b.linear("attn.o", a, width, bias=c.attention_bias))
        n = b.layer_norm("mlp_norm", x if c.use_parallel_residual else attended, eps=c.layer_norm_eps)
        u = b.activate("mlp", b.linear("mlp.up", n, c.intermediate_size, bias=True), c.hidden_act)
        x = b.add("mlp_residual", attended, b.linear("mlp.down", u, width, bias=True))
    x = p.layer_norm("norm", p.last("last", x), eps=c.layer_norm_eps)
    if head == "causal_lm":
        p.linear("head", x, c.vocab_size, tied_to="embed" if c.tie_word_embeddings else None)
    return p


def _head_width(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ConfigError(f"hidden_size is {hidden}, but must be a multiple of num_attention_heads, which is {heads}")
    return hidden // heads


def read(fields: Reader) -> GPTNeoXConfig:
    """config.json → config; `rotary_pct` and `rotary_emb_base` are what transformers 4 called RoPE's share and base."""
    hidden = fields.integer("hidden_size", 6144)
    heads = fields.integer("num_attention_heads", 64)
    positions = fields.integer("max_position_embeddings", 2048)
    share = fields.number("rotary_pct", 0.25)
    theta = fields.number("rotary_emb_base", 10000.0)
    fields.only("partial_rotary_factor", share, share)
    fields.only("rope_theta", theta, theta)
    width = _head_width(hidden, heads)
    fields.only("head_dim", width, width)
    return GPTNeoXConfig(
        vocab_size=fields.integer("vocab_size", 50432),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 24576),
        num_hidden_layers=fields.integer("num_hidden_layers", 44),
        num_attention_heads=heads,
        hidden_act=fields.activation("hidden_act", "gelu"),
        layer_norm_eps=fields.number("layer_norm_eps", 1e-5),
        max_position_embeddings=positions,
        use_parallel_residual=fields.flag("use_parallel_residual", True),
        attention_bias=fields.flag("attention_bias", True),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        rope=read_rope(fields, theta=theta, width=width, max_positions=positions, part=share),
    )


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> GPTNeoXConfig:
    """GGUF metadata → config. It does not say which GELU; the published models were trained with the one by erf."""
    if "token_embd.weight" not in tensors:
        raise ConfigError(f"{fields.where}: tensor token_embd.weight is missing; the file holds no whole model")
    hidden = fields.integer("embedding_length")
    heads = fields.integer("attention.head_count")
    positions = fields.integer("context_length")
    return GPTNeoXConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        intermediate_size=fields.integer("feed_forward_length"),
        num_hidden_layers=fields.integer("block_count"),
        num_attention_heads=heads,
        hidden_act="gelu",
        layer_norm_eps=fields.number("attention.layer_norm_epsilon"),
        max_position_embeddings=positions,
        use_parallel_residual=fields.flag("use_parallel_residual", True),
        attention_bias="blk.0.attn_qkv.bias" in tensors,
        tie_word_embeddings="output.weight" not in tensors,
        rope=read_gguf_rope(fields, tensors, width=_head_width(hidden, heads), max_positions=positions),
    )


def by_head(number: int) -> Callable[[Any], NDArray[np.int64]]:
    """-> the rows of q (0), k (1) or v (2) in [q₀; k₀; v₀; q₁; …], from a config."""
    return lambda c: np.arange(3 * c.hidden_size).reshape(c.num_attention_heads, 3, -1)[:, number].reshape(-1)


def by_kind(number: int) -> Callable[[Any], NDArray[np.int64]]:
    """-> the rows of q (0), k (1) or v (2) in [q; k; v], from a config."""
    return lambda c: np.arange(c.hidden_size) + number * c.hidden_size


SAFETENSORS = NameTable(
    {
        "embed": "gpt_neox.embed_in",
        "layers.{l}.attn_norm": "gpt_neox.layers.{l}.input_layernorm",
        "layers.{l}.attn.q": Part("gpt_neox.layers.{l}.attention.query_key_value", by_head(0)),
        "layers.{l}.attn.k": Part("gpt_neox.layers.{l}.attention.query_key_value", by_head(1)),
        "layers.{l}.attn.v": Part("gpt_neox.layers.{l}.attention.query_key_value", by_head(2)),
        "layers.{l}.attn.o": "gpt_neox.layers.{l}.attention.dense",
        "layers.{l}.mlp_norm": "gpt_neox.layers.{l}.post_attention_layernorm",
        "layers.{l}.mlp.up": "gpt_neox.layers.{l}.mlp.dense_h_to_4h",
        "layers.{l}.mlp.down": "gpt_neox.layers.{l}.mlp.dense_4h_to_h",
        "norm": "gpt_neox.final_layer_norm",
        "head": "embed_out",
    },
    prefix="gpt_neox.",
    ignored=(r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    older={"embed_out.weight": "lm_head.weight"},
    copies={"embed_out.weight": "embed.weight", "lm_head.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": Part("blk.{l}.attn_qkv", by_kind(0)),
        "layers.{l}.attn.k": Part("blk.{l}.attn_qkv", by_kind(1)),
        "layers.{l}.attn.v": Part("blk.{l}.attn_qkv", by_kind(2)),
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    }
)

FAMILY = Family(
    model_type="gpt_neox",
    architectures={"GPTNeoXForCausalLM": "causal_lm", "GPTNeoXModel": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("gptneox", read_gguf, GGUF_NAMES),
)
