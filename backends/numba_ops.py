"""Kernels of single ops: the same compiled functions as in a whole program, one op at a time.

Each copies its inputs into a small arena, computes, and declines where anything is not plainly its own: another
precision, numbers beyond float32, arguments that the op itself refuses, an element that the kernel leaves open.
Much work is shared among the threads of a team, little is done by the caller's alone. The team is as large as the run
that the op belongs to may have threads; for an op on its own it is what the backend was made with.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends import numba_activation, numba_norm, numba_residual, numba_rope
from lepton_ref.backends.numba_rounding import FORMATS
from lepton_ref.backends.numba_threads import Teams
from lepton_ref.numerics import Precision, counts

Floats = NDArray[np.float32]

ALONE = 1 << 15
"""Elements that one thread computes by itself."""

ROOM = 64
"""Elements that a thread may leave open before nobody counts on."""

NUMBER_LEAST, NUMBER_MOST = 2.0**-200, 2.0**130
"""Between them, or 0, an op takes ε, a scale or a cap whatever it is of."""

MARGIN = 16
"""Numbers behind an array, since sixteen may be read at a time."""


def declining(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that declines arguments that are not those of its op, which then says what is wrong with them."""
    signature = inspect.signature(function)

    @wraps(function)
    def kernel(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            return NotImplemented
        return function(*args, **kwargs)

    return kernel


def form_of(precision: Any) -> int | None:
    """The number of the format that a precision proves roundings to; None where it does not, or steps are another's."""
    if not isinstance(precision, Precision) or not precision.proven or precision.machine is not None:
        return None
    return FORMATS.get(precision.activations) if precision.accumulate == "float64" else None


def singles(*arrays: Any) -> list[Floats] | None:
    """The arrays as float32, none of them empty; None where one is no array of numbers that float32 has."""
    found = []
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.ndim == 0 or array.size == 0:
            return None
        if array.dtype not in (np.float32, np.float64):
            return None
        near = array.astype(np.float32, copy=False)
        if array.dtype == np.float64 and not (near == array).all():
            return None
        found.append(near)
    return found


def usual(value: Any, *, zero: bool = False) -> bool:
    """Whether it is a positive number, or 0 where that may be, that every op takes."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return NUMBER_LEAST <= value <= NUMBER_MOST or (zero and value == 0)


class Arena:
    """The inputs of one op side by side, and room for its output.

    Args:
        inputs: float32 arrays.
        size: numbers of the output.
    """

    def __init__(self, inputs: list[Floats], size: int) -> None:
        sizes = [array.size + MARGIN for array in inputs]
        self.memory = np.empty(sum(sizes) + size + MARGIN, dtype=np.float32)
        self.starts: list[int] = []
        at = 0
        for array, room in zip(inputs, sizes, strict=True):
            self.memory[at : at + array.size].reshape(array.shape)[...] = array
            self.memory[at + array.size : at + room] = 0.0
            self.starts.append(at)
            at += room
        self.y, self.size = at, size

    def output(self, shape: tuple[int, ...]) -> Floats:
        """The op's result, by itself."""
        return self.memory[self.y : self.y + self.size].reshape(shape).copy()


class Shares:
    """One op's work, cut into shares for the threads of the team that it has where it is called.

    Args:
        teams: the backend's.
    """

    def __init__(self, teams: Teams) -> None:
        self.team = teams.here()

    def run(self, count: int, elements: int, work: Callable[[int, int, int, NDArray[np.int64]], None]) -> bool:
        """Call `work(number, first, last, stuck)` for shares of [0, count); whether no element was left open."""
        size = 1 if elements <= ALONE else min(self.team.size, count)
        stuck = np.zeros((self.team.size, ROOM), dtype=np.int64)

        def share(number: int, _: int) -> None:
            if number < size:
                work(number, count * number // size, count * (number + 1) // size, stuck[number])

        if size == 1:
            share(0, 1)
        else:
            self.team.run(share)
        return not bool(stuck[:, 0].any())


def counted(name: str, y: Floats) -> Floats:
    """The result, whose elements join those that are counted."""
    kept = counts.current()
    if kept is not None:
        kept.of(name).elements += y.size
    return y


class RowKernels:
    """Kernels of the ops whose rows are computed each by itself.

    Args:
        teams: the threads.
    """

    def __init__(self, teams: Teams) -> None:
        self.teams = teams
        self.by_name: dict[str, Callable[..., Any]] = {
            name: declining(getattr(self, name))
            for name in ("rms_norm", "layer_norm", "rope", "gated", "activate", "add", "softcap")
        }

    def rms_norm(
        self, x: Any, w_d: Any, *, eps: Any, offset: Any = 0.0, backend: Any, precision: Any
    ) -> Any:  # fmt: skip
        """`lepton_ref.ops.rms_norm`."""
        form, inputs = form_of(precision), singles(x, w_d)
        if form is None or inputs is None or not usual(eps, zero=True) or w_d.shape != x.shape[-1:]:
            return NotImplemented
        if isinstance(offset, bool) or not isinstance(offset, (int, float)) or not math.isfinite(offset):
            return NotImplemented
        width, arena = x.shape[-1], Arena(inputs, x.size)
        (a, w), F, y = arena.starts, arena.memory, arena.y

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_norm.rms_norm(
                F, a, width, F, w, y, width, 1, width, float(eps), float(offset), first, last, form, stuck
            )  # fmt: skip

        return self._done("rms_norm", arena, x.shape, width, work)

    def layer_norm(self, x: Any, w_d: Any, b_d: Any = None, *, eps: Any, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.layer_norm`."""
        form, inputs = form_of(precision), singles(x, w_d) if b_d is None else singles(x, w_d, b_d)
        if form is None or inputs is None or not usual(eps, zero=True):
            return NotImplemented
        if any(vector.shape != x.shape[-1:] for vector in inputs[1:]):
            return NotImplemented
        width, arena = x.shape[-1], Arena(inputs, x.size)
        (a, w, *more), F, y = arena.starts, arena.memory, arena.y
        b = more[0] if more else -1

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_norm.layer_norm(F, a, width, F, w, b, y, width, width, float(eps), first, last, form, stuck)

        return self._done("layer_norm", arena, x.shape, width, work)

    def rope(self, x: Any, tables: Any, *, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.rope`."""
        form, inputs, turns = form_of(precision), singles(x), getattr(tables, "positions", None)
        if form is None or inputs is None or x.ndim != 4 or turns is None:
            return NotImplemented
        rotary, (batch, tokens, heads, width) = tables.rope.width, x.shape
        if rotary > width or turns.shape not in ((1, tokens), (batch, tokens)) or not usual(tables.factor):
            return NotImplemented
        halves = (tables.cos_pair.high, tables.sin_pair.high, tables.cos_pair.low, tables.sin_pair.low)
        T = np.empty((4, batch, tokens, rotary // 2))
        for plane, half in zip(T, halves, strict=True):
            plane[...] = half
        planes, plane, interleaved = T.reshape(-1), batch * tokens * (rotary // 2), int(tables.rope.interleaved)
        arena, row = Arena(inputs, x.size), heads * width
        F, a, y, factor = arena.memory, arena.starts[0], arena.y, float(tables.factor)

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_rope.rope(
                F, a, row, y, row, heads, width, rotary, interleaved, factor, planes, 0, plane, first, last, form, stuck
            )  # fmt: skip

        return self._done("rope", arena, x.shape, row, work)

    def gated(self, gate: Any, up: Any, *, kind: Any, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.gated`."""
        form, inputs, number = form_of(precision), singles(gate, up), _activation(kind)
        if form is None or inputs is None or number is None or gate.shape != up.shape:
            return NotImplemented
        width, arena = gate.shape[-1], Arena(inputs, gate.size)
        (g, u), F, y = arena.starts, arena.memory, arena.y

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_activation.gated(F, number, g, width, u, width, y, width, width, first, last, form, stuck)

        return self._done("gated", arena, gate.shape, width, work)

    def activate(self, x: Any, *, kind: Any, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.activate`."""
        form, inputs, number = form_of(precision), singles(x), _activation(kind)
        if form is None or inputs is None or number is None:
            return NotImplemented
        width, arena = x.shape[-1], Arena(inputs, x.size)
        F, a, y = arena.memory, arena.starts[0], arena.y

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_activation.activate(F, number, a, width, y, width, width, first, last, form, stuck)

        return self._done("activation", arena, x.shape, width, work)

    def softcap(self, x: Any, *, cap: Any, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.softcap`."""
        form, inputs = form_of(precision), singles(x)
        if form is None or inputs is None or not usual(cap):
            return NotImplemented
        width, arena = x.shape[-1], Arena(inputs, x.size)
        F, a, y = arena.memory, arena.starts[0], arena.y

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_activation.softcap(F, a, width, y, width, width, float(cap), first, last, form, stuck)

        return self._done("softcap", arena, x.shape, width, work)

    def add(self, x: Any, f: Any, *, backend: Any, precision: Any) -> Any:
        """`lepton_ref.ops.add`."""
        form, inputs = form_of(precision), singles(x, f)
        if form is None or inputs is None or x.shape != f.shape:
            return NotImplemented
        width, arena = x.shape[-1], Arena(inputs, x.size)
        (a, b), F, y = arena.starts, arena.memory, arena.y

        def work(_: int, first: int, last: int, stuck: Any) -> None:
            numba_residual.add(F, a, width, b, width, y, width, width, first, last, form)

        return self._done("add", arena, x.shape, width, work)

    def _done(self, name: str, arena: Arena, shape: tuple[int, ...], width: int, work: Any) -> Any:
        settled = Shares(self.teams).run(arena.size // width, arena.size, work)
        return counted(name, arena.output(shape)) if settled else NotImplemented


def _activation(kind: Any) -> int | None:
    return numba_activation.KINDS.get(kind) if isinstance(kind, str) else None
