"""The cases that asv measures: right by their own bound, a wrong result seen, every benchmark runs."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "asv_bench"))

cases, operands, linear, others, models = (
    importlib.import_module(f"benchmarks.{name}") for name in ("cases", "operands", "linear", "others", "models")
)


@pytest.mark.parametrize("kind", linear.KINDS)
def test_a_linear_layer_is_within_its_bound(kind: str) -> None:
    precision, stored = kind.split()
    case = cases.linear("numpy", precision, stored, (3, 96, 256))
    assert 0.5 < case.error_over_bound() <= 1.0  # of some 300 roundings one is nearly half an ulp
    assert case.operations == 2 * 3 * 96 * 256


@pytest.mark.parametrize("precision", ["reference", "bf16", "fast"])
@pytest.mark.parametrize("op", list(cases.OPS))
def test_an_op_is_within_its_bound(op: str, precision: str) -> None:
    assert 0.0 < cases.OPS[op]("numpy", precision, 2).error_over_bound() <= 1.0


@pytest.mark.parametrize("op", list(cases.OPS))
def test_a_result_one_ulp_away_is_seen(op: str) -> None:
    case = cases.OPS[op]("numpy", "reference", 2)
    beside = dataclasses.replace(case, result=lambda: np.nextafter(case.result(), np.float32(np.inf)))
    assert beside.error_over_bound() > 1.0


def test_an_inverted_ratio_is_seen() -> None:
    wrong = mutated(cases, "np.divide(error, bound,", "np.divide(bound, error,").linear
    assert not 0.5 < wrong("numpy", "reference", "F32", (3, 96, 256)).error_over_bound() <= 1.0


def test_what_the_rounding_test_leaves_open_is_counted() -> None:
    share = cases.linear("numpy", "w4a8", "Q4_0", (64, 256, 512)).ambiguous_share()
    assert 0.0 < share < 0.05
    assert cases.linear("numpy", "fast", "F32", (2, 64, 64)).ambiguous_share() == 0.0  # nothing is proven


def test_bytes_are_those_of_weight_input_and_result() -> None:
    case = cases.linear("numpy", "w8a8", "Q8_0", (2, 64, 128))
    assert case.nbytes == 64 * 128 // 32 * 34 + 4 * 2 * (64 + 128)


def test_a_backend_that_is_not_there_is_left_out() -> None:
    with pytest.raises(NotImplementedError, match="backend none of them: no backend named"):
        cases.backend_of("none of them")


@given(st.integers(1, 200), st.sampled_from(["F32", "BF16", "Q8_0", "Q4_1"]))
def test_a_matrix_has_its_rows_over_and_over(rows: int, stored: str) -> None:
    weight = operands.random_weight(stored, rows, 64)
    again = operands.random_weight(stored, rows, 64)
    assert weight.shape == (rows, 64)
    assert np.array_equal(weight.decode(), again.decode())
    first = operands.random_weight(stored, operands.SOME, 64).decode()
    assert np.array_equal(weight.decode(), np.resize(first, (rows, 64)))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown format 'Q9_0'; known: F64, F32"):
        operands.random_weight("Q9_0", 2, 64)


def test_reading_adds_up_everything() -> None:
    assert operands.reading(8 * 1001, 2)() == 1001
    assert operands.bandwidth(1, nbytes=1 << 16, repeat=1) > 0
    with pytest.raises(ValueError, match="at least 8 bytes and 1 thread are read, got 8 and 0"):
        operands.reading(8, 0)


def classes() -> list[tuple[ModuleType, type]]:
    found = [(module, each) for module in (linear, others, models) for each in vars(module).values()]
    return [
        (module, each)
        for module, each in found
        if isinstance(each, type) and each.__module__ == module.__name__ and hasattr(each, "params")
    ]


@pytest.mark.parametrize(("module", "suite"), classes(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_benchmark_runs(module: ModuleType, suite: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SHAPE", (64, 256))
    monkeypatch.setattr(linear, "bandwidth", lambda threads: operands.bandwidth(threads, nbytes=1 << 16, repeat=1))
    small = cases.linear
    monkeypatch.setattr(linear, "linear", lambda b, p, s, shape: small(b, p, s, (shape[0], 64, 256)))
    monkeypatch.setattr(models, "MODEL", str(ROOT / "golden" / "tiny" / "llama"))
    monkeypatch.setattr(models, "CONTEXT", 4)
    monkeypatch.setattr(models, "ROOM", 2)
    monkeypatch.setattr(models, "FIRST", 5)
    for kept in (linear.made, others.made, models.running):
        kept.cache_clear()
    names = [name for name in vars(suite) if name.startswith(("time_", "peakmem_", "track_"))]
    assert names
    every = list(itertools.product(*vars(suite)["params"]))
    chosen = [one for one in every if "numba" not in one]
    some = chosen[:: max(1, len(chosen) // 4)]
    for one in some:
        made: Any = suite()
        for name in names:  # asv calls setup before every sample
            if hasattr(made, "setup"):
                made.setup(*one)
            value = getattr(made, name)(*one)
            assert not name.startswith("track_") or value >= 0
    assert {kept.cache_info().misses for kept in (linear.made, others.made, models.running)} <= {0, len(some)}
    assert all(hasattr(getattr(suite, name), "unit") for name in names if name.startswith("track_"))


def test_the_configuration_leads_to_the_benchmarks() -> None:
    folder = ROOT / "asv_bench"
    told = json.loads((folder / "asv.conf.json").read_text(encoding="utf-8"))
    assert (folder / told["benchmark_dir"] / "linear.py").exists()
    assert (folder / told["repo"]).resolve() == ROOT
    assert (folder / told["html_dir"]).resolve() == ROOT / ".asv" / "html"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of whole models, on a tiny one whose cache has room for two tokens behind the context."""
    for name, value in {"MODEL": str(ROOT / "golden" / "tiny" / "llama"), "CONTEXT": 4, "ROOM": 2, "FIRST": 5}.items():
        monkeypatch.setattr(models, name, value)
    models.running.cache_clear()
    return models.Model()


