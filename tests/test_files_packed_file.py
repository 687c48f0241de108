"""Files of packed matrices: what is read is what was written, whoever is killed meanwhile and whatever was damaged."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.files import FileFormatError, packed_file, packed_write
from lepton_ref.files.packed_file import HEAD, MAGIC, read_packed
from lepton_ref.files.packed_write import PackedWriter, writing_packed


def write(path: Path, entries: dict[str, bytes], *, page: Any = packed_write) -> None:
    with page.writing_packed(path) as writer:
        writer.about = {"who": "a test"}
        for name, content in entries.items():
            writer.add(name, len(content), {"bytes": len(content)})
            half = len(content) // 2
            writer.write(name, half, memoryview(content)[half:])
            writer.write(name, 0, content[:half])


def test_the_layout_is_as_said(tmp_path: Path) -> None:
    write(tmp_path / "x", {"a": b"abc", "b": b"0123456789"})
    data = (tmp_path / "x").read_bytes()
    assert data[:8] == b"LEPTPACK"
    assert data[8:16] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
    begin, count = int.from_bytes(data[16:24], "little"), int.from_bytes(data[24:32], "little")
    assert data[64:67] == b"abc"
    assert data[67:128] == bytes(61)
    assert data[128:138] == b"0123456789"
    assert (begin, begin + count) == (138, len(data))
    assert hashlib.sha256(data[:32] + data[begin:]).digest() == data[32:64]
    entry = {"offset": 64, "nbytes": 3, "about": {"bytes": 3}, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert json.loads(data[begin:])["entries"]["a"] == entry


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=9), st.binary(max_size=200), max_size=5))
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, bytes]) -> None:
    path = tmp_path_factory.mktemp("packed") / "x"
    write(path, entries)
    file = read_packed(path)
    file.verify()
    assert file.about == {"who": "a test"}
    assert {name: file.array(name).tobytes() for name in file.entries} == entries
    assert all(not file.array(name).flags.writeable for name in entries)
    assert [one.name for one in path.parent.iterdir()] == ["x"]


def test_room_that_is_not_written_is_zeros_and_a_dropped_entry_leaves_nothing(tmp_path: Path) -> None:
    with writing_packed(tmp_path / "x") as writer:
        writer.add("gone", 100, {})
        writer.write("gone", 0, b"\xff" * 100)
        writer.drop("gone")
        writer.add("a", 100, {})
    file = read_packed(tmp_path / "x")
    file.verify()
    assert not file.array("a").any()
    assert [*file.entries] == ["a"]


def attempted(path: Path, act: Callable[[PackedWriter], None]) -> None:
    """Write an entry of four bytes, and do something in between."""
    with writing_packed(path) as writer:
        writer.add("a", 4, {})
        act(writer)


def interrupted(writer: PackedWriter) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("at", "count"), [(-1, 1), (3, 2), (5, 1), (0, 5)])
def test_bytes_outside_an_entry_are_refused(tmp_path: Path, at: int, count: int) -> None:
    with pytest.raises(ValueError, match="leave entry 'a' of 4"):
        attempted(tmp_path / "x", lambda writer: writer.write("a", at, b"1" * count))
    assert [*tmp_path.iterdir()] == []


def test_a_name_stands_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entry 'a' is there already"):
        attempted(tmp_path / "x", lambda writer: writer.add("a", 4, {}))


# --- damage -----------------------------------------------------------------------------------------------------------


def opened(path: Path, *, page: Any = packed_file) -> None:
    page.read_packed(path).verify()


def test_every_byte_of_head_entries_and_index_counts(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, {"a": b"abc" * 20, "b": b"0123456789"})
    whole = path.read_bytes()
    padding = set(range(64 + 60, 128))
    for at in set(range(len(whole))) - padding:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(FileFormatError) as caught:
            opened(path)
        assert "\n" not in str(caught.value)


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, {"a": b"abc" * 20})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            opened(path)
    path.write_bytes(whole + b" ")
    with pytest.raises(FileFormatError, match="truncated"):
        opened(path)


def test_entries_that_are_not_verified_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, {"a": b"abc" * 20})
    path.write_bytes(path.read_bytes().replace(b"abcabc", b"abcabd", 1))
    wrong = mutated(packed_file, "hexdigest() == entry.sha256", "hexdigest() != ''")
    opened(path, page=wrong)
    with pytest.raises(FileFormatError, match="entry 'a': is damaged: remove it"):
        opened(path)


def forged(path: Path, index: Any, *, version: int = 1, magic: bytes = MAGIC) -> Path:
    """A file with digests that are right, whatever it says."""
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    head = HEAD.pack(magic, version, 0, 192, len(text), b"")[:32]
    path.write_bytes(head + hashlib.sha256(head + text).digest() + bytes(128) + text)
    return path


ENTRY = {"offset": 64, "nbytes": 64, "sha256": hashlib.sha256(bytes(64)).hexdigest(), "about": {}}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"a": {**ENTRY, "offset": 65}}, "expected a multiple of 64"),
        ({"a": {**ENTRY, "offset": 0}}, "64 bytes at 0"),
        ({"a": {**ENTRY, "offset": 192}}, "the data end at 192"),
        ({"a": {**ENTRY, "nbytes": 129}}, "the data end at 192"),
        ({"a": {**ENTRY, "nbytes": -1}}, "-1 bytes at 64"),
        ({"a": {**ENTRY, "nbytes": 1 << 80}}, "the data end at 192"),
        ({"a": {**ENTRY, "nbytes": True}}, "True bytes"),
        ({"a": {**ENTRY, "offset": 64.0}}, "bytes at 64.0"),
        ({"a": {**ENTRY, "sha256": 3}}, "expected a digest and an object"),
        ({"a": {**ENTRY, "about": []}}, "expected a digest and an object"),
        ({"a": {**ENTRY, "more": 1}}, "expected offset, nbytes, sha256 and about"),
        ({"a": 7}, "expected offset, nbytes, sha256 and about"),
        ({"a": ENTRY, "b": ENTRY}, "overlap at 64"),
    ],
)
def test_entries_that_lie_are_refused_in_one_line(tmp_path: Path, entries: Any, said: str) -> None:
    with pytest.raises(FileFormatError, match=said) as caught:
        opened(forged(tmp_path / "x", {"about": {}, "entries": entries}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "index", [b"{", b"[]", {"about": {}}, {"about": [], "entries": {}}, b'{"about": {}, "about": {}}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: Any) -> None:
    with pytest.raises(FileFormatError):
        opened(forged(tmp_path / "x", index))


def test_another_version_and_another_file_are_refused_by_name(tmp_path: Path) -> None:
    good = {"about": {}, "entries": {"a": ENTRY}}
    opened(forged(tmp_path / "x", good))
    with pytest.raises(FileFormatError, match="version: 2: this version reads 1"):
        opened(forged(tmp_path / "x", good, version=2))
    with pytest.raises(FileFormatError, match="magic: begins with b'GGUF"):
        opened(forged(tmp_path / "x", good, magic=b"GGUF\3\0\0\0"))
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "y")


# --- writers that fail, are killed, or are two ------------------------------------------------------------------------


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "x", {"a": b"old"})
    with pytest.raises(KeyboardInterrupt):
        attempted(tmp_path / "x", interrupted)
    assert [one.name for one in tmp_path.iterdir()] == ["x"]
    assert read_packed(tmp_path / "x").array("a").tobytes() == b"old"


def test_a_map_of_the_old_file_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "x", {"a": b"old"})
    old = read_packed(tmp_path / "x").array("a")
    write(tmp_path / "x", {"a": b"new"})
    assert old.tobytes() == b"old"
    assert read_packed(tmp_path / "x").array("a").tobytes() == b"new"


SLOW_WRITER = """
import sys, time
from pathlib import Path
from lepton_ref.files.packed_write import writing_packed
with writing_packed(Path(sys.argv[1])) as writer:
    for number in range(100):
        writer.add(str(number), 100_000, {})
        writer.write(str(number), 0, bytes([number]) * 100_000)
        print(number, flush=True)
        time.sleep(0.002)
