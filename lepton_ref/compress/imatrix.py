r"""Importance matrices: the mean of x² of each input of each weight, and llama.cpp's two files for them.

GGUF, what llama.cpp writes today: `general.type` = "imatrix", `imatrix.datasets` (strings), `imatrix.chunk_count` and
`imatrix.chunk_size` (U32); for each weight, in the order of names, F32 tensors

    NAME.in_sum2  (matrices, inputs)  Σ x²          NAME.counts  (matrices, 1)  tokens

so that importance is in_sum2/counts. Newer files hold NAME.in_sum, Σ x, as well; it is read past.

Legacy .dat, little-endian, nothing aligned:

    i32 entries;  for each: i32 length, name, i32 calls, i32 values, f32[values];  i32 last chunk;  i32 length, dataset

where a value is importance·calls, and calls the chunks of tokens. What follows the entries is absent from older files.
Counts are kept as F32 in GGUF: beyond 2²⁴ tokens not every count is held, and writing one that is not is refused.

Source: tools/imatrix/imatrix.cpp of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_ref.files import read_gguf, write_gguf
from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.gguf_values import Cursor
from lepton_ref.files.mapped import map_file, replacing
from lepton_ref.plain.shown import shown as refused
from lepton_ref.storage import Dense

Reals = NDArray[np.float64]

SUMS, COUNTS, MEANS = ".in_sum2", ".counts", ".in_sum"
LONGEST_NAME = 1 << 16


@dataclass(frozen=True, eq=False)
class Entry:
    """What was seen of one weight's inputs.

    Attributes:
        squares: (M, I) float64, Σ x² for each of M matrices: experts, or one.
        counts: (M) int64, tokens.
    """

    squares: Reals
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.squares.ndim != 2 or self.squares.size == 0 or self.counts.shape != self.squares.shape[:1]:
            raise ValueError(
                f"sums of shape {self.squares.shape} with counts of {self.counts.shape}; give (matrices, inputs) and "
                "(matrices,)"
            )
        if not np.isfinite(self.squares).all() or self.squares.min() < 0:
            raise ValueError("sums of squares are negative or not finite; leave the sequences out that make them so")
        if self.counts.min() < 0:
            raise ValueError(f"a count of {self.counts.min()} tokens; give 0 or more")

    @property
    def importance(self) -> Reals:
        """(M, I) the mean of x²; 1 for a matrix of which nothing was seen, as llama.cpp has it."""
        counts = self.counts[:, None]
        return np.where(counts > 0, self.squares / np.maximum(counts, 1), 1.0)


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix.

    Attributes:
        entries: name of the weight in GGUF, such as "blk.0.attn_q.weight" → what was seen.
        datasets: what it was seen on.
        chunks: how many chunks of tokens.
        chunk_size: tokens of one; 0 where a file does not say.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0

    def importance(self) -> dict[str, NDArray[np.float32]]:
        """Name → (I) float32, what `storage.encode` takes as weights; (M·I) of several matrices, one after another."""
        return {name: entry.importance.reshape(-1).astype(np.float32) for name, entry in self.entries.items()}


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Read either file; which it is, the first four bytes say.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: whatever is wrong with it.
        TypeError: what is no path.
    """
    where = _path(path)
    data = map_file(where)
    if data[:4] == b"GGUF":
        return _from_gguf(where)
    return _from_legacy(Cursor(where, data))


def _path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the file of an importance matrix is named by a str or a Path, got {refused(path)}")
    if not Path(path).name:
        raise ValueError(f"{refused(path)} names no file; give a name that ends in .gguf or .dat")
    return Path(path)


def _from_gguf(path: Path) -> ImportanceMatrix:
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        kind = shown(file.metadata.get("general.type"))
        raise FileFormatError(path, "general.type", kind, 'expected "imatrix"; is it a model?')
    names = [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]
    entries = {}
    for tensor in file.tensors:
        name = next((tensor.removesuffix(end) for end in (SUMS, COUNTS, MEANS) if tensor.endswith(end)), None)
        if name is None or name not in names:
            raise FileFormatError(
                path, f"tensor {shown(tensor)}", "stands alone", f"expected NAME{SUMS} and NAME{COUNTS}"
            )
    for name in names:
        what = f"tensor {shown(name + COUNTS)}"
        if name + COUNTS not in file.tensors:
            raise FileFormatError(path, what, "is missing", "the file is incomplete; make it anew")
        squares = file.tensors[name + SUMS].decode().astype(np.float64)
        squares = squares.reshape(-1, squares.shape[-1])
        counts = file.tensors[name + COUNTS].decode().astype(np.float64).reshape(-1)
        if not np.isfinite(counts).all() or (counts != np.rint(counts)).any() or np.abs(counts).max() >= 2**62:
            raise FileFormatError(path, what, shown(counts[0]), "expected whole numbers of tokens")
        entries[name] = _entry(path, name, squares, counts.astype(np.int64))
    datasets = file.metadata.get("imatrix.datasets", [])
    chunks, size = (file.metadata.get(f"imatrix.{key}", 0) for key in ("chunk_count", "chunk_size"))
    if type(chunks) is not int or type(size) is not int:
        raise FileFormatError(path, "imatrix.chunk_count", shown((chunks, size)), "expected integers")
    return ImportanceMatrix(entries, tuple(map(str, datasets)), chunks, size)


