"""Ids back to text: what bytes each id stands for, and a decoder that never emits half a character.

The text of a sequence is defined here as the bytes of its pieces, joined and read as UTF-8, where what is not UTF-8
becomes U+FFFD. On whole characters that is what the tokenizer's own decoder gives; a byte sequence that is not UTF-8
spoils only itself (the library's byte fallback turns a whole run of byte tokens into U+FFFD when one of them is wrong).
Because each piece stands for its bytes whatever follows, text can be emitted as soon as its characters are whole.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from typing import Any

from lepton_ref.text.parts import Parts

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_letters() -> dict[str, int]:
    """Letter → byte, in GPT-2's alphabet: printable Latin-1 stands for itself, the rest for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + k): byte for k, byte in enumerate(rest)}


def _byte_level_piece(token: str, letters: dict[str, int]) -> bytes:
    # A token with a letter outside the alphabet was added as text, so it stands for its own characters.
    if all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return token.encode("utf-8")


def _sentencepiece_piece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte is not None else token.replace("▁", " ").encode("utf-8")


class Pieces:
    """The bytes of each id, alone and as the first of a text."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cache: dict[tuple[int, bool], bytes] = {}
        letters = byte_letters()
        kinds: dict[str, Callable[[str, bool], bytes]] = {
            "byte-level": lambda token, first: _byte_level_piece(token, letters),
            "sentencepiece": lambda token, first: _sentencepiece_piece(token),
            "library": self._library_piece,
        }
        self._make = kinds[parts.piece_kind]

    def _library_piece(self, token: str, first: bool) -> bytes:
        decode: Any = self._parts.backend.decoder
        if type(decode).__name__ in ("BPEDecoder", "CTC"):
            raise ValueError(f"decoder {type(decode).__name__}: a token's text hangs on the next one: not supported")
        if decode is None:
            return token.encode("utf-8") if first else (" " + token).encode("utf-8")
        if first:
            return str(decode.decode([token])).encode("utf-8")
        anchor = str(decode.decode(["a"]))
        return str(decode.decode(["a", token]))[len(anchor) :].encode("utf-8")

    def is_hole(self, index: int) -> bool:
        """Whether no token has this id, although some token has a larger one."""
        return self._parts.backend.id_to_token(index) is None

    def bytes_of(self, index: int, *, first: bool) -> bytes:
        """The bytes that this id stands for; `first` where no text came before it."""
        if (index, first) not in self._cache:
            self._cache[index, first] = self._make(self._parts.backend.id_to_token(index), first)
        return self._cache[index, first]

    def strip(self, data: bytes) -> bytes:
        """The first bytes of a text without the one space that encoding put in front of it."""
        return data[1:] if self._parts.strip_space and data.startswith(b" ") else data


class TextStream:
    """Text as it is generated: `push` each id, then `finish`. What they return, joined, is what `decode` gives."""

    def __init__(self, pieces: Pieces, check: Callable[[int], int], skip: frozenset[int]) -> None:
        self._pieces, self._check, self._skip = pieces, check, skip
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = True
        self._done = False

    def push(self, index: int) -> str:
        """The text that this id completes, perhaps none.

        Raises:
            IndexError: the id is outside the vocabulary.
            RuntimeError: the stream is finished.
        """
        if self._done:
            raise RuntimeError("push after finish: start a new stream with Tokenizer.stream()")
        index = self._check(index)
        if index in self._skip or self._pieces.is_hole(index):
            return ""
        data = self._pieces.bytes_of(index, first=self._first)
        if self._first:
            data, self._first = self._pieces.strip(data), False
        return self._utf8.decode(data)

    def extend(self, ids: Iterable[int]) -> str:
        """The text that these ids complete."""
        return "".join(map(self.push, ids))

    def finish(self) -> str:
        """What is left: U+FFFD where the last character is not whole, else nothing."""
        self._done = True
        return self._utf8.decode(b"", final=True)