"""

locks = pytest.mark.skipif(not packed_write.LOCKS, reason="the system has no locks of this kind")


def started(path: Path) -> subprocess.Popen[bytes]:
    """A writer that has begun."""
    process = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@locks
def test_a_killed_writer_leaves_nothing_that_is_read_and_its_part_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for after in (0.0, 0.05, 0.1):
        process = started(path)
        time.sleep(after)
        killed(process)
        assert not path.exists()
        assert len([*tmp_path.iterdir()]) == 1, "its own part, and none of those before"
    write(path, {"a": b"abc"})
    opened(path)
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


@locks
def test_leftovers_that_stay_would_be_seen(tmp_path: Path) -> None:
    killed(started(tmp_path / "x"))
    write(
        tmp_path / "x",
        {"a": b"abc"},
        page=mutated(packed_write, "    remove_leftovers(path)\n    beside", "    beside"),
    )
    assert len([*tmp_path.iterdir()]) == 2


@locks
def test_the_part_of_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    process = started(tmp_path / "x")
    try:
        write(tmp_path / "x", {"a": b"abc"})
        assert len([*tmp_path.iterdir()]) == 2
        assert read_packed(tmp_path / "x").array("a").tobytes() == b"abc"
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        killed(process)
    file = read_packed(tmp_path / "x")
    file.verify()
    assert len(file.entries) == 100
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


@locks
def test_a_part_that_another_removed_before_it_was_locked_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = packed_write._lock, []

    def lock(file: Any, *, wait: bool) -> None:
        if not calls:
            calls.append(file.name)
            os.unlink(file.name)
        honest(file, wait=wait)

    monkeypatch.setattr(packed_write, "_lock", lock)
    write(tmp_path / "x", {"a": b"abc"})
    opened(tmp_path / "x")
    assert len(calls) == 1


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 50_000 for number in range(6)]
    threads = [threading.Thread(target=write, args=(tmp_path / "x", {"a": content})) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = read_packed(tmp_path / "x")
    file.verify()
    assert file.array("a").tobytes() in contents
    assert [one.name for one in tmp_path.iterdir()] == ["x"]
