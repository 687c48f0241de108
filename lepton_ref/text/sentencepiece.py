"""SentencePiece's `tokenizer.model`: the few fields of its protocol buffer that define a tokenizer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lepton_ref.text.parts import NORMAL, Vocabulary

UNIGRAM, BPE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """A model file: field numbers are those of SentencePiece's `sentencepiece_model.proto`.

    Attributes:
        vocabulary: pieces, scores, types.
        model_type: UNIGRAM or BPE.
        unk_id, bos_id, eos_id, pad_id: −1 where there is none.
        charsmap: the compiled normalisation, empty for none.
        space_prefix: a space is put in front of each text.
        collapse_spaces: runs of spaces become one and the ends are stripped.
    """

    vocabulary: Vocabulary
    model_type: int
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    charsmap: bytes
    space_prefix: bool
    collapse_spaces: bool


def _varint(data: bytes, at: int, source: str) -> tuple[int, int]:
    value = 0
    for k in range(10):
        if at + k >= len(data):
            break
        value |= (data[at + k] & 0x7F) << (7 * k)
        if data[at + k] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + k + 1
    raise ValueError(f"{source}: offset {at}: an integer that does not end: the file is truncated or not a model")


def fields(data: bytes, source: str) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one protocol-buffer message: an integer, or bytes (fixed-width fields as bytes too).

    Raises:
        ValueError: the bytes are not such a message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at, source)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, source)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, source)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"{source}: offset {at}: wire type {wire}: not a SentencePiece model")
        if size > len(data) - at:
            raise ValueError(f"{source}: offset {at}: {size} bytes, {len(data) - at} left: the file is truncated")
        yield number, data[at : at + size]
        at += size


def _as_bytes(value: int | bytes, source: str, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"{source}: {name}: an integer where bytes belong: not a SentencePiece model")
    return value


def _as_int(value: int | bytes, source: str, name: str) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{source}: {name}: bytes where an integer belongs: not a SentencePiece model")
    return value - (1 << 64) if value >> 63 else value


def _piece(data: bytes, source: str) -> tuple[str, float, int]:
    token, score, kind = "", 0.0, NORMAL
    for number, value in fields(data, source):
        if number == 1:
            try:
                token = _as_bytes(value, source, "piece").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{source}: piece {value!r}: not UTF-8: not a SentencePiece model") from error
        elif number == 2:
            raw = _as_bytes(value, source, "score")
            if len(raw) != 4:
                raise ValueError(f"{source}: score: {len(raw)} bytes: must be a 32-bit float")
            score = struct.unpack("<f", raw)[0]
        elif number == 3:
            kind = _as_int(value, source, "type")
    return token, score, kind


def read_sentencepiece(data: bytes, source: str) -> SentencePieceModel:
    """Read a `tokenizer.model`.

    Raises:
        ValueError: the bytes are not a SentencePiece model, or one of a type other than BPE and Unigram.
    """
    pieces = []
    trainer = {3: UNIGRAM, 40: 0, 41: 1, 42: 2, 43: -1}
    normaliser = {3: 1, 4: 1}
    charsmap = b""
    for number, value in fields(data, source):
        if number == 1:
            pieces.append(_piece(_as_bytes(value, source, "pieces"), source))
        elif number == 2:
            entries = fields(_as_bytes(value, source, "trainer_spec"), source)
            trainer |= {n: _as_int(v, source, f"trainer_spec field {n}") for n, v in entries if n in trainer}
        elif number == 3:
            for n, v in fields(_as_bytes(value, source, "normalizer_spec"), source):
                if n in normaliser:
                    normaliser[n] = _as_int(v, source, f"normalizer_spec field {n}")
                elif n == 2:
                    charsmap = _as_bytes(v, source, "precompiled_charsmap")
    if trainer[3] not in (UNIGRAM, BPE):
        raise ValueError(f"{source}: model_type: {trainer[3]}: only 1 (Unigram) and 2 (BPE) are supported")
    vocabulary = Vocabulary(source, [p[0] for p in pieces], [p[2] for p in pieces], [p[1] for p in pieces])
    return SentencePieceModel(
        vocabulary, trainer[3], trainer[40], trainer[41], trainer[42], trainer[43],
        charsmap, normaliser[3] != 0, normaliser[4] != 0,
    )  # fmt: skip
