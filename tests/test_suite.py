"""What makes a run of the tests the same on any number of workers."""

from __future__ import annotations

import pkgutil
import sys

from conftest import worker_group

from lepton_ref import backends


def test_every_module_that_hypothesis_draws_from_is_loaded_from_the_beginning() -> None:
    names = {f"lepton_ref.backends.{module.name}" for module in pkgutil.iter_modules(backends.__path__)}
    assert {"lepton_ref.backends.numba_step"} < names
    assert names | {"lepton_ref.demo", "peers", "round_once", "benchmarks.linear"} <= set(sys.modules)


def test_kernels_are_compiled_on_one_worker_and_fixtures_are_made_on_one() -> None:
    groups = [
        worker_group(f"tests/{test}")
        for test in (
            "test_numba_step.py::test_a",
            "test_numba_ops.py::test_b[x::y]",
            "test_cli.py::test_c[tests/test_numba_d]",
        )
    ]
    assert groups == ["kernels", "kernels", "tests/test_cli.py"]
