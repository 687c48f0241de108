"""Files opened for reading as memory maps, and files replaced in one step when they are written."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from lepton_ref.files.errors import FileFormatError

Data: TypeAlias = mmap.mmap | bytes
"""The bytes of a file: a read-only map, or `b""` for an empty file, which cannot be mapped."""


def map_file(path: Path) -> Data:
    """Map a file for reading; nothing is read yet.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is a folder, a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise FileFormatError(path, "file", "not a regular file", "give the path of a file")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file open for writing that takes the place of `path` when the block ends well, and leaves no trace otherwise.

    It is written beside `path`, flushed to the disk, then renamed: a reader sees the old file or the new one, never a
    part, and maps of the old file stay valid.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path, /) -> None:
    """Make what was renamed in a folder durable, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
