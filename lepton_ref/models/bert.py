r"""BERT (Devlin et al. 2018): the encoder. Every position sees every other; norms stand after the sums.

    x ← layernorm(token[ids] + type[types] + position[0, 1, …])
    for each layer:  x ← layernorm(x + Wₒ·attention(W_q·x, W_k·x, W_v·x))
                     x ← layernorm(x + W_down·gelu(W_up·x))

Heads, with x₀ a sequence's first position ([CLS]); every linear layer has a bias:

    masked_lm                logits ← E·layernorm(gelu(W·x)), E the token embedding where it is tied
    pooler                   p ← tanh(W·x₀)
    sequence_classification  logits ← W·p
    token_classification     logits ← W·x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lepton_ref.models.constants import inverse_root
from lepton_ref.models.family import GGUF, Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import ConfigError, Reader, read_label_count
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class BertConfig:
    """The numbers of a BERT, under transformers' names.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        intermediate_size: F.
        num_hidden_layers: L.
        num_attention_heads: H, a divisor of D.
        hidden_act: the activation, by our name.
        layer_norm_eps: ε.
        max_position_embeddings: rows of the table of positions.
        type_vocab_size: rows of the table of token types; 0 where a GGUF has none.
        tie_word_embeddings: the masked-LM head is the embedding.
        num_labels: outputs of a classifier.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float
    max_position_embeddings: int
    type_vocab_size: int
    tie_word_embeddings: bool
    num_labels: int

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size is {self.hidden_size}, but must be a multiple of "
                f"num_attention_heads, which is {self.num_attention_heads}"
            )


def embeddings(p: Program, c: BertConfig, *, positions: str) -> Value:
    """The sum of the three embeddings, normed; `positions` names the integers that number the tokens."""
    x = p.embed("embed", c.vocab_size, c.hidden_size)
    if c.type_vocab_size:
        x = p.add("embed_sum.type", x, p.embed("embed_type", c.type_vocab_size, c.hidden_size, of="token_type_ids"))
    x = p.add("embed_sum", x, p.embed("embed_position", c.max_position_embeddings, c.hidden_size, of=positions))
    return p.layer_norm("embed_norm", x, eps=c.layer_norm_eps)


