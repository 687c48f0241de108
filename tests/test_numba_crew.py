"""Threads that stay in compiled code between steps: called while they look, called while they sleep, sent back."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_numba_model import VOCABULARY, drawn, numba, same, twin

from lepton_ref.backends import numba_crew
from lepton_ref.backends.numba_crew import WAITING, Crew
from lepton_ref.backends.numba_threads import ASLEEP, LINE, Team
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.model import Model

IDS = np.random.default_rng(5).integers(0, VOCABULARY, (2, 5))


def pair(threads: int) -> tuple[Model, NDArray[Any]]:
    """A model on so many threads, and what it gives for IDS on one."""
    model = drawn("llama", PRECISIONS["w8a8"], seed=3, specials=0.0)
    return twin(model, numba(), threads=threads), twin(model, numba()).forward(IDS)


def crew_of(model: Model) -> Crew:
    found: list[Crew] = [kept.crew for kept in model._memo.values() if hasattr(kept, "crew")]
    return found[0]


@pytest.mark.parametrize("threads", [2, 3])
def test_steps_that_find_threads_waiting_and_asleep_give_the_same(threads: int) -> None:
    model, want = pair(threads)
    for rest in (0.0, 0.0, 0.2, 0.0, 0.2):
        same(want, model.forward(IDS))
        time.sleep(rest)


def test_a_thread_goes_to_sleep_by_itself() -> None:
    model, want = pair(2)
    same(want, model.forward(IDS))
    boxes, until = crew_of(model).team.boxes, time.monotonic() + 30
    while boxes[LINE] != ASLEEP and time.monotonic() < until:
        time.sleep(0.01)
    assert boxes[LINE] == ASLEEP


def test_threads_that_wait_for_a_step_come_back_for_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_crew, "LONG", 1 << 60)  # they would look for ever
    model, want = pair(2)
    for _ in range(3):
        same(want, model.forward(IDS))
        team = crew_of(model).team
        assert team.boxes[LINE] == WAITING
        assert team.run(lambda number, size: number + size) == 2
        assert team.boxes[LINE] == ASLEEP


def test_an_interrupt_before_all_are_awake_leaves_a_crew_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    model, want = pair(3)
    same(want, model.forward(IDS))
    time.sleep(0.3)
    wake = Team.wake

    def interrupted(team: Team, *args: Any) -> None:
        monkeypatch.setattr(Team, "wake", wake)
        first, *others = team._tasks
        team._tasks = [first]
        team.wake(*args)  # one of the two
        team._tasks = [first, *others]
        raise KeyboardInterrupt

    monkeypatch.setattr(Team, "wake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.forward(IDS)
    for _ in range(3):
        same(want, model.forward(IDS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_calls_threads_of_its_own() -> None:
    model, want = pair(2)
    same(want, model.forward(IDS))  # the parent's thread waits now, as far as its box says
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(model.forward(IDS), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
