"""Writing the files that `lepton_ref.files.packed_file` reads, complete or not at all.

A file is written beside its name, flushed to the disk, then renamed: a reader sees the old one or the new one, and maps
of the old one stay valid. Each writer has a part of its own, locked as long as it lives. What a killed writer has left
is thus known by its lock that is free, and is removed by the next one: at most the parts of writers that died since the
last file of that name was finished are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lepton_ref.files.mapped import sync_folder
from lepton_ref.files.packed_file import ALIGNMENT, HEAD, MAGIC, VERSION

PIECE = 1 << 20
"""Bytes that are read back at a time."""

LOCKS = os.name == "posix"
"""Whether there are such locks. Where there are none, a file that is open cannot be removed."""


class PackedWriter:
    """A file that is being written.

    Args:
        file: open for reading and writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.about: dict[str, Any] = {}
        self._file = file
        self._end = HEAD.size
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, nbytes: int, about: Mapping[str, Any]) -> None:
        """Make room for an entry.

        Raises:
            ValueError: a name that stands there already.
        """
        if name in self._entries:
            raise ValueError(f"entry {name!r} is there already; give each name once")
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._entries[name] = {"offset": offset, "nbytes": nbytes, "about": dict(about)}
        self._end = offset + nbytes

    def drop(self, name: str) -> None:
        """Forget the entry that was added last."""
        assert name == [*self._entries][-1], "what follows it would lie elsewhere"
        self._end = self._entries.pop(name)["offset"]
        self._file.truncate(self._end)  # what was written of it must not show in the next one

    def write(self, name: str, at: int, data: bytes | memoryview, /) -> None:
        """Put bytes at a place of an entry; what is never written is zeros.

        Raises:
            ValueError: bytes beyond the entry's end.
        """
        entry = self._entries[name]
        count = memoryview(data).nbytes
        if not 0 <= at <= at + count <= entry["nbytes"]:
            raise ValueError(f"{count} bytes at {at} leave entry {name!r} of {entry['nbytes']}; make more room for it")
        self._file.seek(entry["offset"] + at)
        self._file.write(data)

    def finish(self) -> None:
        """Write the index, then the head."""
        for entry in self._entries.values():
            entry["sha256"] = self._digest(entry["offset"], entry["nbytes"])
        index = json.dumps({"about": self.about, "entries": self._entries}).encode()
        head = HEAD.pack(MAGIC, VERSION, 0, self._end, len(index), b"")[:32]
        self._file.seek(self._end)
        self._file.write(index)
        self._file.seek(0)
        self._file.write(head + hashlib.sha256(head + index).digest())

    def _digest(self, offset: int, nbytes: int) -> str:
        """Of what the file holds, room that was never written included."""
        self._file.seek(0, os.SEEK_END)
        self._file.truncate(max(self._file.tell(), offset + nbytes))
        self._file.seek(offset)
        seen = hashlib.sha256()
        while nbytes:
            piece = self._file.read(min(nbytes, PIECE))
            seen.update(piece)
            nbytes -= len(piece)
        return seen.hexdigest()


@contextmanager
def writing_packed(path: Path) -> Iterator[PackedWriter]:
    """A writer whose file takes the place of `path` when the block ends well; no trace is left otherwise.

    Raises:
        OSError: what the system says.
    """
    remove_leftovers(path)
    beside, file = _open_part(path)
    try:
        with file:
            writer = PackedWriter(file)
            yield writer
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
            if LOCKS:  # the part stays locked until it has its name
                os.replace(beside, path)
        if not LOCKS:
            os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        file = beside.open("x+b")
        if LOCKS:
            _lock(file, wait=True)
        if beside.exists():  # or one that looked for leftovers was faster than the lock
            return beside, file
        file.close()


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` have left that were killed."""
    before, after = f".{path.name}.", ".part"
    found = [name for name in os.listdir(path.parent) if name.startswith(before) and name.endswith(after)]
    for name in found:
        with suppress(OSError):  # another process removed it, or holds it
            _remove_left(path.parent / name)


def _remove_left(part: Path) -> None:
    if not LOCKS:
        part.unlink()
        return
    with part.open("r+b") as file:
        _lock(file, wait=False)
        part.unlink()


def _lock(file: BinaryIO, *, wait: bool) -> None:
    """Lock a file; BlockingIOError where another has it and this one is not to wait."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
