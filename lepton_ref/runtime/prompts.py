"""Prompts as callers give them, to ids; and which models can go on from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.models.program import Program

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model


def require_language_model(model: Model, doing: str) -> None:
    """Raise ValueError for a model that does not give the next token's logits."""
    name = model.parts.architecture
    if not model.is_causal:
        raise ValueError(f"{name} sees both ways and cannot {doing}; it takes a decoder such as LlamaForCausalLM")
    if model.parts.head != "causal_lm":
        raise ValueError(
            f"{name} gives {model.parts.head.replace('_', ' ')} output and cannot {doing}; it takes a causal_lm"
        )


def one_or_many(model: Model, prompt: Any) -> tuple[list[list[int]], bool]:
    """Text, a flat list of ids, or a batch of either -> the ids of each prompt, and whether it was but one.

    Raises:
        TypeError: neither text nor integers.
        ValueError: no tokens, or ids outside the vocabulary.
    """
    if isinstance(prompt, str):
        return [text_ids(model, prompt, "the prompt")], True
    listed = isinstance(prompt, Sequence) or (isinstance(prompt, np.ndarray) and prompt.ndim > 0)
    if isinstance(prompt, bytes) or not listed:
        raise TypeError(f"the prompt must be text, a list of ids, or a list of either, got {type(prompt).__name__}")
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give at least one token")
    if not isinstance(prompt[0], Sequence | np.ndarray):
        return [checked_ids(model, prompt, "the prompt")], True
    names = [f"prompt[{number}]" for number in range(len(prompt))]
    return [
        text_ids(model, item, name) if isinstance(item, str) else checked_ids(model, item, name)
        for item, name in zip(prompt, names, strict=True)
    ], False


def text_ids(model: Model, text: str, name: str) -> list[int]:
    """The ids of a text, the tokens that the model expects around it included.

    Raises:
        ValueError: it has no tokens.
    """
    ids = model.tokenizer.encode(text)
    bos = model.tokenizer.bos_id
    if len(ids) == 0 and bos is not None:
        ids = [bos]
    if len(ids) == 0:
        raise ValueError(f"{name} is {text!r}, which has no tokens, and the model has no BOS; give at least one letter")
    return checked_ids(model, ids, name)


def checked_ids(model: Model, ids: Any, name: str) -> list[int]:
    """A flat list of ids.

    Raises:
        TypeError: not integers.
        ValueError: none, more than one axis, or an id outside the vocabulary.
    """
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise ValueError(f"{name} must be a flat list of ids, not a list of lists of unequal lengths") from error
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one token")
    if array.ndim != 1:
        raise ValueError(f"{name} must be a flat list of ids, got an array of shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be text or integers, got {array.dtype}")
    vocab_size = model.config.vocab_size
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if wrong.size:
        raise ValueError(
            f"{name}[{wrong[0]}] is {array[wrong[0]]}, outside the vocabulary of {vocab_size}; "
            "is the tokenizer another model's?"
        )
    return [int(value) for value in array]


def learned_positions(program: Program) -> int | None:
    """How many positions the model has learned; None for RoPE, which has no end."""
    tables = [op for op in program.ops if op.options.get("of") == "position_ids"]
    return min((program.weights[op.weights["w"]][0] - op.options["offset"] for op in tables), default=None)


def has_length_dependent_rope(program: Program) -> bool:
    """Whether RoPE depends on the length that a cache is made for."""
    return any(op.kind == "rope" and op.options["rope"].depends_on_length for op in program.ops)
