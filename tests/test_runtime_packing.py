"""Where packed matrices are kept, and that a file of them serves the very model that it was made from."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from golden_cases import GOLDEN
from planted import mutated

import lepton_ref
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.cli import main
from lepton_ref.files.packed_file import PackedFile
from lepton_ref.runtime import packing
from lepton_ref.runtime.packing import PackPlace, source_files, user_cache

KEY = "0123"


class Packs(NumpyBackend):
    """A backend that says it packs."""

    def __init__(self) -> None:
        def kernel(run: Any, program: Any) -> Any:
            return NotImplemented

        kernel.packs = True  # type: ignore[attr-defined]
        self.kernels = MappingProxyType({("program", type(None)): kernel})


BACKEND = Packs()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that stands for a model's, changed long ago."""
    path = tmp_path / "models" / "a.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF" * 100)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "packs"
    found.mkdir()
    return found


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just written count as old."""
    monkeypatch.setattr(packing, "SETTLED", -(10**18))


def place(pack: Any, model: Path, *, page: Any = packing) -> Any:
    return page.PackPlace.of(pack, model, backend=BACKEND)


def filled(at: PackPlace, content: bytes = b"packed", key: str = KEY) -> None:
    with at.writing(key) as writer:
        writer.add("a", len(content), {})
        writer.write("a", 0, content)


def content(file: PackedFile | None) -> bytes | None:
    return None if file is None else file.array("a").tobytes()


def rewritten(path: Path, data: bytes) -> None:
    """Other bytes under the times of before."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_written_serves_from_then_on(model: Path, folder: Path) -> None:
    assert place(folder, model).open(KEY) is None
    filled(place(folder, model))
    assert content(place(folder, model).open(KEY)) == b"packed"
    assert content(place(folder, model).written(KEY)) == b"packed"
    assert len([*folder.iterdir()]) == 1


@pytest.mark.parametrize("change", ["longer", "same size", "same size and time", "replaced"])
def test_another_model_under_the_name_is_seen(change: str, model: Path, folder: Path) -> None:
    filled(place(folder, model))
    if change == "same size and time":
        rewritten(model, b"FUGG" * 100)
    elif change == "replaced":
        model.with_suffix(".new").write_bytes(b"FUGG" * 100)
        os.replace(model.with_suffix(".new"), model)
    else:
        model.write_bytes(b"FUGG" * (101 if change == "longer" else 100))
    assert place(folder, model).open(KEY) is None
    filled(place(folder, model), b"anew")
    assert content(place(folder, model).open(KEY)) == b"anew"
    assert len([*folder.iterdir()]) == 1, "it takes the place of the one before"


def test_a_digest_that_is_not_compared_would_be_seen(model: Path, folder: Path) -> None:
    wrong = mutated(packing, 'file.about.get("source") == self._digest()', "True")
    filled(place(folder, model))
    model.write_bytes(b"FUGG" * 101)
    assert content(place(folder, model, page=wrong).open(KEY)) == b"packed"


def test_the_same_bytes_under_other_times_are_the_same_model(model: Path, folder: Path) -> None:
    filled(place(folder, model))
    os.utime(model, ns=(0, 0))
    assert content(place(folder, model).open(KEY)) == b"packed"


def test_a_settled_file_is_not_read_again_and_a_fresh_one_is(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place(folder, model))
    monkeypatch.setattr(PackPlace, "_digest", lambda self: pytest.fail("read"))
    assert content(place(folder, model).open(KEY)) == b"packed"
    monkeypatch.undo()
    filled(place(folder, model))  # within two seconds of its last change
    monkeypatch.setattr(PackPlace, "_digest", lambda self: "another")
    assert place(folder, model).open(KEY) is None


def test_a_model_that_changes_while_it_is_open_is_refused(model: Path, folder: Path) -> None:
    early = place(folder, model)
    model.write_bytes(b"FUGG" * 100)
    with pytest.raises(ValueError, match="has changed since it was opened; load it again"):
        early.open(KEY)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        filled(early)
    assert [*folder.iterdir()] == []


