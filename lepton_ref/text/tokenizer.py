"""The tokenizer as people use it: text to ids, ids to text, conversations to text."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any

from lepton_ref.text import chat
from lepton_ref.text.from_folder import parts_from_folder
from lepton_ref.text.from_gguf import parts_from_gguf
from lepton_ref.text.parts import Parts
from lepton_ref.text.stream import Pieces, TextStream


def check_text(text: str) -> str:
    """The text itself.

    Raises:
        TypeError: it is not a string.
        ValueError: it holds a lone surrogate, which no encoding of Unicode can express.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: {type(text).__name__}: must be a str; decode bytes first")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        point = ord(text[error.start])
        raise ValueError(
            f"text: lone surrogate U+{point:04X} at index {error.start}: not a character; remove or replace it"
        ) from error
    return text


class Tokenizer:
    """Text to ids and back, as the model's own tokenizer does it.

    Attributes:
        vocab_size: one more than the largest id.
        bos_id, eos_id, pad_id, unk_id: special ids, None where the model has none.
        stop_ids: ids that end a generation: end of sequence, of turn, of message.
        chat_templates: name → Jinja2 source.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pieces = Pieces(parts)
        # Whether special tokens are parsed is a setting of the library's object, so two threads must take turns.
        self._lock = threading.Lock()
        self.vocab_size = parts.vocab_size
        self.bos_id, self.eos_id = parts.bos_id, parts.eos_id
        self.pad_id, self.unk_id = parts.pad_id, parts.unk_id
        self.stop_ids = parts.stop_ids
        self.chat_templates = parts.chat_templates

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], *, source: str = "GGUF metadata") -> Tokenizer:
        """Build from the metadata of a GGUF file.

        Args:
            metadata: `tokenizer.ggml.*` and the rest, as `files.read_gguf(path).metadata` gives them.
            source: the file's name, for messages.

        Raises:
            ValueError: a key is missing, wrong, or names a tokenizer that is not supported; the message names it.
            ImportError: the extra `text` is not installed.
        """
        return cls(parts_from_gguf(metadata, source=source))

    @classmethod
    def from_folder(cls, path: str | PathLike[str]) -> Tokenizer:
        """Build from a folder with tokenizer.json, tokenizer.model, vocab.txt, or vocab.json and merges.txt.

        Raises:
            FileNotFoundError: the folder holds none of these.
            ValueError: a file is malformed or names what is not supported; the message names file, field and value.
            ImportError: the extra `text` is not installed.
        """
        return cls(parts_from_folder(path))

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of a text.

        Args:
            text: any Unicode text, also empty.
            add_special: add what the model expects around a text: BOS, or [CLS] and [SEP]. False for text from
                `apply_chat_template`, which has written its own.
            parse_special: read "<|im_end|>" and the like inside the text as control tokens, as transformers does.
                False takes them as plain text, so that what a user typed cannot forge a control token.

        Raises:
            TypeError, ValueError: the text is not a string, holds a lone surrogate, or (with parse_special=False) is
                such that the vocabulary itself spells a control token with it.
        """
        check_text(text)
        with self._lock:
            self._parts.backend.encode_special_tokens = not parse_special
            encoding = self._parts.backend.encode(text, add_special_tokens=add_special)
        if not parse_special:
            self._refuse_forged(encoding)
        return list(encoding.ids)

    def _refuse_forged(self, encoding: Any) -> None:
        """A few vocabularies merge plain text into a control token; the mask tells those from the ones we added."""
        added = encoding.special_tokens_mask
        forged = {index for index, ours in zip(encoding.ids, added, strict=True) if ours == 0} & self._parts.control_ids
        if len(forged) > 0:
            token = self._parts.backend.id_to_token(min(forged))
            raise ValueError(f"text: it spells the control token {token!r}: remove it, or use parse_special=True")

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of these ids; what is not whole UTF-8 becomes U+FFFD.

        Args:
            ids: integers, Python's or NumPy's.
            skip_special: leave out control and unknown tokens.

        Raises:
            IndexError: an id is outside the vocabulary.
            TypeError: an id is not an integer.
        """
        stream = self.stream(skip_special=skip_special)
        return stream.extend(ids) + stream.finish()

    def stream(self, *, skip_special: bool = True) -> TextStream:
        """A decoder that takes ids one at a time and never emits half a character."""
        return TextStream(self._pieces, self._check_id, self._parts.skip_ids if skip_special else frozenset())

    def token(self, index: int) -> str:
        """The token of this id, in the vocabulary's own spelling; empty where the id has none."""
        token = self._parts.backend.id_to_token(self._check_id(index))
        return "" if token is None else str(token)

    def id_of(self, token: str) -> int | None:
        """The id of a token in the vocabulary's own spelling, None where there is none."""
        index: int | None = self._parts.backend.token_to_id(token)
        return index

    @property
    def control_tokens(self) -> frozenset[str]:
        """The tokens that are parsed in a text as they are spelled, such as "[MASK]" or "<|im_end|>"."""
        return frozenset(self.token(index) for index in self._parts.skip_ids)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> str:
        """The text of a conversation, as the model's own template writes it; encode it with add_special=False.

        Args:
            messages: [{"role": "user", "content": "…"}, …].
            add_generation_prompt: end with the opening of the assistant's turn.
            tools: JSON schemas of functions that the model may call.
            template: the name of one of `chat_templates`; None takes the usual one.
            variables: further variables that the template reads, such as {"enable_thinking": False}.
            clock: what time it is, for templates that write the date.

        Raises:
            ValueError: the messages are malformed, there is no template, or it fails, refuses them or is refused.
        """
        names: dict[str, Any] = dict(self._parts.special_tokens)
        names |= chat.plain(variables or {}, "variables")
        names["messages"] = chat.check_messages(messages)
        names["tools"] = None if tools is None else chat.plain(list(tools), "tools")
        names["documents"] = None
        names["add_generation_prompt"] = bool(add_generation_prompt)
        source = chat.choose(self.chat_templates, template, tools=tools is not None)
        return chat.render(source, names, clock=clock)

    def _check_id(self, index: int) -> int:
        try:
            value = operator.index(index)
        except TypeError:
            raise TypeError(f"id: {index!r}: must be an integer") from None
        if not 0 <= value < self.vocab_size:
            raise IndexError(f"id {value} is outside the vocabulary of {self.vocab_size} tokens")
        return value

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        special = ", ".join(
            f"{name}={value}" for name, value in (("bos", self.bos_id), ("eos", self.eos_id), ("pad", self.pad_id))
        )
        stops = ", ".join(map(str, sorted(self.stop_ids)))
        return f"Tokenizer({self._parts.kind}, {self.vocab_size} tokens, {special}, stops=[{stops}])"
