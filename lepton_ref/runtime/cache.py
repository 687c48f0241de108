"""The key/value cache: what a decoder remembers of earlier tokens, layer by layer.

What all caches share stands here: what they hold of each sequence, which runs they refuse, and how tokens join and
leave. Where keys and values lie is another page's: in one piece (`contiguous_cache`) or in blocks (`paged_cache`).

A run appends behind what is in use, and what it appended counts from `commit` on: a run that fails changes nothing.
`truncate` takes the latest tokens away again. A layer with a window lets go of what no later query sees, so a sequence
goes back only as far as its windows still hold what the next query would see there; to nothing always.
"""

from __future__ import annotations

import itertools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.cache_state import Layout, SequenceState, first_seen
from lepton_ref.runtime.kv_codec import Codec, zeros

if TYPE_CHECKING:
    import os
    from pathlib import Path


class KVCache(ABC):
    """A cache for one batch of sequences; `Model.new_cache` makes it, `Model.forward` fills it.

    Args:
        layers: what each causal attention op keeps.
        states: one a sequence.
        codec: how vectors are kept.
        owner: the model whose keys and values these are, which takes no cache but its own.
    """

    def __init__(
        self,
        layers: tuple[KeyValueLayer, ...],
        states: Sequence[SequenceState],
        *,
        codec: Codec,
        owner: weakref.ReferenceType[object] | None,
    ) -> None:
        self.layers = layers
        self.states = list(states)
        self.codec = codec
        self.owner = owner
        self._new: NDArray[np.bool_] | None = None

    @property
    def batch(self) -> int:
        """How many sequences."""
        return len(self.states)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(B), unmasked tokens of each sequence so far."""
        return np.array([state.count for state in self.states], dtype=np.int64)

    @property
    def ids(self) -> tuple[tuple[int, ...] | None, ...]:
        """The tokens of each sequence; None where some joined whose ids or positions only the caller knows."""
        return tuple(None if state.ids is None else tuple(state.ids) for state in self.states)

    @property
    def capacity(self) -> int | None:
        """Slots to hold at most, the least of any sequence; None grows as needed."""
        return min((state.capacity for state in self.states if state.capacity is not None), default=None)

    @property
    def rope_length(self) -> int | NDArray[np.int64]:
        """The length that length-dependent RoPE takes; (B) where the sequences' differ."""
        lengths = [state.rope_length for state in self.states]
        return lengths[0] if len(set(lengths)) == 1 else np.array(lengths, dtype=np.int64)

    @property
    @abstractmethod
    def length(self) -> int:
        """Slots so far: the longest sequence, padding included where it takes slots."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all keys and values, room for more included."""

    def fork(self, rows: Iterable[int] | None = None, /) -> KVCache:
        """A cache whose sequences go on from these ones: what paged caches alone can do.

        Raises:
            ValueError: this one is not paged.
        """
        raise ValueError("keys and values in one piece cannot be shared; make the cache with new_cache(paged=True)")

    @abstractmethod
    def used(self, b: int, padding: int, /) -> int:
        """Slots that count against a sequence's capacity once so much padding has joined."""

    @abstractmethod
    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all that the layer keeps: (B, S, G, K) twice, and each key's number and validity."""

    @abstractmethod
    def addresses(self, layer: int, /) -> Layout | None:
        """Where the layer's keys and values lie, between `begin` and `commit`; None where they lie in no such way."""

    @abstractmethod
    def held(self, layer: int, b: int, /) -> tuple[int, list[HostArray]]:
        """The first token that a layer still holds of a sequence, and from there on the parts of keys and values."""

    @abstractmethod
    def _plan(self, order_bt: NDArray[np.int64], mask_bt: NDArray[np.bool_]) -> None:
        """Say where a run's tokens go, and make room."""

    @abstractmethod
    def _write(self, layer: int, parts: list[Array]) -> None:
        """Put encoded keys and values, (B, T, G, ·) each, where the plan says."""

    @abstractmethod
    def _join(self) -> None:
        """The planned tokens join; the counts count them already."""

    @abstractmethod
    def _cut(self) -> None:
        """Drop what is at or beyond the counts."""

    @abstractmethod
    def _first(self, b: int, window: int) -> int:
        """The first token that layers of this window hold; all from there on are held."""

    @abstractmethod
    def _let_go(self, first_b: dict[int, list[int]]) -> None:
        """Tokens before these, by window, count as not held."""

    def begin(self, mask_bt: NDArray[np.bool_], /) -> NDArray[np.int64]:
        """(B, T) -> (B, T), the numbers of new tokens in their sequences. Nothing has joined until `commit`.

        Raises:
            ValueError: another batch size.
            ContextOverflowError: more slots than the capacity or the limit.
        """
        if mask_bt.shape[0] != self.batch:
            raise ValueError(f"the cache holds {self.batch} sequences, got {mask_bt.shape[0]}; make another cache")
        for state, total, kept in zip(self.states, self._asked(mask_bt), mask_bt.tolist(), strict=True):
            if state.capacity is not None and total > state.capacity:
                raise ContextOverflowError(
                    f"{total} tokens overflow the cache's capacity of {state.capacity}; "
                    "make a cache of a larger capacity"
                )
            if state.limit is not None and state.count + sum(kept) > state.limit:
                raise ContextOverflowError(
                    f"beyond {state.limit} tokens this model's RoPE depends on the length; "
                    "create the cache with capacity="
                )
        order = self.counts[:, None]
        if mask_bt.shape[1] > 1:
            order = order + np.maximum(np.cumsum(mask_bt, axis=1) - 1, 0)
        self._plan(order, mask_bt)
        self._new = mask_bt
        return order

    @abstractmethod
    def _asked(self, mask_bt: NDArray[np.bool_]) -> list[int]:
        """Slots that each sequence would take with a run's."""

    def commit(self, ids_bt: NDArray[np.int64] | None = None, /) -> None:
        """The new tokens join: these, or such as only the caller knows."""
        assert self._new is not None, "commit follows begin"
        given = [None] * self.batch if ids_bt is None else ids_bt.tolist()
        for state, kept, ids in zip(self.states, self._new.tolist(), given, strict=True):
            if ids is None:
                state.ids = state.ids if not any(kept) else None
            elif state.ids is not None:
                state.ids.extend(itertools.compress(ids, kept))
            state.count += sum(kept)
        self._join()
        self._new = None

    def fill(self, ids: Sequence[Sequence[int]], parts: Sequence[Sequence[list[HostArray]]], /) -> None:
        """Tokens join whose keys and values are known already.

        Args:
            ids: those of each sequence.
            parts: for each layer and sequence the parts of keys and values, (G, n, ·) each, of its latest n tokens: all
                that the next query sees.
        """
        longest = max(len(row) for row in ids)
        if longest == 0:
            return
        mask = np.array([[t >= longest - len(row) for t in range(longest)] for row in ids])
        ids_bt = np.zeros(mask.shape, dtype=np.int64)
        ids_bt[mask] = [index for row in ids for index in row]
        self.begin(mask)
        for layer, spec in enumerate(self.layers):
            whole = [array.transpose(0, 2, 1, 3) for array in zeros(self.codec, (*mask.shape, spec.heads), spec.width)]
            for b, found in enumerate(parts[layer]):
                for array, part in zip(whole, found, strict=True):
                    array[b, :, longest - part.shape[1] :] = part
            self._write(layer, [self.codec.from_host(array.transpose(0, 2, 1, 3)) for array in whole])
        self.commit(ids_bt)
        windows = [spec.window for spec in self.layers if spec.window is not None]
        self._let_go({window: [first_seen(len(row), window) for row in ids] for window in windows})

    def can_truncate(self, counts: int | Sequence[int] | NDArray[np.int64], /) -> bool:
        """Whether `truncate` would go back to these counts. Errors as there, but for what windows no longer hold."""
        return self._out_of_reach(self._wanted(counts)) is None

    def truncate(self, counts: int | Sequence[int] | NDArray[np.int64], /) -> None:
        """Take each sequence's latest tokens away, so that this many stay; one number is for all.

        Raises:
            ValueError: not one count a sequence, more tokens than there are, or so few that a window has let go of what
                the next token would see. Nothing has changed then.
            TypeError: a count that is no integer.
        """
        wanted = self._wanted(counts)
        lost = self._out_of_reach(wanted)
        if lost is not None:
            b, window = lost
            raise ValueError(
                f"sequence {b} cannot go back to {wanted[b]} of its {self.states[b].count} tokens: "
                f"a window of {window} has let go of what they see; truncate it to 0 and read it again"
            )
        for state, count in zip(self.states, wanted, strict=True):
            state.count = count
            if state.ids is not None:
                del state.ids[count:]
            elif count == 0:
                state.ids = []
        self._new = None
        self._cut()

    def _wanted(self, counts: Any) -> list[int]:
        given = np.asarray(counts)
        if given.dtype.kind not in "iu":
            raise TypeError(f"counts must be integers, one for each of {self.batch} sequences, got {counts!r}")
        if given.shape not in ((), (self.batch,)):
            raise ValueError(f"counts must be one or {self.batch}, one a sequence, got an array of shape {given.shape}")
        wanted: list[int] = np.broadcast_to(given, (self.batch,)).tolist()
        for b, (count, state) in enumerate(zip(wanted, self.states, strict=True)):
            if not 0 <= count <= state.count:
                raise ValueError(f"sequence {b} has {state.count} tokens, so {count} cannot stay; give 0 to that many")
        return wanted

    def _out_of_reach(self, wanted: list[int]) -> tuple[int, int] | None:
        """The first sequence and window that cannot go back so far."""
        windows = {spec.window for spec in self.layers if spec.window is not None}
        for b, count in enumerate(wanted):
            for window in sorted(windows):
                needed = first_seen(count, window)
                if needed < count and self._first(b, window) > needed:
                    return b, window
        return None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write keys, values and ids down, complete or not at all: see `lepton_ref.runtime.saved_cache.save`."""
        from lepton_ref.runtime.saved_cache import save

        return save(self, path, overwrite=overwrite)
