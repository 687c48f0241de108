"""The key/value cache: what a decoder remembers of earlier tokens, layer by layer.

Slots are counted over the batch, tokens within their sequence: for each sequence a slot is either one of its tokens,
with its number there, or padding. Layers with a sliding window keep the tokens that a later query can still see, each
sequence's own, packed to the left: their memory grows neither with the context, nor with a long prompt, nor while one
sequence of a batch goes on and another has ended.

A run appends behind what is in use, and what it appended counts from `commit` on: a run that fails changes nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.numerics import Precision

FIRST_ROOM = 64
"""Slots that a growing cache starts with; it doubles from there."""


class LayerStore:
    """Keys and values of one layer, (B, G, room, K) each."""

    def __init__(self, spec: KeyValueLayer, *, batch: int, room: int, backend: Backend, precision: Precision) -> None:
        self.spec = spec
        self.backend = backend
        self.precision = precision
        self.buffers = [self._empty(batch, room) for _ in ("keys", "values")]

    def _empty(self, batch: int, room: int) -> Array:
        shape = (batch, self.spec.heads, room, self.spec.width)
        return self.backend.from_numpy(np.zeros(shape, dtype=self.precision.widest))

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        batch, heads, room, width = self.buffers[0].shape
        return int(2 * batch * heads * room * width * self.precision.widest.itemsize)

    def grow(self, room: int, used: int) -> None:
        """Make room for more slots; the first `used` stay where they are."""
        for number, old in enumerate(self.buffers):
            fresh = self._empty(old.shape[0], room)
            fresh[:, :, :used, :] = old[:, :, :used, :]
            self.buffers[number] = fresh

    def pack(self, index_bn: NDArray[np.int64]) -> None:
        """Move each sequence's slots of these numbers to the front."""
        for buffer in self.buffers:
            self._put(buffer, buffer, index_bn, at=0)

    def append(self, k_btgk: Array, v_btgk: Array, plan: Plan) -> tuple[Array, Array]:
        """-> (B, S, G, K) twice: the slots in use and the new ones. The new ones are written behind those in use."""
        xp = self.backend.xp
        found = []
        for buffer, new_btgk in zip(self.buffers, (k_btgk, v_btgk), strict=True):
            new = xp.permute_dims(new_btgk, (0, 2, 1, 3))
            if plan.packed is None:
                buffer[:, :, plan.stop : plan.stop + new.shape[2], :] = new
                whole = buffer[:, :, plan.start : plan.stop + new.shape[2], :]
            else:
                whole = xp.concat([buffer[:, :, plan.start : plan.stop, :], new], axis=2)
                self._put(buffer, whole, plan.packed, at=plan.stop)
            found.append(xp.permute_dims(whole, (0, 2, 1, 3)))
        return found[0], found[1]

    def _put(self, buffer: Array, source: Array, index_bn: NDArray[np.int64], *, at: int) -> None:
        for b, index in enumerate(index_bn):
            rows = self.backend.xp.take(source[b, :, :, :], self.backend.from_numpy(index), axis=1)
            buffer[b, :, at : at + len(index), :] = rows


@dataclass(frozen=True)
class Plan:
    """What a run does with the layers of one window.

    Attributes:
        start: the first slot in use.
        stop: the slot behind the last in use.
        order: (B, S), the number of each slot's token in its sequence: those in use and the new ones.
        valid: (B, S), False for padding.
        packed: (B, n), which of them are kept, to be written behind `stop`; None where the new ones are written there.
    """

    start: int
    stop: int
    order: NDArray[np.int64]
    valid: NDArray[np.bool_]
    packed: NDArray[np.int64] | None


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
        """Slots of the buffers."""
        return int(self.stores[0].buffers[0].shape[2])

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

    def commit(self, plan: Plan, counts_b: NDArray[np.int64]) -> None:
        """The new tokens join; `counts_b` counts them already."""
        if plan.packed is None:
            self.order, self.valid = plan.order, plan.valid
            return
        seen = self._seen(plan.order, plan.valid, counts_b)
        self.start = plan.stop
        self._take(plan.packed, plan.order, seen)

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
            for store in self.stores:
                store.grow(room, self.stop)


