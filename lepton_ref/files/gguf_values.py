"""Reading GGUF's metadata: numbers, strings and arrays, never trusting a length.

Nothing is allocated on the word of a count: an array of numbers is a view of the file that must fit in it, an array of
strings grows string by string, and each costs at least the eight bytes of its length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.gguf_types import ARRAY, BOOL, NUMBERS, STRING, VALUE_TYPES
from lepton_ref.files.mapped import Data

DEEPEST = 4
"""Arrays in arrays, at most; none is known in a real file."""

CODES = {
    "U8": "B", "I8": "b", "U16": "H", "I16": "h", "U32": "I", "I32": "i", "U64": "Q", "I64": "q", "F32": "f", "F64": "d"
}  # fmt: skip
"""Type name → struct's letter."""

_TRUNCATED = "the file is truncated or this length lies: fetch the file again"


@dataclass
class Cursor:
    """A place in a file that moves forward as fields are read.

    Attributes:
        file: named in errors.
        data: the bytes of the file.
        at: the next byte.
    """

    file: Path
    data: Data
    at: int = 0

    def need(self, nbytes: int, *, field: str) -> None:
        """Fail unless so many bytes are left."""
        left = len(self.data) - self.at
        if nbytes > left:
            raise FileFormatError(self.file, field, f"takes {nbytes} bytes at byte {self.at}, {left} left", _TRUNCATED)

    def number(self, code: str, *, field: str) -> Any:
        """One little-endian number; `code` is struct's, such as "Q"."""
        size = struct.calcsize("<" + code)
        self.need(size, field=field)
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value

    def count(self, *, each: int, field: str) -> int:
        """A 64-bit count of things of at least `each` bytes; all of them must fit in what is left."""
        count: int = self.number("Q", field=field)
        left = len(self.data) - self.at
        if count > left // each:
            raise FileFormatError(self.file, field, f"{count}, but {left} bytes are left", _TRUNCATED)
        return count

    def string(self, *, field: str) -> str:
        """A length and that many bytes of UTF-8."""
        length = self.count(each=1, field=f"{field} length")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFormatError(self.file, field, f"{shown(raw)} is not UTF-8", "write it as UTF-8") from error


def _strings(cursor: Cursor, count: int, *, field: str) -> list[str]:
    """Many strings. Bytes that are not UTF-8, as in vocabularies of raw bytes, become lone surrogates (PEP 383).

    `text.encode("utf-8", "surrogateescape")` gives the bytes back.
    """
    data, at, size = cursor.data, cursor.at, len(cursor.data)
    length_at = struct.Struct("<Q").unpack_from
    found: list[str] = []
    for _ in range(count):  # a tight loop: vocabularies have hundreds of thousands
        end = at + 8
        if end <= size:
            end += length_at(data, at)[0]
        if end > size:
            cursor.at = at
            field = f"{field}[{len(found)}]"
            raise FileFormatError(cursor.file, field, f"ends beyond the file's {size} bytes", _TRUNCATED)
        found.append(data[at + 8 : end].decode("utf-8", "surrogateescape"))
        at = end
    cursor.at = at
    return found


def _array(cursor: Cursor, *, field: str, depth: int) -> tuple[str, Any]:
    """An array: its type's name and its value, an array of numbers or a list."""
    if depth > DEEPEST:
        raise FileFormatError(cursor.file, field, f"arrays nested deeper than {DEEPEST}", "flatten it")
    number = cursor.number("I", field=f"{field} element type")
    if number in NUMBERS or number == BOOL:
        name, dtype = NUMBERS.get(number, ("BOOL", np.dtype("u1")))
        count = cursor.count(each=dtype.itemsize, field=f"{field} count")
        values = np.frombuffer(cursor.data, dtype=dtype, count=count, offset=cursor.at) if count else np.zeros(0, dtype)
        cursor.at += count * dtype.itemsize
        return f"[{name}]", _booleans(cursor, values, field=field) if number == BOOL else values
    if number == STRING:
        count = cursor.count(each=8, field=f"{field} count")
        return "[STRING]", _strings(cursor, count, field=field)
    if number == ARRAY:
        count = cursor.count(each=12, field=f"{field} count")
        return "[ARRAY]", [_array(cursor, field=f"{field}[{i}]", depth=depth + 1)[1] for i in range(count)]
    raise _unknown_type(cursor, number, field=f"{field} element type")


def _booleans(cursor: Cursor, values: np.ndarray[Any, Any], *, field: str) -> np.ndarray[Any, Any]:
    if values.size and values.max() > 1:
        raise FileFormatError(cursor.file, field, f"holds the byte {values.max()}", "a boolean is the byte 0 or 1")
    return values.view(np.bool_)


def _unknown_type(cursor: Cursor, number: int, *, field: str) -> FileFormatError:
    known = ", ".join(f"{n} {name}" for n, name in sorted(VALUE_TYPES.items()))
    return FileFormatError(cursor.file, field, str(number), f"expected one of {known}; the file is damaged")


def read_value(cursor: Cursor, *, field: str) -> tuple[str, Any]:
    """One metadata value after its type.

    Returns:
        The type's name, such as "U32" or "[STRING]", and the value: int, float, bool, str, a read-only array of
        numbers, or a list.

    Raises:
        FileFormatError: an unknown type, or a length that leaves the file.
    """
    number = cursor.number("I", field=f"{field} type")
    if number in NUMBERS:
        name, _ = NUMBERS[number]
        return name, cursor.number(CODES[name], field=field)
    if number == BOOL:
        value = cursor.number("B", field=field)
        if value > 1:
            raise FileFormatError(cursor.file, field, str(value), "a boolean is the byte 0 or 1")
        return "BOOL", bool(value)
    if number == STRING:
        return "STRING", cursor.string(field=field)
    if number == ARRAY:
        return _array(cursor, field=field, depth=1)
    raise _unknown_type(cursor, number, field=f"{field} type")
