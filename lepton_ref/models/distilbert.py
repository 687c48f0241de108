r"""DistilBERT (Sanh et al. 2019): BERT without token types and pooler, with half the layers.

    x ← layernorm(token[ids] + position[0, 1, …])
    for each layer:  x ← layernorm(x + Wₒ·attention(W_q·x, W_k·x, W_v·x))
                     x ← layernorm(x + W₂·gelu(W₁·x))

ε is 1e-12 in every norm. Positions are a table in the file, learned or sinusoidal. Heads, each linear with a bias:

    masked_lm                logits ← E·layernorm(gelu(W·x)), E the token embedding where it is tied
    sequence_classification  logits ← W'·relu(W·x₀), x₀ a sequence's first position
    token_classification     logits ← W·x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.family import Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import ConfigError, Reader, read_label_count

EPS = 1e-12
"""The ε of every norm, which no config can change."""


@dataclass(frozen=True)
class DistilBertConfig:
    """The numbers of a DistilBERT, under transformers' names.

    Attributes:
        vocab_size: V.
        dim: D.
        hidden_dim: F.
        n_layers: L.
        n_heads: H, a divisor of D.
        activation: by our name.
        max_position_embeddings: rows of the table of positions.
        tie_word_embeddings: the masked-LM head is the embedding.
        num_labels: outputs of a classifier.
    """

    vocab_size: int
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    activation: str
    max_position_embeddings: int
    tie_word_embeddings: bool
    num_labels: int

    def __post_init__(self) -> None:
        if self.dim % self.n_heads:
            raise ConfigError(f"dim is {self.dim}, but must be a multiple of n_heads, which is {self.n_heads}")


def encoder(p: Program, c: DistilBertConfig) -> Value:
    """Embeddings and layers."""
    x = p.add("embed_sum", p.embed("embed", c.vocab_size, c.dim),
              p.embed("embed_position", c.max_position_embeddings, c.dim, of="position_ids"))  # fmt: skip
    x = p.layer_norm("embed_norm", x, eps=EPS)
    for layer in range(c.n_layers):
        b = p.at(f"layers.{layer}")
        q = b.linear("attn.q", x, c.dim, bias=True)
        k = b.linear("attn.k", x, c.dim, bias=True)
        v = b.linear("attn.v", x, c.dim, bias=True)
        scale = inverse_root(c.dim // c.n_heads)
        a = b.attention("attn", q, k, v, heads=c.n_heads, kv_heads=c.n_heads, scale=scale, causal=False)
        o = b.linear("attn.o", a, c.dim, bias=True)
        x = b.layer_norm("attn_norm", b.add("attn_residual", x, o), eps=EPS)
        u = b.activate("mlp", b.linear("mlp.up", x, c.hidden_dim, bias=True), c.activation)
        f = b.linear("mlp.down", u, c.dim, bias=True)
        x = b.layer_norm("mlp_norm", b.add("mlp_residual", x, f), eps=EPS)
    return x


def masked_lm(p: Program, c: DistilBertConfig, x: Value) -> None:
    """Logits over the vocabulary."""
    t = p.activate("transform_act", p.linear("transform", p.last("last", x), c.dim, bias=True), c.activation)
    t = p.layer_norm("transform_norm", t, eps=EPS)
    p.linear("head", t, c.vocab_size, bias=True, tied_to="embed" if c.tie_word_embeddings else None)


def sequence_classification(p: Program, c: DistilBertConfig, x: Value) -> None:
    """Logits of the whole sequence."""
    h = p.activate("pre_classifier_act", p.linear("pre_classifier", p.first("first", x), c.dim, bias=True), "relu")
    p.linear("classifier", h, c.num_labels, bias=True)


HEADS: Mapping[str, Callable[[Program, DistilBertConfig, Value], object]] = MappingProxyType(
    {
        "base": lambda p, c, x: p.last("last", x),
        "masked_lm": masked_lm,
        "sequence_classification": sequence_classification,
        "token_classification": lambda p, c, x: p.linear("classifier", p.last("last", x), c.num_labels, bias=True),
    }
)


def program(c: DistilBertConfig, head: str) -> Program:
    """The op list; head is one of `HEADS`."""
    p = Program()
    HEADS[head](p, c, encoder(p, c))
    return p


def read(fields: Reader) -> DistilBertConfig:
    """config.json → config. `sinusoidal_pos_embds` says how the stored table came about, and changes nothing here."""
    fields.flag("sinusoidal_pos_embds", False)
    fields.only("pruned_heads", {}, {})
    return DistilBertConfig(
        vocab_size=fields.integer("vocab_size", 30522),
        dim=fields.integer("dim", fields.integer("hidden_size", 768)),
        hidden_dim=fields.integer("hidden_dim", 3072),
        n_layers=fields.integer("n_layers", fields.integer("num_hidden_layers", 6)),
        n_heads=fields.integer("n_heads", fields.integer("num_attention_heads", 12)),
        activation=fields.activation("activation", "gelu"),
        max_position_embeddings=fields.integer("max_position_embeddings", 512),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        num_labels=read_label_count(fields),
    )


SAFETENSORS = NameTable(
    {
        "embed": "distilbert.embeddings.word_embeddings",
        "embed_position": "distilbert.embeddings.position_embeddings",
        "embed_norm": "distilbert.embeddings.LayerNorm",
        "layers.{l}.attn.q": "distilbert.transformer.layer.{l}.attention.q_lin",
        "layers.{l}.attn.k": "distilbert.transformer.layer.{l}.attention.k_lin",
        "layers.{l}.attn.v": "distilbert.transformer.layer.{l}.attention.v_lin",
        "layers.{l}.attn.o": "distilbert.transformer.layer.{l}.attention.out_lin",
        "layers.{l}.attn_norm": "distilbert.transformer.layer.{l}.sa_layer_norm",
        "layers.{l}.mlp.up": "distilbert.transformer.layer.{l}.ffn.lin1",
        "layers.{l}.mlp.down": "distilbert.transformer.layer.{l}.ffn.lin2",
        "layers.{l}.mlp_norm": "distilbert.transformer.layer.{l}.output_layer_norm",
        "transform": "vocab_transform",
        "transform_norm": "vocab_layer_norm",
        "head": "vocab_projector",
        "pre_classifier": "pre_classifier",
        "classifier": "classifier",
    },
    prefix="distilbert.",
    ignored=(
        r"(distilbert\.)?embeddings\.position_ids",
        r"vocab_(transform|layer_norm|projector)\.(weight|bias)",  # the head of pre-training
    ),
    copies={"vocab_projector.weight": "embed.weight"},
)

FAMILY = Family(
    model_type="distilbert",
    architectures={
        "DistilBertModel": "base",
        "DistilBertForMaskedLM": "masked_lm",
        "DistilBertForSequenceClassification": "sequence_classification",
        "DistilBertForTokenClassification": "token_classification",
    },
    read=read,
    program=program,
    names=SAFETENSORS,
)
