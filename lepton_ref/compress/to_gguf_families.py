"""What a GGUF says of each family, and what it takes for granted: a model that differs there has no GGUF.

A record a family: the architecture's name, the activation and the kinds of RoPE that it stands for, what llama.cpp
wants of the tensors. Where llama.cpp takes for granted what the file could say, a note tells what it computes instead.

Source: the converters under conversion/ and the readers under src/models/ of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lepton_ref.models import gemma2, gemma3
from lepton_ref.models.reader import Reader

Said = tuple[dict[str, Any], tuple[str, ...]]
"""Metadata without the architecture's prefix, and notes."""

Say = Callable[[Any, Reader], Said]
"""(config, config.json) → what only this family says; ValueError for what its GGUF cannot say."""

GELU_NOTE = (
    "llama.cpp computes gelu by tanh and a table of half-precision numbers: its logits differ from about 1e-3 on"
)


@dataclass(frozen=True)
class Form:
    """A family as GGUF holds it.

    Attributes:
        architecture: GGUF's name.
        activation: the one that the architecture implies, by our name.
        ropes: the kinds of RoPE that it can say; empty where positions are a table.
        even_heads: a head is an equal share of the model's width, for the file says no other.
        biased_output: W_o may have a bias.
        own_head: the output head stands in the file even where it is the embedding.
        say: the rest.
    """

    architecture: str
    activation: str
    ropes: tuple[str, ...]
    even_heads: bool
    biased_output: bool
    own_head: bool
    say: Say


def _plain(c: Any, fields: Reader) -> Said:
    return {}, ()


def _mistral(c: Any, fields: Reader) -> Said:
    window, context = c.sliding_window, c.max_position_embeddings
    if window is None:
        return {}, ()
    if window < context:
        raise fields.wrong("sliding_window", window, "null: a GGUF of llama has no window, and mistral has no other")
    return {}, (f"the window of {window} is left out: none of {context} positions lies outside of it",)


def _qwen(c: Any, fields: Reader) -> Said:
    if any(window is not None for window in c.windows):
        raise fields.wrong("use_sliding_window", True, "false: a GGUF of qwen2 or qwen3 has no window")
    return {}, ()


def _phi3(c: Any, fields: Reader) -> Said:
    window = c.sliding_window
    note = f"llama.cpp does not apply phi3's window of {window}: it differs on texts that are longer"
    return {"attention.sliding_window": window or 0}, () if window is None else (note,)


def _gemma(c: Any, fields: Reader, *, pattern: int, layers_of_27b: int) -> Said:
    """Windows and the scale of scores, which Gemma 2 and 3 say alike."""
    window = next((window for window in c.windows if window is not None), None)
    wanted = tuple(None if (layer + 1) % pattern == 0 else window for layer in range(len(c.windows)))
    if window is None or c.windows != wanted:
        shown = ["full" if window is None else "sliding" for window in c.windows]
        raise fields.wrong("layer_types", shown, f"sliding but for one in {pattern}, as its GGUF implies")
    large = len(c.windows) == layers_of_27b
    scalar = c.hidden_size / c.num_attention_heads if large else c.head_dim
    if c.query_pre_attn_scalar != scalar:
        raise fields.wrong("query_pre_attn_scalar", c.query_pre_attn_scalar, f"{scalar:g}, which its GGUF implies")
    return {"attention.sliding_window": window, **_cap(c, "final_logit_softcapping")}, ()


def _cap(c: Any, name: str) -> dict[str, Any]:
    value = getattr(c, name)
    return {} if value is None else {name: value}


def _gemma2(c: Any, fields: Reader) -> Said:
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(c, name) is None:
            raise fields.wrong(name, None, "a number: a GGUF of gemma2 has both caps")
    if not c.tie_word_embeddings:
        raise fields.wrong("tie_word_embeddings", False, "true: a GGUF of gemma2 has no head of its own")
    said, notes = _gemma(c, fields, pattern=2, layers_of_27b=gemma2.LAYERS_OF_27B)
    return said | _cap(c, "attn_logit_softcapping"), (*notes, GELU_NOTE)


def _gemma3(c: Any, fields: Reader) -> Said:
    said, notes = _gemma(c, fields, pattern=6, layers_of_27b=gemma3.LAYERS_OF_27B)
    if c.local_rope.kind != "default":
        raise fields.wrong("rope_parameters", c.local_rope.kind, "of type default in the layers with a window")
    return said | {"rope.freq_base_swa": c.local_rope.theta}, (*notes, GELU_NOTE)


def _gpt2(c: Any, fields: Reader) -> Said:
    fields.only("scale_attn_weights", True, True)
    fields.only("scale_attn_by_inverse_layer_idx", False, False)
    return {}, (GELU_NOTE,)


def _gpt_neox(c: Any, fields: Reader) -> Said:
    if not c.attention_bias:
        raise fields.wrong("attention_bias", False, "true: a GGUF of gptneox has biases")
    return {"use_parallel_residual": c.use_parallel_residual}, (GELU_NOTE,)


def _encoder(c: Any, fields: Reader) -> Said:
    return {"attention.causal": False}, (GELU_NOTE,)


_EVERY = ("default", "linear", "yarn")
_ENCODER = Form("bert", "gelu", (), True, True, False, _encoder)

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "llama": Form("llama", "silu", (*_EVERY, "llama3", "longrope"), False, True, False, _plain),
        "mistral": Form("llama", "silu", (*_EVERY, "llama3", "longrope"), False, True, False, _mistral),
        "qwen2": Form("qwen2", "silu", _EVERY, True, True, False, _qwen),
        "qwen3": Form("qwen3", "silu", _EVERY, False, False, False, _qwen),
        "gemma2": Form("gemma2", "gelu_tanh", ("default", "linear"), False, False, False, _gemma2),
        "gemma3_text": Form("gemma3", "gelu_tanh", ("default", "linear"), False, False, False, _gemma3),
        "phi3": Form("phi3", "silu", ("default", "longrope"), True, True, False, _phi3),
        "olmo2": Form("olmo2", "silu", _EVERY, True, False, True, _plain),
        "gpt2": Form("gpt2", "gelu_tanh", (), True, True, False, _gpt2),
        "gpt_neox": Form("gptneox", "gelu", _EVERY, True, True, True, _gpt_neox),
        "bert": _ENCODER,
        "roberta": _ENCODER,
        "distilbert": _ENCODER,
    }
)
"""`model_type` in config.json → how GGUF holds the family, for every family that GGUF has an architecture for."""
