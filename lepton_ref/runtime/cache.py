"""The key/value cache: what a decoder remembers of earlier tokens, layer by layer.

Slots are counted over the batch, tokens within their sequence: for each sequence a slot is either one of its tokens,
with its number there, or padding. A layer with a sliding window keeps only the slots that a later query can still see,
so its memory does not grow with the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.numerics import Precision

FIRST_ROOM = 64
"""Slots that a growing cache starts with; it doubles from there."""


class LayerStore:
    """Keys and values of one layer, (B, G, room, K) each, of which the slots from `start` on are kept."""

    def __init__(self, spec: KeyValueLayer, *, batch: int, room: int, backend: Backend, precision: Precision) -> None:
        self.spec = spec
        self.backend = backend
        self.precision = precision
        self.start = 0
        self.keys = self._empty(batch, room)
        self.values = self._empty(batch, room)

    def _empty(self, batch: int, room: int) -> Array:
        shape = (batch, self.spec.heads, room, self.spec.width)
        return self.backend.from_numpy(np.zeros(shape, dtype=self.precision.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        batch, heads, room, width = self.keys.shape
        return int(2 * batch * heads * room * width * self.precision.dtype.itemsize)

    def append(self, slots: int, k_btgk: Array, v_btgk: Array, *, keep_from: int) -> tuple[Array, Array]:
        """-> (B, S, G, K) twice: the kept slots and the new ones, which are written after slot number `slots`."""
        new = k_btgk.shape[1]
        if slots - self.start + new > self.keys.shape[2]:
            self._make_room(slots, new, keep_from)
        xp = self.backend.xp
        at = slice(slots - self.start, slots - self.start + new)
        self.keys[:, :, at, :] = xp.permute_dims(k_btgk, (0, 2, 1, 3))
        self.values[:, :, at, :] = xp.permute_dims(v_btgk, (0, 2, 1, 3))
        kept = (xp.permute_dims(store[:, :, : at.stop, :], (0, 2, 1, 3)) for store in (self.keys, self.values))
        return next(kept), next(kept)

    def _make_room(self, slots: int, new: int, keep_from: int) -> None:
        kept = slice(keep_from - self.start, slots - self.start)
        needed = slots - keep_from + new
        batch, room = self.keys.shape[0], self.keys.shape[2]
        room = room if needed <= room else max(needed, 2 * room)
        for name in ("keys", "values"):
            fresh = self._empty(batch, room)
            fresh[:, :, : slots - keep_from, :] = getattr(self, name)[:, :, kept, :]
            setattr(self, name, fresh)
        self.start = keep_from


class KVCache:
    """A cache for one batch of sequences; `Model.new_cache` makes it, `Model.forward` fills it.

    Args:
        layers: what each causal attention op keeps.
        batch: how many sequences.
        capacity: slots to hold at most, allocated at once where no window is shorter; None grows as needed.
        rope_length: the length that length-dependent RoPE takes, for the cache's whole life.
        backend: where keys and values lie.
        precision: the format in which they are kept: that of activations.

    Raises:
        ValueError: a batch or a capacity below 1.
    """

    def __init__(
        self,
        layers: tuple[KeyValueLayer, ...],
        *,
        batch: int,
        capacity: int | None,
        rope_length: int,
        backend: Backend,
        precision: Precision,
    ) -> None:
        for name, value in (("batch", batch), ("capacity", capacity)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.capacity = capacity
        self.rope_length = rope_length
        self.batch = batch
        self.order = np.zeros((batch, 0), dtype=np.int64)
        self.valid = np.zeros((batch, 0), dtype=np.bool_)
        self._new: tuple[NDArray[np.int64], NDArray[np.bool_]] | None = None
        self._stores = [
            LayerStore(spec, batch=batch, room=_first_room(capacity, spec.window), backend=backend, precision=precision)
            for spec in layers
        ]

    @property
    def length(self) -> int:
        """Slots in use: the longest sequence, padding included."""
        return self.order.shape[1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(B) unmasked tokens of each sequence."""
        return np.asarray(self.valid.sum(axis=1, dtype=np.int64))

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
            ContextOverflowError: more slots than the capacity.
        """
        if mask_bt.shape[0] != self.batch:
            raise ValueError(f"the cache holds {self.batch} sequences, got {mask_bt.shape[0]}; make another cache")
        total = self.length + mask_bt.shape[1]
        if self.capacity is not None and total > self.capacity:
            raise ContextOverflowError(
                f"{total} tokens overflow the cache's capacity of {self.capacity}; make a cache of a larger capacity"
            )
        order: NDArray[np.int64] = self.counts[:, None] + np.maximum(np.cumsum(mask_bt, axis=1) - 1, 0)
        self._new = (np.concatenate([self.order, order], axis=1), np.concatenate([self.valid, mask_bt], axis=1))
        return order

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all that the layer keeps: (B, S, G, K) twice, and each key's number and validity."""
        assert self._new is not None, "extend is called between begin and commit"
        store = self._stores[layer]
        keep_from = self._oldest_seen(store.spec.window)
        keys, values = store.append(self.length, k_btgk, v_btgk, keep_from=keep_from)
        order, valid = self._new
        return keys, values, order[:, store.start :], valid[:, store.start :]

    def commit(self) -> None:
        """The new tokens join."""
        assert self._new is not None, "commit follows begin"
        self.order, self.valid = self._new
        self._new = None

    def _oldest_seen(self, window: int | None) -> int:
        """The first slot that a later query can see."""
        if window is None or self.length == 0:
            return 0
        seen = self.valid & (self.order > self.counts[:, None] - window)
        return int(np.where(seen.any(axis=1), seen.argmax(axis=1), self.length).min())


def _first_room(capacity: int | None, window: int | None) -> int:
    room = FIRST_ROOM if capacity is None else capacity
    return room if window is None else min(room, 2 * window)
