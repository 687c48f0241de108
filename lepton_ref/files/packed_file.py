"""One file of named runs of bytes, made from other files: reading it as a memory map, all of it checked.

     0   8  "LEPTPACK"
     8   4  version of this layout, u32, little-endian as all that follows
    12   4  0
    16   8  where the index begins, u64
    24   8  bytes of the index, u64; the file ends with it
    32  32  SHA-256 of bytes 0 … 31 and of the index
    64      the entries, each at a multiple of 64, zeros between them
    index   JSON: {"about": {…}, "entries": {name: {"offset", "nbytes", "sha256", "about": {…}}}}

What stands in "about" is the writer's business. `lepton_ref.files.packed_write` writes such files.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.json_reading import parse_object
from lepton_ref.files.mapped import Data, map_file

MAGIC = b"LEPTPACK"
VERSION = 1
ALIGNMENT = 64
HEAD = struct.Struct("<8sIIQQ32s")
INDEX_LIMIT = 256 << 20
"""Bytes of an index, at most."""

READERS = 4
"""Threads that compute digests."""

PIECE = 4 << 20
"""Bytes that are read at a time."""

_MADE_ANEW = "remove it; it is made anew"


@dataclass(frozen=True)
class Entry:
    """A run of bytes.

    Attributes:
        offset: where it begins in the file.
        nbytes: how long it is.
        sha256: of its bytes, in hexadecimal.
        about: what its writer said of it.
    """

    offset: int
    nbytes: int
    sha256: str
    about: Mapping[str, Any]


@dataclass(frozen=True)
class PackedFile:
    """Such a file, mapped.

    Attributes:
        path: where it is.
        about: what its writer said of it.
        entries: the runs of bytes by name.
        data: the map. Arrays of it keep it open.
    """

    path: Path
    about: Mapping[str, Any]
    entries: Mapping[str, Entry]
    data: Data

    def array(self, name: str, /) -> NDArray[np.uint8]:
        """The entry's bytes, read-only, in the file."""
        entry = self.entries[name]
        return np.frombuffer(self.data, dtype=np.uint8, count=entry.nbytes, offset=entry.offset)

    def verify(self) -> None:
        """Read all entries.

        Raises:
            FileFormatError: one of them is not what was written.
        """
        names = [*self.entries]
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            for name, right in zip(names, pool.map(self._right, names), strict=True):
                if not right:
                    raise FileFormatError(self.path, f"entry {shown(name)}", "is damaged", _MADE_ANEW)

    def _right(self, name: str) -> bool:
        entry, seen = self.entries[name], hashlib.sha256()
        for start in range(entry.offset, entry.offset + entry.nbytes, PIECE):
            stop = min(start + PIECE, entry.offset + entry.nbytes)
            with memoryview(self.data) as data, data[start:stop] as piece:
                seen.update(piece)
            _let_go(self.data, start, stop)
        return seen.hexdigest() == entry.sha256


def _let_go(data: Data, start: int, stop: int) -> None:
    """Pages that were read once need not stay in this process's memory; the system keeps them."""
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(data, mmap.mmap):
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, first, stop - first)


def read_packed(path: Path) -> PackedFile:
    """Open such a file and check all but the bytes of its entries, which `PackedFile.verify` checks.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: whatever is wrong with it.
    """
    data = map_file(path)
    if len(data) < HEAD.size:
        raise FileFormatError(path, "size", f"{len(data)} bytes", f"expected {HEAD.size} or more; {_MADE_ANEW}")
    magic, version, _, begin, nbytes, digest = HEAD.unpack(data[: HEAD.size])
    if magic != MAGIC:
        raise FileFormatError(path, "magic", f"begins with {shown(magic)}", f"expected {MAGIC!r}; {_MADE_ANEW}")
    if version != VERSION:
        raise FileFormatError(path, "version", str(version), f"this version reads {VERSION}; {_MADE_ANEW}")
    if begin < HEAD.size or nbytes > INDEX_LIMIT or begin + nbytes != len(data):
        value = f"{nbytes} bytes at {begin} of {len(data)}"
        raise FileFormatError(path, "index", value, f"expected it at the end; the file is truncated: {_MADE_ANEW}")
    index = data[begin : begin + nbytes]
    if hashlib.sha256(data[:32] + index).digest() != digest:
        raise FileFormatError(path, "index", "is damaged", _MADE_ANEW)
    found = parse_object(index, file=path, field="index")
    if set(found) != {"about", "entries"} or not all(isinstance(value, dict) for value in found.values()):
        raise FileFormatError(path, "index", f"has {shown([*found])}", "expected objects 'about' and 'entries'")
    entries = {name: _entry(path, name, fields, end=begin) for name, fields in found["entries"].items()}
    _require_apart(path, entries)
    return PackedFile(path, found["about"], MappingProxyType(entries), data)


def _entry(path: Path, name: str, fields: Any, *, end: int) -> Entry:
    what = f"entry {shown(name)}"
    if not isinstance(fields, dict) or set(fields) != {"offset", "nbytes", "sha256", "about"}:
        raise FileFormatError(path, what, shown(fields), "expected offset, nbytes, sha256 and about")
    offset, nbytes, sha256, about = (fields[key] for key in ("offset", "nbytes", "sha256", "about"))
    if not (type(offset) is type(nbytes) is int and HEAD.size <= offset <= offset + nbytes <= end and nbytes >= 0):
        raise FileFormatError(path, what, f"{shown(nbytes)} bytes at {shown(offset)}", f"the data end at {end}")
    if offset % ALIGNMENT:
        raise FileFormatError(path, f"{what} offset", str(offset), f"expected a multiple of {ALIGNMENT}")
    if not (isinstance(sha256, str) and isinstance(about, dict)):
        raise FileFormatError(path, what, shown(fields), "expected a digest and an object")
    return Entry(offset, nbytes, sha256, about)


def _require_apart(path: Path, entries: Mapping[str, Entry]) -> None:
    """No two entries in the same bytes."""
    pairs: Iterable[tuple[Entry, Entry]] = itertools.pairwise(sorted(entries.values(), key=lambda one: one.offset))
    for one, other in pairs:
        if one.offset + one.nbytes > other.offset:
            raise FileFormatError(path, "entries", f"overlap at {other.offset}", _MADE_ANEW)
