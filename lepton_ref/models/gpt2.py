r"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before attention and MLP, biases everywhere.

    x ← embed(ids) + position[0, 1, …]
    for each layer:  x ← x + Wₒ·attention(W_q·n, W_k·n, W_v·n)   with n = layernorm(x)
                     x ← x + W_down·gelu(W_up·n)                 with n = layernorm(x)
    logits ← W_head·layernorm(x)

Checkpoints store q, k and v as one matrix, and every matrix but the embeddings (in, out): W_qkvᵀ = [W_qᵀ W_kᵀ W_vᵀ].
Scores are divided by √K, if `scale_attn_weights`, and by the layer's number from 1 on, if
`scale_attn_by_inverse_layer_idx`. `reorder_and_upcast_attn` names another order of the same operations.
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
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class GPT2Config:
    """The numbers of a GPT-2.

    Attributes:
        vocab_size: V.
        hidden_size: D, `n_embd`.
        intermediate_size: F, `n_inner`.
        num_hidden_layers: L, `n_layer`.
        num_attention_heads: H, `n_head`, a divisor of D.
        activation_function: by our name.
        layer_norm_epsilon: ε.
        max_position_embeddings: learned positions, `n_positions`.
        scale_attn_weights: scores are divided by √K.
        scale_attn_by_inverse_layer_idx: scores are divided by the layer's number from 1 on.
        tie_word_embeddings: the output head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    activation_function: str
    layer_norm_epsilon: float
    max_position_embeddings: int
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"n_embd is {self.hidden_size}, but must be a multiple of n_head, which is {self.num_attention_heads}"
            )

    def scale(self, layer: int) -> float:
        """The factor of a layer's scores."""
        root = inverse_root(self.hidden_size // self.num_attention_heads) if self.scale_attn_weights else 1.0
        return root / (layer + 1) if self.scale_attn_by_inverse_layer_idx else root


def program(c: GPT2Config, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    x = p.add("embed_sum", x, p.embed("embed_position", c.max_position_embeddings, c.hidden_size, of="position_ids"))
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        n = b.layer_norm("attn_norm", x, eps=c.layer_norm_epsilon)
        q = b.linear("attn.q", n, c.hidden_size, bias=True)
        k = b.linear("attn.k", n, c.hidden_size, bias=True)
        v = b.linear("attn.v", n, c.hidden_size, bias=True)
        heads = c.num_attention_heads
        a = b.attention("attn", q, k, v, heads=heads, kv_heads=heads, scale=c.scale(layer))
        x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size, bias=True))
        n = b.layer_norm("mlp_norm", x, eps=c.layer_norm_epsilon)
        u = b.activate("mlp", b.linear("mlp.up", n, c.intermediate_size, bias=True), c.activation_function)
        x = b.add("mlp_residual", x, b.linear("mlp.down", u, c.hidden_size, bias=True))
    x = p.layer_norm("norm", p.last("last", x), eps=c.layer_norm_epsilon)
    if head == "causal_lm":
        p.linear("head", x, c.vocab_size, tied_to="embed" if c.tie_word_embeddings else None)
    return p


def _size(fields: Reader, name: str, alias: str, default: int) -> int:
    """A size under GPT-2's own name, or under the name that other families give it."""
    size: int = fields.integer(name, fields.integer(alias, default))
    fields.only(alias, size, size)
    return size


def read(fields: Reader) -> GPT2Config:
    """config.json → config."""
    fields.only("add_cross_attention", False, False)
    fields.flag("reorder_and_upcast_attn", False)
    hidden = _size(fields, "n_embd", "hidden_size", 768)
    return GPT2Config(
        vocab_size=fields.integer("vocab_size", 50257),
        hidden_size=hidden,
        intermediate_size=fields.integer("n_inner", 4 * hidden),
        num_hidden_layers=_size(fields, "n_layer", "num_hidden_layers", 12),
        num_attention_heads=_size(fields, "n_head", "num_attention_heads", 12),
        activation_function=fields.activation("activation_function", "gelu_new"),
        layer_norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        max_position_embeddings=_size(fields, "n_positions", "max_position_embeddings", 1024),
        scale_attn_weights=fields.flag("scale_attn_weights", True),
        scale_attn_by_inverse_layer_idx=fields.flag("scale_attn_by_inverse_layer_idx", False),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
    )


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> GPT2Config:
    """GGUF metadata → config; what it does not say is as in OpenAI's models."""
    rows = {}
    for name in ("token_embd.weight", "position_embd.weight"):
        if name not in tensors:
            raise ConfigError(f"{fields.where}: tensor {name} is missing; the file holds no whole model")
        rows[name] = tensors[name].shape[0]
    return GPT2Config(
        vocab_size=rows["token_embd.weight"],
        hidden_size=fields.integer("embedding_length"),
        intermediate_size=fields.integer("feed_forward_length"),
        num_hidden_layers=fields.integer("block_count"),
        num_attention_heads=fields.integer("attention.head_count"),
        activation_function="gelu_tanh",
        layer_norm_epsilon=fields.number("attention.layer_norm_epsilon"),
        max_position_embeddings=rows["position_embd.weight"],
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        tie_word_embeddings="output.weight" not in tensors,
    )


def third(number: int) -> Callable[[Any], NDArray[np.int64]]:
    """-> the rows of q (0), k (1) or v (2) in [q; k; v], from a config."""
    return lambda c: np.arange(c.hidden_size) + number * c.hidden_size


SAFETENSORS = NameTable(
    {
        "embed": "transformer.wte",
        "embed_position": "transformer.wpe",
        "layers.{l}.attn_norm": "transformer.h.{l}.ln_1",
        "layers.{l}.attn.q": Part("transformer.h.{l}.attn.c_attn", third(0), transpose=True),
        "layers.{l}.attn.k": Part("transformer.h.{l}.attn.c_attn", third(1), transpose=True),
        "layers.{l}.attn.v": Part("transformer.h.{l}.attn.c_attn", third(2), transpose=True),
        "layers.{l}.attn.o": Part("transformer.h.{l}.attn.c_proj", transpose=True),
        "layers.{l}.mlp_norm": "transformer.h.{l}.ln_2",
        "layers.{l}.mlp.up": Part("transformer.h.{l}.mlp.c_fc", transpose=True),
        "layers.{l}.mlp.down": Part("transformer.h.{l}.mlp.c_proj", transpose=True),
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    prefix="transformer.",
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),  # the causal mask, as OpenAI's files carry it
    copies={"lm_head.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "embed_position": "position_embd",
        "layers.{l}.attn_norm": "blk.{l}.attn_norm",
        "layers.{l}.attn.q": Part("blk.{l}.attn_qkv", third(0)),
        "layers.{l}.attn.k": Part("blk.{l}.attn_qkv", third(1)),
        "layers.{l}.attn.v": Part("blk.{l}.attn_qkv", third(2)),
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.mlp_norm": "blk.{l}.ffn_norm",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    }
)

FAMILY = Family(
    model_type="gpt2",
    architectures={"GPT2LMHeadModel": "causal_lm", "GPT2Model": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("gpt2", read_gguf, GGUF_NAMES),
)
