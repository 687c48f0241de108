"""Reading GGUF, versions 2 and 3, little-endian, one file or a split set.

A file is "GGUF", a version, counts of tensors and of metadata; the metadata; per tensor a name, its sizes with the
contiguous one first, its type and its offset; then the tensors' bytes, each beginning at a multiple of the alignment.
Source: docs/gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.gguf_types import DEFAULT_ALIGNMENT, INTEGERS, MAGIC, MAX_AXES, TENSOR_TYPES
from lepton_ref.files.gguf_values import Cursor, read_value
from lepton_ref.files.mapped import Data, map_file
from lepton_ref.files.tensor_file import TensorFile, Weights
from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockQuantised, Dense, Weight

MAX_ELEMENTS = 1 << 48
"""Of one tensor; more is a lie, and would overflow NumPy's sizes."""

_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header describes it: begin and end are bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: str
    begin: int
    end: int


@dataclass
class Member:
    """One file, its header read and checked."""

    path: Path
    data: Data
    metadata: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    infos: list[TensorInfo] = field(default_factory=list)
    start: int = 0


def _version(cursor: Cursor) -> None:
    """Magic and version."""
    if cursor.data[:4] != MAGIC:
        value = f"begins with {shown(cursor.data[:4])}"
        raise FileFormatError(cursor.file, "magic", value, "expected 'GGUF'; this is no GGUF file")
    cursor.at = 4
    version: int = cursor.number("I", field="version")
    if version in (2, 3):
        return
    if version == 1:
        remedy = "version 1 was replaced in 2023; convert the model again with a current llama.cpp"
    elif version & 0xFFFF == 0 and version >> 24 in (1, 2, 3):
        remedy = "the file is big-endian; only little-endian files are read: convert it on a little-endian machine"
    else:
        remedy = "versions 2 and 3 are read"
    raise FileFormatError(cursor.file, "version", str(version), remedy)


def _metadata(cursor: Cursor, count: int, member: Member) -> None:
    for _ in range(count):
        key = cursor.string(field="metadata key")
        what = f"metadata {shown(key)}"
        if key in member.metadata:
            raise FileFormatError(cursor.file, what, "stands twice", "expected each key once; the file is damaged")
        member.types[key], member.metadata[key] = read_value(cursor, field=what)


def _alignment(member: Member) -> int:
    """`general.alignment`, or 32 where it is absent."""
    value = member.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or value <= 0 or value & (value - 1):
        raise FileFormatError(member.path, "general.alignment", shown(value), "expected a power of two, such as 32")
    return value


def _tensor_bytes(file: Path, what: str, shape: tuple[int, ...], name: str) -> int:
    """How many bytes a tensor takes, if its type is one that this version decodes."""
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise FileFormatError(file, f"{what} shape", shown(shape), "larger than any file; the header is damaged")
    if name in FORMATS:
        length = FORMATS[name].length
        if shape[-1] % length:
            remedy = f"{name} has blocks of {length} elements; rows must be whole blocks"
            raise FileFormatError(file, f"{what} shape", f"rows of {shape[-1]} elements", remedy)
        return count // length * FORMATS[name].nbytes
    return count * (INTEGERS[name] if name in INTEGERS else DENSE_FORMATS[name]).itemsize


def _type_name(file: Path, what: str, number: int) -> str:
    """The name of a tensor type that this version decodes."""
    if number not in TENSOR_TYPES:
        raise FileFormatError(file, f"{what} type", str(number), "no such type is known; the file is newer or damaged")
    name = TENSOR_TYPES[number]
    if name not in FORMATS and name not in DENSE_FORMATS and name not in INTEGERS:
        known = ", ".join([*DENSE_FORMATS, *FORMATS])
        value = f"is stored as {name}, which this version does not decode"
        raise FileFormatError(file, what, value, f"use a file whose tensors are among {known}")
    return name


def _info(cursor: Cursor, *, alignment: int) -> TensorInfo:
    """One tensor's description, checked by itself."""
    name = cursor.string(field="tensor name")
    what = f"tensor {shown(name)}"
    axes = cursor.number("I", field=f"{what} number of axes")
    if not 1 <= axes <= MAX_AXES:
        raise FileFormatError(cursor.file, f"{what} number of axes", str(axes), f"expected 1 to {MAX_AXES}")
    sizes = [cursor.number("Q", field=f"{what} shape") for _ in range(axes)]
    if 0 in sizes:
        raise FileFormatError(cursor.file, f"{what} shape", shown(sizes), "a size of 0 is not allowed")
    shape = tuple(reversed(sizes))
    type_name = _type_name(cursor.file, what, cursor.number("I", field=f"{what} type"))
    nbytes = _tensor_bytes(cursor.file, what, shape, type_name)
    begin = cursor.number("Q", field=f"{what} offset")
    if begin % alignment:
        raise FileFormatError(cursor.file, f"{what} offset", str(begin), f"expected a multiple of {alignment}")
    return TensorInfo(name, shape, type_name, begin, begin + nbytes)


