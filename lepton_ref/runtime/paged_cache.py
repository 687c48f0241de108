"""The cache in blocks: each sequence has its own count, and a table that says which blocks its tokens lie in.

    slot s of a sequence is its token number s, and lies in block table[s // 16] at s mod 16

Padding takes no slot, so the sequences of a batch need not go at one pace. `fork` makes sequences that go on from
others': they count on the same blocks, and whoever writes into one that is shared copies it first. `together` puts
sequences of several caches into one batch, and what is read there joins each of them. A window's blocks are released
when no later query sees any of their tokens. Every cache of one pool frees its sequences' blocks when it is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.block_pool import BLOCK
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.cache_state import Layout, require_size
from lepton_ref.runtime.kv_codec import Codec, encode
from lepton_ref.runtime.paged_plan import PagedPlan, PagedState, Pools, blocks, let_go, plan


class PagedCache(KVCache):
    """A cache in blocks of 16 tokens: `Model.new_cache(paged=True)` makes it.

    Args:
        layers: what each causal attention op keeps.
        states: one a sequence, of these pools.
        pools: where keys and values lie.
        codec: how vectors are kept.
        owner: the model whose keys and values these are, which takes no cache but its own.
    """

    states: list[PagedState]  # type: ignore[assignment]  # the base class reads them alone

    def __init__(
        self,
        layers: tuple[KeyValueLayer, ...],
        states: Sequence[PagedState],
        pools: Pools,
        *,
        codec: Codec,
        owner: weakref.ReferenceType[object] | None = None,
    ) -> None:
        super().__init__(layers, states, codec=codec, owner=owner)
        self.pools = pools
        self._plans: dict[int | None, PagedPlan] = {}

    @classmethod
    def empty(
        cls,
        layers: tuple[KeyValueLayer, ...],
        *,
        batch: int,
        capacity: int | None,
        rope_length: int,
        limit: int | None = None,
        codec: Codec,
        owner: weakref.ReferenceType[object] | None = None,
        pools: Pools | None = None,
    ) -> PagedCache:
        """A cache of sequences without tokens, in pools of its own or in these.

        Raises:
            ValueError: a batch or a capacity that is not an integer of at least 1.
        """
        require_size(batch, capacity)
        pools = Pools(layers, codec) if pools is None else pools
        states = [pools.state(capacity, rope_length, limit) for _ in range(batch)]
        return cls(layers, states, pools, codec=codec, owner=owner)

    @classmethod
    def together(cls, caches: Sequence[PagedCache], /) -> PagedCache:
        """The sequences of all these caches as one batch: what joins it joins them.

        Raises:
            ValueError: no cache, caches of several pools, or a sequence that comes twice.
            TypeError: something that is no paged cache.
        """
        if not isinstance(caches, Sequence):
            raise TypeError(f"give a list of paged caches, got {caches!r}")
        if len(caches) == 0:
            raise ValueError("there is no cache to put together; give at least one")
        for cache in caches:
            if not isinstance(cache, PagedCache):
                raise TypeError(f"only paged caches go together, got {cache!r}; make each with new_cache(paged=True)")
        first = caches[0]
        states = [state for cache in caches for state in cache.states]
        if any(cache.pools is not first.pools for cache in caches):
            raise ValueError("the caches have blocks of several pools; make all but the first with paged=the first")
        if len({id(state) for state in states}) < len(states):
            raise ValueError("a sequence comes twice, but can go on in one way only; fork it")
        return cls(first.layers, states, first.pools, codec=first.codec, owner=first.owner)

    def fork(self, rows: Iterable[int] | None = None, /) -> PagedCache:
        """A cache whose sequences go on from these ones, by number, as often as they are named; None for each once.

        Raises:
            ValueError: a number that is no sequence's, or none at all.
        """
        if rows is not None and not isinstance(rows, Iterable):
            raise TypeError(f"rows must be a list of numbers of sequences, got {rows!r}")
        chosen = list(range(self.batch) if rows is None else rows)
        if len(chosen) == 0:
            raise ValueError("rows is empty; name at least one sequence")
        for row in chosen:
            if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < self.batch:
                raise ValueError(f"rows holds {row!r}, but the sequences are 0 to {self.batch - 1}")
        states = [self._forked(self.states[row]) for row in chosen]
        return PagedCache(self.layers, states, self.pools, codec=self.codec, owner=self.owner)

    def __deepcopy__(self, memo: dict[int, Any], /) -> PagedCache:
        return self.fork()

    def _forked(self, state: PagedState) -> PagedState:
        twin = self.pools.state(state.capacity, state.rope_length, state.limit)
        twin.count, twin.ids = state.count, None if state.ids is None else list(state.ids)
        for window, pool in self.pools.by_window.items():
            twin.first[window] = state.first[window]
            for block in state.tables[window][: blocks(state.count)]:
                pool.share(block)
                twin.tables[window].append(block)
        return twin

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.counts.max())

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values of the pools, which other caches may share, free blocks included."""
        return sum(store.nbytes for store in self.pools.stores)

    def __repr__(self) -> str:
        room = "growing" if self.capacity is None else f"capacity {self.capacity}"
        used = sum(pool.in_use for pool in self.pools.by_window.values())
        return f"KVCache(batch {self.batch}, {self.length} slots, {room}, {used} blocks, {self.nbytes:,} bytes)"

    def used(self, b: int, padding: int, /) -> int:
        """Slots that count against a sequence's capacity: its own tokens, for padding takes none."""
        return self.states[b].count

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all that the layer keeps: (B, S, G, K) twice, and each key's number and validity."""
        store = self.pools.stores[layer]
        found = self._plans[store.spec.window]
        store.write(encode(self.codec, k_btgk, v_btgk), found.pieces)
        slots = found.order.shape[1]
        keys, values = store.decode([part[:, :slots, :, :] for part in store.gather(found.table)])
        return keys, values, found.order, found.valid

    def addresses(self, layer: int, /) -> Layout | None:
        """Where the layer's keys and values lie; None for small numbers."""
        store = self.pools.stores[layer]
        found = self._plans[store.spec.window]
        if len(store.buffers) != 2:
            return None
        heads, width = store.spec.heads, store.spec.width
        strides = (heads * BLOCK * width, BLOCK * width, width)
        return Layout(
            keys=store.buffers[0], values=store.buffers[1], table=found.table, block=BLOCK, strides=strides, start=0,
            order=found.order, valid=found.valid, new=found.new,
        )  # fmt: skip

    def held(self, layer: int, b: int, /) -> tuple[int, list[HostArray]]:
        """The first token that a layer still holds of a sequence, and from there on the parts of keys and values."""
        store, state = self.pools.stores[layer], self.states[b]
        first = min(state.first[store.spec.window], state.count)
        return first, store.read(state.tables[store.spec.window], first, state.count)

    def _asked(self, mask_bt: NDArray[np.bool_]) -> list[int]:
        totals: list[int] = (self.counts + mask_bt.sum(axis=1)).tolist()
        return totals

    def _plan(self, order_bt: NDArray[np.int64], mask_bt: NDArray[np.bool_]) -> None:
        self._plans = {w: plan(pool, self.states, mask_bt) for w, pool in self.pools.by_window.items()}

    def _write(self, layer: int, parts: list[Array]) -> None:
        store = self.pools.stores[layer]
        store.write(parts, self._plans[store.spec.window].pieces)

    def _join(self) -> None:
        self._plans = {}

    def _cut(self) -> None:
        self._plans = {}
        for state in self.states:
            for window, pool in self.pools.by_window.items():
                pool.release_from(state.tables[window], blocks(state.count))
                state.first[window] = min(state.first[window], state.count)

    def _first(self, b: int, window: int) -> int:
        return self.states[b].first[window]

    def _let_go(self, first_b: dict[int, list[int]]) -> None:
        for window, firsts in first_b.items():
            for state, first in zip(self.states, firsts, strict=True):
                let_go(self.pools.by_window[window], state, first)
