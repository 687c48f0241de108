"""Asking engines in turn, in processes of their own: order, disturbed samples, failures, and what a worker is given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import mutated

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

rounds, process, worker, run, tasks = (
    importlib.import_module(f"peers{name}") for name in ("_rounds", "_process", "_worker", "", "_tasks")
)
TINY = ROOT / "golden" / "tiny" / "llama"


def nothing() -> None:
    pass


def engine(
    name: str, asked: list[str], foreign: Callable[[int], float] = lambda _: 0.0
) -> Callable[[], dict[str, Any]]:
    count = iter(range(1000))

    def ask() -> dict[str, Any]:
        asked.append(name)
        return {"seconds": 1.0, "wall": 1.0, "foreign": foreign(next(count))}

    return ask


def test_engines_take_turns() -> None:
    asked: list[str] = []
    found = rounds.in_turn({name: engine(name, asked) for name in "ab"}, 3, before=nothing)
    assert "".join(asked) == "ababab"
    assert found == {name: {"clean": [1.0] * 3, "dirty": []} for name in "ab"}


def test_one_after_the_other_is_found() -> None:
    wrong = mutated(rounds, "        for name in left:\n", "        for name in left[:1]:\n")
    asked: list[str] = []
    wrong.in_turn({name: engine(name, asked) for name in "ab"}, 3, before=nothing)
    assert "".join(asked) != "ababab"


def test_disturbed_samples_are_taken_again_and_kept_apart() -> None:
    asked: list[str] = []
    every_other = engine("a", asked, lambda number: 0.5 * (number % 2))
    found = rounds.in_turn({"a": every_other}, 3, before=nothing)
    assert found["a"] == {"clean": [1.0] * 3, "dirty": [1.0] * 2}


def test_an_end_is_found_where_every_sample_is_disturbed() -> None:
    asked: list[str] = []
    found = rounds.in_turn({"a": engine("a", asked, lambda _: 2.0)}, 3, before=nothing)
    assert found["a"]["clean"] == []
    assert len(asked) == rounds.TRIES * 3
    assert rounds.median(found["a"]) == (1.0, True)


@pytest.mark.parametrize(("wall", "count"), [(3.9, 7), (4.1, 3), (12.1, 1)])
def test_slow_engines_are_asked_less_often(wall: float, count: int) -> None:
    found = rounds.in_turn({"a": lambda: {"seconds": wall, "wall": wall, "foreign": 0.0}}, 7, before=nothing)
    assert found["a"]["clean"] == [wall] * count


def test_a_failed_engine_is_asked_once_and_its_error_kept() -> None:
    found = rounds.in_turn({"a": lambda: {"error": "it fell"}}, 3, before=nothing)
    assert found == {"a": {"clean": [], "dirty": [], "error": "it fell"}}


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0; 7 is"):
        rounds.in_turn({}, 0)


@pytest.mark.parametrize(("foreign", "wall", "want"), [(0.09, 1.0, True), (0.1, 1.0, False), (0.012, 0.01, True)])
def test_a_sample_is_clean_up_to_a_share_and_a_tick(foreign: float, wall: float, want: bool) -> None:
    assert rounds.clean({"foreign": foreign, "wall": wall}) is want


def test_busy_time_is_all_but_idle_and_waiting() -> None:
    stat = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
    assert worker.busy_seconds(stat) * worker.TICKS == 100 + 20 + 30 + 6 + 7 + 8


def test_prompts_are_the_same_and_within_the_vocabulary() -> None:
    ids = worker.prompt(512, 2000)
    assert worker.prompt(128, 2000) == ids[:128]
    assert min(ids) >= 1000
    assert max(ids) < 2000
    assert len(set(ids)) > 100


def test_a_worker_gets_threads_and_no_foreign_kernels() -> None:
    found = process.environment(2, {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "1", "HOME": "h"})
    assert found == {"HOME": "h"} | dict.fromkeys(process.THREADS, "2")


def make_run(tmp_path: Path, **pythons: str | None) -> Any:
    return run.Run(pythons, tmp_path, 1, tmp_path / "record.json", 0.0)


@pytest.mark.parametrize(
    ("python", "reason"),
    [(None, "no Python that has it was given, or found"), ("/there/is/none", "/there/is/none does not start: No such")],
)
def test_an_engine_without_a_python_is_named(tmp_path: Path, python: str | None, reason: str) -> None:
    made = make_run(tmp_path, other=python)
    made.have(process.Engine("an engine", "other", "lepton_ref"), "", 1, workers := {})
    assert not workers
    assert made.record["missing"]["an engine"][0].startswith(reason)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("llama_cpp", {}, "ModuleNotFoundError: No module named 'llama_cpp'"),
        ("lepton_ref", {"backend": "none of them"}, "ValueError: no backend named 'none of them'"),
        ("unknown", {}, "KeyError: 'unknown'"),
    ],
)
def test_an_engine_that_does_not_load_is_named(tmp_path: Path, kind: str, options: dict[str, Any], reason: str) -> None:
    if kind == "llama_cpp" and importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("llama_cpp is installed here")
    made = make_run(tmp_path, ours=sys.executable)
    made.have(process.Engine("an engine", "ours", kind, options), str(TINY), 1, workers := {})
    assert not workers
    assert made.record["missing"]["an engine"][0].startswith(reason)


def test_a_worker_that_ends_is_an_error_and_no_hang(tmp_path: Path) -> None:
    child = process.Worker(sys.executable, 1, tmp_path / "log")
    child.process.kill()
    child.process.wait()
    assert "the process ended with -9" in child.ask(do="tokens")["error"]
    child.close()


def test_a_worker_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(process, "SCRIPT", tmp_path / "silent.py")
    monkeypatch.setattr(process, "LONGEST", 0.1)
    child = process.Worker(sys.executable, 1, tmp_path / "log")
    assert "ended with -9, perhaps since it took more than 0.1 s" in child.ask(do="tokens")["error"]
    child.close()


def test_a_tiny_model_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    chosen = process.Engine("ours", "ours", "lepton_ref", {"backend": "numpy", "precision": "reference"})
    child, versions = process.load(chosen, sys.executable, str(TINY), 1, tmp_path / "log")
    assert {"lepton_ref", "numpy", "python"} <= set(versions)
    for question in ({"prefill": 4, "repeat": 2}, {"context": 4, "decode": 3}, {"context": 4, "decode": 3}):
        sample = child.ask(do="tokens", **question)
        assert 0 < sample["seconds"] <= sample["wall"]
    wrong = child.ask(do="dance")
    assert wrong["error"] == "ValueError: unknown question 'dance'; known: load, start, tokens, call"
    assert "error" not in child.ask(do="tokens", prefill=4, repeat=1)
    child.close()


def test_going_back_to_a_context_gives_the_same_tokens(tmp_path: Path) -> None:
    engines = importlib.import_module("peers_engines")
    ours = engines.Ours(str(TINY), None, {"backend": "numpy", "precision": "reference"})

    def going_on(token: int) -> list[int]:
        return [token, *(token := ours.feed([token]) for _ in range(3))]

    runs = [going_on(ours.after([5, 6, 7])) for _ in range(2)]
    ours.reset()
    runs.append(going_on(ours.feed([5, 6, 7])))
    assert runs[0] == runs[1] == runs[2]


def test_a_start_is_measured(tmp_path: Path) -> None:
    child = process.Worker(sys.executable, 1, tmp_path / "log")
    options = {"backend": "numpy", "precision": "reference"}
    sample = child.ask(do="start", kind="lepton_ref", path=str(TINY), threads=1, options=options, context=4)
    assert sample["seconds"] > 0.01
    child.close()


def test_operations_are_measured(tmp_path: Path) -> None:
    chosen = process.Engine("ours", "ours", "kernels", {"backend": "numpy"})
    child, _ = process.load(chosen, sys.executable, "", 1, tmp_path / "log")
    linear = {"precision": "w8a8", "format": "Q8_0", "shape": [1, 70, 64]}
    for name, arguments in [("read", {"bytes": 1 << 16}), ("sgemm", {"shape": [4, 8, 16]}), ("linear", linear)]:
        sample = child.ask(do="call", name=name, arguments=arguments, repeat=2)
        assert sample["seconds"] > 0
        assert sample["wall"] >= sample["seconds"]
    wrong = child.ask(do="call", name="other", arguments={}, repeat=1)
    assert wrong["error"] == "ValueError: unknown operation 'other'; known: read, sgemm, linear"
    child.close()


def test_the_precision_is_the_model_s_where_it_is_asked_for() -> None:
    ours = next(one for one in tasks.ENGINES if one.name == tasks.OURS)
    assert run.for_model(ours, tasks.MODELS["smollm2-q8_0"]).options["precision"] == "w8a8"
    reference = next(one for one in tasks.ENGINES if one.name == tasks.OUR_REFERENCE)
    assert run.for_model(reference, tasks.MODELS["smollm2-q8_0"]).options["precision"] == "reference"
