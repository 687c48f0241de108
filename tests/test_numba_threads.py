"""Teams of threads that meet at barriers inside compiled code: nobody waits for one that will not come."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_threads import Team, Turn, available_cores, barrier


@njit(nogil=True)
def take_turns(t: Any, team: Any, meeting: Any, shared: Any, rounds: Any) -> Any:
    """Each thread adds what its neighbour had in the round before: a thread that runs ahead spoils the sums."""
    for n in range(rounds):
        shared[(n + 1) % 2 * team + t] = shared[n % 2 * team + (t + 1) % team] + 1
        if not barrier(meeting, team):
            return -1
    return rounds


@njit(nogil=True)
def without_barriers(t: Any, team: Any, meeting: Any, shared: Any, rounds: Any) -> Any:
    for n in range(rounds):
        shared[(n + 1) % 2 * team + t] = shared[n % 2 * team + (t + 1) % team] + 1
    return rounds


def sums(team: Team, function: Any, rounds: int) -> list[int]:
    shared = np.zeros(2 * team.size, dtype=np.int64)
    assert team.run(function, np.zeros(2, dtype=np.int64), shared, rounds) == rounds
    return [int(shared[rounds % 2 * team.size + t]) for t in range(team.size)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_threads_meet_at_every_barrier(size: int) -> None:
    assert sums(Team(size), take_turns, 300) == [300] * size


def test_the_check_sees_a_barrier_that_is_missing() -> None:
    assert sums(Team(2), without_barriers, 20000) != [20000] * 2


def test_a_thread_that_raises_frees_the_others() -> None:
    meeting, shared = np.zeros(2, dtype=np.int64), np.zeros(4, dtype=np.int64)

    def work(t: int, team: int) -> None:
        if t == 1:
            raise RuntimeError("thread 1 fails")
        assert take_turns(t, team, meeting, shared, 5) == -1

    def give_up() -> None:
        meeting[1] = 1

    team = Team(2)
    with pytest.raises(RuntimeError, match="thread 1 fails"):
        team.run(work, give_up=give_up)
    assert sums(team, take_turns, 10) == [10, 10]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_has_threads_and_locks_of_its_own() -> None:
    team, turn = Team(2), Turn()
    assert sums(team, take_turns, 10) == [10, 10]
    with turn.lock():
        child = os.fork()
        if child == 0:
            with turn.lock():  # held by the parent, for ever as the child sees it
                os._exit(0 if sums(team, take_turns, 10) == [10, 10] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_there_is_a_core() -> None:
    assert available_cores() >= 1
