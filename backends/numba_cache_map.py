"""Where attention's keys and values lie in a run, and who sees whom, as the step's kernels read it."""

from __future__ import annotations

import weakref
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_attention import (
    BATCH,
    BLOCK,
    FIELDS,
    HEADS,
    KV_HEADS,
    MASK,
    MASK_STRIDE,
    Q_STRIDE,
    QUERIES,
    SEEN,
    STRIDE_BLOCK,
    STRIDE_HEAD,
    STRIDE_SLOT,
    TABLE,
    TABLE_STRIDE,
    TOKENS,
    WIDTH,
    Y_STRIDE,
    Q,
    Y,
    queries_at_once,
    scratch_size,
)  # fmt: skip
from lepton_ref.backends.numba_plan import ATTENTION, IN0, KIND, OP, OUT, WHICH

Integers = NDArray[np.int64]

View: TypeAlias = tuple[bool, int | None]
"""Causal or not, and the window."""


class Own:
    """The layout of a run without a cache: one block of T slots for each sequence, in two buffers that layers share."""

    def __init__(self, batch: Any, heads: int, width: int, buffers: list[NDArray[np.float32]]) -> None:
        sequences, tokens = batch.mask.shape
        self.keys, self.values = buffers
        self.table, self.block = np.arange(sequences)[:, None], tokens
        self.strides = (tokens * heads * width, width, heads * width)
        self.start, self.order, self.valid = 0, batch.order, batch.mask
        self.new = np.broadcast_to(np.arange(tokens), batch.mask.shape)


class AttentionMap:
    """Fills what attention's kernels read, run by run.

    Args:
        program: the op list.
        plan: its plan.
        records: the plan's table.
    """

    def __init__(self, program: Any, plan: Any, records: Integers) -> None:
        chosen = records[records[:, KIND] == ATTENTION]
        self.ops = [program.ops[number] for number in chosen[:, OP]]
        self.which: list[int] = chosen[:, WHICH].tolist()
        self.columns: list[list[int]] = chosen[:, [IN0, OUT]].tolist()
        self.layers = max(self.which, default=-1) + 1
        self.held: Held | None = None
        self.firsts = {_view(op): (op, which) for op, which in reversed([*zip(self.ops, self.which, strict=True)])}
        self.caches = {which: op.options["cache"] for which, op in zip(self.which, self.ops, strict=True)}
        self.widest = max((kept.heads * kept.width for kept in self.caches.values()), default=0)
        self.buffers = [np.empty(0, dtype=np.float32) for _ in range(2)]

    def of(self, run: Any, rows: int, row_of: Integers) -> tuple[Integers, NDArray[np.uint8], Integers, int]:
        """Integers that begin with the picked rows and all ids, masks, one row for each layer, and doubles of scratch.

        Where buffers and tables are those of the run before, as from one token to the next, only what a run's tokens
        see and where they go is written anew. Layers of one window are laid out alike, so the first of each tells.
        """
        shape = (*run.batch.mask.shape, rows, len(row_of))
        firsts = {view: self._layout(run, which) for view, (_, which) in self.firsts.items()}
        if self.held is None or not self.held.serves(shape, firsts):
            self.held = Held(self, shape, {which: self._layout(run, which) for which in self.which}, firsts)
        return self.held.filled(run, firsts, row_of)

    def _layout(self, run: Any, which: int) -> Any:
        if run.cache is not None:
            return run.cache.addresses(which)
        kept = self.caches[which]
        needed = run.batch.mask.size * self.widest  # of all layers, so that those laid out before keep their place
        if needed > self.buffers[0].size:
            self.buffers = [np.empty(needed, dtype=np.float32) for _ in range(2)]
        return Own(run.batch, kept.heads, kept.width, self.buffers)


