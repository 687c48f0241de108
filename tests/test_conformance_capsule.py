"""Failures in files: whole after a round trip, run again anywhere; what is no capsule is refused in one line."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strict_backend import StrictBackend
from wrong_backends import WRONG

from lepton_ref import conformance
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.conformance import capsule as module
from lepton_ref.conformance.claim import example
from lepton_ref.files.errors import FileFormatError

NUMPY = NumpyBackend()


def failure() -> conformance.Failure:
    return conformance.attempt(conformance.CLAIMS["linear"], WRONG["the bias is lost"].make()).failures[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return failure().save(tmp_path_factory.mktemp("capsules"))


def test_a_capsule_is_whole_after_a_round_trip(path: Path) -> None:
    first, again = failure().capsule, conformance.load_capsule(path)
    assert path.name == f"linear-reference-0-{first.number}.npz"
    assert (again.check, again.message, again.seed, again.number) == (first.check, first.message, 0, first.number)
    assert (again.backend, again.versions) == (first.backend, first.versions)
    assert again.versions["numpy"] == np.__version__
    for name in ("op", "options", "precision", "layout", "data"):
        assert getattr(again.case, name) == getattr(first.case, name)
    assert again.case.inputs.keys() == first.case.inputs.keys()
    for name, array in first.case.inputs.items():
        assert again.case.inputs[name].dtype == array.dtype
        assert again.case.inputs[name].tobytes() == array.tobytes()
    assert first.got is not None
    assert again.got is not None
    assert again.got.tobytes() == first.got.tobytes()


@pytest.mark.parametrize("name", conformance.CLAIMS)
def test_every_check_can_be_kept_and_run_again(name: str, tmp_path: Path) -> None:
    case = example(conformance.CLAIMS[name], precision="bf16", seed=5, number=2)
    kept = conformance.Capsule(name, case, "why", None, None, 5, 2, "mine")
    kept.save(tmp_path / "a.npz")
    verdict = conformance.replay(tmp_path / "a.npz", NUMPY)
    assert verdict.wrong is None
    assert verdict.elements > 0
    assert conformance.replay(kept, StrictBackend()).wrong is None


def test_a_kept_failure_fails_again_on_the_wrong_backend_alone(path: Path) -> None:
    assert conformance.replay(path, WRONG["the bias is lost"].make()).wrong == failure().message
    assert conformance.replay(path, "numpy").wrong is None


def test_a_kept_failure_replaces_none_unless_asked(path: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite"):
        failure().capsule.save(path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        failure().capsule.save(path.parent / "nowhere" / "a.npz")
    before = path.read_bytes()
    failure().save(path.parent)
    assert len(path.read_bytes()) == len(before)
    assert list(path.parent.iterdir()) == [path], "nothing half-written is left"


def test_a_check_that_is_gone_is_told(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the capsule is of 'nix', which this version does not check"):
        conformance.replay(changed(path, tmp_path, check="nix"), NUMPY)


# --- hostile files ----------------------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def written(folder: Path, found: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return folder / "b.npz"


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def changed(path: Path, folder: Path, **fields: Any) -> Path:
    """The capsule with fields of its header replaced; None takes one away."""
    found = members(path)
    header = json.loads(np.lib.format.read_array(io.BytesIO(found["header.npy"])).tobytes())
    header = {name: value for name, value in {**header, **fields}.items() if value is not None}
    found["header.npy"] = npy(np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
    return written(folder, found)


def header_of(**fields: Any) -> Callable[[Path, Path], Path]:
    return lambda path, folder: changed(path, folder, **fields)


def member_of(name: str, data: bytes | None) -> Callable[[Path, Path], Path]:
    def make(path: Path, folder: Path) -> Path:
        found = {**members(path), **({} if data is None else {name: data})}
        return written(folder, {key: value for key, value in found.items() if data is not None or key != name})

    return make


def text(data: bytes) -> Callable[[Path, Path], Path]:
    def make(path: Path, folder: Path) -> Path:
        (folder / "b.npz").write_bytes(data)
        return folder / "b.npz"

    return make


def cut(path: Path, folder: Path) -> Path:
    (folder / "b.npz").write_bytes(path.read_bytes()[:-40])
    return folder / "b.npz"


def flipped(path: Path, folder: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    (folder / "b.npz").write_bytes(bytes(data))
    return folder / "b.npz"


def claiming(shape: str) -> bytes:
    """An .npy whose header says more than follows."""
    data = npy(np.zeros(4))
    return data.replace(b"(4,)", shape.encode(), 1).replace(b" " * (len(shape) - 4) + b"\n", b"\n", 1)


OBJECTS = npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)
RECORDS = npy(np.zeros(2, dtype=[("a", "f8")]))
HOSTILE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "an empty file": (text(b""), "expected an .npz that conformance wrote"),
    "text": (text(b"hello"), "expected an .npz that conformance wrote"),
    "cut short": (cut, "expected an .npz that conformance wrote"),
    "flipped bits": (flipped, "expected"),
    "no header": (member_of("header.npy", None), "header: missing"),
    "a header of floats": (member_of("header.npy", npy(np.zeros(3))), "header: missing"),
    "a header that is not JSON": (member_of("header.npy", npy(np.frombuffer(b"{", dtype=np.uint8))), "not JSON"),
    "a header that is a list": (member_of("header.npy", npy(np.frombuffer(b"[]", dtype=np.uint8))), "JSON object"),
    "another version": (header_of(capsule=2), "capsule: 2: this version reads 1"),
    "no version": (header_of(capsule=None), "capsule: None"),
    "no case": (header_of(case=None), "case: None: expected dict"),
    "a case that is a number": (header_of(case=3), "case: 3: expected dict"),
    "an unknown precision": (
        header_of(case={"op": "add", "precision": "fp7", "layout": "plain", "data": "", "options": {}}),
        "unknown precision",
    ),
    "a seed that is a word": (header_of(seed="0"), "seed: '0': expected int"),
    "a seed that is true": (header_of(seed=True), "seed: True: expected int"),
    "no message": (header_of(message=None), "message: None"),
    "a pickle": (member_of("input.x.npy", OBJECTS), "expected plain numbers, all there"),
    "records": (member_of("input.x.npy", RECORDS), "expected plain numbers, all there"),
    "an array that says it is huge": (
        member_of("input.x.npy", claiming("(999999999999999,)")),
        "expected plain numbers",
    ),
    "a negative axis": (member_of("input.x.npy", claiming("(-4, -1)")), "expected plain numbers"),
    "an array cut short": (member_of("input.x.npy", npy(np.zeros(4))[:-1]), "expected plain numbers"),
    "no array": (member_of("input.x.npy", b"hello"), "expected an array of plain numbers"),
    "a nested header": (
        member_of("input.x.npy", b"\x93NUMPY\x01\x00\xff\x1f" + b"(" * 8191),
        "expected an array of plain numbers",
    ),
    "a bomb": (member_of("input.y.npy", bytes(module.LARGEST + 1)), "a capsule has at most"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_capsule_is_refused_in_one_line(what: str, path: Path, tmp_path: Path) -> None:
    make, message = HOSTILE[what]
    with pytest.raises(FileFormatError, match=r"b\.npz") as caught:
        conformance.load_capsule(make(path, tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "b.npz").open("wb") as file:
        file.truncate(module.LARGEST + 1)
    with pytest.raises(FileFormatError, match="a capsule has at most"):
        conformance.load_capsule(tmp_path / "b.npz")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        conformance.load_capsule(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "case",
    [
        {"op": "nix", "precision": "reference", "layout": "plain", "data": "", "options": {}},
        {"op": "linear", "precision": "reference", "layout": "plain", "data": "", "options": {}},
        {"op": "linear", "precision": "reference", "layout": "plain", "data": "", "options": {"storage": "F32"}},
        {"op": "rope", "precision": "reference", "layout": "plain", "data": "", "options": {"rope": {"width": 10**12}}},
    ],
)
def test_a_capsule_whose_example_cannot_run_says_so(case: dict[str, Any], path: Path, tmp_path: Path) -> None:
    """It is no crash, and no pass."""
    verdict = conformance.replay(changed(path, tmp_path, case=case), NUMPY)
    assert verdict.wrong is not None
    assert verdict.wrong.startswith("raised ")
