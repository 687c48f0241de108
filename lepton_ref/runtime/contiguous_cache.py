"""The cache in one piece: each layer's keys and values in two buffers with room for more behind what is in use.

Slots are counted over the batch, tokens within their sequence: for each sequence a slot is either one of its tokens,
with its number there, or padding. Layers with a sliding window keep the tokens that a later query can still see, each
sequence's own, packed to the left: their memory grows neither with the context, nor with a long prompt, nor while one
sequence of a batch goes on and another has ended.
"""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.cache_state import Layout, SequenceState, require_size
from lepton_ref.runtime.kv_codec import Codec
from lepton_ref.runtime.layer_store import LayerStore, Plan

FIRST_ROOM = 64
"""Slots that a growing cache starts with; it doubles from there."""


class Group:
    """The layers of one window, which have one layout.

    Args:
        window: how many keys back a query sees, or None for all.
        stores: the layers' buffers.
        capacity: the most slots that can ever be asked for, or None.
    """

    def __init__(self, window: int | None, stores: list[LayerStore], *, batch: int, capacity: int | None) -> None:
        self.window = window
        self.stores = stores
        self.limit = min((n for n in (capacity, window and 2 * window) if n is not None), default=None)
        self.start = 0
        self.order = np.zeros((batch, 0), dtype=np.int64)
        self.valid = np.zeros((batch, 0), dtype=np.bool_)

    @property
    def room(self) -> int:
        """Slots of the buffers: an interrupt may have come between two layers."""
        return min(store.room for store in self.stores)

    @property
    def stop(self) -> int:
        """The slot behind the last in use."""
        return self.start + self.order.shape[1]

    def plan(self, order_bt: NDArray[np.int64], valid_bt: NDArray[np.bool_], counts_b: NDArray[np.int64]) -> Plan:
        """Where a run's tokens go. Makes room by dropping what no later query sees, or by growing up to the limit."""
        new = order_bt.shape[1]
        if self.stop + new > self.room:
            if self.window is not None:
                self._pack(self._seen(self.order, self.valid, counts_b))
            self._grow(self.stop + new)
        order = np.concatenate([self.order, order_bt], axis=1)
        valid = np.concatenate([self.valid, valid_bt], axis=1)
        packed = None
        if self.stop + new > self.room:  # a chunk longer than the buffers: of it too only what is seen later is kept
            packed = _kept_first(self._seen(order, valid, counts_b + valid_bt.sum(axis=1)))
        return Plan(self.start, self.stop, order, valid, packed)

    def commit(self, plan: Plan, packed: NDArray[np.int64], counts_b: NDArray[np.int64]) -> None:
        """What is kept of a long chunk joins; `counts_b` counts it already."""
        seen = self._seen(plan.order, plan.valid, counts_b)
        self.start = plan.stop
        self._take(packed, plan.order, seen)

    def _seen(
        self, order: NDArray[np.int64], valid: NDArray[np.bool_], counts_b: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which tokens the next query of their sequence sees, and hence every one that any later query can see."""
        return valid if self.window is None else valid & (order > counts_b[:, None] - self.window)

    def _pack(self, seen: NDArray[np.bool_]) -> None:
        index = _kept_first(seen)
        if index.shape[1] == self.stop:
            return
        for store in self.stores:
            store.pack(index + self.start)
        self.start = 0
        self._take(index, self.order, seen)

    def _take(self, index: NDArray[np.int64], order: NDArray[np.int64], seen: NDArray[np.bool_]) -> None:
        self.order = np.take_along_axis(order, index, axis=1)
        self.valid = np.take_along_axis(seen, index, axis=1)

    def _grow(self, needed: int) -> None:
        """Up to the limit; and early, where a window would have to be packed again after a few tokens."""
        limit = max(needed, 2 * self.room) if self.limit is None else self.limit
        tight = self.window is not None and 2 * self.stop > self.room
        if self.room < limit and (needed > self.room or tight):
            room = min(limit, max(needed, 2 * self.room))
            fresh = [store.grown(room, self.stop) for store in self.stores]  # all or, where memory ends, none
            for store, buffers in zip(self.stores, fresh, strict=True):
                store.buffers, store.room = buffers, room

    def first(self, b: int) -> int | None:
        """The first token of a sequence that is held; None where none is."""
        held = self.order[b][self.valid[b]]
        return int(held[0]) if held.size else None

    def slots(self, b: int) -> NDArray[np.int64]:
        """Where a sequence's tokens lie, in order."""
        return self.start + np.flatnonzero(self.valid[b])

    def cut(self, counts_b: NDArray[np.int64]) -> int:
        """Drop tokens at or beyond the counts, and the slots at the end that hold none then -> how many slots."""
        self.valid = self.valid & (self.order < counts_b[:, None])
        columns = np.flatnonzero(self.valid.any(axis=0))
        kept = 0 if columns.size == 0 else int(columns[-1]) + 1
        dropped = self.order.shape[1] - kept
        self.order, self.valid = self.order[:, :kept], self.valid[:, :kept]
        return dropped

    def let_go(self, first_b: list[int]) -> None:
        """Tokens before these count as not held."""
        self.valid = self.valid & (self.order >= np.array(first_b)[:, None])


class ContiguousCache(KVCache):
    """A cache whose sequences share their slots.

    Args:
        layers: what each causal attention op keeps.
        batch: how many sequences.
        capacity: slots to hold at most, allocated at once where no window is shorter; None grows as needed.
        rope_length: the length that length-dependent RoPE takes, for the cache's whole life.
        limit: tokens of a sequence beyond which a growing cache would need another RoPE; None where RoPE has no end.
        codec: how vectors are kept.
        owner: the model whose keys and values these are, which takes no cache but its own.

    Raises:
        ValueError: a batch or a capacity that is not an integer of at least 1, or that memory cannot hold.
    """

    def __init__(
        self,
        layers: tuple[KeyValueLayer, ...],
        *,
        batch: int,
        capacity: int | None,
        rope_length: int,
        limit: int | None = None,
        codec: Codec,
        owner: weakref.ReferenceType[object] | None = None,
    ) -> None:
        require_size(batch, capacity)
        slots = FIRST_ROOM if capacity is None else capacity
        try:
            rooms = [slots if spec.window is None else min(slots, 2 * spec.window) for spec in layers]
            how = zip(layers, rooms, strict=True)
            self._stores = [LayerStore(spec, batch=batch, room=room, codec=codec) for spec, room in how]
            states = [SequenceState(capacity, rope_length, limit) for _ in range(batch)]
        except (MemoryError, ValueError, OverflowError) as error:
            raise ValueError(
                f"a cache for {batch} × {slots} tokens is more than memory holds; ask for a smaller capacity or batch"
            ) from error
        super().__init__(layers, states, codec=codec, owner=owner)
        self._length = 0
        self._groups = {
            window: Group(window, [s for s in self._stores if s.spec.window == window], batch=batch, capacity=capacity)
            for window in {spec.window for spec in layers}
        }
        self._plans: dict[int | None, Plan] = {}
        self._table = np.arange(batch)[:, None]
        self._columns: dict[int | None, NDArray[np.int64]] = {}
        self._layouts: dict[int, Layout | None] = {}

    @property
    def length(self) -> int:
        """Slots so far: the longest sequence, padding included."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, room for more included."""
        return sum(store.nbytes for store in self._stores)

    def __repr__(self) -> str:
        room = "growing" if self.capacity is None else f"capacity {self.capacity}"
        return f"KVCache(batch {self.batch}, {self.length} slots, {room}, {self.nbytes:,} bytes)"

    def used(self, b: int, padding: int, /) -> int:
        """Slots that count against a sequence's capacity: those of all, padding too."""
        return self._length + padding

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all that the layer keeps: (B, S, G, K) twice, and each key's number and validity."""
        store = self._stores[layer]
        plan = self._plans[store.spec.window]
        keys, values = store.append(k_btgk, v_btgk, plan)
        return keys, values, plan.order, plan.valid

    def addresses(self, layer: int, /) -> Layout | None:
        """Where the layer's keys and values lie; None for small numbers, and for a chunk that is not kept whole."""
        if layer not in self._layouts:
            self._layouts[layer] = self._layout(self._stores[layer])
        return self._layouts[layer]

    def _layout(self, store: LayerStore) -> Layout | None:
        plan = self._plans[store.spec.window]
        if len(store.buffers) != 2 or plan.packed is not None:
            return None
        heads, width = store.spec.heads, store.spec.width
        assert self._new is not None, "a plan has new tokens"
        if store.spec.window not in self._columns:
            columns = plan.stop - plan.start + np.arange(self._new.shape[1])
            self._columns[store.spec.window] = np.where(self._new, columns, -1)
        return Layout(
            keys=store.buffers[0], values=store.buffers[1], table=self._table, block=store.room,
            strides=(heads * store.room * width, store.room * width, width), start=plan.start,
            order=plan.order, valid=plan.valid, new=self._columns[store.spec.window],
        )  # fmt: skip

    def held(self, layer: int, b: int, /) -> tuple[int, list[HostArray]]:
        """The first token that a layer still holds of a sequence, and from there on the parts of keys and values."""
        store = self._stores[layer]
        group = self._groups[store.spec.window]
        first = group.first(b)
        return self.states[b].count if first is None else first, store.read(b, group.slots(b))

    def _asked(self, mask_bt: NDArray[np.bool_]) -> list[int]:
        return [self._length + mask_bt.shape[1]] * self.batch

    def _plan(self, order_bt: NDArray[np.int64], mask_bt: NDArray[np.bool_]) -> None:
        counts = self.counts
        self._plans = {window: group.plan(order_bt, mask_bt, counts) for window, group in self._groups.items()}
        self._columns, self._layouts = {}, {}

    def _write(self, layer: int, parts: list[Array]) -> None:
        store = self._stores[layer]
        store.write(parts, self._plans[store.spec.window])

    def _join(self) -> None:
        assert self._new is not None, "a run joins"
        self._length += self._new.shape[1]
        for window, plan in self._plans.items():
            if plan.packed is None:
                self._groups[window].order, self._groups[window].valid = plan.order, plan.valid
            else:
                self._groups[window].commit(plan, plan.packed, self.counts)
        self._plans, self._layouts = {}, {}

    def _cut(self) -> None:
        dropped = {window: group.cut(self.counts) for window, group in self._groups.items()}
        self._length -= dropped.get(None, min(dropped.values())) if self.counts.any() else self._length
        self._plans = {}

    def _first(self, b: int, window: int) -> int:
        first = self._groups[window].first(b)
        return self.states[b].count if first is None else first

    def _let_go(self, first_b: dict[int, list[int]]) -> None:
        for window, first in first_b.items():
            self._groups[window].let_go(first)


def _kept_first(kept_bs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, S) -> (B, n): where each sequence's kept slots are, in order, n the most of any; others fill up."""
    return np.argsort(~kept_bs, axis=1, kind="stable")[:, : int(kept_bs.sum(axis=1).max(initial=0))]