class Held:
    """The integers of one run, kept for the next.

    They are: the picked rows; all rows' ids; for each kind of view (causal, window) the slots that each row sees, and
    the slot to which it goes; for each layer its shape, then its table of blocks.

    Args:
        owner: the map.
        shape: B, T, rows, picked rows.
        layouts: each layer's layout.
        firsts: that of the first layer of each view.
    """

    def __init__(
        self, owner: AttentionMap, shape: tuple[int, int, int, int], layouts: dict[int, Any], firsts: dict[View, Any]
    ) -> None:
        batch, tokens, rows, picked = shape
        self.owner, self.shape = owner, shape
        # Weakly: a cache that nobody holds any more is not held here.
        self.known = [(weakref.ref(first.keys), first.block, first.strides, first.table) for first in firsts.values()]
        self.views: dict[View, int] = {}
        end = picked + rows
        for op in owner.ops:
            if _view(op) not in self.views:
                self.views[_view(op)] = end
                end += 3 * rows
        pieces: list[Integers] = [np.zeros(end, dtype=np.int64)]
        self.layers = np.zeros((max(1, owner.layers), 5), dtype=np.int64)
        self.places: dict[View, dict[tuple[int, int, int], list[int]]] = {view: {} for view in self.views}
        for op, which, (q, y) in zip(owner.ops, owner.which, owner.columns, strict=True):
            layout, heads = layouts[which], op.options["heads"]
            groups, width, at = op.options["kv_heads"], owner.caches[which].width, self.views[_view(op)]
            fields = np.zeros(FIELDS, dtype=np.int64)
            fields[[BATCH, TOKENS, HEADS, KV_HEADS, WIDTH]] = batch, tokens, heads, groups, width
            fields[[Q, Q_STRIDE, Y, Y_STRIDE]] = q * rows, heads * width, y * rows, heads * width
            fields[[TABLE, TABLE_STRIDE, BLOCK]] = end + FIELDS, layout.table.shape[1], layout.block
            fields[[STRIDE_BLOCK, STRIDE_HEAD, STRIDE_SLOT]] = layout.strides
            fields[[SEEN, MASK]] = at, -1
            addresses = layout.keys.ctypes.data, layout.values.ctypes.data
            self.layers[which] = (*addresses, layout.keys.size, end, at + 2 * rows)
            self.places[_view(op)].setdefault((heads, groups, width), []).append(end)
            pieces += [fields, layout.table.reshape(-1).astype(np.int64)]
            end += FIELDS + layout.table.size
        self.integers = np.concatenate(pieces)
        self.written: dict[int, tuple[int, int, int]] = {}
        self.needed: dict[int, tuple[tuple[int, ...], int]] = {}

    def serves(self, shape: tuple[int, int, int, int], firsts: dict[View, Any]) -> bool:
        """Whether these are the same buffers and tables, for runs of the same shape."""
        return shape == self.shape and all(
            new.keys is keys()
            and (new.block, new.strides) == (block, strides)
            and (new.table is table or np.array_equal(new.table, table))
            for new, (keys, block, strides, table) in zip(firsts.values(), self.known, strict=True)
        )

    def filled(
        self, run: Any, firsts: dict[View, Any], row_of: Integers
    ) -> tuple[Integers, NDArray[np.uint8], Integers, int]:
        """What `AttentionMap.of` gives."""
        rows, tokens, integers = self.shape[2], self.shape[1], self.integers
        if rows > 1:
            integers[: len(row_of)] = row_of
        integers[len(row_of) : len(row_of) + rows] = run.batch.integers["input_ids"].reshape(-1)
        masks: list[NDArray[np.uint8]] = []
        masked, scratch = 0, 1
        for view, layout in firsts.items():
            place, start = self.views[view], layout.start
            found: Any = _one_token(run.batch.order, layout, view) if rows == 1 else None
            if found is None:
                found = _ranges(run.seen(self.owner.firsts[view][0], layout.order, layout.valid), start)
            ranges, holes, span = found
            if rows == 1:
                slot = int(layout.new[0, 0])
                integers[place], integers[place + 1] = ranges
                integers[place + 2] = slot + start if slot >= 0 else -1
            else:
                integers[place : place + 2 * rows] = ranges
                new = np.where(layout.new >= 0, layout.new + start, -1)
                integers[place + 2 * rows : place + 3 * rows] = new.reshape(-1)
            mask, slots = -1 if holes is None else masked, start + layout.order.shape[1]
            if holes is not None:
                masks.append(holes.reshape(-1))
                masked += holes.size
            for (heads, groups, width), places in self.places[view].items():
                queries = queries_at_once(tokens, heads, groups, span)
                needs = queries, heads, groups, width, -(-span // AT_A_TIME) * AT_A_TIME
                if self.needed.get(places[0], NOTHING)[0] != needs:
                    self.needed[places[0]] = needs, scratch_size(*needs)
                scratch = max(scratch, self.needed[places[0]][1])
                values = queries, mask, -1 if holes is None else slots
                if self.written.get(places[0]) != values:
                    at = np.array(places)
                    integers[at + QUERIES], integers[at + MASK], integers[at + MASK_STRIDE] = values
                    self.written[places[0]] = values
        return integers, np.concatenate(masks) if masks else NO_MASK, self.layers, scratch


NOTHING: tuple[tuple[int, ...], int] = ((), 0)

AT_A_TIME = 64
"""Slots by which scratch grows, so that it is not asked for anew with every token."""

NO_MASK = np.zeros(1, dtype=np.uint8)


def _view(op: Any) -> View:
    """What decides which keys an attention op's queries see: layers of one window keep the same keys."""
    return op.options["causal"], op.options["window"]


def _one_token(order: Integers, layout: Any, view: View) -> tuple[tuple[int, int], None, int] | None:
    """What `_ranges` gives, for one token behind keys without gaps; None where they are not plainly that."""
    (causal, window), count = view, layout.order.shape[1]
    first, last, own = int(layout.order[0, 0]), int(layout.order[0, -1]), int(order[0, 0])
    if not causal or last - first != count - 1 or last != own or not layout.valid.all():
        return None  # numbers of tokens grow from slot to slot, so that none is missing between two that are n apart
    low = 0 if window is None else max(0, count - window)
    return (layout.start + low, layout.start + count), None, count - low


def _ranges(seen: NDArray[np.bool_], start: int) -> tuple[Integers, NDArray[np.uint8] | None, int]:
    """(B, T, S) -> (2·B·T) from the first slot seen to behind the last, a mask if any has holes, and the span."""
    flat = seen.reshape(-1, seen.shape[-1])
    count = flat.sum(axis=1)
    first = flat.argmax(axis=1)
    last = np.where(count > 0, flat.shape[1] - flat[:, ::-1].argmax(axis=1), first)
    ranges = np.stack([first, last], axis=1).reshape(-1) + start
    holes = None
    if (last - first != count).any():
        holes = np.zeros((len(flat), start + flat.shape[1]), dtype=np.uint8)
        holes[:, start:] = flat
    some = count > 0
    span = int(last[some].max() - first[some].min()) if some.any() else 1
    return ranges, holes, span