def _from_legacy(cursor: Cursor) -> ImportanceMatrix:
    count = cursor.number("i", field="number of entries")
    if not 1 <= count <= len(cursor.data) // 16:
        remedy = "expected a number that the file has room for; it is no importance matrix, or is truncated"
        raise FileFormatError(cursor.file, "number of entries", str(count), remedy)
    entries = {}
    for _ in range(count):
        name = _text(cursor, "name", least=1)
        calls, values = (cursor.number("i", field=f"{shown(name)} {field}") for field in ("calls", "values"))
        if calls < 1 or values < 1 or name in entries:
            remedy = "expected at least 1 of each, and each name once"
            raise FileFormatError(cursor.file, shown(name), f"{calls} calls, {values} values", remedy)
        cursor.need(4 * values, field=f"{shown(name)} values")
        found = np.frombuffer(cursor.data, dtype="<f4", count=values, offset=cursor.at).astype(np.float64)
        cursor.at += 4 * values
        entries[name] = _entry(cursor.file, name, found[None], np.array([calls], dtype=np.int64))
    if cursor.at == len(cursor.data):
        return ImportanceMatrix(entries)
    chunks = cursor.number("i", field="last chunk")
    datasets = () if cursor.at == len(cursor.data) else (_text(cursor, "dataset", least=0),)
    if cursor.at != len(cursor.data):
        left = f"{len(cursor.data) - cursor.at} bytes are left over"
        raise FileFormatError(cursor.file, "end of the file", left, "the file is damaged; make it anew")
    return ImportanceMatrix(entries, tuple(name for name in datasets if name), max(chunks, 0))


def _text(cursor: Cursor, field: str, *, least: int) -> str:
    length = cursor.number("i", field=f"length of a {field}")
    if not least <= length <= LONGEST_NAME:
        raise FileFormatError(cursor.file, f"length of a {field}", str(length), f"expected {least} to {LONGEST_NAME}")
    cursor.need(length, field=field)
    raw = bytes(cursor.data[cursor.at : cursor.at + length])
    cursor.at += length
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(cursor.file, field, shown(raw), "expected UTF-8") from error


def _entry(path: Path, name: str, squares: Reals, counts: NDArray[np.int64]) -> Entry:
    try:
        return Entry(squares, counts)
    except ValueError as error:
        raise FileFormatError(path, shown(name), "is no importance", str(error)) from error


def write_imatrix(path: str | os.PathLike[str], matrix: ImportanceMatrix, /, *, overwrite: bool = False) -> None:
    """Write one, complete or not at all: the legacy form where the path ends in .dat, otherwise GGUF.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: no entries, a count that float32 does not hold, or no chunks' size for the legacy form.
        TypeError: what is no path or no importance matrix, or `overwrite` is no bool.
    """
    where = _path(path)
    if not isinstance(getattr(matrix, "entries", None), Mapping):
        raise TypeError(f"an importance matrix is an ImportanceMatrix, got {refused(matrix)}; calibrate makes one")
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite must be True or False, got {refused(overwrite)}")
    if not matrix.entries:
        raise ValueError("the importance matrix has no entries; calibrate first")
    entries = dict(sorted(matrix.entries.items()))
    if where.suffix == ".dat":
        with replacing(where, overwrite=overwrite) as file:
            file.write(_legacy(matrix, entries))
        return
    tensors = {}
    for name, entry in entries.items():
        counts = entry.counts.astype(np.float32)
        if (counts != entry.counts).any():
            raise ValueError(f"{name} was seen for {entry.counts.max()} tokens, which float32 does not hold; see fewer")
        tensors[name + SUMS] = Dense(_f32(name, entry.squares), format="F32")
        tensors[name + COUNTS] = Dense(counts[:, None].astype("<f4"), format="F32")
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(matrix.datasets),
        "imatrix.chunk_count": matrix.chunks,
        "imatrix.chunk_size": matrix.chunk_size,
    }
    types = {"imatrix.datasets": "[STRING]", "imatrix.chunk_count": "U32", "imatrix.chunk_size": "U32"}
    write_gguf(where, tensors, metadata, metadata_types=types, overwrite=overwrite)


def _f32(name: str, values: Reals) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = values.astype("<f4")
    if not np.isfinite(rounded).all():
        raise ValueError(f"{name} has a sum of {values.max():g}, beyond float32; scale the calibration set down")
    return rounded


def _legacy(matrix: ImportanceMatrix, entries: Mapping[str, Entry]) -> bytes:
    """Values of importance·calls; calls are the chunks of the most seen matrix, rounded up, or 1 of unknown size."""
    parts = [struct.pack("<i", len(entries))]
    for name, entry in entries.items():
        size = max(matrix.chunk_size, 1)
        calls = max(1, -(-int(entry.counts.max()) // size))
        raw, values = name.encode(), _f32(name, entry.importance.reshape(-1) * calls)
        parts += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", calls, values.size), values.tobytes()]
    dataset = (matrix.datasets[-1] if matrix.datasets else "").encode()
    return b"".join([*parts, struct.pack("<ii", matrix.chunks, len(dataset)), dataset])
