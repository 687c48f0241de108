"""A tiny Llama with a tokenizer and a chat template in one GGUF: random weights, so what it says has no sense."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tiny_models import llama_gguf

START, TURN, END = 0, 1, 2
SMILE = ["ð", "Ł", "Ļ", "Ĥ"]
"""The four bytes of 🙂 in GPT-2's alphabet, a token each: three of them are no character."""

TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *string.ascii_lowercase,
    "Ġ",
    "Ċ",
    *SMILE,
    "ab",
    "Ġa",
    *"ABCDEFGHIJ.,!?012345",
]
"""57 tokens; the model has 61 rows, so the last four have no text."""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(TOKENS) - 3)],
    "tokenizer.ggml.merges": ["a b", "Ġ a"],
    "tokenizer.ggml.bos_token_id": START,
    "tokenizer.ggml.eos_token_id": END,
    "tokenizer.chat_template": TEMPLATE,
}


def talking(path: Path, **metadata: Any) -> Path:
    """The file, with metadata changed."""
    return llama_gguf(path, metadata={**METADATA, **metadata})


def ids_of(*tokens: str) -> list[int]:
    """The ids of these tokens, in the vocabulary's own spelling."""
    return [TOKENS.index(token) for token in tokens]
