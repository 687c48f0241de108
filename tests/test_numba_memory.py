"""The most memory that a process holds: little beside the packed matrices, on the first start with them and after."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import real_models
from wide_model import wide_gguf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not say the most that was held")

SCRIPT = r"""
import json, re, sys
import lepton_ref
path, precision, pack, capacity = sys.argv[1:]
model = lepton_ref.load(path, backend="numba", precision=precision, threads=1, pack=pack or None)
cache = model.new_cache(capacity=int(capacity))
ids = [[5 + n % 50 for n in range(int(capacity) // 2)]]
first = model.forward(ids, cache=cache, last_only=True)
second = model.forward([[7]], cache=cache)
most = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024
panels = [each.panels.nbytes for each in model._memo["panels"].values() if each is not None]
kept = sum(2 * 4 * layer.heads * layer.width * int(capacity) for layer in model.program.caches())
print(json.dumps([most, sum(panels), kept, first.tobytes().hex() + second.tobytes().hex()]))
"""

MB = 1 << 20


@dataclass(frozen=True)
class Held:
    """The most bytes of a process, those of its packed matrices and of its cache, and its outputs' bits."""

    most: int
    packed: int
    cache: int
    bits: str


def held(path: Path, *, pack: Path | None, precision: str = "reference", capacity: int = 32, before: str = "") -> Held:
    argv = [
        sys.executable,
        "-c",
        before + SCRIPT,
        str(path),
        precision,
        "" if pack is None else str(pack),
        str(capacity),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return Held(*json.loads(done.stdout))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models of 2 and of 40 layers in float32, and every kernel compiled."""
    folder = tmp_path_factory.mktemp("models")
    found = {count: wide_gguf(folder / f"{count}.gguf", count) for count in (2, 40)}
    for pack in (None, folder):
        held(found[2], pack=pack)
    return found


@cache
def of_the_smaller(path: Path) -> Held:
    return held(path, pack=None)


SLACK = 8 * MB
"""What a piece that is packed, its transpose and the library's own objects for 38 layers may take."""


def grown(models: dict[int, Path], many: Held) -> tuple[int, int]:
    """What 38 layers more take, and what they may."""
    few = of_the_smaller(models[2])
    return many.most - few.most, 5 * (many.packed - few.packed) // 4 + many.cache - few.cache + SLACK


def test_more_layers_need_their_packed_form_and_no_more(models: dict[int, Path], tmp_path: Path) -> None:
    runs = [held(models[40], pack=pack) for pack in (None, tmp_path, tmp_path)]
    assert len({run.bits for run in runs}) == 1
    assert len([*tmp_path.iterdir()]) == 1
    for run in runs:
        took, allowed = grown(models, run)
        assert run.packed > 50 * MB
        assert took <= allowed


def test_pages_of_the_source_that_stay_would_be_seen(models: dict[int, Path]) -> None:
    keeps = "import lepton_ref.backends.numba_chunks as page\npage.release = lambda *weights: None\n"
    took, allowed = grown(models, held(models[40], pack=None, before=keeps))
    assert took > allowed


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_a_real_model_needs_its_packed_form_its_cache_and_100_megabytes(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("packs")
    scratch = tmp_path_factory.getbasetemp()
    path = real_models.smollm2() if model == "smollm2" else real_models.gemma3(scratch)
    held(path, pack=None, precision="w8a8", capacity=512)  # compiled, if it was not
    runs = [held(path, pack=pack, precision="w8a8", capacity=512) for pack in (None, folder, folder)]
    assert len({run.bits for run in runs}) == 1
    told = [f"{run.most / MB:.0f} MB, packed {run.packed / MB:.0f}, cache {run.cache / MB:.0f}" for run in runs]
    assert all(run.most <= 1.25 * run.packed + run.cache + 100 * MB for run in runs), told
