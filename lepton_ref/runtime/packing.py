"""Where a backend that packs a model's matrices keeps the packed form, and which model a file of it belongs to.

A file belongs to the bytes it was made from: it holds their SHA-256. So that they need not be read at every start it
also holds each source file's size, times and inode as they were then, unless one had changed within two seconds before:
a change within the same tick of the clock would not show. Where these are the same the digest is taken to be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lepton_ref.files.errors import FileFormatError
from lepton_ref.files.packed_file import PackedFile, read_packed
from lepton_ref.files.packed_write import PackedWriter, writing_packed
from lepton_ref.interface import Backend

SUFFIX = ".lepton-pack"

ELSEWHERE = "let pack name a folder that can be written, or leave it out"
"""What helps where a file cannot be kept."""

SETTLED = 2_000_000_000
"""Nanoseconds since a file's last change after which its times tell it from a later one."""

Stats = list[list[str | int]]
"""Of each source file its name, size, time of change of content and of anything, and inode."""


def user_cache() -> Path:
    """The folder for what programs can make anew: $XDG_CACHE_HOME, or what the system has for it, then lepton_ref."""
    said = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(said):
        base = Path(said)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local")))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "lepton_ref"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the system says of a path, with what to do about it, in one line; errors stay of the same class."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(error.errno, f"{path}: packed matrices cannot be kept there: {why}; {ELSEWHERE}") from error


def source_files(model: Path) -> list[Path]:
    """The files that a model's matrices are read from: a folder's weights and JSON, or a .gguf with all of its set."""
    if model.is_dir():
        return sorted(path for path in model.iterdir() if path.suffix in (".safetensors", ".json"))
    split = re.fullmatch(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", model.name, re.DOTALL)
    if split is None:
        return [model]
    end = f"-of-{split['count']}.gguf"
    return sorted(p for p in model.parent.iterdir() if p.name.startswith(f"{split['stem']}-") and p.name.endswith(end))


@dataclass(frozen=True, eq=False)
class PackPlace:
    """Where the packed form of one model is kept.

    Attributes:
        folder: the folder of the files.
        model: the model's folder or file.
        stats: of its files, from before they were opened.
    """

    folder: Path
    model: Path
    stats: Stats

    @classmethod
    def of(cls, pack: str | os.PathLike[str], model: Path, *, backend: Backend) -> PackPlace:
        """The place that `lepton_ref.load` was given.

        Args:
            pack: "user", "beside", or a folder that exists.
            model: the model's folder or file.
            backend: which must pack: its kernel of whole programs says so by an attribute `packs`.

        Raises:
            ValueError: a backend that does not.
            TypeError: neither text nor a path.
            FileNotFoundError: no such folder.
            OSError: the user's folder cannot be made.
        """
        if not getattr(backend.kernels.get(("program", type(None))), "packs", False):
            raise ValueError(f"backend {backend.name!r} packs no matrices; leave pack out, or take backend='numba'")
        if not isinstance(pack, str | os.PathLike):
            raise TypeError(f"pack must be None, 'user', 'beside' or a folder, got {pack!r}")
        if pack == "user":
            folder = user_cache()
            with _explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
        elif pack == "beside":
            folder = model if model.is_dir() else model.parent
        elif not (folder := Path(pack)).is_dir() or os.fspath(pack) == "":
            raise FileNotFoundError(f"pack={os.fspath(pack)!r} is no folder; make it, or give 'user' or 'beside'")
        return cls(folder, model, _stats(model))

    def path(self, key: str) -> Path:
        """The file for what a backend asks for: another one for every model of the folder."""
        home = "" if self.folder in (self.model, self.model.parent) else str(self.model.resolve())
        number = hashlib.sha256(f"{home}\n{key}".encode()).hexdigest()[:16]
        stem = "model" if self.folder == self.model else self.model.name
        return self.folder / f"{stem[:100]}.{number}{SUFFIX}"

    def open(self, key: str) -> PackedFile | None:
        """The file, all of it checked; None where there is none that serves, for a reason that is said once.

        Raises:
            ValueError: the model's files have changed since they were opened, or what has the file's name is none.
            OSError: the system does not let it be read.
        """
        self._require_same()
        path = self.path(key)
        with _explained(path):
            is_other = path.exists() and not path.is_file()
        if is_other:  # and a file could not take its place
            raise FileFormatError(path, "file", "not a regular file", f"remove it, or {ELSEWHERE}")
        try:
            with _explained(path):
                file = read_packed(path)
            if file.about.get("key") != key:
                raise FileFormatError(path, "key", "is another", "the file serves other matrices")
            if not self._made_from_these(file):
                return None
            file.verify()
        except FileNotFoundError:
            return None
        except FileFormatError as error:
            warnings.warn(f"{error}; the matrices are packed again", stacklevel=2)
            return None
        return file

    @contextmanager
    def writing(self, key: str) -> Iterator[PackedWriter]:
        """A writer of the file, which takes its place when the block ends well.

        Raises:
            ValueError: the model's files have changed since they were opened.
            OSError: the system does not let it be written.
        """
        digest, settled = self._digest(), _settled(self.stats)
        path = self.path(key)
        with _explained(path), writing_packed(path) as writer:
            yield writer
            self._require_same()
            writer.about = {"key": key, "source": digest, "stats": self.stats if settled else None}

    def written(self, key: str) -> PackedFile:
        """The file that was just written."""
        return read_packed(self.path(key))

    def _made_from_these(self, file: PackedFile) -> bool:
        return file.about.get("stats") == self.stats or file.about.get("source") == self._digest()

    def _require_same(self) -> None:
        if _stats(self.model) != self.stats:
            raise ValueError(f"{self.model} has changed since it was opened; load it again")

    def _digest(self) -> str:
        """SHA-256 of the model's files, names included."""
        seen = hashlib.sha256()
        for path in source_files(self.model):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            seen.update(json.dumps([path.name, content]).encode())
        self._require_same()
        return seen.hexdigest()


def _stats(model: Path) -> Stats:
    found = [(path.name, path.stat()) for path in source_files(model)]
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for name, stat in found]


def _settled(stats: Stats) -> bool:
    """Whether none of the files has changed so lately that a change right after would not show in its times."""
    return all(int(each[3]) + SETTLED < time.time_ns() for each in stats)
