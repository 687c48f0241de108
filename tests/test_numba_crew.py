"""Threads that stay in compiled code between steps: called while they look, called while they sleep, sent back."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_numba_model import VOCABULARY, drawn, numba, same, twin

from lepton_ref.backends import numba_crew
from lepton_ref.backends.numba_crew import Crew
from lepton_ref.backends.numba_threads import ASLEEP, BUSY, CALLED, LINE, STATE, WAITING, Team
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


def states(model: Model) -> list[int]:
    """Of all threads but the caller's."""
    return [int(state) for state in crew_of(model).team.boxes[LINE + STATE :: LINE]]


def until(model: Model, state: int) -> None:
    """Wait until all threads are in this state."""
    end = time.monotonic() + 30
    while set(states(model)) != {state} and time.monotonic() < end:
        time.sleep(0.01)
    assert set(states(model)) == {state}


@pytest.mark.parametrize("threads", [2, 3])
def test_steps_find_threads_waiting_or_asleep(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, want = pair(threads)
    for most, state in ((1 << 60, WAITING), (0, ASLEEP)):
        monkeypatch.setattr(numba_crew, "LONG", most)
        team = Team(threads)
        monkeypatch.setattr(model.backend.kernels["program", type(None)].teams, "_by_size", {threads: team})
        model._memo.clear()
        for _ in range(3):
            same(want, model.forward(IDS))
            until(model, state)
        if state == WAITING:
            team.run(lambda number, size: None)  # which sends them back


def test_every_box_is_a_cache_line() -> None:
    assert all(Team(size).boxes.ctypes.data % 64 == 0 for size in range(1, 9))
    assert LINE * 8 == 64


def test_threads_that_wait_for_a_step_come_back_for_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_crew, "LONG", 1 << 60)  # they would look for ever
    model, want = pair(2)
    for _ in range(3):
        same(want, model.forward(IDS))
        team = crew_of(model).team
        assert team.boxes[LINE] == WAITING
        assert team.run(lambda number, size: number + size) == 2
        assert team.boxes[LINE] == ASLEEP


class Interrupted:
    """A queue at which an interrupt comes as soon as something is in it, or before."""

    def __init__(self, queue: Any, *, after: bool) -> None:
        self.queue, self.after = queue, after

    def put(self, task: Any) -> None:
        if self.after:
            self.queue.put(task)
            time.sleep(0.02)  # the thread has begun
        raise KeyboardInterrupt


def interrupt(number: int, *, after: bool) -> None:
    """A step whose threads are interrupted while they are woken, and one behind it."""
    model, want = pair(3)
    same(want, model.forward(IDS))
    for _ in range(3):
        until(model, ASLEEP)
        team = crew_of(model).team
        queue = team._tasks[number]
        team._tasks[number] = Interrupted(queue, after=after)  # type: ignore[call-overload]
        with pytest.raises(KeyboardInterrupt):
            model.forward(IDS)
        team._tasks[number] = queue
        assert not {CALLED, BUSY} & set(states(model))
        same(want, model.forward(IDS))


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_an_interrupt_while_threads_are_woken_leaves_a_crew_that_works(number: int, after: bool) -> None:
    interrupt(number, after=after)


def test_a_call_that_stands_after_an_interrupt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: nothing is taken back."""
    monkeypatch.setattr(numba_crew, "take_back", lambda team, boxes: None)
    with pytest.raises(AssertionError):
        interrupt(0, after=False)


def test_a_call_that_nobody_took_back_is_taken_back_by_the_next() -> None:
    """As after a second interrupt, which came while the first was dealt with."""
    model, want = pair(2)
    same(want, model.forward(IDS))
    until(model, ASLEEP)
    crew_of(model).team.boxes[LINE + STATE] = CALLED
    same(want, model.forward(IDS))


def test_two_models_share_a_team_and_one_may_go() -> None:
    (one, want), (other, same_again) = pair(2), pair(2)
    for _ in range(3):
        same(want, one.forward(IDS))
        same(same_again, other.forward(IDS))
    assert crew_of(one).team is crew_of(other).team
    del one
    gc.collect()
    same(same_again, other.forward(IDS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_calls_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_crew, "LONG", 1 << 60)
    model, want = pair(2)
    same(want, model.forward(IDS))
    assert states(model) == [WAITING]  # in the child there is nobody who waits
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(model.forward(IDS), want) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    crew_of(model).team.run(lambda number, size: None)  # who would look for ever comes back