def _check_layout(member: Member) -> None:
    """No name twice, no two tensors in the same bytes, none beyond the end of the file."""
    left = max(0, len(member.data) - member.start)
    seen: set[str] = set()
    at = 0
    for info in sorted(member.infos, key=lambda info: (info.begin, info.end)):
        what = f"tensor {shown(info.name)}"
        if info.name in seen:
            raise FileFormatError(member.path, what, "stands twice", "expected each name once; the file is damaged")
        seen.add(info.name)
        if info.begin < at:
            value = f"{info.begin} overlaps the tensor before it"
            raise FileFormatError(member.path, f"{what} offset", value, f"expected at least {at}")
        if info.end > left:
            remedy = f"the data have {left} bytes; the file is truncated or its header lies: fetch it again"
            raise FileFormatError(member.path, f"{what} offset", f"bytes {info.begin} to {info.end}", remedy)
        at = info.end


def read_member(path: Path) -> Member:
    """Map one file and check all of its header.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: whatever is wrong with it.
    """
    member = Member(path, map_file(path))
    cursor = Cursor(path, member.data)
    _version(cursor)
    # the least a tensor's description and a metadata entry take: an empty name and one size, a one-byte value
    tensors = cursor.count(each=32, field="number of tensors")
    entries = cursor.count(each=13, field="number of metadata entries")
    _metadata(cursor, entries, member)
    alignment = _alignment(member)
    for _ in range(tensors):
        member.infos.append(_info(cursor, alignment=alignment))
    member.start = -(-cursor.at // alignment) * alignment
    _check_layout(member)
    return member


def _view(member: Member, info: TensorInfo, dtype: np.dtype[Any]) -> HostArray:
    """The tensor's bytes, read-only, in the file: (..., numbers of a row)."""
    count = (info.end - info.begin) // dtype.itemsize
    flat = np.frombuffer(member.data, dtype=dtype, count=count, offset=member.start + info.begin)
    return flat.reshape(*info.shape[:-1], -1)


def _join(path: Path, members: list[Member]) -> TensorFile:
    """The tensors of all members under the first one's metadata."""
    weights: dict[str, Weight] = {}
    integers: dict[str, HostArray] = {}
    errors: dict[str, FileFormatError] = {}
    for member in members:
        for info in member.infos:
            what = f"tensor {shown(info.name)}"
            if info.name in weights or info.name in integers:
                raise FileFormatError(member.path, what, "is in an earlier file of the set too", "expected it once")
            if info.type in FORMATS:
                raw = _view(member, info, np.dtype(np.uint8))
                weights[info.name] = BlockQuantised(raw, format=FORMATS[info.type])
            elif info.type in DENSE_FORMATS:
                weights[info.name] = Dense(_view(member, info, DENSE_FORMATS[info.type]), format=info.type)
            else:
                integers[info.name] = _view(member, info, INTEGERS[info.type])
                remedy = "integers are no weights; read it from TensorFile.integers"
                errors[info.name] = FileFormatError(member.path, what, f"is stored as {info.type}", remedy)
    split = len(members) > 1
    first = members[0]
    return TensorFile(
        path=path,
        kind="gguf",
        tensors=Weights(weights, errors),
        metadata=MappingProxyType({k: v for k, v in first.metadata.items() if not (split and k.startswith("split."))}),
        nbytes=sum(len(member.data) for member in members),
        integers=MappingProxyType(integers),
        metadata_types=MappingProxyType(first.types),
    )


def _split_paths(path: Path, count: int) -> list[Path]:
    """The files of a split set, in order, from the name of any of them; all exist."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        remedy = f"name its files NAME-00001-of-{count:05}.gguf and so on, as they were published"
        raise FileFormatError(path, "split.count", str(count), remedy)
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for member in paths:
        if not member.is_file():
            raise FileFormatError(path, "split.count", str(count), f"{member.name} is missing beside it; fetch it")
    return paths


def _check_split(members: list[Member], count: int) -> None:
    """Every member says its own place in the same set, and all the tensors are there."""
    for number, member in enumerate(members):
        for key, expected in (("split.count", count), ("split.no", number)):
            if member.metadata.get(key) != expected:
                remedy = f"expected {expected}; the files are not one set"
                raise FileFormatError(member.path, key, shown(member.metadata.get(key)), remedy)
    total = sum(len(member.infos) for member in members)
    said = members[0].metadata.get("split.tensors.count", total)
    if said != total:
        remedy = f"the files hold {total} tensors; fetch them again"
        raise FileFormatError(members[0].path, "split.tensors.count", shown(said), remedy)


def read_gguf(path: str | Path) -> TensorFile:
    """Open a GGUF file, or the whole set that a split file belongs to; nothing is decoded.

    Args:
        path: the file, or any file of a split set, whose others lie beside it.

    Returns:
        Tensors under their names in the file, sizes reversed to (O, I); metadata of the first file. Strings in arrays
        that are not UTF-8 keep their bytes as lone surrogates (PEP 383), since vocabularies may hold raw bytes.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: whatever is wrong with a file, a type that is not decoded, a missing file of a set.
    """
    path = Path(path)
    member = read_member(path)
    count = member.metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= 99_999:
        raise FileFormatError(path, "split.count", shown(count), "expected the number of files of the set")
    if count <= 1:
        return _join(path, [member])
    paths = _split_paths(path, count)
    members = [member if other == path else read_member(other) for other in paths]
    _check_split(members, count)
    return _join(path, members)
