"""A team of Python threads that enter one compiled function together, and the barrier at which they meet inside.

The function releases Python's lock, so the threads run at once; each is given its number and the team's size. Nothing
of OpenMP or TBB is needed, and none of theirs is used. Between calls threads are parked in Python; those that have run
a step stay in compiled code before that, for a while: see `lepton_ref.backends.numba_crew`. After a fork the child
makes threads of its own.

A barrier spins for some microseconds, then gives its turn away at each look: where other work shares the cores, a
thread that only spins would keep the one it waits for from running.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import length_hint
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_memory import aligned
from lepton_ref.backends.numba_types import I64, pointer
from lepton_ref.interface import thread_limit

ASLEEP, WAITING, CALLED, BUSY = range(4)
"""States of a thread, which its box holds: see `lepton_ref.backends.numba_crew`."""

STATE, WOKEN, START, PLACE, SIZE = range(5)
"""Numbers in a box: the state, whether the thread was asleep when it was called, and what it was called for."""

LINE = 8
"""Numbers of a box, which has a cache line of its own."""

PATIENCE = 4000
"""Looks that a thread takes at a barrier before it gives its turn away: some 50 microseconds."""


@intrinsic
def atomic_add(typing: Any, array: Any, index: Any, amount: Any) -> Any:
    """`(int64s, index, amount) -> int64`: what was there before; the sum is there afterwards."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw(
            "add", pointer(context, builder, signature.args[0], args[0], args[1], I64), args[2], "seq_cst"
        )

    return types.int64(array, types.int64, types.int64), emit


@intrinsic
def atomic_load(typing: Any, array: Any, index: Any) -> Any:
    """`(int64s, index) -> int64`: with all that was written before it was."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(pointer(context, builder, signature.args[0], args[0], args[1], I64), "acquire", 8)

    return types.int64(array, types.int64), emit


@intrinsic
def atomic_store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """`(int64s, index, value)`: after all that was written before."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], pointer(context, builder, signature.args[0], args[0], args[1], I64), "release", 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64), emit


@intrinsic
def compare_and_swap(typing: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    """`(int64s, index, expected, new) -> bool`: whether the expected number stood there; then the new one does."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(context, builder, signature.args[0], args[0], args[1], I64)
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), emit


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the processor that this is a loop which waits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if context.codegen().target_data is not None and "x86_64" in builder.module.triple:
            name = "llvm.x86.sse2.pause"
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.none(), emit


_YIELD = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


@njit(nogil=True, _nrt=False)
def give_way() -> None:
    """Let another thread have the core."""
    _YIELD()


@njit(nogil=True, _nrt=False)
def barrier(meeting: Any, team: Any) -> bool:
    """Wait until all threads of the team are here; False where one will not come.

    `meeting` is two int64, 0 before the first barrier: how many came so far, and whether the work is given up.
    """
    if team == 1:
        return True
    goal = (atomic_add(meeting, 0, 1) // team + 1) * team
    looks = 0
    while atomic_load(meeting, 0) < goal:
        if atomic_load(meeting, 1) != 0:
            return False
        looks += 1
        if looks < PATIENCE:
            pause()
        else:
            give_way()
    return True


class Turn:
    """A lock that a child process after a fork has anew: nobody is left there who could give it back."""

    def __init__(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()

    def lock(self) -> threading.Lock:
        """The lock of this process."""
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
        return self._lock


class Team:
    """Threads that run one function at the same time, each on its share.

    Args:
        size: how many, the caller's included.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._tasks: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self.boxes = aligned(8 * LINE * size).view(np.int64)
        self.boxes[:] = ASLEEP

    def together(self) -> threading.Lock:
        """A lock to hold while the threads are the caller's alone; after this there are as many as there should be."""
        if self._process != os.getpid():  # a fork left their records, not the threads, and perhaps a lock that is held
            self._process, self._tasks, self._lock = os.getpid(), [], threading.Lock()
            self.boxes[:] = ASLEEP
        if len(self._tasks) < self.size - 1:
            with self._lock:
                self._start()
        return self._lock

    def wake(self, work: Callable[..., Any], isa: Any, block: NDArray[np.int64], most: int) -> None:
        """Let those threads work that were asleep when they were called; see `lepton_ref.backends.numba_crew`.

        A thread that is woken twice, or for a call that was taken back, finds no call and goes back to sleep.
        """
        for number, tasks in enumerate(self._tasks, start=1):
            if self.boxes[LINE * number + WOKEN]:
                tasks.put(partial(work, number, self.size, isa, 0, block, self.boxes, most))

    def run(self, function: Callable[..., Any], *arguments: Any, give_up: Callable[[], None] | None = None) -> Any:
        """Call `function(number, size, *arguments)` in every thread; return what number 0 gave, when all have ended.

        Args:
            function: compiled already, so that no thread waits at a barrier for one that cannot start.
            arguments: for all threads.
            give_up: called where a thread raises, an interrupt for one, so that the others leave their barriers.

        Raises:
            Exception: what one of them raised.
        """
        if self.size == 1:
            return function(0, 1, *arguments)
        with self.together():
            self.boxes[::LINE][self.boxes[::LINE] == WAITING] = ASLEEP  # who waits for a step comes back to Python
            done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
            work = [_task(function, number, self.size, arguments, done, give_up) for number in range(1, self.size)]
            left = iter(work)  # an interrupt finds this and the queues in step: nothing of Python lies between
            try:
                deque(map(queue.SimpleQueue.put, self._tasks, left), maxlen=0)
                result = function(0, self.size, *arguments)
            except BaseException:
                if give_up is not None:
                    give_up()
                raise
            finally:
                raised = [done.get() for _ in range(len(work) - length_hint(left))]
        for error in raised:
            if error is not None:
                raise error
        return result

    def _start(self) -> None:
        while len(self._tasks) < self.size - 1:
            tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(tasks,), name="lepton_ref", daemon=True).start()
            self._tasks.append(tasks)

    def close(self) -> None:
        """End the threads; the next `run` starts new ones."""
        for tasks in self._tasks:
            tasks.put(None)
        self._tasks = []

    def __del__(self) -> None:
        if os is not None and self._process == os.getpid():  # at the interpreter's end modules may be gone
            self.close()


def _task(
    function: Callable[..., Any], number: int, size: int, arguments: tuple[Any, ...], done: Any,
    give_up: Callable[[], None] | None,
) -> Callable[[], None]:  # fmt: skip
    def run() -> None:
        try:
            function(number, size, *arguments)
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            if give_up is not None:
                give_up()
            done.put(error)
        else:
            done.put(None)

    return run


def _serve(tasks: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Teams:
    """A backend's teams by their size; each is made when it is first asked for.

    Args:
        threads: the size where nobody says one; None for all cores that the process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._by_size: dict[int, Team] = {}

    def of(self, threads: int | None) -> Team:
        """The team of so many threads, or of as many as the backend was made with."""
        size = self.threads if threads is None else threads
        size = available_cores() if size is None else size
        team = self._by_size.get(size)
        return self._by_size.setdefault(size, Team(size)) if team is None else team

    def here(self) -> Team:
        """The team for an op that is called now: a run limits its ops, an op called on its own has no limit."""
        return self.of(thread_limit())
