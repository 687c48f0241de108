"""safetensors: what is written is read back, and whatever is wrong with a file is one clear error."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.files import FileFormatError, read_safetensors, safetensors_read, write_safetensors
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, RowView


def pack(header: object, data: bytes = b"") -> bytes:
    """A safetensors file, true or lying."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def put(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


SMALL = pack(
    {"__metadata__": {"a": "b"}, "w": tensor("F32", [2, 1], [0, 8]), "i": tensor("U8", [3], [8, 11])},
    struct.pack("<ff", 1.5, -2.0) + b"\1\2\3",
)


# --- right files ----------------------------------------------------------------------------------------------------


def test_a_file_is_written_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    weight = Dense(np.array([0x3F80, 0xC000], dtype=np.uint16), format="BF16")
    write_safetensors(path, {"ids": np.array([3], dtype=np.uint8), "ü": weight}, {"format": "pt"})
    header = (
        '{"__metadata__":{"format":"pt"},"ü":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},'
        '"ids":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\xc0\x03"


def test_every_type_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = {
        f: Dense(rng.integers(0, 99, (3, 2)).astype(t), format=f) for f, t in safetensors_read.DENSE_FORMATS.items()
    }
    plain = {np.dtype(t).name: rng.integers(0, 99, (2, 3)).astype(t) for t in "bBhHiIlL"}
    plain |= {"bool": np.array([True, False]), "none": np.zeros((0, 5), np.int32), "scalar": np.array(7)}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {**dense, **plain, "empty": Dense(np.zeros((4, 0), np.float32), format="F32")})
    file = read_safetensors(path)
    assert file.kind == "safetensors"
    assert file.nbytes == path.stat().st_size
    assert set(file.tensors) == {*dense, "empty"}
    assert file.tensors["empty"].shape == (4, 0)
    for name, weight in dense.items():
        assert file.tensors[name].format == name
        np.testing.assert_array_equal(file.tensors[name].decode(), weight.decode(), strict=True)
    for name, array in plain.items():
        expected = array.astype(np.uint8) if array.dtype == bool else array
        np.testing.assert_array_equal(file.integers[name], expected, strict=True)


def test_what_is_no_weight_fails_by_name_when_it_is_used(tmp_path: Path) -> None:
    header = {"q": tensor("F8_E4M3", [2], [0, 2]), "p": tensor("F4", [4], [2, 4]), "i": tensor("I64", [1], [4, 12])}
    file = read_safetensors(put(tmp_path, pack(header, bytes(12))))
    assert list(file.tensors) == []
    assert dict(file.refused) == {"q": "F8_E4M3", "p": "F4"}
    with pytest.raises(FileFormatError, match="tensor 'q': is stored as F8_E4M3: no weight is stored so"):
        file.tensors["q"]
    with pytest.raises(FileFormatError, match=r"tensor 'i': is stored as I64: .*TensorFile\.integers"):
        file.tensors.get("i")
    assert "i" in file.tensors
    assert file.tensors.get("absent") is None
    with pytest.raises(KeyError, match="absent"):
        file.tensors["absent"]


def test_a_scalar_weight_has_one_axis(tmp_path: Path) -> None:
    path = put(tmp_path, pack({"s": tensor("F32", [], [0, 4])}, struct.pack("<f", 2.5)))
    assert read_safetensors(path).tensors["s"].decode().tolist() == [2.5]


def test_tensors_may_begin_anywhere(tmp_path: Path) -> None:
    header = {"a": tensor("U8", [1], [0, 1]), "w": tensor("F32", [1, 2], [1, 9])}
    path = put(tmp_path, pack(header, b"\7" + struct.pack("<ff", 1.5, -2.0)))
    weight = read_safetensors(path).tensors["w"]
    assert weight.decode().tolist() == [[1.5, -2.0]]
    assert weight.take(np.array([0])).tolist() == [[1.5, -2.0]]


def test_nothing_is_read_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(pack({"w": tensor("F32", [1 << 14, 1 << 14], [0, 1 << 30])}))
        file.truncate(file.tell() + (1 << 30))  # a hole: a gigabyte that takes no disk
    read_safetensors(path)
    tracemalloc.start()
    try:
        weight = read_safetensors(path).tensors["w"]
        repr(weight)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert weight.nbytes == 1 << 30
    assert peak < 4 << 20