def test_a_model_that_changes_while_it_is_packed_leaves_no_file(model: Path, folder: Path) -> None:
    at = place(folder, model)

    def packed_meanwhile() -> None:
        with at.writing(KEY):
            rewritten(model, b"FUGG" * 100)

    with pytest.raises(ValueError, match="has changed since it was opened"):
        packed_meanwhile()
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data.replace(b"packed", b"Packed"), "entry 'a': is damaged"),
        (lambda data: b"GGUF" + data[4:], "magic"),
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:8] + b"\2" + data[9:], "version"),
    ],
)
def test_a_damaged_file_is_made_again_and_the_reason_said(
    damage: Callable[[bytes], bytes], said: str, model: Path, folder: Path
) -> None:
    filled(place(folder, model))
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=said) as seen:
        assert place(folder, model).open(KEY) is None
    assert str(seen[0].message).endswith("; the matrices are packed again")
    filled(place(folder, model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(place(folder, model).open(KEY)) == b"packed"


def test_the_file_of_another_key_is_not_taken(model: Path, folder: Path) -> None:
    at = place(folder, model)
    filled(at)
    assert at.open("other") is None
    shutil.copy(at.path(KEY), at.path("other"))
    with pytest.warns(UserWarning, match="serves other matrices"):
        assert at.open("other") is None


# --- places -----------------------------------------------------------------------------------------------------------


def test_the_users_folder_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert user_cache() == tmp_path / "cache" / "lepton_ref"
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    for said in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", said)
        for system, expected in (("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")):
            monkeypatch.setattr(packing, "sys", SimpleNamespace(platform=system))
            monkeypatch.delenv("LOCALAPPDATA", raising=False)
            assert user_cache() == home / expected / "lepton_ref"


def test_user_and_beside(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filled(place("user", model))
    (one,) = (tmp_path / "cache" / "lepton_ref").iterdir()
    assert one.name.startswith("a.gguf.")
    filled(place("beside", model))
    (beside,) = (path for path in model.parent.iterdir() if path != model)
    moved = model.parent.rename(tmp_path / "moved")
    assert content(place("beside", moved / model.name).open(KEY)) == b"packed", "it goes where the model goes"
    assert beside.name in {path.name for path in moved.iterdir()}


def test_models_of_one_name_have_a_file_each(model: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "others" / "a.gguf"
    other.parent.mkdir()
    other.write_bytes(b"FUGG")
    filled(place(folder, model), b"one")
    filled(place(folder, other), b"other")
    assert content(place(folder, model).open(KEY)) == b"one"
    assert content(place(folder, other).open(KEY)) == b"other"


def test_the_files_that_a_model_is_read_from(tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf", "n.gguf"):
        (tmp_path / name).touch()
    split = tmp_path / "m-00002-of-00002.gguf"
    assert [path.name for path in source_files(split)] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert source_files(tmp_path / "n.gguf") == [tmp_path / "n.gguf"]
    for name in ("config.json", "b.safetensors", "a.safetensors", f"model.0{packing.SUFFIX}"):
        (tmp_path / name).touch()
    assert [path.name for path in source_files(tmp_path)] == ["a.safetensors", "b.safetensors", "config.json"]


def test_a_folders_config_counts(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"a": 1}))
    filled(place(folder, tmp_path / "m"))
    (tmp_path / "m" / "config.json").write_text(json.dumps({"a": 2}))
    assert place(folder, tmp_path / "m").open(KEY) is None
    filled(place("beside", tmp_path / "m"))
    assert content(place("beside", tmp_path / "m").open(KEY)) == b"packed"


@pytest.mark.parametrize(
    ("pack", "error", "said"),
    [
        ("usr", FileNotFoundError, "pack='usr' is no folder; make it, or give 'user' or 'beside'"),
        ("", FileNotFoundError, "pack='' is no folder"),
        (True, TypeError, "pack must be None, 'user', 'beside' or a folder, got True"),
    ],
)
def test_places_that_are_none(pack: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        place(pack, GOLDEN / "tiny" / "llama")
    assert "\n" not in str(caught.value)


ELSEWHERE = "let pack name a folder that can be written, or leave it out"


def test_a_folder_where_the_file_should_be_is_refused_in_one_line(model: Path, folder: Path) -> None:
    at = place(folder, model)
    at.path(KEY).mkdir()
    said = f"{at.path(KEY)}: file: not a regular file: remove it, or {ELSEWHERE}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        at.open(KEY)
    wrong = mutated(packing, "path.exists() and not path.is_file()", "False")
    with pytest.warns(UserWarning, match="the matrices are packed again"):  # all of them, for a file that cannot be
        assert place(folder, model, page=wrong).open(KEY) is None


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = place(folder, model)
    folder.rmdir()
    said = f"[Errno 2] {at.path(KEY)}: packed matrices cannot be kept there: {os.strerror(2)}; {ELSEWHERE}"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(said)}$"):
        filled(at)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model))  # which is a file
    with pytest.raises(OSError, match=f"a.gguf/lepton_ref: packed matrices cannot be kept there: .*; {ELSEWHERE}$"):
        place("user", model)


def test_a_full_disk_is_still_told_from_a_wrong_place(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packing.PackedWriter, "finish", full)
    with pytest.raises(OSError, match="cannot be kept there: No space left") as caught:
        filled(place(folder, model))
    assert caught.value.errno == errno.ENOSPC
    assert [*folder.iterdir()] == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place that nobody can write in, root included")
def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["logits", str(GOLDEN / "tiny" / "llama"), "--ids", "1,2", "--backend", "numba", "--pack", "/proc"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("lepton-ref: error: [Errno 2] /proc/llama.")
    assert said.endswith(f"; {ELSEWHERE}\n")
    assert said.count("\n") == 1


def test_a_backend_that_does_not_pack_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "backend 'numpy' packs no matrices; leave pack out, or take backend='numba'"
    with pytest.raises(ValueError, match=said):
        lepton_ref.load(GOLDEN / "tiny" / "llama", pack=tmp_path)
    assert main(["logits", str(GOLDEN / "tiny" / "llama"), "--ids", "1,2", "--pack", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
