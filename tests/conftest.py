"""What every test run shares: the Hypothesis profiles, and a header that names the versions."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version

import pytest
from hypothesis import settings

# "ci" draws the same examples in every run, so that a red run is red again; "dev" looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=300, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


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
