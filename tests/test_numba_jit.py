"""Machine code on disk: under all that it depends on, whole or not there, and quiet where nobody watches."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import mutated

from lepton_ref.backends import numba_jit, numba_stuck
from lepton_ref.backends.numba_jit import KernelCache, OneFileEach, njit
from lepton_ref.backends.numba_notice import Notice

ROOT = Path(__file__).parent.parent

# --- what a name tells ------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The backends and the core as they are, to be changed."""
    shutil.copytree(ROOT / "backends", tmp_path / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "lepton_ref", tmp_path / "core", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def stamp_of(name: str, copy: Path, *, page: Any = numba_jit) -> str:
    """The stamp of a file of the copy, read anew."""
    fresh = mutated(page, "@cache\ndef stamp", "def stamp") if page is numba_jit else page
    fresh.__file__ = str(copy / "backends" / "numba_jit.py")
    fresh.interface = type("interface", (), {"__file__": str(copy / "core" / "interface.py")})
    fresh._read.cache_clear()
    found: str = fresh.stamp(str(copy / "backends" / name))
    return found


@pytest.mark.parametrize(
    "changed",
    [
        "backends/numba_step.py", "backends/numba_bytes.py", "backends/numba_vectors.py", "backends/numba_stuck.py",
        "core/numerics/lengths.py",
    ],
)  # fmt: skip
def test_a_change_of_any_file_that_takes_part_is_another_name(changed: str, copy: Path) -> None:
    before = stamp_of("numba_step.py", copy)
    assert stamp_of("numba_step.py", copy) == before
    path = copy / changed
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    assert stamp_of("numba_step.py", copy) != before


def test_a_file_that_takes_no_part_may_change(copy: Path) -> None:
    before = stamp_of("numba_stuck.py", copy)
    (copy / "backends" / "numba_step.py").write_text("")
    assert stamp_of("numba_stuck.py", copy) == before


def test_names_that_tell_of_one_file_alone_would_be_seen(copy: Path) -> None:
    """As Numba's own do."""
    wrong = mutated(numba_jit, "            todo += more\n", "")
    wrong.stamp = wrong.stamp.__wrapped__
    before = stamp_of("numba_step.py", copy, page=wrong)
    (copy / "backends" / "numba_bytes.py").write_text("")
    assert stamp_of("numba_step.py", copy, page=wrong) == before


PAGE = """
from lepton_ref.backends.numba_jit import njit

@njit(nogil=True, cache=True)
def inner(x):
    return x * 1.5

@njit(nogil=True, cache=True)
def outer(x):
    return inner(x) + 1.0

if __name__ == "__main__":
    result = outer(3.0)
    print([sum(outer.stats.cache_hits.values()), sum(outer.stats.cache_misses.values()), result])
"""


def asked(page: Path, **environment: str) -> list[Any]:
    """[hits, misses, result] of a process whose kernels are kept beside the page."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(page.parent / "kept"), **environment}
    done = subprocess.run([sys.executable, str(page)], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == "", "standard error is no terminal"
    found: list[Any] = json.loads(done.stdout)
    return found


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.nb*"))


def test_one_file_serves_until_the_processor_or_the_source_is_another(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    assert asked(page) == [0, 1, 5.5]
    (name,) = kept(tmp_path)
    assert name.startswith("__main__.outer."), "and none of those that it calls"
    assert asked(page) == [1, 0, 5.5]
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert asked(page, **other) == [0, 1, 5.5]
    assert len(kept(tmp_path)) == 2
    assert asked(page, **other) == [1, 0, 5.5]
    assert asked(page) == [1, 0, 5.5]
    page.write_text(PAGE.replace("1.5", "2.5"))
    assert asked(page) == [0, 1, 8.5]
    assert len(kept(tmp_path)) == 1


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_was_made_from_other_sources_goes_and_so_does_what_was_never_finished(tmp_path: Path) -> None:
    files = OneFileEach(str(tmp_path), "page.f")
    assert files.load(("new", "a")) is None
    for name in ("page.f.old.a.nbc", "page.g.old.a.nbc", "page.f.old.a.nbc.tmp.1", "page.f.new.b.nbc.tmp.2"):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / "page.f.old.a.nbc.tmp.1", (0, 0))
    files.save(("new", "a"), {"x": 1})
    files.save(("new", "b"), {"x": 2})
    assert (files.load(("new", "a")), files.load(("new", "b"))) == ({"x": 1}, {"x": 2})
    assert kept(tmp_path) == ["page.f.new.a.nbc", "page.f.new.b.nbc", "page.f.new.b.nbc.tmp.2", "page.g.old.a.nbc"]
    files.flush()
    assert kept(tmp_path) == ["page.f.new.b.nbc.tmp.2", "page.g.old.a.nbc"]


def test_a_writer_that_is_stopped_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = OneFileEach(str(tmp_path), "page.f")
    files.save(("s", "a"), {"x": 1})

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        files.save(("s", "a"), {"x": 2})
    assert files.load(("s", "a")) == {"x": 1}
    assert kept(tmp_path) == ["page.f.s.a.nbc"]


def one(x: Any) -> Any:
    return x + 1


def test_where_nothing_can_be_kept_kernels_work_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_jit.CompileResultCacheImpl, "_locator_classes", [])
    numba_jit._say_once.cache_clear()
    with pytest.warns(UserWarning, match="compiled kernels cannot be kept, .*; set NUMBA_CACHE_DIR") as said:
        assert [njit(cache=True)(one)(number) for number in (1, 2)] == [2, 3]
    assert len(said) == 1
    assert "\n" not in str(said[0].message)


def test_a_disk_that_is_full_costs_the_next_start_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba_jit.numba.config, "CACHE_DIR", str(tmp_path))

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    assert njit(nogil=True, cache=True)(one)(np.int64(1)) == 2
    assert kept(tmp_path) == []


def test_without_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_jit.numba.config, "CACHE_DIR", str(tmp_path))
    assert njit()(one)(1) == 2
    assert kept(tmp_path) == []
    function = njit(cache=True)(one)
    assert isinstance(function._cache, KernelCache)
    assert function(1) == 2
    assert len(kept(tmp_path)) == 1
    function._cache.flush()
    assert kept(tmp_path) == []


def test_no_file_of_the_backend_uses_numbas_own() -> None:
    for path in sorted((ROOT / "backends").glob("numba_*.py")):
        if path.name != "numba_jit.py":
            imported = [
                line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("from numba im")
            ]
            assert not any("njit" in line for line in imported), (
                f"{path.name}: from lepton_ref.backends.numba_jit import njit"
            )


# --- the notice -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Compiling:
    """A kernel that is being compiled."""

    def __init__(self, function: Any) -> None:
        self.py_func, self.is_compiling = function, True


def told(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stderr", stream)
    notice, outer, inner = Notice(), Compiling(numba_stuck.push.py_func), Compiling(one)
    notice.begin(outer)
    notice.begin(inner)
    assert not notice.end(inner)
    assert notice.end(outer)
    return [line.rstrip() for line in stream.getvalue().split("\r") if line]


def test_a_terminal_is_told_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(Terminal(), monkeypatch)
    assert lines == [
        "lepton_ref compiles kernels for this processor, once: 1, numba_stuck.push",
        "lepton_ref compiles kernels for this processor, once: 2, test_numba_jit.one",
        "",
    ]


def test_nothing_is_told_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(io.StringIO(), monkeypatch) == []
    monkeypatch.setattr(sys, "stderr", None)
    Notice().begin(Compiling(one))


def test_a_kernel_that_failed_is_no_longer_open() -> None:
    notice, failed, next_one = Notice(), Compiling(one), Compiling(one)
    notice.begin(failed)
    failed.is_compiling = False
    notice.begin(next_one)
    assert notice.end(next_one)


def test_the_tests_of_this_page_give_no_warning_by_themselves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert njit(cache=True)(one)(1) == 2


@pytest.mark.parametrize("harm", [lambda kept: kept[: len(kept) // 2], lambda kept: b"\x80" + kept[1:-40] + kept[-39:]])
def test_a_damaged_file_is_compiled_again(harm: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert asked(page, **kept) == [0, 1, 5.5]
    assert asked(page, **kept) == [1, 0, 5.5]
    for path in (tmp_path / "kept").rglob("*.nbc"):
        path.write_bytes(harm(path.read_bytes()))
    assert asked(page, **kept) == [0, 1, 5.5]
    assert asked(page, **kept) == [1, 0, 5.5]
