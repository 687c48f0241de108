"""What every test run shares: the Hypothesis profiles, and a header that names the versions."""

import importlib
import os
import pkgutil
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import lepton_ref
from lepton_ref import backends

ROOT = Path(__file__).parent.parent

# "ci" draws the same examples in every run, so that a red run is red again; "dev" looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=300, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_sessionstart() -> None:
    """Load all that is tested: Hypothesis draws numbers that stand in loaded modules, and so would give a test
    other examples alone than after others, or on another worker.
    """
    folders = [(path, f"{package.__name__}.") for package in (lepton_ref, backends) for path in package.__path__]
    folders += [(str(ROOT / name), "") for name in ("scripts", "asv_bench")]
    with pytest.MonkeyPatch.context() as patch:
        for folder, prefix in folders:  # an editable install has backends elsewhere
            if prefix == "":
                patch.syspath_prepend(folder)
            for module in pkgutil.walk_packages([folder], prefix):
                importlib.import_module(module.name)


def worker_group(nodeid: str) -> str:
    """Tests of one group run on one worker, one after the other."""
    file = nodeid.partition("::")[0]
    return "kernels" if "/test_numba_" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one worker, which shares its fixtures; so do all that compile kernels, each of them once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return worker_group(nodeid)

    return ByFile(config, log)


def pytest_report_header() -> str:
    packages = ("numpy", "hypothesis", "array-api-strict", "tokenizers", "jinja2")
    named = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"lepton_ref on {platform.machine()}: {named}"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command of `lepton-ref` -> (exit code, standard output, standard error)."""
    from lepton_ref import cli

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run
