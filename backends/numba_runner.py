"""What runs a model's plan: its packed weights, its memory, and the loop around the step."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_cache_map import AttentionMap
from lepton_ref.backends.numba_crew import Control, Crew
from lepton_ref.backends.numba_integer import scratch_bytes
from lepton_ref.backends.numba_plan import (
    EMBED,
    FORM,
    KIND,
    OP,
    OUTSIDE,
    PICKED,
    QUANTISE,
    SEGMENT,
    WHICH,
    WIDTH,
    B,
    W,
)  # fmt: skip
from lepton_ref.backends.numba_real_call import prepared_sizes, scratch_size
from lepton_ref.backends.numba_repair import Repairs
from lepton_ref.backends.numba_rope_tables import RopeTables
from lepton_ref.backends.numba_step import FAR
from lepton_ref.backends.numba_threads import Team, Turn
from lepton_ref.numerics import counts

COUNTED: Mapping[str, str] = types.MappingProxyType(
    {
        **{"embed": "embed", "linear": "linear", "rms_norm": "rms_norm", "layer_norm": "layer_norm", "rope": "rope"},
        **{"attention": "attention", "add": "add", "gated": "gated", "activate": "activation", "softcap": "softcap"},
    }
)
"""Kind of op → the name under which its elements are counted."""

STUCK = 1 << 12
"""Elements that a thread can leave to Python at a time."""


class Runner:
    """One model's plan, ready to run. It keeps its memory from one run to the next.

    Args:
        run: a run of the model, for its weights and vectors.
        program: its ops.
        plan: from the planner.
        isa: the instruction set.
        team: the threads.
    """

    def __init__(self, run: Any, program: Any, plan: Any, *, isa: Any, team: Team) -> None:
        self.program, self.plan, self.team = program, plan, team
        self.records, self.reals = plan.records, plan.numbers
        self.computed = {op.name: op.name not in plan.outside for op in program.ops}
        self.vectors = self._vectors(run)
        self.segments, self.ats = self._segments()
        tables = self.records[self.records[:, KIND] == EMBED, SEGMENT]
        self.vocabulary = min((plan.segments[number].panels.outputs for number in tables), default=FAR)
        self.attention = AttentionMap(program, plan, self.records)
        self.ropes = RopeTables(plan.ropes)
        self.turn, self.crew, self.block = Turn(), Crew(team, isa), Control()
        self.kinds: list[int] = self.records[:, KIND].tolist()
        self.rows = 0
        self.room = np.empty(0, dtype=np.float32)
        self.doubles, self.bytes = np.empty((team.size, 0)), np.empty((team.size, 0), np.uint8)
        self.control = (
            np.zeros(8, np.int64),
            np.zeros(3 * team.size, np.int64),
            np.zeros((team.size, STUCK), np.int64),
        )

    def run(self, run: Any) -> NDArray[np.float32]:
        """The output of the program's last op. Of runs that are asked for at the same time one waits for the other."""
        with self.turn.lock():
            return self._run(run)

    def _run(self, run: Any) -> NDArray[np.float32]:
        mask = run.batch.mask
        rows = mask.size
        ids = run.batch.integers["input_ids"]
        if (ids[0, 0] if rows == 1 else ids.max()) >= self.vocabulary:
            return np.asarray(run.compute(self.program.ops[0]))  # which says so
        picked, row_of = _picked(self.program, run.batch)
        self._grow(rows)
        integers, masks, layers, scratch = self.attention.of(run, rows, row_of)
        if scratch > self.doubles.shape[1]:
            self.doubles = np.empty((self.team.size, scratch))
        ropes = self.ropes.of(run, self.records, self.reals)
        arrays = (
            self.records, self.reals, self.segments, self.ats, self.room, self.vectors, ropes, layers, integers, masks,
            *self.integer, *self.real, self.bytes, self.doubles, *self.control,
        )  # fmt: skip
        block, at, end = self.block.set(rows, picked, arrays), 0, len(self.kinds)
        while at < end:
            if self.kinds[at] == OUTSIDE:
                self._outside(run, at, rows, picked)
                at += 1
                continue
            at = self.crew.run(at, block)
            if at < end and self.kinds[at] != OUTSIDE:
                with run.generic():
                    self._repair(run, at, rows, picked)
                at += 1
        self._count(rows, picked)
        return self.value(self.program.ops[-1].name, rows, picked, mask.shape).copy()

    def _vectors(self, run: Any) -> NDArray[np.float32]:
        """All vectors in one array; records, which number them, are given their places in it."""
        arrays = [np.asarray(run.vectors[name], dtype=np.float32).reshape(-1) for name in self.plan.vectors]
        starts = np.cumsum([0, *(array.size for array in arrays)])
        for column in (W, B):
            numbers = self.records[:, column]
            self.records[:, column] = np.where(numbers < 0, -1, starts[numbers])
        self.starts = starts
        return np.concatenate([*arrays, np.zeros(16, dtype=np.float32)])  # a vector may be read sixteen at a time

    def _segments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The table of segments, and where the parts of their weights begin."""
        rows, before = [], 0
        firsts = set(self.records[:, SEGMENT].tolist())
        for number, segment in enumerate(self.plan.segments):
            panels = segment.panels
            before = 0 if number in firsts else before
            bias = -1 if segment.bias < 0 else int(self.starts[segment.bias])
            rows.append(
                [
                    panels.kind, panels.data.ctypes.data, panels.data.size, panels.outputs, panels.width, bias,
                    segment.column, before,
                ]
            )  # fmt: skip
            before += panels.outputs
        ats = [segment.panels.at for segment in self.plan.segments]
        return np.array(rows, dtype=np.int64).reshape(-1, 8), np.array(ats, dtype=np.int64).reshape(-1, 8)

    def _grow(self, rows: int) -> None:
        """Memory for so many rows, where there is less."""
        if rows == self.rows:
            return
        self.rows, records = 0, self.records  # known once all of it is there
        widest = int(records[records[:, KIND] == QUANTISE][:, WIDTH].max(initial=1))
        needed = self.plan.columns * rows
        if needed > self.room.size:
            self.room = np.empty(needed, dtype=np.float32)
        blocks = -(-widest // 32) * rows
        self.integer = (
            np.zeros(32 * blocks, np.int8), np.zeros(blocks), np.zeros(2 * blocks, np.int32), np.zeros(2 * rows),
        )  # fmt: skip
        doubles, digits, scratch, scratch_of_bytes = 1, 64, 16, 64
        for segment in self.segments:
            kind, _, _, _, width, *_ = segment.tolist()
            sizes = prepared_sizes(kind, rows, width)
            doubles, digits = max(doubles, sizes[0]), max(digits, sizes[1])
            scratch = max(scratch, scratch_size(kind, rows, width))
            scratch_of_bytes = max(scratch_of_bytes, scratch_bytes(width, rows))
        self.real = (np.empty(doubles), np.zeros(digits, np.int8))
        self.doubles = np.empty((self.team.size, scratch))
        self.bytes = np.empty((self.team.size, scratch_of_bytes), np.uint8)
        self.rows = rows

    def value(self, name: str, rows: int, picked: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Where an op's output lies, as (B, T, width)."""
        value = self.plan.values[name]
        count = picked if value.rows == PICKED else rows
        flat = self.room[value.column * rows : value.column * rows + count * value.width]
        return flat.reshape(shape[0], count // shape[0], value.width)

    def _outside(self, run: Any, at: int, rows: int, picked: int) -> None:
        """Let Python compute the record's op."""
        op = self.program.ops[self.records[at, OP]]
        y = self.value(op.name, rows, picked, run.batch.mask.shape)
        if op.kind == "embed" and op.options["scale"] == 1.0 and self.records[at, FORM] == 0:
            table = run.weights[op.weights["w"]]
            found = table.take((run.batch.integers[op.options["of"]] + op.options["offset"]).reshape(-1))
            if found.dtype == np.float32 and not np.isnan(found).any():  # rows as stored are their own rounding
                y[...] = found.reshape(y.shape)
                return
        inputs = [self.value(name, rows, picked, run.batch.mask.shape).copy() for name in op.inputs]
        run.layer = int(self.records[at, WHICH])
        with run.generic():
            y[...] = run.compute(op, *inputs)

    def _repair(self, run: Any, at: int, rows: int, picked: int) -> None:
        """Let the generic form compute the elements that the record's kernel has left open."""
        _, stops, stuck = self.control
        left = stuck[stops[2 * self.team.size :] == at]  # a thread may have stopped later, at what is computed again
        found = [row[1 : 1 + min(int(row[0]), STUCK - 1)] for row in left]
        places = np.concatenate(found)
        whole = any(row[0] >= STUCK for row in left)
        Repairs(self, run, at, rows, picked).settle(places >> 32, places & 0xFFFFFFFF, everything=whole)

    def _count(self, rows: int, picked: int) -> None:
        """What `lepton_ref.numerics.counts` counts of a run without repairs in Python."""
        kept = counts.current()
        if kept is None:
            return
        for op in self.program.ops:
            if op.name not in self.plan.outside and op.kind in COUNTED:
                value = self.plan.values[op.name]
                kept.of(COUNTED[op.kind]).elements += (picked if value.rows == PICKED else rows) * value.width


FIRST = np.zeros(1, dtype=np.int64)
"""The number of the only row."""


def _picked(program: Any, batch: Any) -> tuple[int, NDArray[np.int64]]:
    """How many rows go on behind "last" or "first", and which they are."""
    mask = batch.mask
    if mask.size == 1:
        return 1, FIRST
    sequences, tokens = mask.shape
    starts = np.arange(sequences) * tokens
    if "first" in program.kinds:
        return sequences, starts + mask.argmax(axis=1)
    if batch.last_only:
        return sequences, starts + tokens - 1 - mask[:, ::-1].argmax(axis=1)
    return mask.size, np.arange(mask.size)
