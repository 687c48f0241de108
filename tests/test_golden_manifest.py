"""Every golden is listed in the manifest with the bytes that it has, and nothing else is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden_cases import GOLDEN, case, names

SOURCE_ENDINGS = {".py", ".pyc", ".md"}


def differences(root: Path) -> list[str]:
    """One line for each file below ``root`` that is missing, changed or not listed in its manifest."""
    groups = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["groups"]
    listed = {f"{group}/{file}": entry for group in groups for file, entry in groups[group]["files"].items()}
    here = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    data = {name for name, path in here.items() if path.suffix not in SOURCE_ENDINGS and name != "manifest.json"}
    found = [f"{name}: missing" for name in sorted(listed.keys() - data)]
    found += [f"{name}: not listed" for name in sorted(data - listed.keys())]
    for name in sorted(data & listed.keys()):
        content = here[name].read_bytes()
        if (hashlib.sha256(content).hexdigest(), len(content)) != (listed[name]["sha256"], listed[name]["bytes"]):
            found.append(f"{name}: changed")
    return found


def test_every_golden_is_as_the_manifest_lists_it() -> None:
    assert differences(GOLDEN) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small golden folder of its own: the manifest cut down to one group, and that group's files."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    manifest["groups"] = {"tiny/llama": manifest["groups"]["tiny/llama"]}
    shutil.copytree(GOLDEN / "tiny" / "llama", tmp_path / "tiny" / "llama")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert differences(tmp_path) == []
    return tmp_path


def test_a_flipped_bit_is_caught(copy: Path) -> None:
    weights = copy / "tiny" / "llama" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert differences(copy) == ["tiny/llama/model.safetensors: changed"]


def test_a_missing_file_is_caught(copy: Path) -> None:
    (copy / "tiny" / "llama" / "expected.npz").unlink()
    assert differences(copy) == ["tiny/llama/expected.npz: missing"]


def test_a_file_that_is_not_listed_is_caught(copy: Path) -> None:
    (copy / "tiny" / "extra.npz").write_bytes(b"")
    assert differences(copy) == ["tiny/extra.npz: not listed"]


def test_every_group_says_what_it_is_and_how_it_was_made() -> None:
    groups = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["groups"]
    assert groups
    for name, entry in groups.items():
        assert entry["what"], name
        assert entry["how"], name
        assert entry["versions"]["python"], name
        assert entry["files"], name


def test_the_goldens_stay_small() -> None:
    total = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert total <= 4_100_000, "golden/ travels with the wheel: make a case smaller, or store less of its output"


@pytest.mark.parametrize("name", names())
def test_every_tiny_case_is_float64_and_sets_a_task(name: str) -> None:
    expected = case(name).expected
    output = expected[case(name).output]
    assert output.dtype == np.float64
    assert np.isfinite(output).all()
    narrowed = output.astype(np.float32).astype(np.float64)
    assert np.mean(narrowed == output) < 0.01, "values that fit float32: the run was not in float64"
    assert output.std() > 0.2
    assert (expected["padded_left_mask"].sum(1) == expected["padded_right_mask"].sum(1)).all()
    assert not expected["padded_left_mask"].all(axis=1).any(), "every padded row has padding"


def test_the_families_that_the_readers_promise_are_there() -> None:
    kinds = {json.loads((case(name).folder / "config.json").read_text())["model_type"] for name in names()}
    decoders = {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo2",
        "gpt2",
        "gpt_neox",
        "opt",
    }
    assert kinds == decoders | {"bert", "roberta", "distilbert"}
