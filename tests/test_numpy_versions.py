"""Logits have the same bits under the oldest NumPy that we take and under the newest that this Python can have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bits
import golden_cases
import pytest

VERSIONS = {"oldest": "numpy==2.0.*", "newest": "numpy"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    jobs = [*bits.tiny(*golden_cases.names()), bits.medium(folder), bits.cancelling(folder)]
    jobs += bits.tiny("llama", precisions=bits.MACHINES)
    return bits.write_jobs(folder / "jobs.json", jobs)


@pytest.fixture(scope="module")
def here(jobs: Path) -> bits.Report:
    return bits.report(jobs)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bits.build_wheel(tmp_path_factory.mktemp("wheel"))


def environment(folder: Path, *what: str | Path) -> Path:
    """A new environment with this installed from the index: its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    bits.pip("install", "--only-binary=numpy", *what, python=python)
    return python


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_versions_change_no_bit(jobs: Path, here: bits.Report, wheel: Path, version: str, tmp_path: Path) -> None:
    report = bits.report(jobs, python=environment(tmp_path / "environment", wheel, version))
    assert version == "numpy" or report["where"]["numpy"].startswith("2.0.")
    bits.assert_same_bits(report, here)
