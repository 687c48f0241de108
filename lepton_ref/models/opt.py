r"""OPT (Zhang et al. 2022): learned positions from row 2 on, ReLU, LayerNorm before each block (after it in OPT-350m).

    x ← W_in·embed(ids) + position[2, 3, …]
    for each layer:  x ← x + Wₒ·attention(W_q·n, W_k·n, W_v·n)   with n = layernorm(x)
                     x ← x + W_down·relu(W_up·n)                 with n = layernorm(x)
    logits ← E·W_out·layernorm(x)

W_in and W_out are there where the embedding's width is not D; E is the embedding where it is tied. Without
`do_layer_norm_before`, each sum is normed, x ← layernorm(x + …), n is x, and the last norm is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.family import Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import ConfigError, Reader

EPS = 1e-5
"""The ε of every norm, which no config can change."""

FIRST_POSITION = 2
"""The row of the first token's position."""


@dataclass(frozen=True)
class OPTConfig:
    """The numbers of an OPT, under transformers' names.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        word_embed_proj_dim: the embedding's width.
        ffn_dim: F.
        num_hidden_layers: L.
        num_attention_heads: H, a divisor of D.
        activation_function: by our name.
        max_position_embeddings: learned positions, without the two rows before the first.
        do_layer_norm_before: norms stand before the blocks, not after the sums.
        final_layer_norm: there is a norm after the last layer.
        enable_bias: linear layers have biases.
        layer_norm_elementwise_affine: norms have weights and biases.
        tie_word_embeddings: the output head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    word_embed_proj_dim: int
    ffn_dim: int
    num_hidden_layers: int
    num_attention_heads: int
    activation_function: str
    max_position_embeddings: int
    do_layer_norm_before: bool
    final_layer_norm: bool
    enable_bias: bool
    layer_norm_elementwise_affine: bool
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size is {self.hidden_size}, but must be a multiple of "
                f"num_attention_heads, which is {self.num_attention_heads}"
            )

    def norm(self, p: Program, name: str, x: Value) -> Value:
        """LayerNorm."""
        return p.layer_norm(name, x, eps=EPS, affine=self.layer_norm_elementwise_affine)


def program(c: OPTConfig, head: str) -> Program:
    """The op list; head is "causal_lm" or "base"."""
    p = Program()
    x = p.embed("embed", c.vocab_size, c.word_embed_proj_dim)
    if c.word_embed_proj_dim != c.hidden_size:
        x = p.linear("project_in", x, c.hidden_size)
    rows = c.max_position_embeddings + FIRST_POSITION
    positions = p.embed("embed_position", rows, c.hidden_size, of="position_ids", offset=FIRST_POSITION)
    x = p.add("embed_sum", x, positions)
    for layer in range(c.num_hidden_layers):
        x = block(p.at(f"layers.{layer}"), c, x)
    x = p.last("last", x)
    if c.final_layer_norm:
        x = c.norm(p, "norm", x)
    if c.word_embed_proj_dim != c.hidden_size:
        x = p.linear("project_out", x, c.word_embed_proj_dim)
    if head == "causal_lm":
        p.linear("head", x, c.vocab_size, tied_to="embed" if c.tie_word_embeddings else None)
    return p


def block(b: Program, c: OPTConfig, x: Value) -> Value:
    """One layer."""
    before, bias = c.do_layer_norm_before, c.enable_bias
    n = c.norm(b, "attn_norm", x) if before else x
    q = b.linear("attn.q", n, c.hidden_size, bias=bias)
    k = b.linear("attn.k", n, c.hidden_size, bias=bias)
    v = b.linear("attn.v", n, c.hidden_size, bias=bias)
    heads = c.num_attention_heads
    a = b.attention("attn", q, k, v, heads=heads, kv_heads=heads, scale=inverse_root(c.hidden_size // heads))
    x = b.add("attn_residual", x, b.linear("attn.o", a, c.hidden_size, bias=bias))
    x = x if before else c.norm(b, "attn_norm", x)
    n = c.norm(b, "mlp_norm", x) if before else x
    u = b.activate("mlp", b.linear("mlp.up", n, c.ffn_dim, bias=bias), c.activation_function)
    x = b.add("mlp_residual", x, b.linear("mlp.down", u, c.hidden_size, bias=bias))
    return x if before else c.norm(b, "mlp_norm", x)


def read(fields: Reader) -> OPTConfig:
    """config.json → config. `_remove_final_layer_norm` belongs to files fine-tuned before transformers 4.20."""
    hidden = fields.integer("hidden_size", 768)
    before = fields.flag("do_layer_norm_before", True)
    return OPTConfig(
        vocab_size=fields.integer("vocab_size", 50272),
        hidden_size=hidden,
        word_embed_proj_dim=fields.integer("word_embed_proj_dim", hidden),
        ffn_dim=fields.integer("ffn_dim", 3072),
        num_hidden_layers=fields.integer("num_hidden_layers", 12),
        num_attention_heads=fields.integer("num_attention_heads", 12),
        activation_function=fields.activation("activation_function", "relu"),
        max_position_embeddings=fields.integer("max_position_embeddings", 2048),
        do_layer_norm_before=before,
        final_layer_norm=before and not fields.flag("_remove_final_layer_norm", False),
        enable_bias=fields.flag("enable_bias", True),
        layer_norm_elementwise_affine=fields.flag("layer_norm_elementwise_affine", True),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
    )


SAFETENSORS = NameTable(
    {
        "embed": "model.decoder.embed_tokens",
        "embed_position": "model.decoder.embed_positions",
        "project_in": "model.decoder.project_in",
        "layers.{l}.attn_norm": "model.decoder.layers.{l}.self_attn_layer_norm",
        "layers.{l}.attn.q": "model.decoder.layers.{l}.self_attn.q_proj",
        "layers.{l}.attn.k": "model.decoder.layers.{l}.self_attn.k_proj",
        "layers.{l}.attn.v": "model.decoder.layers.{l}.self_attn.v_proj",
        "layers.{l}.attn.o": "model.decoder.layers.{l}.self_attn.out_proj",
        "layers.{l}.mlp_norm": "model.decoder.layers.{l}.final_layer_norm",
        "layers.{l}.mlp.up": "model.decoder.layers.{l}.fc1",
        "layers.{l}.mlp.down": "model.decoder.layers.{l}.fc2",
        "norm": "model.decoder.final_layer_norm",
        "project_out": "model.decoder.project_out",
        "head": "lm_head",
    },
    prefix="model.",
    copies={"lm_head.weight": "embed.weight"},
)

FAMILY = Family(
    model_type="opt",
    architectures={"OPTForCausalLM": "causal_lm", "OPTModel": "base"},
    read=read,
    program=program,
    names=SAFETENSORS,
)
