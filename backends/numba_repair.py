"""Elements that a kernel has left open, by the op's generic form: right, and slow."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_plan import ATTENTION, INTEGER, KIND, OP, REAL, ROPE, SEGMENTS, WHICH
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import HostArray
from lepton_ref.numerics import counts
from lepton_ref.storage.base import Weight
from lepton_ref.storage.kept import Kept

AT_ONCE = 4096
"""Rows of a weight that are decoded at a time."""

Places = NDArray[np.int64]


class Chosen(Weight):
    """Some rows of a weight, as a linear layer multiplies by them.

    Args:
        base: the weight.
        index: (N) numbers of rows.
    """

    def __init__(self, base: Weight, index: Places) -> None:
        self.base = base.base if isinstance(base, Kept) else base
        self.index, self.format, self.nbytes = index, base.format, base.nbytes
        self.shape = (len(index), *base.shape[1:])

    @property
    def operand_width(self) -> int:
        """How many numbers a row has."""
        return self.base.operand_width

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, I)` decoded, as stored."""
        return self.base.take(self.index[start:stop])

    def take(self, index: Places, /) -> HostArray:
        """`(N,) -> (N, I)` decoded, as stored."""
        return self.base.take(self.index[index])

    def operand(self, index: Places, /) -> NDArray[np.float64]:
        """`(N,) -> (N, I)` as it is multiplied."""
        return self.base.operand(self.index[index])


class Repairs:
    """The elements of one record.

    Args:
        runner: whose memory it is.
        run: the run.
        at: the record.
        rows: N.
        picked: how many rows are picked.
    """

    def __init__(self, runner: Any, run: Any, at: int, rows: int, picked: int) -> None:
        self.runner, self.rows, self.picked = runner, rows, picked
        self.record = runner.records[at]
        self.kind = int(self.record[KIND])
        number = int(self.record[OP])
        group = int(self.record[SEGMENTS]) if self.kind in (INTEGER, REAL) else 1
        self.ops = runner.program.ops[number : number + group]
        self.run = dataclasses.replace(run, backend=NumpyBackend(), joins={}, ready={}, tables={}, masks={})

    def settle(self, rows: Places, columns: Places, *, everything: bool) -> None:
        """Compute these elements; all where more were open than there was room to say which."""
        kept = counts.current()
        with counts.counting():
            before = 0
            for op in self.ops:
                mine = (columns >= before) & (columns < before + op.width)
                if everything or mine.any():
                    self._settle(op, rows[mine], columns[mine] - before, everything)
                before += op.width
        if kept is not None:
            kept.of(self.ops[0].kind).exactly += len(rows)

    def _value(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.runner.value(name, self.rows, self.picked, self.run.batch.mask.shape)
        return found

    def _settle(self, op: Any, rows: Places, columns: Places, everything: bool) -> None:
        y = self._value(op.name)
        flat = y.reshape(-1, op.width)
        if everything:
            rows, columns = (part.reshape(-1) for part in np.indices(flat.shape))
        unique, where = np.unique(rows, return_inverse=True)
        if op.kind == "linear":
            self._linear(op, flat, rows, columns)
        elif self.kind in (ATTENTION, ROPE):
            tokens = np.unique(rows % y.shape[1])
            found = self._by_token(op, tokens)
            b, t = rows // y.shape[1], np.searchsorted(tokens, rows % y.shape[1])
            flat[rows, columns] = found[b, t, columns]
        else:
            inputs = [self._value(name).reshape(-1, self._value(name).shape[-1])[unique][None] for name in op.inputs]
            flat[rows, columns] = self.run.compute(op, *inputs)[0][where, columns]

    def _linear(self, op: Any, flat: NDArray[np.float32], rows: Places, columns: Places) -> None:
        weight = self.run.weights[op.weights["w"]]
        x = self._value(op.inputs[0])
        chosen = np.unique(columns)
        for start in range(0, len(chosen), AT_ONCE):
            part = chosen[start : start + AT_ONCE]
            mine = (columns >= part[0]) & (columns <= part[-1])
            unique, where = np.unique(rows[mine], return_inverse=True)
            weights = {op.weights["w"]: Chosen(weight, part)}
            vectors = {op.weights["b"]: self.run.vectors[op.weights["b"]][part]} if "b" in op.weights else {}
            run = dataclasses.replace(self.run, weights=weights, vectors=vectors)
            y = run.compute(op, x.reshape(-1, x.shape[-1])[unique][None])[0]
            flat[rows[mine], columns[mine]] = y[where, np.searchsorted(part, columns[mine])]

    def _by_token(self, op: Any, tokens: Places) -> NDArray[np.float32]:
        """(B, tokens, width): an op whose rows know their place in the sequence, for some of them."""
        run, batch = self.run, self.run.batch
        if self.kind == ROPE:
            positions = batch.positions[:, tokens]
            run = dataclasses.replace(run, batch=dataclasses.replace(batch, positions=positions))
            return np.asarray(run.compute(op, self._value(op.inputs[0])[:, tokens]))
        q, k, v = (self._value(name) for name in op.inputs)
        order, valid = batch.order, batch.mask
        if run.cache is not None:
            layout = run.cache.addresses(int(self.record[WHICH]))
            order, valid = layout.order, layout.valid
            run.layer = int(self.record[WHICH])
        seen = np.ascontiguousarray(run.seen(op, order, valid)[:, tokens])
        run.masks[op.options["causal"], op.options["window"], order.shape[1]] = seen
        return np.asarray(run.compute(op, q[:, tokens], k, v))
