"""The benchmark of the proof: it starts anew without foreign kernels, and says where a target is missed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lepton_ref

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "asv_bench")
    return importlib.import_module("round_once")


def report(prefill: float, decode: float) -> dict[str, Any]:
    return {
        "seconds": {"reference": {"prefill": 1.0, "decode": 0.1}},
        "ratio_to_fast": {"reference": {"prefill": prefill, "decode": decode}},
    }


@pytest.mark.parametrize(
    ("prefill", "decode", "said"),
    [
        (3.0, 4.0, ["within 3", "within 4"]),
        (3.01, 4.0, ["BEYOND 3", "within 4"]),
        (0.5, 4.01, ["within 3", "BEYOND 4"]),
    ],
)
def test_a_missed_target_is_said(bench: ModuleType, prefill: float, decode: float, said: list[str]) -> None:
    lines = bench.verdicts(report(prefill, decode))[1:]
    assert [line.split("  ")[-1] for line in lines] == said


def test_a_prefill_counts_all_its_tokens(bench: ModuleType) -> None:
    prefill, decode = bench.verdicts(report(1.0, 1.0))[1:]
    assert prefill.split()[3] == "128.0"
    assert decode.split()[3] == "10.0"


@pytest.mark.parametrize("name", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"])
def test_it_starts_anew_without_foreign_kernels(
    bench: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *args: started.append(args))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv(name, "Haswell")
    monkeypatch.setenv("ANOTHER", "stays")
    bench.without_foreign_kernels()
    ((program, arguments, environment),) = started
    assert program == arguments[0] == sys.executable
    assert not set(environment) & set(bench.FOREIGN)
    assert environment["ANOTHER"] == "stays"
    assert f"{name}=Haswell" in capsys.readouterr().err


def test_it_goes_on_where_nothing_is_set(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bench.FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("started anew"))
    bench.without_foreign_kernels()


def test_a_run_of_every_precision_on_a_tiny_model(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "golden" / "tiny" / "llama"
    models = {
        name: lepton_ref.load(folder, precision=name, keep_decoded=True) for name in ("reference", "fast", "float64")
    }
    found = bench.measured(models, [3, 4, 5, 6], [7, 8], 3)
    assert set(found["seconds"]) == set(models)
    assert found["ratio_to_fast"]["fast"] == {"prefill": 1.0, "decode": 1.0}
    assert len(found["rounds"]) == 3
    counts = bench.counted(models["reference"], [3, 4, 5, 6], [7, 8])
    assert counts["prefill"]["linear"]["elements"] > 0
    assert counts["decode"]["gated"]["elements"] * 2 == counts["prefill"]["gated"]["elements"]
    assert "decode of 2 tokens" in capsys.readouterr().out
