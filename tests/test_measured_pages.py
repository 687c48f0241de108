"""The pages of measurements are their records', hold every format, and say what the numbers say."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lepton_ref.audit.compare import kl_divergence
from lepton_ref.storage.encoders import ENCODERS, WEIGHTED

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(params=["format_table", "beside_llama_cpp"])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module(request.param)


def record_of(script: ModuleType) -> dict[str, Any]:
    return dict(json.loads(script.RECORD.read_text(encoding="utf-8")))


def test_the_page_is_the_record_s(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(record_of(script))


def test_a_number_of_the_record_is_on_the_page(script: ModuleType) -> None:
    record = record_of(script)
    changed = copy.deepcopy(record)
    rows = changed["rows"] if "rows" in changed else changed["models"]["gemma3"]["rows"]
    row = rows[next(reversed(rows))]
    row.get("ours", row)["kl"]["value"] = 123.0
    assert script.page(changed) != script.page(record)
    assert "1.2e+02" in script.page(changed)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("format_table")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("beside_llama_cpp")


def test_every_format_was_measured(table: ModuleType) -> None:
    rows = record_of(table)["rows"]
    missing = [
        f"{name} {how}"
        for name, how in [*table.wanted(), *table.grids(), *table.packed()]
        if f"{name} {how}" not in rows
    ]
    assert not missing
    named = {name for name, _ in table.wanted()}
    assert named >= {*ENCODERS} - {*table.OF_ACTIVATIONS}
    assert all((name, "imatrix") in table.wanted() for name in WEIGHTED)


def test_what_holds_the_original_s_values_adds_nothing(table: ModuleType) -> None:
    rows = record_of(table)["rows"]
    for key in ("as shipped original", "F32 nearest"):
        assert rows[key]["ours"]["kl"]["value"] == 0
        assert rows[key]["ours"]["largest"] == 0
    assert rows["Q2_0 nearest"]["ours"]["kl"]["value"] > 0


def test_ggml_is_within_llama_cpp_s_spread(beside: ModuleType) -> None:
    record = record_of(beside)
    assert set(record["builds"]) >= {"native", "generic"}
    for name in beside.MODELS:
        for key in ("kl", "median_kl"):
            kl = record["models"][name][key]
            runs = {run for pair in kl for run in pair.split(" | ")}
            assert len(runs) == len(record["builds"]) * len(beside.SETTINGS) + len(beside.OURS)
        theirs, ours = beside.spread(record["models"][name]["kl"])
        assert 0 < ours <= theirs


def test_kl_of_pairs_is_compare_s(beside: ModuleType) -> None:
    rng = np.random.default_rng(0)
    logits = {name: rng.standard_normal((11, 7)).astype(np.float32) for name in "abc"}
    found = beside.pairwise_kl(logits)
    assert len(found) == 6
    for pair, kl in found.items():
        a, b = pair.split(" | ")
        assert np.array_equal(np.maximum(kl, 0), kl_divergence(logits[a], logits[b]))


def test_a_distance_beyond_the_spread_is_told(beside: ModuleType) -> None:
    found = record_of(beside)["models"]["smollm2"]
    assert "| mean over positions | 3.65e-03 | 3.56e-03 | within its spread |" in beside.verdict(found)
    pair = next(pair for pair in found["kl"] if "`ggml`" in pair and "llama.cpp," in pair)
    found["kl"][pair] = 1.0
    assert "| mean over positions | 3.65e-03 | 1.00e+00 | outside |" in beside.verdict(found)


def test_the_run_that_stands_alone_is_named_and_left_out(beside: ModuleType) -> None:
    runs = [f"llama.cpp, {name}" for name in "abc"]
    kl = {f"{x} | {y}": 1.0 if runs[2] in (x, y) else 0.25 for x in runs for y in runs if x != y}
    kl |= {f"{x} | lepton_ref, `ggml`": 0.5 for x in runs}
    assert beside.farthest(kl) == runs[2]
    assert beside.spread(kl) == (1.0, 0.5)
    assert beside.spread(kl, without=runs[2]) == (0.25, 0.5)
    told = beside.verdict({"kl": kl, "median_kl": kl})
    assert told.count("within its spread") == 2
    assert told.count("outside") == 2