def lengths(suite: Any) -> list[int]:
    """How many tokens the cache had where each sample of decoding began."""
    found = []
    for _ in range(5):
        suite.setup("numpy", "reference")
        found.append(suite.running.cache.length)
        suite.time_decode()
    return found


def test_a_sample_is_one_token_and_there_is_always_room_for_it(tiny: Any) -> None:
    assert lengths(tiny) == [5, 4, 5, 4, 5]


def selected(pattern: str) -> set[str]:
    """What asv runs of the suites where it is given that pattern, by the names that it matches."""
    found = set()
    for module, suite in classes():
        for one in itertools.product(*vars(suite)["params"]):
            for name in vars(suite):
                whole = f"{module.__name__.split('.')[1]}.{suite.__name__}.{name}({', '.join(map(repr, one))})"
                if name.startswith(("time_", "peakmem_", "track_")) and re.search(pattern, whole):
                    found.add(whole)
    return found


def test_what_numpy_takes_minutes_for_is_left_out_unless_asked_for() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pattern = re.findall(r"^BENCH \?= (.*)$", makefile, re.MULTILINE)[0].replace("$$", "$")
    left = selected(".") - selected(pattern)
    assert {name.split("(")[0].rsplit(".", 1)[0] for name in left} == {"models.Model", "linear.LargeMatrix"}
    assert all("numpy" in name for name in left)
    assert len(left) == 4 + len(vars(linear.LargeMatrix)["params"][1])  # the model's four benchmarks under w4a8
    assert {name.split("(")[0].rsplit(".", 1)[0] for name in selected(pattern)} == {
        f"{module.__name__.split('.')[1]}.{suite.__name__}" for module, suite in classes()
    }