class KVCache:
    """A cache for one batch of sequences; `Model.new_cache` makes it, `Model.forward` fills it.

    Args:
        layers: what each causal attention op keeps.
        batch: how many sequences.
        capacity: slots to hold at most, allocated at once where no window is shorter; None grows as needed.
        rope_length: the length that length-dependent RoPE takes, for the cache's whole life.
        limit: tokens of a sequence beyond which a growing cache would need another RoPE; None where RoPE has no end.
        backend: where keys and values lie.
        precision: the format in which they are kept: that of activations.
        store: what makes a layer's store, of `LayerStore`'s arguments: see `lepton_ref.runtime.quantised_cache`.
        owner: the model whose keys and values these are, which takes no cache but its own.

    Attributes:
        length: slots so far: the longest sequence, padding included.
        counts: (B), unmasked tokens of each sequence so far.

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
        backend: Backend,
        precision: Precision,
        store: Callable[..., LayerStore] = LayerStore,
        owner: weakref.ReferenceType[object] | None = None,
    ) -> None:
        for name, value in (("batch", batch), ("capacity", capacity)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        self.capacity = capacity
        self.rope_length = rope_length
        self.limit = limit
        self.owner = owner
        self.batch = batch
        self.length = 0
        how: dict[str, Any] = {"batch": batch, "backend": backend, "precision": precision}
        try:
            self.counts: NDArray[np.int64] = np.zeros(batch, dtype=np.int64)
            self._stores = [store(spec, room=_first_room(capacity, spec.window), **how) for spec in layers]
        except (MemoryError, ValueError, OverflowError) as error:
            slots = FIRST_ROOM if capacity is None else capacity
            raise ValueError(
                f"a cache for {batch} × {slots} tokens is more than memory holds; ask for a smaller capacity or batch"
            ) from error
        self._groups = {
            window: Group(window, [s for s in self._stores if s.spec.window == window], batch=batch, capacity=capacity)
            for window in {spec.window for spec in layers}
        }
        self._new: NDArray[np.bool_] | None = None
        self._plans: dict[int | None, Plan] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, room for more included."""
        return sum(store.nbytes for store in self._stores)

    def __repr__(self) -> str:
        room = "growing" if self.capacity is None else f"capacity {self.capacity}"
        return f"KVCache(batch {self.batch}, {self.length} slots, {room}, {self.nbytes:,} bytes)"

    def begin(self, mask_bt: NDArray[np.bool_], /) -> NDArray[np.int64]:
        """(B, T) -> (B, T), the numbers of new tokens in their sequences. Nothing has joined until `commit`.

        Raises:
            ValueError: another batch size.
            ContextOverflowError: more slots than the capacity or the limit.
        """
        if mask_bt.shape[0] != self.batch:
            raise ValueError(f"the cache holds {self.batch} sequences, got {mask_bt.shape[0]}; make another cache")
        total = self.length + mask_bt.shape[1]
        if self.capacity is not None and total > self.capacity:
            raise ContextOverflowError(
                f"{total} tokens overflow the cache's capacity of {self.capacity}; make a cache of a larger capacity"
            )
        if self.limit is not None and int((self.counts + mask_bt.sum(axis=1)).max()) > self.limit:
            raise ContextOverflowError(
                f"beyond {self.limit} tokens this model's RoPE depends on the length; create the cache with capacity="
            )
        order: NDArray[np.int64] = self.counts[:, None] + np.maximum(np.cumsum(mask_bt, axis=1) - 1, 0)
        self._plans = {window: group.plan(order, mask_bt, self.counts) for window, group in self._groups.items()}
        self._new = mask_bt
        return order

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all that the layer keeps: (B, S, G, K) twice, and each key's number and validity."""
        store = self._stores[layer]
        plan = self._plans[store.spec.window]
        keys, values = store.append(k_btgk, v_btgk, plan)
        return keys, values, plan.order, plan.valid

    def commit(self) -> None:
        """The new tokens join."""
        assert self._new is not None, "commit follows begin"
        self.length += self._new.shape[1]
        self.counts = self.counts + self._new.sum(axis=1, dtype=np.int64)
        for window, plan in self._plans.items():
            self._groups[window].commit(plan, self.counts)
        self._new, self._plans = None, {}


def _kept_first(kept_bs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, S) -> (B, n): where each sequence's kept slots are, in order, n the most of any; others fill up."""
    return np.argsort(~kept_bs, axis=1, kind="stable")[:, : int(kept_bs.sum(axis=1).max(initial=0))]


def _first_room(capacity: int | None, window: int | None) -> int:
    room = FIRST_ROOM if capacity is None else capacity
    return room if window is None else min(room, 2 * window)
