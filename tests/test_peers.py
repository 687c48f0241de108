"""Measuring beside peers: what the figures, the page, the plot and README's table are made of a record."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

figures, page, plot, rounds, tasks, process, worker, run, machine = (
    importlib.import_module(f"peers{name}")
    for name in ("_figures", "_page", "_plot", "_rounds", "_tasks", "_process", "_worker", "", "_machine")
)


def entry(*seconds: float, dirty: tuple[float, ...] = (), **more: int) -> dict[str, Any]:
    return {"clean": list(seconds), "dirty": list(dirty)} | more


def record() -> dict[str, Any]:
    """Ours decodes 200 tokens a second, llama.cpp 100; ours prefills 640, llama.cpp 320; 12.5 GiB/s are read."""
    decode = {
        tasks.OURS: entry(0.004, 0.005, 0.1),
        tasks.LLAMA_CPP: entry(0.01, 0.01, 0.02),
        tasks.READING: entry(0.01, 0.01, 0.01, amount=128 << 20),
    }
    prefill = {tasks.OURS: entry(0.2, 0.2, 0.2, tokens=128), tasks.LLAMA_CPP: entry(0.4, dirty=(0.4,), tokens=128)}
    told = {"cpu": "A processor", "cores": 2, "instructions": ["avx2"], "last cache": "32M", "memory GiB": 8.0}
    return {
        "machine": told | {"system": "Linux", "load average before": 0.0, "load average after": 2.0},
        "rounds": 3,
        "versions": {tasks.LLAMA_CPP: {"llama-cpp-python": "1.2.3", "build": "AVX2"}},
        "missing": {"onnxruntime, float32": ["no Python that has it was given, or found"]},
        "models": {
            "smollm2-q4_0": {
                "bytes": 50 << 20,
                "threads": {"1": {}, "2": {"decode16": decode, "prefill128": prefill}},
            }
        },
        "start": {"smollm2-q4_0": {tasks.OURS: entry(1.5, 1.5, 1.5), tasks.LLAMA_CPP: entry(0.25, 0.25, 0.25)}},
        "operations": {
            "2": {
                "read": entry(0.01, 0.01, 0.01, amount=128 << 20),
                "matvec Q8_0 w8a8": entry(0.0125, 0.0125, 0.0125, amount=128 << 20),
                "sgemm": entry(0.01, 0.01, 0.01, amount=1 << 30),
                "matmul": entry(0.02, 0.02, 0.02, amount=1 << 30),
            }
        },
    }


def decode_entries() -> tuple[dict[str, Any], dict[str, Any]]:
    found = record()["models"]["smollm2-q4_0"]["threads"]["2"]["decode16"]
    return found[tasks.OURS], found[tasks.LLAMA_CPP]


def test_a_speed_is_of_the_median_and_a_ratio_of_ours_to_theirs() -> None:
    ours, theirs = decode_entries()
    assert figures.speed(ours) == (200.0, False)
    assert figures.ratio(ours, theirs) == 2.0
    assert figures.speed(entry(0.4, tokens=128)) == (320.0, False)


@pytest.mark.parametrize(
    ("module", "text", "bug"),
    [
        (figures, "speed(ours)[0] / speed(others)[0]", "speed(others)[0] / speed(ours)[0]"),
        (figures, 'entry.get("tokens", 1) / seconds', 'seconds / entry.get("tokens", 1)'),
        (rounds, "statistics.median(counted)", "statistics.mean(counted)"),
    ],
)
def test_a_planted_bug_changes_the_ratio(
    module: ModuleType, text: str, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(module, text, bug)
    if module is rounds:
        monkeypatch.setattr(figures, "median", wrong.median)
        wrong = figures
    ours, theirs = decode_entries()
    assert wrong.ratio(ours, theirs) != 2.0


@given(st.lists(st.floats(1e-6, 1e3), min_size=1), st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_ratios_are_each_other_s_reciprocal_and_do_not_depend_on_the_order(a: list[float], b: list[float]) -> None:
    there, back = figures.ratio(entry(*a), entry(*b)), figures.ratio(entry(*reversed(b)), entry(*a))
    assert there * back == pytest.approx(1.0, rel=2**-50)  # four divisions and a product, each within 2⁻⁵³
    assert figures.ratio(entry(*a), entry(*a)) == 1.0


@pytest.mark.parametrize(
    ("clean", "dirty", "want"),
    [
        ([1.0, 2.0, 9.0], [0.1], (2.0, False)),
        ([1.0, 2.0], [], (1.5, False)),
        ([1.0, 2.0], [3.0], (2.0, True)),
        ([], [3.0], (3.0, True)),
    ],
)
def test_disturbed_samples_count_where_too_few_others_were_had(
    clean: list[float], dirty: list[float], want: tuple[float, bool]
) -> None:
    assert rounds.median({"clean": clean, "dirty": dirty}) == want


def test_no_sample_is_said() -> None:
    with pytest.raises(ValueError, match=r"no sample was taken: .*measure again"):
        rounds.median({"clean": [], "dirty": []})


def test_the_page_shows_figures_ratios_verdicts_and_marks() -> None:
    text = page.page(record())
    assert "| lepton_ref, numba | – | 200 (2.00 ×) |" in text
    assert "| llama.cpp | – | 100 |" in text
    assert "320*" in text
    assert "decode at context 16, 2 threads: ≥ 2 × llama.cpp | 2.00 ×, 78% of the bandwidth | met |" in text
    assert "prefill of 128, 2 threads: ≥ 2.5 × llama.cpp | 2.00 × | MISSED |" in text
    assert "| float32 product by OpenBLAS | 107.4 GFLOP/s |" in text
    assert "| Q8_0, `w8a8` | 10.7 GB/s (80%) |" in text
    assert "Q8_0, `w8a8`, 2 threads: ≥ 85% of the bandwidth | 80% | MISSED |" in text
    assert "the same, `reference`, 2 threads: ≥ 60% of sgemm's speed | 50% | MISSED |" in text
    assert "start: ≤ 1 s after llama.cpp | +1.25 s | MISSED |" in text
    assert max(map(len, text.split("## Smol")[0].splitlines())) <= 120


def test_the_bandwidth_decides_where_it_is_the_lower_limit() -> None:
    near = record()
    near["models"]["smollm2-q4_0"]["bytes"] = 57 << 20
    found = near["models"]["smollm2-q4_0"]["threads"]["2"]["decode16"]
    found[tasks.OURS] = entry(0.0052, 0.0052, 0.0052)
    assert "1.92 ×, 86% of the bandwidth | met |" in page.page(near)
    near["models"]["smollm2-q4_0"]["bytes"] = 50 << 20
    assert "1.92 ×, 75% of the bandwidth | MISSED |" in page.page(near)


def test_what_is_missing_is_named_with_its_reason() -> None:
    text = page.page(record()).split("## Not measured")[1]
    assert "- onnxruntime, float32: no Python that has it was given, or found." in text
    assert "- transformers, bfloat16: it was left out of this run." in text
    assert "llama.cpp:" not in text
    gone = record()
    for found in gone["models"]["smollm2-q4_0"]["threads"]["2"].values():
        del found[tasks.LLAMA_CPP]
    assert "- llama.cpp: it was left out of this run." in page.page(gone)
    assert "–" in page.readme_table(gone)


def test_every_engine_is_a_figure_or_a_reason() -> None:
    text = page.page(record())
    assert all(f"| {engine.name} |" in text or f"- {engine.name}:" in text for engine in tasks.ENGINES)


def test_a_missing_peer_that_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(figures, "        if not measured:\n", "        if False:\n")
    monkeypatch.setattr(page, "missing", wrong.missing)
    text = page.page(record())
    assert not all(f"| {engine.name} |" in text or f"- {engine.name}:" in text for engine in tasks.ENGINES)


@pytest.mark.parametrize("part", ["machine", "models", "missing"])
def test_a_record_that_lacks_a_part_is_refused(part: str) -> None:
    less = record()
    del less[part]
    with pytest.raises(ValueError, match=f"the record lacks {part}: make it with `make peers`"):
        page.page(less)


def test_the_plot_is_of_the_figures() -> None:
    tree = ET.fromstring(plot.drawing(record()))
    texts = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"200", "100", "640", "320", "SmolLM2-135M, Q4_0", tasks.LLAMA_CPP} <= set(texts)
    bars = {
        float(node.attrib["width"])
        for node in tree.iter("{http://www.w3.org/2000/svg}rect")
        if node.attrib["height"] == str(plot.BAR) and node.attrib.get("fill") in plot.COLOURS.values()
    }
    assert bars == {plot.COLUMN - 46.0, (plot.COLUMN - 46) / 2}


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no models to draw"):
        plot.drawing(record() | {"models": {}})


def test_readme_s_table_is_written_between_its_markers() -> None:
    table = page.readme_table(record())
    assert "| SmolLM2-135M, Q4_0 | 200, 100 (2.00 ×) | 640, 320* (2.00 ×) |" in table
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.with_table(text, table) == f"before\n{page.BEGIN}\n{table}\n{page.END}\nafter\n"
    with pytest.raises(ValueError, match=r"README\.md has no"):
        page.with_table(f"{page.BEGIN} alone", table)


def test_the_pages_are_those_of_the_record() -> None:
    if not page.RECORD.exists():
        assert not page.PAGE.exists()
        return
    kept = json.loads(page.RECORD.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.page(kept)
    assert page.PLOT.read_text(encoding="utf-8") == plot.drawing(kept)
    readme = page.README.read_text(encoding="utf-8")
    if page.BEGIN in readme:
        assert page.with_table(readme, page.readme_table(kept)) == readme


def test_a_changed_figure_changes_page_plot_and_readme() -> None:
    changed = copy.deepcopy(record())
    changed["models"]["smollm2-q4_0"]["threads"]["2"]["decode16"][tasks.OURS]["clean"] = [0.001] * 3
    for make in (page.page, plot.drawing, page.readme_table):
        assert make(changed) != make(record())


@pytest.mark.parametrize("threads", [1, 2])
def test_an_operation_uses_the_threads_that_the_record_names(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    kernels = importlib.import_module("peers_kernels")
    made = kernels.Kernels("", threads, {"backend": "numba"})
    ops, op_linear = (importlib.import_module(f"lepton_ref.backends.numba_{name}") for name in ("ops", "op_linear"))
    real = op_linear.real_linear
    monkeypatch.setattr(ops, "ALONE", 0)
    monkeypatch.setattr(op_linear, "real_linear", lambda *given: (seen.add(threading.get_ident()), real(*given)))
    made.prepared("linear", {"precision": "reference", "format": "F32", "shape": [1, 64, 32]})()
    assert len(seen) == threads


def test_every_model_task_and_operation_has_one_name() -> None:
    for listed in (tasks.ENGINES, tasks.TASKS, tasks.OPERATIONS):
        names = [one.name for one in listed]
        assert len(set(names)) == len(names)
    assert {one.beside for one in tasks.OPERATIONS} - {""} <= {one.name for one in tasks.OPERATIONS}
    assert set(plot.COLOURS) == {engine.name.split(",")[0] for engine in tasks.ENGINES}


def test_processor_and_instruction_sets_are_read() -> None:
    first = "processor : 0\ncpu family : 26\nmodel : 2\nmodel name : One\nflags : fpu avx2 avx512_vnni\n"
    text = f"{first}\nmodel name : Two\n"
    assert machine.processor(text) == {"cpu": "One (family 26, model 2)", "instructions": ["avx2", "avx512_vnni"]}