def layers(p: Program, c: BertConfig, x: Value) -> Value:
    """The encoder's layers."""
    for layer in range(c.num_hidden_layers):
        b = p.at(f"layers.{layer}")
        q = b.linear("attn.q", x, c.hidden_size, bias=True)
        k = b.linear("attn.k", x, c.hidden_size, bias=True)
        v = b.linear("attn.v", x, c.hidden_size, bias=True)
        a = b.attention(
            "attn", q, k, v, heads=c.num_attention_heads, kv_heads=c.num_attention_heads,
            scale=inverse_root(c.hidden_size // c.num_attention_heads), causal=False,
        )  # fmt: skip
        o = b.linear("attn.o", a, c.hidden_size, bias=True)
        x = b.layer_norm("attn_norm", b.add("attn_residual", x, o), eps=c.layer_norm_eps)
        u = b.activate("mlp", b.linear("mlp.up", x, c.intermediate_size, bias=True), c.hidden_act)
        f = b.linear("mlp.down", u, c.hidden_size, bias=True)
        x = b.layer_norm("mlp_norm", b.add("mlp_residual", x, f), eps=c.layer_norm_eps)
    return x


def masked_lm(p: Program, c: BertConfig, x: Value, activation: str) -> None:
    """Logits over the vocabulary."""
    t = p.activate("transform_act", p.linear("transform", p.last("last", x), c.hidden_size, bias=True), activation)
    t = p.layer_norm("transform_norm", t, eps=c.layer_norm_eps)
    p.linear("head", t, c.vocab_size, bias=True, tied_to="embed" if c.tie_word_embeddings else None)


def pooler(p: Program, c: BertConfig, x: Value) -> Value:
    """tanh(W·x₀ + b)."""
    return p.activate("pooled", p.linear("pooler", p.first("first", x), c.hidden_size, bias=True), "tanh")


def token_classification(p: Program, c: BertConfig, x: Value) -> None:
    """Logits of each position."""
    p.linear("classifier", p.last("last", x), c.num_labels, bias=True)


HEADS: Mapping[str, Callable[[Program, BertConfig, Value], object]] = MappingProxyType(
    {
        "base": lambda p, c, x: p.last("last", x),
        "masked_lm": lambda p, c, x: masked_lm(p, c, x, c.hidden_act),
        "pooler": pooler,
        "sequence_classification": lambda p, c, x: p.linear("classifier", pooler(p, c, x), c.num_labels, bias=True),
        "token_classification": token_classification,
    }
)


def program(c: BertConfig, head: str) -> Program:
    """The op list; head is one of `HEADS`."""
    p = Program()
    HEADS[head](p, c, layers(p, c, embeddings(p, c, positions="position_ids")))
    return p


def read(fields: Reader) -> BertConfig:
    """config.json → config. transformers leaves out what equals its default, so the defaults are its own."""
    for name, allowed in (("is_decoder", False), ("add_cross_attention", False), ("is_encoder_decoder", False)):
        fields.only(name, allowed, allowed)
    fields.only("position_embedding_type", "absolute", "absolute")
    fields.only("pruned_heads", {}, {})
    return BertConfig(
        vocab_size=fields.integer("vocab_size", 30522),
        hidden_size=fields.integer("hidden_size", 768),
        intermediate_size=fields.integer("intermediate_size", 3072),
        num_hidden_layers=fields.integer("num_hidden_layers", 12),
        num_attention_heads=fields.integer("num_attention_heads", 12),
        hidden_act=fields.activation("hidden_act", "gelu"),
        layer_norm_eps=fields.number("layer_norm_eps", 1e-12),
        max_position_embeddings=fields.integer("max_position_embeddings", 512),
        type_vocab_size=fields.integer("type_vocab_size", 2),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        num_labels=read_label_count(fields),
    )


def read_gguf(fields: Reader, tensors: Mapping[str, Weight]) -> BertConfig:
    """GGUF metadata → config.

    The file may hold a RoBERTa or a DistilBERT: its positions then start at 0 too, and token types may be absent. It
    does not say which GELU; all three families were trained with the one by erf.
    """
    fields.only("attention.causal", False, False)
    rows = {}
    for name in ("token_embd.weight", "position_embd.weight"):
        if name not in tensors:
            raise ConfigError(f"{fields.where}: tensor {name} is missing; the file holds no whole model")
        rows[name] = tensors[name].shape[0]
    return BertConfig(
        vocab_size=rows["token_embd.weight"],
        hidden_size=fields.integer("embedding_length"),
        intermediate_size=fields.integer("feed_forward_length"),
        num_hidden_layers=fields.integer("block_count"),
        num_attention_heads=fields.integer("attention.head_count"),
        hidden_act="gelu",
        layer_norm_eps=fields.number("attention.layer_norm_epsilon"),
        max_position_embeddings=rows["position_embd.weight"],
        type_vocab_size=tensors["token_types.weight"].shape[0] if "token_types.weight" in tensors else 0,
        tie_word_embeddings=True,
        num_labels=2,
    )


def layer_names(prefix: str) -> dict[str, str]:
    """The table of a whole encoder, whose names begin with the prefix; RoBERTa's differ in nothing else."""
    layer = f"{prefix}encoder.layer.{{l}}"
    return {
        "embed": f"{prefix}embeddings.word_embeddings",
        "embed_type": f"{prefix}embeddings.token_type_embeddings",
        "embed_position": f"{prefix}embeddings.position_embeddings",
        "embed_norm": f"{prefix}embeddings.LayerNorm",
        "layers.{l}.attn.q": f"{layer}.attention.self.query",
        "layers.{l}.attn.k": f"{layer}.attention.self.key",
        "layers.{l}.attn.v": f"{layer}.attention.self.value",
        "layers.{l}.attn.o": f"{layer}.attention.output.dense",
        "layers.{l}.attn_norm": f"{layer}.attention.output.LayerNorm",
        "layers.{l}.mlp.up": f"{layer}.intermediate.dense",
        "layers.{l}.mlp.down": f"{layer}.output.dense",
        "layers.{l}.mlp_norm": f"{layer}.output.LayerNorm",
        "pooler": f"{prefix}pooler.dense",
    }


OLD_NORMS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
"""How Google's own conversions name a norm's weights."""

SAFETENSORS = NameTable(
    {
        **layer_names("bert."),
        "transform": "cls.predictions.transform.dense",
        "transform_norm": "cls.predictions.transform.LayerNorm",
        "head": "cls.predictions.decoder",
        "classifier": "classifier",
    },
    prefix="bert.",
    ignored=(
        r"(bert\.)?embeddings\.(position_ids|token_type_ids)",
        r"(bert\.)?pooler\.dense\.(weight|bias)",
        r"cls\.(predictions|seq_relationship)\..*",  # the heads of pre-training, in files of every architecture
    ),
    older={**OLD_NORMS, "cls.predictions.decoder.bias": "cls.predictions.bias"},
    copies={"cls.predictions.decoder.weight": "embed.weight"},
)

GGUF_NAMES = NameTable(
    {
        "embed": "token_embd",
        "embed_type": "token_types",
        "embed_position": "position_embd",
        "embed_norm": "token_embd_norm",
        "layers.{l}.attn.q": "blk.{l}.attn_q",
        "layers.{l}.attn.k": "blk.{l}.attn_k",
        "layers.{l}.attn.v": "blk.{l}.attn_v",
        "layers.{l}.attn.o": "blk.{l}.attn_output",
        "layers.{l}.attn_norm": "blk.{l}.attn_output_norm",
        "layers.{l}.mlp.up": "blk.{l}.ffn_up",
        "layers.{l}.mlp.down": "blk.{l}.ffn_down",
        "layers.{l}.mlp_norm": "blk.{l}.layer_output_norm",
    }
)

FAMILY = Family(
    model_type="bert",
    architectures={
        "BertModel": "base",
        "BertForMaskedLM": "masked_lm",
        "BertForSequenceClassification": "sequence_classification",
        "BertForTokenClassification": "token_classification",
    },
    read=read,
    program=program,
    names=SAFETENSORS,
    gguf=GGUF("bert", read_gguf, GGUF_NAMES),
)
