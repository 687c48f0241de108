"""The benchmark of decoding: a table, with or without the package gguf, and a failure where the target is missed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SHORT = ["storage_decode.py", "--rounds", "1", "--elements", "4096", "--formats", "Q8_0,Q8_1"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "asv_bench")
    monkeypatch.setattr(sys, "argv", SHORT)
    return importlib.import_module("storage_decode")


def test_without_gguf_our_speed_stands_alone(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "theirs", lambda name: None)
    bench.main()
    first, *_, one, other = capsys.readouterr().out.splitlines()
    assert first == "gguf is not installed (pip install gguf): our speed alone"
    assert [line.split()[0] for line in (one, other)] == ["Q8_0", "Q8_1"]
    assert all(line.split()[3:] == ["–", "–"] for line in (one, other))


def test_a_missed_target_fails(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda name, *_: (1.0, 0.5 if name == "Q8_0" else 0.4))
    with pytest.raises(SystemExit, match=r"below 0.5 of gguf's speed: Q8_1"):
        bench.main()
