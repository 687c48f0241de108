r"""RoBERTa (Liu et al. 2019): BERT's layers, trained better, with other positions and other heads.

Positions are counted from pad + 1 over the tokens that are not the padding id, which itself stands at position pad. So
a table of 514 rows holds 512 tokens.

    masked_lm                logits ← E·layernorm(gelu(W·x)), by erf whatever the layers' activation is
    sequence_classification  logits ← W'·tanh(W·x₀)
    token_classification     logits ← W·x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lepton_ref.models.bert import (
    OLD_NORMS,
    BertConfig,
    embeddings,
    layer_names,
    layers,
    masked_lm,
    pooler,
    token_classification,
)
from lepton_ref.models.bert import read as read_bert
from lepton_ref.models.family import Family
from lepton_ref.models.names import NameTable
from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import ConfigError, Reader


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """A RoBERTa: BERT's numbers, and the padding id.

    Attributes:
        pad_token_id: the id that has no position of its own; positions start after it.
    """

    pad_token_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id + 1 >= self.max_position_embeddings:
            raise ConfigError(
                f"max_position_embeddings is {self.max_position_embeddings}, but must be above pad_token_id + 1, "
                f"which is {self.pad_token_id + 1}: that is the first token's position"
            )


def sequence_classification(p: Program, c: BertConfig, x: Value) -> None:
    """Logits of the whole sequence."""
    d = p.linear("classifier.dense", p.first("first", x), c.hidden_size, bias=True)
    p.linear("classifier.out", p.activate("classifier.act", d, "tanh"), c.num_labels, bias=True)


HEADS: Mapping[str, Callable[[Program, BertConfig, Value], object]] = MappingProxyType(
    {
        "base": lambda p, c, x: p.last("last", x),
        "masked_lm": lambda p, c, x: masked_lm(p, c, x, "gelu"),
        "pooler": pooler,
        "sequence_classification": sequence_classification,
        "token_classification": token_classification,
    }
)


def program(c: RobertaConfig, head: str) -> Program:
    """The op list; head is one of `HEADS`."""
    p = Program()
    HEADS[head](p, c, layers(p, c, embeddings(p, c, positions="roberta_positions")))
    return p


def read(fields: Reader) -> RobertaConfig:
    """config.json → config; BERT's fields and defaults but for these."""
    if fields.is_null("pad_token_id"):
        raise fields.wrong("pad_token_id", None, "an integer, for positions are counted from it")
    numbers = vars(read_bert(fields)) | {"vocab_size": fields.integer("vocab_size", 50265)}
    return RobertaConfig(**numbers, pad_token_id=fields.integer("pad_token_id", 1, minimum=0))


SAFETENSORS = NameTable(
    {
        **layer_names("roberta."),
        "transform": "lm_head.dense",
        "transform_norm": "lm_head.layer_norm",
        "head": "lm_head.decoder",
        "classifier": "classifier",
        "classifier.dense": "classifier.dense",
        "classifier.out": "classifier.out_proj",
    },
    prefix="roberta.",
    ignored=(
        r"(roberta\.)?embeddings\.(position_ids|token_type_ids)",
        r"(roberta\.)?pooler\.dense\.(weight|bias)",
        r"lm_head\..*",  # the head of pre-training, in files of every architecture
    ),
    older={**OLD_NORMS, "lm_head.decoder.bias": "lm_head.bias"},
    copies={"lm_head.decoder.weight": "embed.weight"},
)

FAMILY = Family(
    model_type="roberta",
    architectures={
        "RobertaModel": "base",
        "RobertaForMaskedLM": "masked_lm",
        "RobertaForSequenceClassification": "sequence_classification",
        "RobertaForTokenClassification": "token_classification",
    },
    read=read,
    program=program,
    names=SAFETENSORS,
)
