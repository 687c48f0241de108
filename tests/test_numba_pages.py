"""Memory that is let go of: pages of the compiler, and of the files from which weights were packed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import mutated
from wide_model import wide_gguf

from lepton_ref.backends import numba_chunks, numba_pages
from lepton_ref.backends.numba_pages import _found, let_go_of_compiler
from lepton_ref.files import read_gguf
from lepton_ref.storage.resident import release

LISTED = """\
7f1770000000-7f1770001000 r--p 00000000 fe:00 77 /x/llvmlite/binding/libllvmlite.so
Rss:                   4 kB
Anonymous:             0 kB
7f1770001000-7f1770005000 r-xp 00001000 fe:00 77 /x/llvmlite/binding/libllvmlite.so
Rss:                  16 kB
Anonymous:             0 kB
7f1770005000-7f1770006000 r--p 00005000 fe:00 77 /x/llvmlite/binding/libllvmlite.so
Anonymous:             4 kB
7f1770006000-7f1770007000 rw-p 00006000 fe:00 77 /x/llvmlite/binding/libllvmlite.so
Anonymous:             0 kB
7f1770007000-7f1770008000 r-xp 00006000 fe:00 78 /x/other.so
Anonymous:             0 kB
7f1770008000-7f1770009000 r-xp 00006000 fe:00 78 /x/libllvmlite.so.old
Anonymous:             0 kB
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system lists no pages")


def test_what_was_written_or_is_another_library_stays() -> None:
    assert _found(LISTED) == [(0x7F1770000000, 0x1000), (0x7F1770001000, 0x4000)]
    assert _found("") == []


def test_tables_that_the_loader_filled_would_be_seen() -> None:
    wrong = mutated(numba_pages, " and int(written[1]) == 0", "")
    assert (0x7F1770005000, 0x1000) in wrong._found(LISTED)


def test_another_system_lets_go_of_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numba_pages.unwritten.cache_clear()
    monkeypatch.setattr(numba_pages, "SMAPS", tmp_path / "none")
    assert let_go_of_compiler() == 0


@linux
def test_the_compiler_still_works_afterwards() -> None:
    numba_pages.unwritten.cache_clear()
    import numba

    assert let_go_of_compiler() > 1 << 20
    assert numba.njit(lambda x: x * 3.0)(2.0) == 6.0


# --- weights ----------------------------------------------------------------------------------------------------------


def resident(name: str) -> int:
    """Kilobytes of a file that lie in this process's memory."""
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    rss = [re.search(r"^Rss: +(\d+) kB", block, re.MULTILINE) for block in blocks if name in block.partition("\n")[0]]
    return sum(int(found[1]) for found in rss if found is not None)


@linux
def test_pages_of_a_packed_weights_file_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_chunks, "PIECE", 1 << 14)
    path = wide_gguf(tmp_path / "resident-of-test.gguf", 8)
    weights = {name: weight for name, weight in read_gguf(path).tensors.items() if len(weight.shape) == 2}
    before = {name: weight.decode() for name, weight in weights.items()}
    whole = resident(path.name)
    release(*weights.values())
    assert resident(path.name) * 8 < whole
    for weight in weights.values():
        numba_chunks.pack_in_memory(weight, numba_chunks_pack)
    assert resident(path.name) * 8 < whole
    for name, weight in weights.items():
        assert np.array_equal(weight.decode(), before[name])


def numba_chunks_pack(weight: Any) -> Any:
    from lepton_ref.backends.numba_panels_dense import pack_dense

    return pack_dense(weight)


@linux
def test_pages_that_stay_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_chunks, "release", lambda *weights: None)
    path = wide_gguf(tmp_path / "kept-of-test.gguf", 8)
    weights = [weight for weight in read_gguf(path).tensors.values() if len(weight.shape) == 2]
    for weight in weights:
        numba_chunks.pack_in_memory(weight, numba_chunks_pack)
    assert resident(path.name) * 1024 > 0.9 * sum(weight.nbytes for weight in weights)
