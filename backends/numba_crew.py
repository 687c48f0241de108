"""A team inside compiled code: one call starts a step in all threads, which then stay ready for the next for a while.

Waking a thread that sleeps in Python takes as long as reading four megabytes of weights, and from one token to the next
nothing but some Python lies between. So a thread that has done its share looks for the next call before it goes back to
sleep: at its box, first without a break, then giving its turn away at each look.

A box, the thread's mailbox, is a cache line of its own. Its state is ASLEEP while the thread is parked in Python,
WAITING while it looks (spins), CALLED from the call on, BUSY while it does its share. The caller turns WAITING or
ASLEEP into CALLED, and wakes who was asleep; the thread turns CALLED into BUSY, that into WAITING, and WAITING into
ASLEEP when it has looked long enough. Both leave CALLED by compare and swap, so that a call can be taken back: either
the thread has begun, and is waited for, or it never will.

What a step takes is a block of integers, `Control`: two for each array are its address and shape, so that neither the
caller nor the threads unpack two dozen arrays of Python's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_bytes import address
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_memory import (
    bytes_at,
    bytes_in_rows,
    codes_at,
    doubles_at,
    doubles_in_rows,
    floats_at,
    integers_at,
    integers_in_rows,
    words_at,
)
from lepton_ref.backends.numba_step import FAR, step
from lepton_ref.backends.numba_threads import (
    ASLEEP,
    BUSY,
    CALLED,
    LINE,
    PLACE,
    SIZE,
    START,
    STATE,
    WAITING,
    WOKEN,
    Team,
    atomic_load,
    atomic_store,
    compare_and_swap,
    give_way,
    pause,
)

BRIEF, LONG = 4000, 8000
"""Looks without a break, some 50 microseconds, and all looks: on an idle core some milliseconds."""

ARRAYS = (
    "records", "reals", "segments", "ats", "F", "V", "ropes", "layers", "I", "M", "Q", "D", "N", "L", "P", "G", "bytes",
    "doubles", "meeting", "stops", "stuck",
)  # fmt: skip
"""Arrays of a step in their order; see `lepton_ref.backends.numba_step.step`."""

MEETING, STOPS, STUCK = (2 + 3 * ARRAYS.index(name) for name in ("meeting", "stops", "stuck"))
"""Where the block has these arrays."""


class Control:
    """The block of integers: N, the number of picked rows, then address, rows and columns of each array."""

    def __init__(self) -> None:
        self.block = np.zeros(2 + 3 * len(ARRAYS), dtype=np.int64)
        self.held: list[NDArray[Any] | None] = [None] * len(ARRAYS)

    def set(self, rows: int, picked: int, arrays: tuple[NDArray[Any], ...]) -> NDArray[np.int64]:
        """Write down what has changed. Arrays are held, so that none of them is gone before the next."""
        self.block[0], self.block[1] = rows, picked
        for number, array in enumerate(arrays):
            if array is not self.held[number]:
                shape = array.shape if array.ndim == 2 else (1, array.size)
                self.block[2 + 3 * number : 5 + 3 * number] = array.ctypes.data, *shape
                self.held[number] = array
        return self.block


@njit(inline="always")
def enter(t: Any, team: Any, isa: Any, start: Any, C: Any) -> Any:
    """The step with its arrays."""
    return step(
        t, team, isa, start, C[0], C[1],
        integers_in_rows(C[2], C[3], C[4]), doubles_in_rows(C[5], C[6], C[7]), integers_in_rows(C[8], C[9], C[10]),
        integers_in_rows(C[11], C[12], C[13]), floats_at(C[14], C[16]), floats_at(C[17], C[19]),
        integers_in_rows(C[20], C[21], C[22]), integers_in_rows(C[23], C[24], C[25]), integers_at(C[26], C[28]),
        bytes_at(C[29], C[31]), codes_at(C[32], C[34]), doubles_at(C[35], C[37]), words_at(C[38], C[40]),
        doubles_at(C[41], C[43]), doubles_at(C[44], C[46]), codes_at(C[47], C[49]), bytes_in_rows(C[50], C[51], C[52]),
        doubles_in_rows(C[53], C[54], C[55]), integers_at(C[56], C[58]), integers_at(C[59], C[61]),
        integers_in_rows(C[62], C[63], C[64]),
    )  # fmt: skip


@njit(nogil=True, _nrt=False)
def _begin(C: Any) -> None:
    """Nobody has come, stopped, or left anything to Python."""
    integers_at(C[MEETING], C[MEETING + 2])[:] = 0
    integers_at(C[STOPS], C[STOPS + 2])[:] = FAR
    integers_in_rows(C[STUCK], C[STUCK + 1], C[STUCK + 2])[:, 0] = 0


@njit(nogil=True, _nrt=False)
def _call(team: Any, start: Any, C: Any, boxes: Any) -> Any:
    """Call all others -> how many of them have to be woken."""
    asleep = 0
    for t in range(1, team):
        box = LINE * t
        boxes[box + START], boxes[box + PLACE], boxes[box + SIZE] = start, address(C), C.size
        waiting = compare_and_swap(boxes, box + STATE, WAITING, CALLED)
        boxes[box + WOKEN] = 0 if waiting else 1
        if not waiting:
            atomic_store(boxes, box + STATE, CALLED)
            asleep += 1
    return asleep


@njit(nogil=True, cache=True, _nrt=False)
def take_back(team: Any, boxes: Any) -> None:
    """No call stands any more when this ends: who had not begun never does, who had is freed from its barrier."""
    for t in range(1, team):
        box, looks = LINE * t, 0
        if atomic_load(boxes, box + STATE) == CALLED:
            compare_and_swap(boxes, box + STATE, CALLED, ASLEEP)
        while atomic_load(boxes, box + STATE) == BUSY:
            block = integers_at(boxes[box + PLACE], boxes[box + SIZE])
            atomic_store(integers_at(block[MEETING], block[MEETING + 2]), 1, 1)
            _look(looks)
            looks += 1


@njit(nogil=True, _nrt=False)
def _look(looks: Any) -> None:
    """Let a moment pass, and after many let others run."""
    if looks < BRIEF:
        pause()
    else:
        give_way()


@njit(nogil=True, _nrt=False)
def _called(box: Any, boxes: Any, most: Any) -> Any:
    """Wait for a call; False where there was none in so many looks."""
    looks = 0
    while True:
        state = atomic_load(boxes, box + STATE)
        if state == CALLED and compare_and_swap(boxes, box + STATE, CALLED, BUSY):
            return True
        looks += 1
        if state == ASLEEP or (looks > most and compare_and_swap(boxes, box + STATE, WAITING, ASLEEP)):
            return False
        _look(looks)


@njit(nogil=True, cache=True, _nrt=False)
def work(t: Any, team: Any, isa: Any, start: Any, C: Any, boxes: Any, most: Any) -> Any:
    """A thread's part of steps: one function, so that all of it is compiled once.

    Number 0 calls the others, does its share, waits until all have done theirs, and returns what the step gave; or −1,
    and nothing done, where some have to be woken before: then it is called again with `most` = 1. The others attend:
    they do what they are called for until so many looks have found no call.

    Args:
        t, team: this thread's number, and how many there are.
        isa: the instruction set.
        start: the first record.
        C: the block of a `Control`. The others find theirs in their boxes.
        boxes: the team's.
        most: looks.
    """
    if t == 0 and most == 0:
        take_back(team, boxes)  # what an interrupt has left, even one that came while another was dealt with
        _begin(C)
        if _call(team, start, C, boxes) > 0:
            return -1
    block, result = C, FAR
    while t == 0 or _called(LINE * t, boxes, most):
        if t > 0:
            start = boxes[LINE * t + START]
            block = integers_at(boxes[LINE * t + PLACE], boxes[LINE * t + SIZE])
        result = enter(t, team, isa, start, block)
        if t == 0:
            break
        atomic_store(boxes, LINE * t + STATE, WAITING)
    if t == 0:
        for other in range(1, team):
            looks = 0
            while atomic_load(boxes, LINE * other + STATE) >= CALLED:
                looks += 1
                _look(looks)
    return result


class Crew:
    """A team that runs steps.

    Args:
        team: its threads.
        isa: the instruction set.
    """

    def __init__(self, team: Team, isa: Any) -> None:
        self.team, self.isa = team, isa

    def run(self, start: int, control: NDArray[np.int64]) -> int:
        """Compute records from `start` on -> what number 0 gave.

        Args:
            start: the first record.
            control: a `Control`'s block.
        """
        team = self.team
        if team.size == 1:
            return int(work(0, 1, self.isa, start, control, team.boxes, 0))
        with team.together():
            try:
                at = work(0, team.size, self.isa, start, control, team.boxes, 0)
                if at < 0:
                    team.wake(work, self.isa, control, LONG)
                    at = work(0, team.size, self.isa, start, control, team.boxes, 1)
            except BaseException:
                take_back(team.size, team.boxes)
                raise
        return int(at)
