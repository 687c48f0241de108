"""Where attention's keys and values lie in a run, and who sees whom, as the step's kernels read it."""

from __future__ import annotations

from typing import Any

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
        self.caches = {which: op.options["cache"] for which, op in zip(self.which, self.ops, strict=True)}
        self.buffers = [np.empty(0, dtype=np.float32) for _ in range(2)]

    def of(
        self, run: Any, layouts: dict[int, Any] | None, rows: int, row_of: Integers
    ) -> tuple[Integers, NDArray[np.uint8], Integers, int]:
        """Integers that begin with the picked rows, masks, one row for each layer, and doubles of scratch.

        Where buffers and tables are those of the run before, as from one token to the next, only what a run's tokens
        see and where they go is written anew.
        """
        found = {which: self._layout(run, layouts, which) for which in self.which}
        shape = (*run.batch.mask.shape, rows, len(row_of))
        if self.held is None or not self.held.serves(shape, found):
            self.held = Held(self, shape, found)
        return self.held.filled(run, found, row_of)

    def _layout(self, run: Any, layouts: dict[int, Any] | None, which: int) -> Any:
        if layouts is not None:
            return layouts[which]
        kept = self.caches[which]
        needed = run.batch.mask.size * kept.heads * kept.width
        if needed > self.buffers[0].size:
            self.buffers = [np.empty(needed, dtype=np.float32) for _ in range(2)]
        return Own(run.batch, kept.heads, kept.width, self.buffers)


class Held:
    """The integers of one run, kept for the next.

    They are: the picked rows; for each kind of view (causal, window) the slots that each row sees, and the slot to
    which it goes; for each layer its shape, then its table of blocks.

    Args:
        owner: the map.
        shape: B, T, rows, picked rows.
        layouts: each layer's layout.
    """

    def __init__(self, owner: AttentionMap, shape: tuple[int, int, int, int], layouts: dict[int, Any]) -> None:
        batch, tokens, rows, picked = shape
        self.owner, self.shape, self.layouts = owner, shape, layouts
        self.views: dict[tuple[bool, int | None], int] = {}
        end = picked
        for op in owner.ops:
            if _view(op) not in self.views:
                self.views[_view(op)] = end
                end += 3 * rows
        pieces: list[Integers] = [np.zeros(end, dtype=np.int64)]
        self.layers = np.zeros((max(1, owner.layers), 5), dtype=np.int64)
        self.places: list[tuple[Any, int]] = []
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
            self.places.append((op, end))
            pieces += [fields, layout.table.reshape(-1).astype(np.int64)]
            end += FIELDS + layout.table.size
        self.integers = np.concatenate(pieces)

    def serves(self, shape: tuple[int, int, int, int], layouts: dict[int, Any]) -> bool:
        """Whether these are the same buffers and tables, for runs of the same shape."""
        return shape == self.shape and all(
            new is old
            or (
                new.keys is old.keys
                and new.values is old.values
                and new.block == old.block
                and new.strides == old.strides
                and (new.table is old.table or np.array_equal(new.table, old.table))
            )
            for new, old in zip(layouts.values(), self.layouts.values(), strict=True)
        )

    def filled(
        self, run: Any, layouts: dict[int, Any], row_of: Integers
    ) -> tuple[Integers, NDArray[np.uint8], Integers, int]:
        """What `AttentionMap.of` gives."""
        rows, tokens, integers = self.shape[2], self.shape[1], self.integers
        self.layouts = layouts
        integers[: len(row_of)] = row_of
        masks: list[NDArray[np.uint8]] = []
        masked, scratch = 0, 1
        seen: dict[tuple[bool, int | None], tuple[int, int, int]] = {}
        for (op, at), which in zip(self.places, self.owner.which, strict=True):
            view = _view(op)
            if view not in seen:
                layout, place = layouts[which], self.views[view]
                ranges, holes, longest = _ranges(run.seen(op, layout.order, layout.valid), layout.start)
                integers[place : place + 2 * rows] = ranges.reshape(-1)
                new = np.where(layout.new >= 0, layout.new + layout.start, -1)
                integers[place + 2 * rows : place + 3 * rows] = new.reshape(-1)
                seen[view] = (-1 if holes is None else masked, layout.start + layout.order.shape[1], longest)
                if holes is not None:
                    masks.append(holes.reshape(-1))
                    masked += holes.size
            mask, slots, longest = seen[view]
            heads, groups, width = op.options["heads"], op.options["kv_heads"], self.owner.caches[which].width
            queries = queries_at_once(tokens, heads, groups, longest)
            integers[at + QUERIES], integers[at + MASK], integers[at + MASK_STRIDE] = queries, mask, slots
            scratch = max(scratch, scratch_size(queries, heads, groups, width, longest))
        return integers, np.concatenate(masks) if masks else NO_MASK, self.layers, scratch


NO_MASK = np.zeros(1, dtype=np.uint8)


def _view(op: Any) -> tuple[bool, int | None]:
    """What decides which keys an attention op's queries see: layers of one window keep the same keys."""
    return op.options["causal"], op.options["window"]


def _ranges(seen: NDArray[np.bool_], start: int) -> tuple[Integers, NDArray[np.uint8] | None, int]:
    """(B, T, S) -> (B·T, 2) from the first slot seen to behind the last, a mask if any has holes, and the most."""
    flat = seen.reshape(-1, seen.shape[-1])
    count = flat.sum(axis=1)
    first = flat.argmax(axis=1)
    last = np.where(count > 0, flat.shape[1] - flat[:, ::-1].argmax(axis=1), first)
    ranges = np.stack([first, last], axis=1) + start
    holes = None
    if (last - first != count).any():
        holes = np.zeros((len(flat), start + flat.shape[1]), dtype=np.uint8)
        holes[:, start:] = flat
    return ranges, holes, int((last - first).max(initial=1))
