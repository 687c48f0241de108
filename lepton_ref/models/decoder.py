"""What the configs of the decoder families with RoPE have in common, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_ref.models.reader import ConfigError, Reader, read_rope
from lepton_ref.ops import Rope
from lepton_ref.storage import Weight


@dataclass(frozen=True)
class DecoderConfig:
    """The numbers of a decoder, under transformers' names.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        intermediate_size: F.
        num_hidden_layers: L.
        num_attention_heads: H.
        num_key_value_heads: G, a divisor of H.
        head_dim: K.
        hidden_act: the activation, by our name.
        rms_norm_eps: ε.
        max_position_embeddings: the longest context.
        tie_word_embeddings: the output head is the embedding.
        rope: how queries and keys are rotated.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: Rope

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads is {self.num_attention_heads}, but must be a multiple of "
                f"num_key_value_heads, which is {self.num_key_value_heads}"
            )


def read_decoder(
    read: Reader,
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int | None,
    head_dim: int | None = None,
    hidden_act: str = "silu",
    rms_norm_eps: float,
    max_position_embeddings: int,
    tie_word_embeddings: bool = False,
    rope_theta: float = 10000.0,
) -> dict[str, Any]:
    """The common fields of a config.json as keywords of a `DecoderConfig`; the arguments are the family's defaults.

    transformers leaves out of a config.json what equals its default, so the defaults here are transformers' own.
    """
    hidden = read.integer("hidden_size", hidden_size)
    heads = read.integer("num_attention_heads", num_attention_heads)
    width = read.integer("head_dim", head_dim if head_dim is not None else hidden // heads)
    positions = read.integer("max_position_embeddings", max_position_embeddings)
    return {
        "vocab_size": read.integer("vocab_size", vocab_size),
        "hidden_size": hidden,
        "intermediate_size": read.integer("intermediate_size", intermediate_size),
        "num_hidden_layers": read.integer("num_hidden_layers", num_hidden_layers),
        "num_attention_heads": heads,
        "num_key_value_heads": read.integer("num_key_value_heads", num_key_value_heads or heads),
        "head_dim": width,
        "hidden_act": read.activation("hidden_act", hidden_act),
        "rms_norm_eps": read.number("rms_norm_eps", rms_norm_eps),
        "max_position_embeddings": positions,
        "tie_word_embeddings": read.flag("tie_word_embeddings", tie_word_embeddings),
        "rope": read_rope(read, theta=rope_theta, width=width, max_positions=positions),
    }


def read_gguf_decoder(
    read: Reader, tensors: Mapping[str, Weight], *, hidden_act: str = "silu", interleaved: bool = False
) -> dict[str, Any]:
    """The common fields of a GGUF's metadata as keywords of a `DecoderConfig`."""
    hidden = read.integer("embedding_length")
    heads = read.integer("attention.head_count")
    width = read.integer("attention.key_length", hidden // heads)
    positions = read.integer("context_length")
    if "token_embd.weight" not in tensors:
        raise ConfigError(f"{read.where}: tensor token_embd.weight is missing; the file holds no whole model")
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": read.integer("feed_forward_length"),
        "num_hidden_layers": read.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.integer("attention.head_count_kv", heads),
        "head_dim": width,
        "hidden_act": hidden_act,
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": positions,
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope": read_gguf_rope(read, tensors, width=width, max_positions=positions, interleaved=interleaved),
    }


def read_gguf_rope(
    read: Reader, tensors: Mapping[str, Weight], *, width: int, max_positions: int, interleaved: bool
) -> Rope:
    """RoPE from a GGUF's metadata; factors of llama3's scaling stand in a tensor of their own."""
    rotary = read.integer("rope.dimension_count", width)
    kind = read.text("rope.scaling.type", "none")
    kind = "default" if kind == "none" else kind
    factors: tuple[float, ...] = ()
    if "rope_freqs.weight" in tensors:
        kind, factors = "proportional", tuple(np.asarray(tensors["rope_freqs.weight"].decode(), dtype=float).tolist())
    return Rope(
        theta=read.number("rope.freq_base", 10000.0),
        width=rotary,
        kind=kind,
        factor=read.number("rope.scaling.factor", 1.0) or 1.0,
        original_length=read.integer("rope.scaling.original_context_length", max_positions),
        attention_factor=read.number("rope.scaling.attn_factor", None),
        short_factors=factors,
        interleaved=interleaved,
    )
