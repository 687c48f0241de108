"""The planner: it gives every value of a program its place, and every op its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_ref.backends.numba_embed import usual
from lepton_ref.backends.numba_plan import (
    ACTIVATE,
    ACTIVATIONS,
    ADD,
    ALL,
    APPEND,
    ATTENTION,
    CAP,
    COLUMNS,
    EMBED,
    EPS,
    GATED,
    INTEGER,
    LAYER_NORM,
    OFFSET,
    OUTSIDE,
    PICK,
    PICKED,
    PREPARE,
    QUANTISE,
    REAL,
    RMS_NORM,
    ROPE,
    SCALE,
    SOFTCAP,
    Columns,
    Plan,
    Segment,
    Value,
)  # fmt: skip
from lepton_ref.backends.numba_rounding import FORMATS

MEETING = ("embed", "linear", "attention", "last", "first")
"""Kinds of ops before whose record all threads meet."""


@dataclass(frozen=True)
class Packed:
    """A matrix in panels.

    Attributes:
        panels: the matrix.
        integer: whether integers or real numbers are multiplied by it.
        table: whether it is the weight as stored, whose rows an embedding can take.
    """

    panels: Any
    integer: bool
    table: bool = False

    @property
    def prepared(self) -> str:
        """What its inputs are made into beforehand: layers of one kind can share it."""
        return "integers" if self.integer else "doubles" if self.panels.kind >= 32 else "digits"


class Planner:
    """Turns ops into records, one after the other.

    Args:
        program: ops in order.
        precision: how each computes.
        panels: the packed form of each matrix, by name, under the op's precision; None where there is none.
        direct: whether keys and values are kept as float32 where a kernel can reach them.
    """

    def __init__(self, program: Any, precision: Any, panels: dict[tuple[str, str], Packed], *, direct: bool) -> None:
        self.ops, self.precision, self.panels, self.direct = program.ops, precision, panels, direct
        self.plan = Plan()
        self.space = Columns()
        self.last_use = {name: number for number, op in enumerate(self.ops) for name in op.inputs}
        self.layer = 0
        self.done: list[Value] = []
        self.ready: tuple[str, str] | None = None

    def run(self) -> Plan:
        """The whole plan."""
        number = 0
        while number < len(self.ops):
            group = self._group(number)
            if self.ops[number].kind in MEETING:
                self._give_back()
            for at in range(number, number + group):
                self._place(self.ops[at])
            self._record(number, group)
            for at in range(number, number + group):
                self._release(at)
            number += group
        self.plan.columns = self.space.end
        return self.plan

    def _operands(self, op: Any) -> str:
        return str(self.precision.at(op.name).operands)

    def panels_of(self, op: Any) -> Any:
        """The packed matrix of a linear op, or None."""
        return self.panels.get((op.weights["w"], self._operands(op)))

    def _group(self, number: int) -> int:
        """How many ops from this one on are one record: linear ones of one input, precision and kind of kernel."""
        first = self.ops[number]
        count = 1
        if first.kind != "linear" or self.panels_of(first) is None:
            return count
        for op in self.ops[number + 1 :]:
            same = op.kind == "linear" and op.inputs == first.inputs and self._alike(op, first)
            if not same:
                break
            count += 1
        return count

    def _alike(self, op: Any, first: Any) -> bool:
        if self.precision.at(op.name) != self.precision.at(first.name) or self.panels_of(op) is None:
            return False
        return bool(self.panels_of(op).prepared == self.panels_of(first).prepared)

    def _place(self, op: Any) -> None:
        given = [self.plan.values[name].rows for name in op.inputs]
        rows = PICKED if op.kind in ("last", "first") else max(given, default=ALL)
        self.plan.values[op.name] = Value(self.space.take(op.width), op.width, rows)

    def _release(self, number: int) -> None:
        op = self.ops[number]
        gone = [name for name in dict.fromkeys(op.inputs) if self.last_use[name] == number]
        if op.name not in self.last_use and number != len(self.ops) - 1:
            gone.append(op.name)
        self.done += [self.plan.values[name] for name in gone]

    def _give_back(self) -> None:
        """What nobody reads any more is free from here on: no thread is still at an earlier record."""
        for value in self.done:
            self.space.give(value.column, value.width)
        self.done = []

    def _record(self, number: int, group: int) -> None:
        op = self.ops[number]
        how = self.precision.at(op.name)
        proven = how.proven and how.machine is None and how.accumulate == "float64" and how.activations in FORMATS
        write = getattr(self, f"_{op.kind}", None)
        if not proven or write is None or write(number, group) is NotImplemented:
            self._outside(number)
            for at in range(number + 1, number + group):
                self._outside(at)

    def _outside(self, number: int) -> None:
        self._append(number, OUTSIDE, WHICH=self.layer)
        self.plan.outside.append(self.ops[number].name)
        if self.ops[number].kind == "attention":
            self.layer += 1

    def _append(self, number: int, kind: int, numbers: dict[int, float] | None = None, **columns: int) -> None:
        op = self.ops[number]
        value = self.plan.values[op.name]
        row = [-1] * len(COLUMNS)
        inputs = [self.plan.values[name] for name in op.inputs]
        for at, given in zip(("IN0", "IN1", "IN2"), inputs, strict=False):
            row[COLUMNS.index(at)] = given.column
        form = FORMATS.get(self.precision.at(op.name).activations, -1)
        filled = {
            "KIND": kind, "ROWS": value.rows, "OUT": value.column, "OUT_WIDTH": value.width, "FORM": form, "OP": number,
            "WIDTH": inputs[0].width if inputs else 0, **columns,
        }  # fmt: skip
        for name, content in filled.items():
            row[COLUMNS.index(name)] = content
        self.plan.rows.append(row)
        self.plan.reals.append([float((numbers or {}).get(at, 0.0)) for at in range(4)])

    def _vector(self, op: Any, role: str) -> int:
        """The number of the op's vector, −1 where it has none."""
        if role not in op.weights:
            return -1
        if op.weights[role] not in self.plan.vectors:
            self.plan.vectors.append(op.weights[role])
        return int(self.plan.vectors.index(op.weights[role]))

    def _embed(self, number: int, group: int) -> Any:
        op = self.ops[number]
        of, offset, scale = (op.options[name] for name in ("of", "offset", "scale"))
        known = (packed for (name, _), packed in self.panels.items() if name == op.weights["w"] and packed.table)
        table = next(known, None)
        if of != "input_ids" or offset or table is None or not usual(scale):
            return NotImplemented
        place = self.plan.values[op.name].column
        self._append(number, EMBED, {SCALE: scale}, WIDTH=op.width, SEGMENT=len(self.plan.segments), SEGMENTS=1)
        self.plan.segments.append(Segment(table.panels, -1, place, op.width))
        return None

    def _linear(self, number: int, group: int) -> Any:
        ops = self.ops[number : number + group]
        panels = [self.panels_of(op) for op in ops]
        if panels[0] is None:
            return NotImplemented
        integer = panels[0].integer
        state = (ops[0].inputs[0], panels[0].prepared)
        if state != self.ready:
            self._append(number, QUANTISE if integer else PREPARE, WHICH=int(panels[0].panels.kind))
            self.ready = state
        first = len(self.plan.segments)
        for op, packed in zip(ops, panels, strict=True):
            bias = self._vector(op, "b")
            self.plan.segments.append(Segment(packed.panels, bias, self.plan.values[op.name].column, op.width))
        self._append(number, INTEGER if integer else REAL, SEGMENT=first, SEGMENTS=group)
        return None

    def _rms_norm(self, number: int, group: int) -> Any:
        op = self.ops[number]
        numbers = {EPS: op.options["eps"], OFFSET: op.options["offset"]}
        self._append(number, RMS_NORM, numbers, HEADS=op.options["heads"], W=self._vector(op, "w"))

    def _layer_norm(self, number: int, group: int) -> Any:
        op = self.ops[number]
        if "w" not in op.weights:
            return NotImplemented
        self._append(number, LAYER_NORM, {EPS: op.options["eps"]}, W=self._vector(op, "w"), B=self._vector(op, "b"))
        return None

    def _rope(self, number: int, group: int) -> Any:
        op = self.ops[number]
        if op.options["rope"] not in self.plan.ropes:
            self.plan.ropes.append(op.options["rope"])
        which = self.plan.ropes.index(op.options["rope"])
        self._append(number, ROPE, HEADS=op.options["heads"], WHICH=which)

    def _attention(self, number: int, group: int) -> Any:
        op = self.ops[number]
        o = op.options
        k, v = (self.plan.values[name].width for name in op.inputs[1:])
        if not self.direct or k != v or self.precision.at(op.name).attended is not None:
            return NotImplemented
        cap = 0.0 if o["cap"] is None else o["cap"]
        heads = {"HEADS": o["heads"], "KV_HEADS": o["kv_heads"], "WHICH": self.layer}
        self._append(number, APPEND, **heads)
        self._append(number, ATTENTION, {SCALE: o["scale"], CAP: cap}, **heads)
        self.layer += 1
        return None

    def _add(self, number: int, group: int) -> Any:
        self._append(number, ADD)

    def _gated(self, number: int, group: int) -> Any:
        self._append(number, GATED, WHICH=ACTIVATIONS.index(self.ops[number].options["activation"]))

    def _activate(self, number: int, group: int) -> Any:
        self._append(number, ACTIVATE, WHICH=ACTIVATIONS.index(self.ops[number].options["activation"]))

    def _softcap(self, number: int, group: int) -> Any:
        self._append(number, SOFTCAP, {CAP: self.ops[number].options["cap"]})

    def _last(self, number: int, group: int) -> Any:
        self._append(number, PICK)

    def _first(self, number: int, group: int) -> Any:
        self._append(number, PICK)
