"""Writing GGUF version 3, little-endian. The layout is described in gguf_read.py."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.files.gguf_types import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_AXES,
    NUMBERS,
    STRING,
    TENSOR_NUMBERS,
    VALUE_NUMBERS,
)
from lepton_ref.files.gguf_values import CODES
from lepton_ref.files.mapped import replacing
from lepton_ref.files.stored import Stored, stored
from lepton_ref.interface import HostArray
from lepton_ref.storage import Weight

VERSION = 3


def _string(text: str) -> bytes:
    """A length and the bytes; lone surrogates become the bytes they stand for, as `read_gguf` made them."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _common_type(key: str, values: Sequence[Any]) -> str:
    """The type of a list's elements, for a list whose type is not given."""
    if not values:
        raise ValueError(f"metadata {key!r} is an empty list of unknown type; give it in metadata_types: '[STRING]'")
    if all(isinstance(value, list | np.ndarray) for value in values):
        return "ARRAY"
    names = [value_type(key, value) for value in values]
    if len(set(names)) == 1 and names[0] != "U32":
        return names[0]
    if all(type(value) is int for value in values):  # token ids and the like: signed, as llama.cpp writes them
        fits = [n for n in ("I32", "I64", "U64") if _holds(n, min(values)) and _holds(n, max(values))]
        if fits:
            return fits[0]
    if set(names) == {"F32", "F64"}:
        return "F64"
    raise ValueError(f"metadata {key!r} mixes {', '.join(sorted(set(names)))} in one list; give one type")


def _holds(name: str, value: int) -> bool:
    info = np.iinfo(NUMBERS[VALUE_NUMBERS[name]][1])
    return bool(info.min <= value <= info.max)


def value_type(key: str, value: Any) -> str:
    """The GGUF type for a value whose type is not given: the smallest of the usual ones that keeps it exactly.

    bool → BOOL; int → U32, I32, I64 or U64; float → F32, or F64 where F32 would round; str → STRING; NumPy scalars and
    arrays → their dtype; lists by their elements.

    Raises:
        ValueError: a value that GGUF cannot hold; the message names the key.
    """
    if isinstance(value, bool | np.bool_):
        return "BOOL"
    if isinstance(value, str):
        return "STRING"
    if isinstance(value, np.ndarray | np.generic):
        names = {dtype: name for name, dtype in NUMBERS.values()} | {np.dtype(np.bool_): "BOOL"}
        name = names.get(value.dtype.newbyteorder("<"))
        if name is not None:
            return f"[{name}]" if isinstance(value, np.ndarray) and value.ndim == 1 else name
    elif isinstance(value, int):
        for name in ("U32", "I32", "I64", "U64"):
            if _holds(name, value):
                return name
    elif isinstance(value, float):
        with np.errstate(over="ignore"):
            return "F32" if value != value or float(np.float32(value)) == value else "F64"
    elif isinstance(value, list):
        return f"[{_common_type(key, value)}]"
    raise ValueError(f"metadata {key!r}: {value!r} of {type(value).__name__} has no GGUF type; pass a plain value")


def _array(key: str, values: Any, name: str) -> bytes:
    """The elements of an array after its element type and count."""
    head = struct.pack("<IQ", VALUE_NUMBERS[name], len(values))
    if name == "ARRAY":
        parts = []
        for value in values:
            inner = value_type(key, value) if len(value) or isinstance(value, np.ndarray) else "[STRING]"
            parts.append(_array(key, value, inner[1:-1]))
        return head + b"".join(parts)
    if name == "STRING":
        return head + b"".join(_string(text) for text in values)
    dtype = np.dtype(np.bool_) if name == "BOOL" else NUMBERS[VALUE_NUMBERS[name]][1]
    return head + np.asarray(values).astype(dtype, casting="same_kind" if len(values) else "unsafe").tobytes()


def _value(key: str, value: Any, name: str) -> bytes:
    """A metadata value after its type, in the type of this name."""
    inner = name[1:-1] if name.startswith("[") else None
    if (inner or name) not in VALUE_NUMBERS or name == "ARRAY":
        raise ValueError(f"metadata {key!r} has the unknown type {name!r}; known: {', '.join(VALUE_NUMBERS)}, [TYPE]")
    try:
        if inner is not None:
            return struct.pack("<I", ARRAY) + _array(key, value, inner)
        number = VALUE_NUMBERS[name]
        if number == STRING:
            return struct.pack("<I", number) + _string(value)
        code = "B" if number == BOOL else CODES[name]
        return struct.pack("<I" + code, number, value)
    except (struct.error, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(f"metadata {key!r}: {value!r} is not a {name}; pass a value of that type") from error


def _alignment(metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int | np.integer) or value <= 0 or value & (value - 1):
        raise ValueError(f"general.alignment is {value!r}; expected a power of two, such as 32")
    return int(value)


def _info(name: str, kept: Stored, offset: int) -> bytes:
    """One tensor's description."""
    if kept.format not in TENSOR_NUMBERS:
        raise ValueError(f"tensor {name!r} is {kept.format}, which GGUF does not know; decode it first")
    if not 1 <= len(kept.shape) <= MAX_AXES or 0 in kept.shape:
        raise ValueError(f"tensor {name!r} has shape {kept.shape}; GGUF takes 1 to {MAX_AXES} axes, none empty")
    sizes = struct.pack(f"<I{len(kept.shape)}Q", len(kept.shape), *reversed(kept.shape))
    return _string(name) + sizes + struct.pack("<IQ", TENSOR_NUMBERS[kept.format], offset)


def write_gguf(
    path: str | Path,
    tensors: Mapping[str, Weight | HostArray],
    metadata: Mapping[str, Any],
    *,
    metadata_types: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write one GGUF file, complete or not at all; the bytes of weights are kept as they are.

    Args:
        path: the file.
        tensors: name → weight or array, shape (O, I); GGUF's own names and order are the caller's.
        metadata: key → int, float, bool, str, list or array; `general.alignment` is obeyed.
        metadata_types: key → type, such as "U32" or "[STRING]", as `TensorFile.metadata_types` gives it; a key that is
            not in it gets the type of `value_type`.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: a tensor or a value that the format cannot hold; the message names it.
    """
    types = {} if metadata_types is None else metadata_types
    alignment = _alignment(metadata)
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        if key == "split.count" and value > 1:
            raise ValueError(f"metadata 'split.count' is {value}; one file is written: leave the split.* keys out")
        head += [_string(key), _value(key, value, types[key] if key in types else value_type(key, value))]
    found = {name: stored(name, tensor) for name, tensor in tensors.items()}
    offset = 0
    for name, kept in found.items():
        head.append(_info(name, kept, offset))
        offset += -(-kept.nbytes // alignment) * alignment
    text = b"".join(head)
    with replacing(Path(path), overwrite=overwrite) as file:
        file.write(text + b"\0" * (-len(text) % alignment))
        for kept in found.values():
            for piece in kept.pieces():
                file.write(piece)
            file.write(b"\0" * (-kept.nbytes % alignment))
