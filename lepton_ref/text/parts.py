"""What a tokenizer is made of, before it is one: the vocabulary as a file states it, and the built parts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types, numbered as in SentencePiece's model file and in GGUF's `tokenizer.ggml.token_type`."""


def library(name: str) -> Any:
    """The module `tokenizers` or `jinja2`, imported when text is first used.

    Raises:
        ImportError: the extra `text` is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'text needs the package "{name}": install "lepton-ref[text]"') from error


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, with what the file says of each.

    Attributes:
        source: the file, for messages.
        tokens: the token of each id, in the file's own spelling.
        types: NORMAL … BYTE, one for each token.
        scores: one for each token, the higher the earlier it is merged; empty where the file has merges.
        merges: pairs in the order in which they apply; empty where the file has scores.
    """

    source: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) == 0:
            raise ValueError(f"{self.source}: tokens: 0 entries: a vocabulary needs at least one token")
        for name, values in (("token_type", self.types), ("scores", self.scores)):
            if len(values) not in (0, len(self.tokens)) or (name == "token_type" and len(values) == 0):
                raise ValueError(
                    f"{self.source}: {name}: {len(values)} entries for {len(self.tokens)} tokens: "
                    "give one for each token"
                )
        wrong = set(self.types) - set(range(NORMAL, BYTE + 1))
        if len(wrong) > 0:
            kind = min(wrong)
            raise ValueError(f"{self.source}: token_type: {kind} of token {list(self.types).index(kind)}: use 1 … 6")
        if len(set(self.tokens)) < len(self.tokens):
            self._refuse_duplicates()

    def _refuse_duplicates(self) -> None:
        ids: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            first = ids.setdefault(token, index)
            if first != index:
                raise ValueError(
                    f"{self.source}: tokens: {token!r} is both id {first} and id {index}: each token has one id"
                )

    def ids(self) -> dict[str, int]:
        """Token → id."""
        return {token: index for index, token in enumerate(self.tokens)}

    def of_type(self, *types: int) -> list[int]:
        """The ids whose token is of one of these types, ascending."""
        return [index for index, kind in enumerate(self.types) if kind in types]


@dataclass(frozen=True)
class Parts:
    """A built tokenizer and its special ids.

    Attributes:
        backend: a `tokenizers.Tokenizer`.
        kind: such as "byte-level BPE", for people.
        vocab_size: one more than the largest id.
        bos_id, eos_id, pad_id, unk_id: ids, or None where the model has none.
        stop_ids: ids that end a generation.
        control_ids: ids that text cannot give unless special tokens are parsed in it.
        special_tokens: such as {"bos_token": "<s>"}, for chat templates.
        chat_templates: name → Jinja2 source; "default" is the usual one.
        skip_ids: ids that decode leaves out on request.
        strip_space: decoding drops the one space that encoding put in front.
        piece_kind: how a token becomes bytes: "byte-level", "sentencepiece" or "library".
    """

    backend: Any
    kind: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    stop_ids: frozenset[int]
    control_ids: frozenset[int]
    skip_ids: frozenset[int]
    piece_kind: str
    strip_space: bool = False
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)
