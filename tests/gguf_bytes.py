"""GGUF files built byte by byte, true or lying, for the tests alone: so that the writer does not test itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def string(text: str | bytes, *, length: int | None = None) -> bytes:
    """A length, which may lie, and the bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def entry(key: str | bytes, number: int, value: bytes) -> bytes:
    """A metadata entry: key, type, value."""
    return string(key) + struct.pack("<I", number) + value


def array(number: int, count: int, elements: bytes) -> bytes:
    """An array after its type 9."""
    return struct.pack("<IQ", number, count) + elements


def info(
    name: str | bytes = "w", *, sizes: Sequence[int] = (2,), type: int = 0, offset: int = 0, axes: int | None = None
) -> bytes:
    """A tensor's description; sizes as in the file, the contiguous one first."""
    head = string(name) + struct.pack("<I", len(sizes) if axes is None else axes)
    return head + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", type, offset)


def gguf(
    entries: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file; the counts may lie."""
    counts = (len(infos) if tensors is None else tensors, len(entries) if keys is None else keys)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data


U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
