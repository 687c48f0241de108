"""GGUF: every type is read, a copy is the same file, and whatever is wrong with a file is one clear error."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf_bytes as b
import numpy as np
import pytest
from gguf_bytes import array, entry, gguf, info, string
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.files import FileFormatError, TensorFile, gguf_read, read_gguf, write_gguf
from lepton_ref.files.gguf_types import TENSOR_TYPES
from lepton_ref.files.gguf_write import value_type
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockQuantised, Dense, RowView


def put(folder: Path, content: bytes, name: str = "x.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


SMALL = gguf(
    [
        entry("general.architecture", b.STRING, string("llama")),
        entry("n", b.U32, struct.pack("<I", 7)),
        entry("t", b.ARRAY, array(b.STRING, 2, string("a") + string("bc"))),
        entry("s", b.ARRAY, array(b.F32, 2, struct.pack("<ff", 0.5, -1))),
        entry("f", b.BOOL, b"\1"),
    ],
    [info("w", sizes=[2, 1]), info("q", sizes=[32, 2], type=8, offset=32)],
    struct.pack("<ff", 1.5, -2.0) + bytes(24) + bytes(range(68)),
)


def test_every_metadata_type_is_read(tmp_path: Path) -> None:
    entries = [
        entry("u8", b.U8, b"\xff"),
        entry("i8", b.I8, b"\xff"),
        entry("u16", b.U16, b"\xff\xff"),
        entry("i16", b.I16, b"\xff\xff"),
        entry("u32", b.U32, b"\xff" * 4),
        entry("i32", b.I32, b"\xff" * 4),
        entry("u64", b.U64, b"\xff" * 8),
        entry("i64", b.I64, b"\xff" * 8),
        entry("f32", b.F32, struct.pack("<f", 1e-5)),
        entry("f64", b.F64, struct.pack("<d", 1e-5)),
        entry("bool", b.BOOL, b"\1"),
        entry("string", b.STRING, string("zwölf")),
        entry("numbers", b.ARRAY, array(b.I16, 2, struct.pack("<hh", -1, 2))),
        entry("booleans", b.ARRAY, array(b.BOOL, 2, b"\1\0")),
        entry("strings", b.ARRAY, array(b.STRING, 3, string("é") + string("") + string(b"\xc3"))),
        entry("none", b.ARRAY, array(b.F64, 0, b"")),
        entry("nested", b.ARRAY, array(b.ARRAY, 2, array(b.U8, 1, b"\5") + array(b.STRING, 1, string("x")))),
    ]
    file = read_gguf(put(tmp_path, gguf(entries)))
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items()}
    assert [found.pop(name) for name in ("u8", "u16", "u32", "u64")] == [2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1]
    assert [found.pop(name) for name in ("i8", "i16", "i32", "i64")] == [-1] * 4
    assert found["nested"][0].tolist() == [5]
    assert found.pop("nested")[1] == ["x"]
    assert found == {
        "f32": float(np.float32(1e-5)),
        "f64": 1e-5,
        "bool": True,
        "string": "zwölf",
        "numbers": [-1, 2],
        "booleans": [True, False],
        "strings": ["é", "", "\udcc3"],
        "none": [],
    }
    assert found["bool"] is True
    assert file.metadata["numbers"].dtype == np.int16
    assert file.metadata["booleans"].dtype == np.bool_
    assert not file.metadata["numbers"].flags.writeable
    assert file.metadata_types["strings"] == "[STRING]"
    assert file.metadata_types["nested"] == "[ARRAY]"


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_of_every_decoded_type_have_their_shape_and_bytes(version: int, tmp_path: Path) -> None:
    numbers = {name: number for number, name in TENSOR_TYPES.items()}
    rng = np.random.default_rng(0)
    infos, data, raw = [], b"", {}
    for name in [*DENSE_FORMATS, *FORMATS, "I8", "I16", "I32", "I64"]:
        size = FORMATS[name].nbytes * 2 if name in FORMATS else 512 * int(np.dtype(gguf_numpy(name)).itemsize)
        raw[name] = rng.integers(0, 60, 3 * size, dtype=np.uint8).tobytes()
        width = 2 * FORMATS[name].length if name in FORMATS else 512
        infos.append(info(name, sizes=[width, 3], type=numbers[name], offset=len(data)))
        data += raw[name] + b"\0" * (-len(raw[name]) % 32)
    file = read_gguf(put(tmp_path, gguf([], infos, data, version=version)))
    assert set(file.tensors) == {*DENSE_FORMATS, *FORMATS}
    for name, weight in file.tensors.items():
        width = 2 * FORMATS[name].length if name in FORMATS else 512
        assert (weight.format, weight.shape) == (name, (3, width))
        stored = weight.raw if isinstance(weight, BlockQuantised) else weight.array  # type: ignore[attr-defined]
        assert stored.tobytes() == raw[name]
    assert {name: values.tobytes() for name, values in file.integers.items()} == {n: raw[n] for n in file.integers}
    with pytest.raises(FileFormatError, match=r"tensor 'I32': is stored as I32: .*TensorFile\.integers"):
        file.tensors["I32"]


def gguf_numpy(name: str) -> str:
    return {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}[
        name
    ]


def test_sizes_are_reversed_so_that_the_contiguous_one_is_last(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.float32)
    file = read_gguf(put(tmp_path, gguf([], [info("w", sizes=[4, 3, 2])], data.tobytes())))
    np.testing.assert_array_equal(file.tensors["w"].decode(), data.reshape(2, 3, 4))


def test_alignment_is_obeyed(tmp_path: Path) -> None:
    entries = [entry("general.alignment", b.U32, struct.pack("<I", 256))]
    infos = [info("a"), info("b", offset=256)]
    data = struct.pack("<ff", 1, 2) + bytes(248) + struct.pack("<ff", 3, 4)
    file = read_gguf(put(tmp_path, gguf(entries, infos, data, alignment=256)))
    assert [weight.decode().tolist() for weight in file.tensors.values()] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("name", ["Q4_2", "Q4_0_8_8", "IQ4_NL_4_4"])
def test_a_type_that_is_not_decoded_fails_at_once_by_name(name: str, tmp_path: Path) -> None:
    number = next(number for number, known in TENSOR_TYPES.items() if known == name)
    path = put(tmp_path, gguf([], [info("blk.0.attn_q.weight", sizes=[256], type=number)]))
    message = f"tensor 'blk.0.attn_q.weight': is stored as {name}, which this version does not decode: use a file whose"
    with pytest.raises(FileFormatError, match=message):
        read_gguf(path)


def test_the_vocabulary_of_a_large_model_is_read_quickly(tmp_path: Path) -> None:
    tokens = [f"token{i}" for i in range(262_144)]
    path = put(tmp_path, gguf([entry("t", b.ARRAY, array(b.STRING, len(tokens), b"".join(map(string, tokens))))]))
    read_gguf(path)
    start = time.process_time()
    file = read_gguf(path)
    # the bound is for quadratic or per-byte work, not for a slow machine
    assert time.process_time() - start < 2
    assert file.metadata["t"] == tokens


# --- wrong files ----------------------------------------------------------------------------------------------------

W = [info("w")]
D = bytes(8)


def kv(number: int, value: bytes) -> bytes:
    return gguf([entry("k", number, value)])


WRONG: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "magic: begins with b''"),
    "another format": (b"PK\3\4" + bytes(50), r"magic: begins with b'PK\\x03\\x04': expected 'GGUF'"),
    "magic alone": (b"GGUF", "version: takes 4 bytes at byte 4, 0 left"),
    "version 1": (gguf(version=1), "version: 1: version 1 was replaced"),
    "version 4": (gguf(version=4), "version: 4: versions 2 and 3 are read"),
    "version 0": (gguf(version=0), "version: 0: versions 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version: 50331648: the file is big-endian"),
    "tensors without end": (gguf(tensors=10**18), "number of tensors: 10{18}, but 16 bytes are left"),
    "metadata without end": (gguf(keys=2**64 - 1), "number of metadata entries: 18446744073709551615"),
    "one tensor too many": (gguf([], W, bytes(64), tensors=2), "tensor '' number of axes: 0"),
    "one entry too many": (gguf([entry("k", b.U8, b"\1")], W, D, keys=2), "tensor '' number of axes: 0"),
    "key of an exabyte": (gguf([string("k", length=10**18)], keys=1, infos=[bytes(40)]), "metadata key length: 10{18}"),
    "key not UTF-8": (gguf([entry(b"\xff", b.U8, b"\1")]), r"metadata key: b'\\xff' is not UTF-8"),
    "key twice": (gguf([entry("k", b.U8, b"\1")] * 2), "metadata 'k': stands twice"),
    "unknown value type": (kv(13, bytes(8)), "metadata 'k' type: 13: expected one of 0 U8"),
    "unknown element type": (kv(b.ARRAY, array(77, 1, bytes(8))), "metadata 'k' element type: 77"),
    "string beyond the end": (kv(b.STRING, string("abc", length=10**18)), "metadata 'k' length: 10{18}"),
    "string not UTF-8": (kv(b.STRING, string(b"\xe9")), r"metadata 'k': b'\\xe9' is not UTF-8"),
    "boolean of 2": (kv(b.BOOL, b"\2"), "metadata 'k': 2: a boolean is the byte 0 or 1"),
    "booleans of 2": (kv(b.ARRAY, array(b.BOOL, 2, b"\1\2")), "metadata 'k': holds the byte 2"),
    "array of an exabyte": (kv(b.ARRAY, array(b.F64, 10**18, bytes(8))), "metadata 'k' count: 10{18}"),
    "count that wraps": (kv(b.ARRAY, array(b.F64, 2**61 + 1, bytes(8))), "metadata 'k' count: 2305843009213693953"),
    "strings without end": (kv(b.ARRAY, array(b.STRING, 10**18, bytes(80))), "metadata 'k' count: 10{18}"),
    "element beyond the end": (
        kv(b.ARRAY, array(b.STRING, 2, string("a") + string("b", length=2**63) + bytes(99))),
        r"metadata 'k'\[1\]: ends beyond",
    ),
    "arrays without end": (kv(b.ARRAY, array(b.ARRAY, 10**18, bytes(80))), "metadata 'k' count: 10{18}"),
    "arrays nested too deeply": (
        kv(b.ARRAY, array(b.ARRAY, 1, b"") * 10_000 + array(b.U8, 0, b"")),
        "arrays nested deeper than 4",
    ),
    "alignment 0": (gguf([entry("general.alignment", b.U32, bytes(4))]), "general.alignment: 0: expected a power of"),
    "alignment 24": (gguf([entry("general.alignment", b.U32, b"\x18\0\0\0")]), "general.alignment: 24"),
    "alignment negative": (gguf([entry("general.alignment", b.I32, b"\xe0" + b"\xff" * 3)]), "general.alignment: -32"),
    "alignment a string": (gguf([entry("general.alignment", b.STRING, string("32"))]), "general.alignment: '32'"),
    "alignment a boolean": (gguf([entry("general.alignment", b.BOOL, b"\1")]), "general.alignment: True"),
    "alignment beyond the file": (
        gguf([entry("general.alignment", b.U64, struct.pack("<Q", 1 << 62))], W, D),
        "the data have 0 bytes",
    ),
    "name not UTF-8": (gguf([], [info(b"\xff")], D), "tensor name: .* is not UTF-8"),
    "name twice": (gguf([], [info("w"), info("w", offset=32)], bytes(40)), "tensor 'w': stands twice"),
    "no axes": (gguf([], [info("w", sizes=[]) + bytes(8)], D), "tensor 'w' number of axes: 0: expected 1 to 4"),
    "five axes": (gguf([], [info("w", sizes=[1] * 5)], D), "tensor 'w' number of axes: 5"),
    "four billion axes": (gguf([], [info("w", axes=2**32 - 1)], D), "number of axes: 4294967295"),
    "size 0": (gguf([], [info("w", sizes=[2, 0])], D), r"tensor 'w' shape: \[2, 0\]: a size of 0"),
    "product of 2**64": (gguf([], [info("w", sizes=[2**32] * 2)], D), "tensor 'w' shape: .* larger than any file"),
    "product that wraps": (gguf([], [info("w", sizes=[2**63, 2])], D), "larger than any file"),
    "an exabyte": (gguf([], [info("w", sizes=[10**12])], D), "bytes 0 to 4000000000000: the data have 8 bytes"),
    "unknown type": (gguf([], [info("w", type=999)], D), "tensor 'w' type: 999: no such type is known"),
    "rows that are not whole blocks": (
        gguf([], [info("w", sizes=[48, 2], type=2)], bytes(54)),
        "tensor 'w' shape: rows of 48 elements: Q4_0 has blocks of 32",
    ),
    "misaligned": (gguf([], [info("w", offset=4)], bytes(12)), "tensor 'w' offset: 4: expected a multiple of 32"),
    "overlap": (
        gguf([], [info("v", sizes=[16]), info("w", offset=32)], bytes(64)),
        "tensor 'w' offset: 32 overlaps the tensor before it: expected at least 64",
    ),
    "beyond the end": (gguf([], W, bytes(7)), "tensor 'w' offset: bytes 0 to 8: the data have 7 bytes"),
    "offset of an exabyte": (gguf([], [info("w", offset=1 << 62)], D), "the data have 8 bytes"),
    "split into 2**63": (
        gguf([entry("split.count", b.I64, b"\xff" * 7 + b"\x7f")]),
        "split.count: 9223372036854775807",
    ),
    "split, by another name": (
        gguf([entry("split.count", b.U16, b"\2\0")]),
        "split.count: 2: name its files NAME-00001",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_clear_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = put(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=message) as raised:
            read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 500
    assert peak < 4 << 20


def test_without_the_check_of_the_layout_they_would_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_read, "_check_layout", lambda member: None)
    read_gguf(put(tmp_path, WRONG["overlap"][0]))
    with pytest.raises(ValueError, match="buffer is smaller"):
        read_gguf(put(tmp_path, WRONG["beyond the end"][0]))


def content(file: TensorFile) -> dict[str, Any]:
    """All that a file says, in a form that can be compared."""
    metadata = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items()}
    values = {name: weight.decode().tobytes() for name, weight in file.tensors.items()}
    return {"metadata": metadata, "types": dict(file.metadata_types), "values": values}


def loads(path: Path) -> bool:
    """Whether a file loads and decodes; any other error than ours goes through."""
    try:
        file = read_gguf(path)
    except FileFormatError:
        return False
    content(file)
    return True


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    assert loads(put(tmp_path, SMALL))
    assert not any(loads(put(tmp_path, SMALL[:length])) for length in range(len(SMALL)))


@given(changes=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_load_or_fail(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(SMALL)
    for at, byte in changes:
        changed[at] = byte
    path = put(tmp_path_factory.mktemp("fuzz"), bytes(changed))
    tracemalloc.start()
    try:
        loads(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_every_single_byte_changed_loads_or_fails(tmp_path: Path) -> None:
    outcomes = []
    for flip in (0x01, 0x41, 0x80, 0xFF):
        for at in range(len(SMALL)):
            changed = bytearray(SMALL)
            changed[at] ^= flip
            outcomes.append(loads(put(tmp_path, bytes(changed))))
    assert 0.2 < np.mean(outcomes) < 0.8  # data and texts may change, counts and offsets may not


# --- split files ----------------------------------------------------------------------------------------------------


def split(
    folder: Path, *, count: int = 3, numbers: tuple[int, ...] = (0, 1, 2), total: int = 3, names: str = "abc"
) -> list[Path]:
    paths = []
    for i, (number, name) in enumerate(zip(numbers, names, strict=True), start=1):
        entries = [
            entry("split.no", b.U16, struct.pack("<H", number)),
            entry("split.count", b.U16, struct.pack("<H", count)),
            entry("split.tensors.count", b.I32, struct.pack("<i", total)),
            entry("from", b.U8, bytes([i])),
        ]
        data = struct.pack("<ff", i, -i)
        paths.append(put(folder, gguf(entries, [info(name)], data), f"m-0000{i}-of-0000{len(numbers)}.gguf"))
    return paths


def test_any_file_of_a_set_opens_all_of_it(tmp_path: Path) -> None:
    paths = split(tmp_path)
    for path in paths:
        file = read_gguf(path)
        assert {name: weight.decode()[0] for name, weight in file.tensors.items()} == {"a": 1, "b": 2, "c": 3}
        assert dict(file.metadata) == {"from": 1}
        assert file.nbytes == sum(p.stat().st_size for p in paths)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"numbers": (0, 2, 1)}, "split.no: 2: expected 1; the files are not one set"),
        ({"total": 4}, "split.tensors.count: 4: the files hold 3 tensors"),
        ({"names": "aba"}, "tensor 'a': is in an earlier file of the set too"),
        ({"count": 2}, "split.count: 2: name its files NAME-00001-of-00002"),
    ],
    ids=str,
)
def test_a_wrong_set_is_one_clear_error(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    paths = split(tmp_path, **wrong)
    with pytest.raises(FileFormatError, match=message):
        read_gguf(paths[0])


def test_a_missing_file_of_a_set_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[1].unlink()
    with pytest.raises(FileFormatError, match=r"m-00002-of-00003\.gguf is missing beside it"):
        read_gguf(paths[2])


# --- the writer -----------------------------------------------------------------------------------------------------


def test_a_file_is_written_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    q8_0 = BlockQuantised(np.arange(68, dtype=np.uint8).reshape(2, 34), format=FORMATS["Q8_0"])
    metadata = {
        "general.architecture": "llama",
        "n": 7,
        "t": ["a", "bc"],
        "s": np.array([0.5, -1], np.float32),
        "f": True,
    }
    tensors = {"w": np.array([[1.5, -2.0]], np.float32), "q": q8_0}
    write_gguf(path, tensors, metadata)
    assert path.read_bytes() == SMALL + bytes(-len(SMALL) % 32)


def test_a_copy_is_the_same_file(tmp_path: Path) -> None:
    entries = [
        entry("general.alignment", b.U32, struct.pack("<I", 64)),
        entry("a", b.U8, b"\1"),
        entry("b", b.I64, struct.pack("<q", 3)),
        entry("c", b.F64, struct.pack("<d", 0.5)),
        entry("d", b.ARRAY, array(b.STRING, 0, b"")),
        entry("e", b.ARRAY, array(b.STRING, 2, string(b"\xff\xfe") + string("ü"))),
        entry("f", b.ARRAY, array(b.BOOL, 2, b"\1\0")),
        entry("g", b.ARRAY, array(b.ARRAY, 2, array(b.U16, 1, b"\5\0") + array(b.STRING, 1, string("x")))),
        entry("h", b.ARRAY, array(b.U64, 0, b"")),
    ]
    infos = [info("z", sizes=[32], type=8), info("i", type=26, offset=64)]
    path = put(tmp_path, gguf(entries, infos, bytes(34 + 30 + 64), alignment=64))
    file = read_gguf(path)
    types = file.metadata_types
    write_gguf(tmp_path / "y", {**file.tensors, **file.integers}, file.metadata, metadata_types=types)
    assert (tmp_path / "y").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_formats_own_package_reads_what_is_written(tmp_path: Path) -> None:
    theirs = pytest.importorskip("gguf", reason="the gguf package is not installed")
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {"d": Dense(rng.random((3, 4), dtype=np.float32), format="F32")}
    for name, block in FORMATS.items():
        if name in ("Q8_1", "Q8_K", "Q1_0", "Q2_0"):  # gguf has no decoder of these, or not the type
            continue
        tensors[name] = BlockQuantised(rng.integers(0, 60, (3, 2 * block.nbytes), dtype=np.uint8), format=block)
    metadata = {"general.architecture": "llama", "n": 3, "x": 0.5, "t": ["a", "ü"], "l": [1, -2]}
    write_gguf(tmp_path / "x.gguf", tensors, metadata)
    reader = theirs.GGUFReader(tmp_path / "x.gguf")
    assert {k: reader.fields[k].contents() for k in metadata} == metadata
    for tensor in reader.tensors:
        value = theirs.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensors[tensor.name].shape)
        np.testing.assert_array_equal(tensors[tensor.name].decode(), value)


def test_untyped_values_get_the_usual_type() -> None:
    expected: list[tuple[Any, str]] = [
        (True, "BOOL"), (0, "U32"), (-1, "I32"), (2**32, "I64"), (2**63, "U64"), (0.5, "F32"), (0.1, "F64"),
        (1e300, "F64"), (float("nan"), "F32"), ("", "STRING"), ([1, 2], "[I32]"), ([1, 2**31], "[I64]"),
        ([-1, 2**32], "[I64]"), (["a"], "[STRING]"),
        ([True], "[BOOL]"), ([0.5, 0.1], "[F64]"), ([0.5], "[F32]"), ([[1], ["a"]], "[ARRAY]"),
        (np.int8(3), "I8"), (np.float64(0.5), "F64"), (np.zeros(2, ">u2"), "[U16]"), (np.array([True]), "[BOOL]"),
    ]  # fmt: skip
    assert [value_type("k", value) for value, _ in expected] == [name for _, name in expected]


@pytest.mark.parametrize(
    ("tensors", "metadata", "types", "message"),
    [
        ({}, {"k": None}, {}, "metadata 'k': None of NoneType has no GGUF type"),
        ({}, {"k": 2**64}, {}, "metadata 'k': 18446744073709551616 of int"),
        ({}, {"k": 3 + 4j}, {}, "metadata 'k'"),
        ({}, {"k": []}, {}, "empty list of unknown type; give it in metadata_types"),
        ({}, {"k": ["a", 1]}, {}, "metadata 'k' mixes STRING, U32"),
        ({}, {"k": np.zeros((2, 2))}, {}, "metadata 'k'"),
        ({}, {"k": 300}, {"k": "U8"}, "metadata 'k': 300 is not a U8"),
        ({}, {"k": "x"}, {"k": "F32"}, "metadata 'k': 'x' is not a F32"),
        ({}, {"k": 1e300}, {"k": "F32"}, "is not a F32"),
        ({}, {"k": 3}, {"k": "STRING"}, "metadata 'k': 3 is not a STRING"),
        ({}, {"k": 3}, {"k": "U128"}, "unknown type 'U128'; known: U8"),
        ({}, {"general.alignment": 24}, {}, "general.alignment is 24; expected a power of two"),
        ({}, {"split.count": 2}, {}, r"leave the split\.\* keys out"),
        ({"w": np.zeros(2, np.uint8)}, {}, {}, "tensor 'w' is U8, which GGUF does not know"),
        ({"w": np.zeros((1,) * 5, np.float32)}, {}, {}, r"tensor 'w' has shape \(1, 1, 1, 1, 1\); GGUF takes 1 to 4"),
        ({"w": np.zeros((2, 0), np.float32)}, {}, {}, "none empty"),
        ({"w": np.zeros((), np.float32)}, {}, {}, r"has shape \(\)"),
        ({"w": "x"}, {}, {}, "tensor 'w' is str"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    tensors: Any, metadata: Any, types: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "x", tensors, metadata, metadata_types=types)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x", {}, {"n": 1})
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_gguf(tmp_path / "x", {}, {"n": 2})
    write_gguf(tmp_path / "x", {}, {"n": 2}, overwrite=True)
    assert read_gguf(tmp_path / "x").metadata["n"] == 2


def test_chosen_rows_of_blocks_are_written_as_they_are_stored(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 60, (4, 36), dtype=np.uint8)
    view = RowView(BlockQuantised(raw, format=FORMATS["Q4_0"]), np.array([2, 0, 2]))
    write_gguf(tmp_path / "x", {"v": view}, {})
    weight = read_gguf(tmp_path / "x").tensors["v"]
    assert isinstance(weight, BlockQuantised)
    np.testing.assert_array_equal(weight.raw, raw[[2, 0, 2]])


scalars = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8"))
)
lists = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=4),
    st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4),
)


@given(metadata=st.dictionaries(st.text(st.characters(codec="utf-8")), st.one_of(scalars, lists), max_size=6))
def test_any_metadata_come_back(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("trip") / "x"
    write_gguf(path, {}, metadata)
    found = content(read_gguf(path))["metadata"]
    assert found == metadata
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in metadata.items()}