def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m-1.safetensors", {"a": np.array([1.0], np.float32)}, {"format": "pt"})
    write_safetensors(tmp_path / "m-2.safetensors", {"b": np.array([2.0], np.float16), "c": np.array([3])})
    index = {
        "metadata": {"total_size": 14},
        "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-2.safetensors"},
    }
    path = put(tmp_path, json.dumps(index).encode(), "model.safetensors.index.json")
    for opened in (tmp_path, path):
        file = read_safetensors(opened)
        assert {name: weight.decode().tolist() for name, weight in file.tensors.items()} == {"a": [1.0], "b": [2.0]}
        assert file.integers["c"].tolist() == [3]
        assert file.metadata == {"format": "pt"}


@pytest.mark.slow
def test_the_formats_own_package_reads_and_writes_the_same_bytes(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    rng = np.random.default_rng(1)
    arrays = {f"{t}{i}": rng.integers(0, 99, (i, 3)).astype(t) for t in "bBhHiIlLefd?" for i in range(3)}
    write_safetensors(tmp_path / "ours", arrays, {"k": "ü"})
    theirs.save_file(arrays, tmp_path / "theirs", {"k": "ü"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


# --- wrong files ----------------------------------------------------------------------------------------------------

WRONG: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "size: 0 bytes"),
    "seven bytes": (bytes(7), "size: 7 bytes"),
    "header beyond the file": (struct.pack("<Q", 100) + b"{}", "header length: 100 bytes"),
    "header of an exabyte": (struct.pack("<Q", 10**18) + b"{}", "header length: 10{18} bytes"),
    "header length of all ones": (b"\xff" * 8 + b"{}", "header length"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "header: not UTF-8 at byte 2"),
    "not JSON": (pack(b"{"), "header: not JSON"),
    "no bytes": (pack(b""), "header: not JSON"),
    "not an object": (pack([]), "header: is a list: expected a JSON object"),
    "an integer of thousands of digits": (pack(b'{"w":' + b"9" * 5000 + b"}"), "header: not JSON"),
    "deep arrays": (pack(b'{"w":' + b"[" * 200_000), "header: nested too deeply"),
    "deep objects": (pack(b'{"w":' * 200_000), "header: nested too deeply"),
    "a name twice": (pack(b'{"w":{},"w":{}}'), "key 'w' stands twice in one object"),
    "a field twice": (pack(b'{"w":{"dtype":"F32","dtype":"F32"}}'), "key 'dtype' stands twice"),
    "metadata of numbers": (pack({"__metadata__": {"a": 1}}), "__metadata__: {'a': 1}: expected an object of strings"),
    "metadata of a list": (pack({"__metadata__": []}), "__metadata__"),
    "entry not an object": (pack({"w": 3}), "tensor 'w': 3: expected an object of dtype"),
    "entry without a field": (pack({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), "tensor 'w'"),
    "entry with one more field": (pack({"w": {**tensor(), "x": 1}}, bytes(8)), "tensor 'w'"),
    "unknown type": (pack({"w": tensor("F31")}, bytes(8)), "tensor 'w' dtype: 'F31': expected one of F64"),
    "type not a string": (pack({"w": tensor(["F32"])}, bytes(8)), r"tensor 'w' dtype: \['F32'\]"),
    "shape not a list": (pack({"w": tensor(shape=2)}, bytes(8)), "tensor 'w' shape: 2: expected a list of integers"),
    "negative size": (pack({"w": tensor(shape=[-2])}, bytes(8)), r"shape: \[-2\]"),
    "size as a float": (pack({"w": tensor(shape=[2.0])}, bytes(8)), r"shape: \[2.0\]"),
    "size as a boolean": (pack({"w": tensor(shape=[2, True])}, bytes(8)), r"shape: \[2, True\]"),
    "product of 2**64": (pack({"w": tensor(shape=[1 << 32, 1 << 32])}, bytes(8)), "larger than any file"),
    "product that wraps to the right one": (pack({"w": tensor("U8", [2, (1 << 63) + 4])}, bytes(8)), "larger than any"),
    "empty, with an exabyte beside": (pack({"w": tensor(shape=[0, 10**18], offsets=[0, 0])}), "larger than any file"),
    "an integer of a thousand bits": (pack({"w": tensor(shape=[1 << 1000])}, bytes(8)), "larger than any file"),
    "too many axes": (pack({"w": tensor(shape=[1] * 33, offsets=[0, 4])}, bytes(4)), "larger than any file"),
    "fewer bytes than elements": (pack({"w": tensor(shape=[3])}, bytes(8)), r"is 8 bytes: F32 \[3\] takes 12"),
    "half a byte": (pack({"w": tensor("F4", [3], [0, 2])}, bytes(2)), r"F4 \[3\] takes 1.5"),
    "offsets of three": (pack({"w": tensor(offsets=[0, 8, 8])}, bytes(8)), "data_offsets"),
    "offsets reversed": (pack({"w": tensor(offsets=[8, 0])}, bytes(8)), r"expected \[begin, end\], begin ≤ end"),
    "offset negative": (pack({"w": tensor(offsets=[-8, 0])}, bytes(8)), "data_offsets"),
    "offset as a float": (pack({"w": tensor(offsets=[0, 8.0])}, bytes(8)), "data_offsets"),
    "offset as null": (pack({"w": tensor(offsets=[0, None])}, bytes(8)), "data_offsets"),
    "offsets beyond the file": (pack({"w": tensor()}, bytes(7)), "the data have 7 bytes; the file is truncated"),
    "offsets of an exabyte": (pack({"w": tensor(offsets=[10**18, 10**18 + 8])}, bytes(8)), "the data have 8 bytes"),
    "a hole at the start": (pack({"w": tensor(offsets=[4, 12])}, bytes(12)), "leaves a gap before it: .*begin at 0"),
    "a hole": (pack({"v": tensor(), "w": tensor(offsets=[9, 17])}, bytes(17)), "leaves a gap before it: .*begin at 8"),
    "overlap": (pack({"v": tensor(), "w": tensor(offsets=[4, 12])}, bytes(12)), "overlaps the tensor before it"),
    "the same bytes": (pack({"v": tensor(), "w": tensor()}, bytes(8)), "overlaps the tensor before it"),
    "bytes left": (pack({"w": tensor()}, bytes(9)), "size: 1 bytes after the last tensor"),
    "bytes and no tensor": (pack({}, bytes(1)), "size: 1 bytes after the last tensor"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_clear_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = put(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=message) as raised:
            read_safetensors(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 700
    assert peak < (4 << 20) + 20 * len(content)


def test_without_the_check_of_the_layout_wrong_files_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_read, "_check_layout", lambda *args, **kwargs: None)
    for name in ("a hole", "overlap", "the same bytes", "bytes left", "bytes and no tensor"):
        read_safetensors(put(tmp_path, WRONG[name][0]))


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    read_safetensors(put(tmp_path, SMALL))
    for length in range(len(SMALL)):
        with pytest.raises(FileFormatError):
            read_safetensors(put(tmp_path, SMALL[:length]))


def loads(path: Path) -> bool:
    """Whether a file loads; any other error than ours goes through."""
    try:
        file = read_safetensors(path)
    except FileFormatError:
        return False
    for weight in file.tensors.values():
        weight.decode()
    return True


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_load_or_fail_cleanly(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(SMALL)
    for at, byte in changes:
        content[at] = byte
    path = put(tmp_path_factory.mktemp("fuzz"), bytes(content))
    tracemalloc.start()
    try:
        loads(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_the_fuzzer_meets_both_ends(tmp_path: Path) -> None:
    """Every byte flipped once: in the header most flips fail, in the data none may."""
    outcomes = []
    for at in range(len(SMALL)):
        content = bytearray(SMALL)
        content[at] ^= 0x41
        outcomes.append(loads(put(tmp_path, bytes(content))))
    assert all(outcomes[-11:])
    assert 0 < sum(outcomes[:-11]) < len(outcomes[:-11]) // 2


# --- wrong folders and shards ---------------------------------------------------------------------------------------

SHARD = pack({"w": tensor()}, bytes(8))
OTHER = pack({"w": tensor()}, bytes(8))
INDEXES: Mapping[str, tuple[Any, str]] = {
    "not an object": ([], "content: is a list"),
    "no map": ({"metadata": {}}, "weight_map: None"),
    "an empty map": ({"weight_map": {}}, "weight_map: {}"),
    "shard not a string": ({"weight_map": {"w": 3}}, "weight_map of 'w': 3"),
    "the folder above": ({"weight_map": {"w": "../one"}}, "'../one': expected the name of a file in the same folder"),
    "dots": ({"weight_map": {"w": ".."}}, "weight_map of 'w'"),
    "no name": ({"weight_map": {"w": ""}}, "weight_map of 'w'"),
    "absolute": ({"weight_map": {"w": "/etc/passwd"}}, "'/etc/passwd': expected the name of a file"),
    "a folder below": ({"weight_map": {"w": "a/one"}}, "'a/one'"),
    "backslashes": ({"weight_map": {"w": "..\\one"}}, "expected the name of a file"),
    "a drive": ({"weight_map": {"w": "C:one"}}, "expected the name of a file"),
    "a NUL": ({"weight_map": {"w": "one\0"}}, "expected the name of a file"),
    "missing file": ({"weight_map": {"w": "one", "x": "three"}}, "names 'three': that file is missing"),
    "missing tensor": ({"weight_map": {"w": "one", "x": "one"}}, "tensor 'x': is not in 'one'"),
    "tensor in another shard": ({"weight_map": {"w": "one", "x": "two"}}, "tensor 'w': is in one and in two"),
    "tensor not listed": ({"weight_map": {"x": "one"}}, "tensor 'w': is in one, the index says None"),
    "wrong total": ({"weight_map": {"w": "one"}, "metadata": {"total_size": 9}}, "total_size: 9: the shards hold 8"),
}


@pytest.mark.parametrize(("index", "message"), INDEXES.values(), ids=INDEXES)
def test_a_wrong_index_is_one_clear_error(index: object, message: str, tmp_path: Path) -> None:
    put(tmp_path, SHARD, "one")
    put(tmp_path, OTHER, "two")
    path = put(tmp_path, json.dumps(index).encode(), "model.safetensors.index.json")
    with pytest.raises(FileFormatError, match=message) as raised:
        read_safetensors(tmp_path)
    assert str(path) in str(raised.value)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"
    ):
        read_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "absent.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="not a regular file"):
        read_safetensors(tmp_path / "pipe")


# --- the writer -----------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_only_when_asked_and_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.array([1.0], np.float32)})
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_safetensors(path, {"w": np.array([2.0], np.float32)})
    old = read_safetensors(path)

    class Broken(np.ndarray[Any, Any]):
        """Fails when its bytes are wanted, after the header has been written."""

        def __getitem__(self, key: Any) -> Any:
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        write_safetensors(path, {"w": np.zeros(3, np.float32).view(Broken)}, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert read_safetensors(path).tensors["w"].decode().tolist() == [1.0]
    write_safetensors(path, {"w": np.array([2.0], np.float32)}, overwrite=True)
    assert read_safetensors(path).tensors["w"].decode().tolist() == [2.0]
    assert old.tensors["w"].decode().tolist() == [1.0]  # the map of the old file is still the old file


def test_arrays_of_any_strides_and_byte_order_are_written_row_major(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    view = RowView(RowView(Dense(array.T, format="F64"), np.array([3, 1, 0])), np.array([2, 0]))
    write_safetensors(tmp_path / "x", {"t": array.T, "b": array.astype(">f8"), "v": view, "r": array[::-2, ::-1]})
    tensors = read_safetensors(tmp_path / "x").tensors
    np.testing.assert_array_equal(tensors["t"].decode(), array.T)
    np.testing.assert_array_equal(tensors["b"].decode(), array)
    np.testing.assert_array_equal(tensors["v"].decode(), array.T[[0, 3]])
    np.testing.assert_array_equal(tensors["r"].decode(), array[::-2, ::-1])


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"w": np.zeros(2, complex)}, {}, "tensor 'w' is an array of complex128"),
        ({"w": np.zeros(2, object)}, {}, "tensor 'w' is an array of object"),
        ({"w": [1.0]}, {}, "tensor 'w' is list"),
        ({"__metadata__": np.zeros(2)}, {}, "takes any string but '__metadata__'"),
        ({1: np.zeros(2)}, {}, "tensor name 1 cannot be written"),
        (
            {"w": BlockQuantised(np.zeros((1, 18), np.uint8), format=FORMATS["Q4_0"])},
            {},
            "Q4_0, which safetensors does not",
        ),
        ({}, {"a": 1}, "metadata 'a': 1 is not a pair of strings"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tensors: Any, metadata: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_safetensors(tmp_path / "x", tensors, metadata)
    assert list(tmp_path.iterdir()) == []


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
arrays: Callable[..., Any] = st.builds(
    lambda shape, dtype: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.sampled_from(["f2", "f4", "f8", "i1", "u2", "i8"]),
)


@given(st.dictionaries(names, arrays, max_size=5), st.dictionaries(names, names, max_size=3))
def test_any_names_and_shapes_come_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("trip") / "x"
    write_safetensors(path, tensors, metadata)
    file = read_safetensors(path)
    assert dict(file.metadata) == metadata
    found = {name: weight.array for name, weight in file.tensors.items()} | dict(file.integers)  # type: ignore[attr-defined]
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
