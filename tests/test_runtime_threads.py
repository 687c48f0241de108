"""`threads=`: checked when a model is loaded, in force while it runs, and gone afterwards."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest
import threadpoolctl
from tiny_models import load

from lepton_ref import Model
from lepton_ref.models import execute
from lepton_ref.runtime.threads import ThreadLimit

TINY = golden_cases.GOLDEN / "tiny"


def now() -> set[int]:
    """How many threads each BLAS in this process may use."""
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """A machine of one core too starts from two, so that a limit of one is seen."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert now() == {2}
        yield


@pytest.mark.parametrize(
    ("threads", "error", "text"),
    [
        (0, ValueError, "threads must be at least 1, got 0; leave it out for all that there are"),
        (-2, ValueError, "threads must be at least 1, got -2"),
        (True, TypeError, "threads must be an integer of at least 1, or None, got True"),
        (1.0, TypeError, "threads must be an integer of at least 1, or None, got 1.0"),
        ("2", TypeError, "threads must be an integer of at least 1, or None, got '2'"),
        ([1], TypeError, r"threads must be an integer of at least 1, or None, got \[1\]"),
    ],
)
def test_a_wrong_number_is_refused_by_loading(threads: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load(TINY / "llama", threads=threads)


def test_the_missing_extra_is_named_by_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match=r"threads=… needs threadpoolctl: pip install 'lepton-ref\[threads\]'"):
        load(TINY / "llama", threads=1)
    load(TINY / "llama").forward([[1]])


def test_the_extra_that_the_message_names_exists() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    extra = tomllib.loads(text)["project"]["optional-dependencies"]["threads"]
    assert [line.partition(">")[0] for line in extra] == ["threadpoolctl"]


def limits_seen(
    model: Model, patch: pytest.MonkeyPatch, *, then: Callable[[], object] = lambda: None
) -> list[set[int]]:
    """What the limit was at each norm of a run."""
    seen: list[set[int]] = []
    plain = execute.HANDLERS["rms_norm"]

    def watched(run: Any, op: Any, x: Any) -> Any:
        seen.append(now())
        then()
        return plain(run, op, x)

    patch.setattr(execute, "HANDLERS", {**execute.HANDLERS, "rms_norm": watched})
    model.forward([[5, 6, 7]])
    return seen


@pytest.mark.parametrize(("threads", "within"), [(None, 2), (1, 1), (np.int64(1), 1), (2, 2)])
def test_the_limit_holds_while_the_model_runs(
    threads: int | None, within: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(TINY / "llama", threads=threads)
    assert now() == {2}, "loading changes nothing"
    assert limits_seen(model, monkeypatch) == 5 * [{within}]
    assert now() == {2}


def test_a_limit_that_does_not_hold_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadLimit, "__enter__", lambda self: None)
    monkeypatch.setattr(ThreadLimit, "__exit__", lambda self, *_: None)
    assert limits_seen(load(TINY / "llama", threads=1), monkeypatch) == 5 * [{2}]


def test_a_run_that_fails_leaves_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MemoryError("planted")

    with pytest.raises(MemoryError, match="planted"):
        limits_seen(load(TINY / "llama", threads=1), monkeypatch, then=fail)
    assert now() == {2}


def test_the_last_to_leave_restores_what_the_first_found() -> None:
    limit = ThreadLimit(1)
    limit.__enter__()
    limit.__enter__()
    limit.__exit__(None, None, None)
    assert now() == {1}, "one is still inside"
    limit.__exit__(None, None, None)
    assert now() == {2}


def test_two_threads_in_a_limited_model() -> None:
    model = load(TINY / "llama", threads=1)
    want = load(TINY / "llama").forward([[5, 6, 7]]).tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.forward([[5, 6, 7]]).tobytes(), range(40)))
    assert set(found) == {want}
    assert now() == {2}
