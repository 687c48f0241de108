"""Reading one safetensors file.

A file is a little-endian 64-bit length N, N bytes of JSON, then the tensors' bytes. The JSON maps each name to
{"dtype", "shape", "data_offsets": [begin, end]}, the offsets counted from the end of the JSON, and "__metadata__" to
strings. The tensors' bytes follow one another without gap or overlap up to the end of the file.
Source: the format's description in the README of github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.json_reading import parse_object
from lepton_ref.files.mapped import Data, map_file
from lepton_ref.files.tensor_file import TensorFile, Weights
from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, Dense, Weight

HEADER_LIMIT = 100_000_000
"""Bytes of JSON, at most: the limit of the format's own reader."""

INTEGERS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "I16": np.dtype("<i2"),
        "I8": np.dtype("i1"),
        "U64": np.dtype("<u8"),
        "U32": np.dtype("<u4"),
        "U16": np.dtype("<u2"),
        "U8": np.dtype("u1"),
        "BOOL": np.dtype("u1"),  # a byte other than 0 and 1 would not be a NumPy boolean
    }
)
"""Types that are read as plain arrays, never as weights."""

BITS: Mapping[str, int] = MappingProxyType(
    {name: 8 * dtype.itemsize for name, dtype in [*DENSE_FORMATS.items(), *INTEGERS.items()]}
    | {"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "C64": 64}
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
)
"""Every type that the format knows → bits of one element."""

MAX_AXES = 32
MAX_ELEMENTS = 1 << 48
"""Of one tensor, axes of length 0 counted as 1; more is a lie, and would overflow NumPy's sizes."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it: begin and end are bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header, the file's bytes, and where the tensors' bytes begin in them."""

    path: Path
    data: Data
    start: int
    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]


def _naturals(value: Any, *, file: Path, field: str) -> list[int]:
    """A list of integers ≥ 0; JSON's floats and booleans are not integers."""
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise FileFormatError(file, field, shown(value), "expected a list of integers, none negative")
    return value


def _entry(name: str, value: Any, *, file: Path) -> Entry:
    """One tensor's description, checked by itself."""
    field = f"tensor {shown(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(file, field, shown(value), "expected an object of dtype, shape and data_offsets")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FileFormatError(file, f"{field} dtype", shown(dtype), f"expected one of {', '.join(BITS)}")
    shape = _naturals(value["shape"], file=file, field=f"{field} shape")
    offsets = _naturals(value["data_offsets"], file=file, field=f"{field} data_offsets")
    if len(shape) > MAX_AXES or math.prod(max(1, n) for n in shape) > MAX_ELEMENTS:
        raise FileFormatError(file, f"{field} shape", shown(shape), "larger than any file; the header is damaged")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileFormatError(file, f"{field} data_offsets", shown(offsets), "expected [begin, end], begin ≤ end")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        value = f"{shown(offsets)} is {offsets[1] - offsets[0]} bytes"
        raise FileFormatError(file, f"{field} data_offsets", value, f"{dtype} {shown(shape)} takes {bits / 8:g}")
    return Entry(name, dtype, tuple(shape), *offsets)


def _check_layout(entries: list[Entry], size: int, *, file: Path) -> None:
    """The tensors' bytes cover the data exactly: no gap, no overlap, nothing beyond the end, nothing left."""
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        field = f"tensor {shown(entry.name)} data_offsets"
        if entry.end > size:
            remedy = f"the data have {size} bytes; the file is truncated or its header lies: fetch it again"
            raise FileFormatError(file, field, f"[{entry.begin}, {entry.end}]", remedy)
        if entry.begin != at:
            what = "overlaps the tensor before it" if entry.begin < at else "leaves a gap before it"
            raise FileFormatError(file, field, f"[{entry.begin}, {entry.end}] {what}", f"expected to begin at {at}")
        at = entry.end
    if at != size:
        remedy = "the tensors must cover the file to its end; its end is damaged or its header lies"
        raise FileFormatError(file, "size", f"{size - at} bytes after the last tensor", remedy)


def _metadata(value: Any, *, file: Path) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FileFormatError(file, "__metadata__", shown(value), "expected an object of strings")
    return MappingProxyType(value)


def read_header(path: Path) -> Header:
    """Map one file and check all of its header against its size.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: whatever is wrong with it.
    """
    data = map_file(path)
    if len(data) < 8:
        raise FileFormatError(path, "size", f"{len(data)} bytes", "a safetensors file begins with an 8-byte length")
    (length,) = struct.unpack_from("<Q", data)
    if length > HEADER_LIMIT or length > len(data) - 8:
        remedy = f"at most {min(HEADER_LIMIT, len(data) - 8)} are possible here; truncated, or not safetensors"
        raise FileFormatError(path, "header length", f"{length} bytes", remedy)
    fields = parse_object(data[8 : 8 + length], file=path, field="header")
    metadata = _metadata(fields.pop("__metadata__", {}), file=path)
    entries = [_entry(name, value, file=path) for name, value in fields.items()]
    _check_layout(entries, len(data) - 8 - length, file=path)
    return Header(path, data, 8 + length, tuple(entries), metadata)


def _array(header: Header, entry: Entry, dtype: np.dtype[Any]) -> HostArray:
    """The tensor as a read-only view of the file. NumPy reads it wherever it begins: the format aligns nothing."""
    count = math.prod(entry.shape)
    if count == 0:
        return np.zeros(entry.shape, dtype=dtype)
    return np.frombuffer(header.data, dtype=dtype, count=count, offset=header.start + entry.begin).reshape(entry.shape)


def join(path: Path, headers: list[Header]) -> TensorFile:
    """The tensors of one file or of all shards."""
    weights: dict[str, Weight] = {}
    integers: dict[str, HostArray] = {}
    refused: dict[str, str] = {}
    codes: dict[str, tuple[str, HostArray]] = {}
    errors: dict[str, FileFormatError] = {}
    for header in headers:
        for entry in header.entries:
            remedy = f"no weight is stored so; weights are {', '.join(DENSE_FORMATS)}"
            if entry.dtype in DENSE_FORMATS:
                array = _array(header, entry, DENSE_FORMATS[entry.dtype])
                weights[entry.name] = Dense(array.reshape(entry.shape or (1,)), format=entry.dtype)
                continue
            if entry.dtype in INTEGERS:
                integers[entry.name] = _array(header, entry, INTEGERS[entry.dtype])
                remedy += "; read it from TensorFile.integers"
            else:
                refused[entry.name] = entry.dtype
                if entry.dtype.startswith("F8_"):
                    codes[entry.name] = (entry.dtype, _array(header, entry, np.dtype("u1")))
            value = f"is stored as {entry.dtype}"
            errors[entry.name] = FileFormatError(header.path, f"tensor {shown(entry.name)}", value, remedy)
    return TensorFile(
        path=path,
        kind="safetensors",
        tensors=Weights(weights, errors),
        metadata=headers[0].metadata,
        nbytes=sum(len(header.data) for header in headers),
        integers=MappingProxyType(integers),
        refused=MappingProxyType(refused),
        codes=MappingProxyType(codes),
    )
