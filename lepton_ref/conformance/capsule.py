"""One failure in a file: the example, what was got, what must be; enough to run it again on another day or machine.

The file is an .npz: arrays, and a header of JSON among them as bytes. No pickle is written or read. A file is refused
in one line if it is larger than a capsule can be, packs more than it says, or holds anything but plain numbers.
"""

from __future__ import annotations

import io
import json
import platform
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from lepton_ref import __version__
from lepton_ref.conformance.case import LAYOUTS, Case
from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.json_reading import parse_object
from lepton_ref.files.mapped import map_file, replacing
from lepton_ref.files.npy import require_target
from lepton_ref.interface import HostArray
from lepton_ref.numerics import PRECISIONS
from lepton_ref.plain.shown import shown as _shown

VERSION = 1
LARGEST = 64 << 20
"""Bytes of a capsule, and of all that it unpacks to, at most; examples are a few kilobytes."""
HEADER = "header"
KINDS = "biuf"
"""NumPy's kinds of dtype that a capsule holds: booleans, integers, floats."""


@dataclass(frozen=True, eq=False)
class Capsule:
    """A failure that can be run again: see `lepton_ref.conformance.replay`.

    Attributes:
        check: the name of the claim.
        case: the example.
        message: what was wrong.
        got: what the backend gave; None where it gave nothing.
        want: what it must give; None where that is no array.
        seed: of the run.
        number: of the example.
        backend: the backend's repr.
        versions: of Python, NumPy and this package.
    """

    check: str
    case: Case
    message: str
    got: HostArray | None
    want: HostArray | None
    seed: int
    number: int
    backend: str
    versions: Mapping[str, str] = field(
        default_factory=lambda: {
            "lepton_ref": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
    )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the file, complete or not at all.

        Raises:
            FileExistsError: the file exists and `overwrite` is False.
            FileNotFoundError: the folder does not exist.
            TypeError: what is no path, or `overwrite` is no bool.
        """
        path = _path(path)
        if not isinstance(overwrite, bool):
            raise TypeError(f"overwrite must be True or False, got {_shown(overwrite)}")
        arrays = {f"input.{name}": array for name, array in self.case.inputs.items()}
        arrays |= {name: array for name, array in (("got", self.got), ("want", self.want)) if array is not None}
        arrays[HEADER] = np.frombuffer(json.dumps(self._header(), ensure_ascii=False).encode(), dtype=np.uint8)
        require_target(path)
        with replacing(path, overwrite=overwrite) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _header(self) -> dict[str, Any]:
        case = self.case
        return {
            "capsule": VERSION,
            "check": self.check,
            "message": self.message,
            "case": {
                "op": case.op,
                "options": dict(case.options),
                "precision": case.precision,
                "layout": case.layout,
                "data": case.data,
            },
            "seed": self.seed,
            "number": self.number,
            "backend": self.backend,
            "versions": dict(self.versions),
        }


def load_capsule(path: str | Path) -> Capsule:
    """Read a capsule.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is no capsule, or not a whole one.
        TypeError: what is no path.
    """
    path = _path(path)
    arrays = _arrays(path)
    if HEADER not in arrays or arrays[HEADER].dtype != np.uint8:
        raise FileFormatError(path, HEADER, "missing", "give a file that conformance wrote")
    header = parse_object(arrays.pop(HEADER).tobytes(), file=path, field=HEADER)
    version = header.get("capsule")
    if version != VERSION:
        raise FileFormatError(path, "capsule", shown(version), f"this version reads {VERSION}")
    case = _field(path, header, "case", dict)
    for name in ("op", "precision", "layout", "data"):
        _field(path, case, name, str)
    if case["precision"] not in PRECISIONS or case["layout"] not in LAYOUTS:
        raise FileFormatError(path, "case", shown(case["precision"]), "an unknown precision or layout")
    inputs = {name.removeprefix("input."): arrays[name] for name in arrays if name.startswith("input.")}
    example = Case(
        case["op"], inputs, _field(path, case, "options", dict), case["precision"], case["layout"], case["data"]
    )
    texts = {name: _field(path, header, name, str) for name in ("check", "message", "backend")}
    numbers = {name: _field(path, header, name, int) for name in ("seed", "number")}
    versions = {str(name): str(text) for name, text in _field(path, header, "versions", dict).items()}
    return Capsule(case=example, got=arrays.get("got"), want=arrays.get("want"), versions=versions, **texts, **numbers)


def _path(path: str | Path) -> Path:
    if not isinstance(path, str | Path):
        raise TypeError(f"a capsule's file is named by a str or a Path, got {_shown(path)}")
    return Path(path)


def _field(path: Path, record: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FileFormatError(path, name, shown(value), f"expected {kind.__name__}")
    return value


def _arrays(path: Path) -> dict[str, HostArray]:
    """The arrays of an .npz, none of which is larger than its bytes in the file can be."""
    data = map_file(path)
    if len(data) > LARGEST:
        raise FileFormatError(path, "size", f"{len(data)} bytes", f"a capsule has at most {LARGEST}")
    try:
        with zipfile.ZipFile(io.BytesIO(data[:])) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise FileFormatError(path, "size", "unpacked", f"a capsule has at most {LARGEST} bytes")
            return {
                member.filename.removesuffix(".npy"): _array(path, member.filename, archive.read(member))
                for member in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise FileFormatError(path, "content", shown(str(error)), "expected an .npz that conformance wrote") from error


def _array(path: Path, name: str, data: bytes) -> HostArray:
    """One .npy, whose header is believed only where the bytes that follow are as many as it says."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise FileFormatError(path, name, f"version {version}", "expected version (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, SyntaxError, TokenError, EOFError, RecursionError, MemoryError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, name, shown(str(error)), "expected an array of plain numbers") from error
    body = data[file.tell() :]
    size = dtype.itemsize
    for axis in shape:
        size *= axis
    if dtype.kind not in KINDS or size != len(body) or any(axis < 0 for axis in shape):
        raise FileFormatError(path, name, f"{dtype} {shape} in {len(body)} bytes", "expected plain numbers, all there")
    flat = np.frombuffer(body, dtype=dtype).copy()
    return flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)
