"""What the configs of the decoder families with RoPE have in common, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_ref.models.program import Program, Value
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.models.rope_reader import read_gguf_rope, read_rope
from lepton_ref.ops import Rope
from lepton_ref.ops.checks import OPTION_LEAST
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


def _share(read: Reader, name: str, hidden: int, heads: int) -> int:
    """The head width where the file leaves it to the model's: an equal share."""
    if heads > hidden:
        raise read.wrong(name, heads, f"at most {hidden}, the model's width")
    return hidden // heads


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
    activation: str = "hidden_act",
    part: float | None = None,
) -> dict[str, Any]:
    """The common fields of a config.json as keywords of a `DecoderConfig`; the arguments are the family's defaults.

    transformers leaves out of a config.json what equals its default, so the defaults here are transformers' own.
    `activation` is the field that names it, `part` how much of a head turns by default (see `read_rope`).
    """
    hidden = read.integer("hidden_size", hidden_size)
    heads = read.integer("num_attention_heads", num_attention_heads)
    width = read.integer("head_dim", head_dim)
    width = _share(read, "num_attention_heads", hidden, heads) if width is None else width
    positions = read.integer("max_position_embeddings", max_position_embeddings)
    if num_key_value_heads is None or read.is_null("num_key_value_heads"):
        num_key_value_heads = heads
    return {
        "vocab_size": read.integer("vocab_size", vocab_size),
        "hidden_size": hidden,
        "intermediate_size": read.integer("intermediate_size", intermediate_size),
        "num_hidden_layers": read.integer("num_hidden_layers", num_hidden_layers),
        "num_attention_heads": heads,
        "num_key_value_heads": read.integer("num_key_value_heads", num_key_value_heads),
        "head_dim": width,
        "hidden_act": read.activation(activation, hidden_act),
        "rms_norm_eps": read.number("rms_norm_eps", rms_norm_eps),
        "max_position_embeddings": positions,
        "tie_word_embeddings": read.flag("tie_word_embeddings", tie_word_embeddings),
        "rope": read_rope(read, width=width, max_positions=positions, part=part),
    }


def read_gguf_decoder(
    read: Reader, tensors: Mapping[str, Weight], *, hidden_act: str = "silu", interleaved: bool = False
) -> dict[str, Any]:
    """The common fields of a GGUF's metadata as keywords of a `DecoderConfig`."""
    hidden = read.integer("embedding_length")
    heads = read.integer("attention.head_count")
    width = read.integer("attention.key_length", None)
    width = _share(read, "attention.head_count", hidden, heads) if width is None else width
    positions = read.integer("context_length")
    read.only("attention.value_length", width, width)
    read.only("attention.causal", True, True)
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


def read_window(read: Reader, default: int | None) -> int | None:
    """`sliding_window`: null is none, and absent is the family's default."""
    window: int | None = read.integer("sliding_window", None if read.is_null("sliding_window") else default)
    return window


def read_windows(read: Reader, window: int | None, sliding: list[bool]) -> tuple[int | None, ...]:
    """Each layer's window: from `layer_types` where the config has it, otherwise where `sliding` says so."""
    types = read.raw("layer_types", None)
    if types is not None:
        names = {"sliding_attention": True, "full_attention": False}
        if not isinstance(types, list) or len(types) != len(sliding) or not all(kind in [*names] for kind in types):
            raise read.wrong("layer_types", types, f"{len(sliding)} times one of {', '.join(names)}")
        sliding = [names[kind] for kind in types]
    if window is None and any(sliding):
        raise read.wrong("sliding_window", None, "an integer, because some layers slide")
    return tuple(window if slides else None for slides in sliding)


def no_gguf_window(read: Reader) -> None:
    """Refuse a window in the GGUF of a family whose files have none; 0 says the same as its absence."""
    read.only("attention.sliding_window", 0, 0)


def read_cap(read: Reader, name: str, default: float | None) -> float | None:
    """A soft cap: null is none, and absent is the family's default."""
    cap: float | None = read.number(name, None if read.is_null(name) else default)
    if cap is not None and cap < OPTION_LEAST:
        raise read.wrong(name, cap, "above 0, or null for none" if cap == 0 else f"{OPTION_LEAST:g} or more")
    return cap


def gated_mlp(b: Program, c: DecoderConfig, n: Value, *, bias: bool = False) -> Value:
    """W_down·(activation(W_gate·n) · W_up·n)."""
    gate = b.linear("mlp.gate", n, c.intermediate_size, bias=bias)
    up = b.linear("mlp.up", n, c.intermediate_size, bias=bias)
    return b.linear("mlp.down", b.gated("mlp", gate, up, c.hidden_act), c.hidden_size, bias=bias)


def logits(p: Program, c: DecoderConfig, x: Value) -> Value:
    """W_head·x, with the embedding for W_head where it is tied."""
    return p.linear("head", x, c.vocab_size, tied_to="embed" if c.tie_word_embeddings else None)
