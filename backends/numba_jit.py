"""`njit`: Numba's, but what is kept on disk lies under everything that its machine code depends on.

Numba asks whether the file of a function is the same as when it was compiled. The functions of this backend call one
another across files, so that a change in one of them would leave the machine code of another as it was. Here the name
of what is kept is a digest of all files of this backend that the function's own one imports, and of the types of the
arguments, the processor and its features. One name is one file, flushed and renamed when it is whole, so a process that
is killed, or another that compiles the same, leaves nothing that is wrong.

Files lie where Numba would have them: in NUMBA_CACHE_DIR, beside the source, or in the user's folder for caches. Where
none of these can be written nothing is kept, which is said once. Kernels that another one calls are part of it, and are
not kept by themselves.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

from lepton_ref import interface
from lepton_ref.backends.numba_notice import NOTICE
from lepton_ref.backends.numba_pages import let_go_of_compiler

IMPORTED = re.compile(r"^from (lepton_ref\.[\w.]+) import", re.MULTILINE)
"""Modules whose names a file has from its beginning; what functions import later is no part of machine code."""

DIGEST = hashlib.sha256().digest_size
"""Bytes at the end of a file that say what the others must be."""

STALE = 3600.0
"""Seconds after which a file that was not finished is what a writer has left that was killed."""


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compile the function when it is called with arguments of new types.

    Args:
        cache: whether its machine code is kept.
        options: Numba's own, such as nogil.
    """

    def decorated(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if cache:
            dispatcher._cache = KernelCache(dispatcher)
        return dispatcher

    return decorated


@cache
def _say_once() -> None:
    where = "set NUMBA_CACHE_DIR to a folder that can be written"
    warnings.warn(f"compiled kernels cannot be kept, so each start compiles them; {where}", stacklevel=2)


class KernelCache(FunctionCache):
    """What Numba asks for a function's machine code before it compiles it, and gives it to afterwards.

    Args:
        dispatcher: the compiled function.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self.enable()

    @cached_property
    def _impl(self) -> Any:
        """How machine code becomes bytes, and where they lie; None where no folder can be written."""
        try:
            return CompileResultCacheImpl(self._dispatcher.py_func)
        except RuntimeError:  # Numba's
            _say_once()
            return None

    @property
    def _cache_path(self) -> Any:
        return None if self._impl is None else self._impl.locator.get_cache_path()

    @cached_property
    def _cache_file(self) -> Any:
        function = self._dispatcher.py_func
        return OneFileEach(self._cache_path, f"{function.__module__.rpartition('.')[2]}.{function.__name__}")

    def flush(self) -> None:
        """Remove what is kept of the function."""
        if self._impl is not None:
            self._cache_file.flush()

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        if self._enabled and self._impl is not None:
            found = self._cache_file.load(self._index_key(sig, target_context.codegen()))
        if found is None:
            NOTICE.begin(self._dispatcher)
            return None
        function = self._impl.rebuild(target_context, found)
        let_go_of_compiler()
        return function

    def _save_overload(self, sig: Any, data: Any) -> None:
        whole = NOTICE.end(self._dispatcher)
        if whole and self._enabled and self._impl is not None and self._impl.check_cachable(data):
            with suppress(OSError):  # it is compiled again at the next start
                self._cache_file.save(self._index_key(sig, data.codegen), self._impl.reduce(data))

    def _index_key(self, sig: Any, codegen: Any) -> tuple[str, str]:
        """Digests of what it was made from, and of what for."""
        made_for = repr((str(sig), codegen.magic_tuple())).encode()
        return stamp(inspect.getfile(self._dispatcher.py_func)), hashlib.sha256(made_for).hexdigest()[:16]


class OneFileEach(IndexDataCacheFile):
    """Files of one function, NAME.MADE_FROM.MADE_FOR.nbc.

    Args:
        folder: where they are.
        base: the name.
    """

    def __init__(self, folder: str, base: str) -> None:
        self._cache_path, self._base = folder, base

    def load(self, key: tuple[str, str]) -> Any:
        """What is kept under a key, or None."""
        try:
            kept = Path(self._data_path(self._name(key))).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(kept[:-DIGEST]).digest() != kept[-DIGEST:]:  # damaged: compiled again, and replaced
            return None
        return self._load_data(self._name(key))

    def save(self, key: tuple[str, str], data: Any) -> None:
        """Keep it; what was made from other sources goes."""
        os.makedirs(self._cache_path, exist_ok=True)
        self._save_data(self._name(key), data)
        self._remove(but=key[0])

    def flush(self) -> None:
        """Remove all of the function's files."""
        self._remove(but="")

    def _name(self, key: tuple[str, str]) -> str:
        return f"{self._base}.{key[0]}.{key[1]}.nbc"

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(content + hashlib.sha256(content).digest())  # the reader stops where its data ends
            file.flush()
            os.fsync(file.fileno())

    def _remove(self, *, but: str) -> None:
        now = time.time()
        for path in Path(self._cache_path).glob(f"{self._base}.*.nbc*"):
            with suppress(OSError):  # another process was faster
                unfinished = not path.name.endswith(".nbc")
                if (unfinished and now - path.stat().st_mtime > STALE) or not (
                    unfinished or path.name.startswith(f"{self._base}.{but}.")
                ):
                    path.unlink()


@cache
def stamp(file: str) -> str:
    """A digest of a file of this backend and of all of this package that it imports, and of what compiles them."""
    todo, seen = [Path(file)], dict[Path, bytes]()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen[path], more = _read(path)
            todo += more
    told = hashlib.sha256(repr((sys.implementation.cache_tag, numba.__version__)).encode())
    for path in sorted(seen):
        told.update(seen[path])
    return told.hexdigest()[:16]


@cache
def _read(path: Path) -> tuple[bytes, list[Path]]:
    """A digest of a file, and the files of this package that it imports."""
    content = path.read_bytes()
    imported = [found for name in IMPORTED.findall(content.decode()) for found in _files_of(name)]
    return hashlib.sha256(content).digest(), imported


def _files_of(name: str) -> list[Path]:
    """The file of a module or package of this package."""
    top, *rest = name.split(".")[1:]
    here = Path(__file__).parent if top == "backends" else Path(interface.__file__).parent / top
    path = here.joinpath(*rest)
    return [found for found in (path.with_suffix(".py"), path / "__init__.py") if found.exists()]
