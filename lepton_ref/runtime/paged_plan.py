"""What a paged cache knows of its sequences, and where a run's tokens go."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.block_pool import BLOCK, FIRST_BLOCKS, NOBODY, BlockPool, BlockStore, Piece
from lepton_ref.runtime.cache_state import SequenceState, first_seen
from lepton_ref.runtime.kv_codec import Codec


@dataclass(eq=False)
class PagedState(SequenceState):
    """What a paged cache knows of one sequence.

    Attributes:
        tables: window → the block of each 16 tokens.
        first: window → the first token that is held.
    """

    tables: dict[int | None, list[int]] = field(default_factory=dict)
    first: dict[int | None, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PagedPlan:
    """What a run does with the layers of one window.

    Attributes:
        pieces: where the new tokens go.
        table: (B, n), the blocks that each sequence's queries see, from the first on; NOBODY behind the last.
        order: (B, S), the number of each of their slots.
        valid: (B, S), False for what is no token, or let go of.
        new: (B, T), the columns of the run's tokens; −1 for padding.
    """

    pieces: list[Piece]
    table: NDArray[np.int64]
    order: NDArray[np.int64]
    valid: NDArray[np.bool_]
    new: NDArray[np.int64]


class Pools:
    """The blocks of all layers.

    Args:
        layers: what each causal attention op keeps.
        codec: how vectors are kept.
    """

    def __init__(self, layers: tuple[KeyValueLayer, ...], codec: Codec) -> None:
        self.stores = [BlockStore(spec, blocks=FIRST_BLOCKS, codec=codec) for spec in layers]
        self.by_window = {
            window: BlockPool(window, [store for store in self.stores if store.spec.window == window])
            for window in {spec.window for spec in layers}
        }

    def state(self, capacity: int | None, rope_length: int, limit: int | None) -> PagedState:
        """A sequence without tokens, whose blocks are released when it is gone."""
        tables: dict[int | None, list[int]] = {window: [] for window in self.by_window}
        state = PagedState(capacity, rope_length, limit, tables=tables, first=dict.fromkeys(tables, 0))
        for window, pool in self.by_window.items():
            weakref.finalize(state, pool.release_from, tables[window], 0).atexit = False
        return state


def blocks(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK)


def let_go(pool: BlockPool, state: PagedState, token: int) -> None:
    """Tokens before this one count as not held, and blocks that hold no others are released."""
    table, first = state.tables[pool.window], state.first[pool.window]
    for index in range(first // BLOCK, min(token // BLOCK, len(table))):
        pool.release(table[index])
        table[index] = NOBODY
    state.first[pool.window] = max(first, token)


def _pieces(pool: BlockPool, table: list[int], b: int, tokens: NDArray[np.int64], count: int) -> list[Piece]:
    """The tokens block by block, each a block that is the sequence's alone."""
    found = []
    done = 0
    while done < len(tokens):
        index, slot = divmod(count + done, BLOCK)
        if index == len(table):
            table.append(pool.take())
        table[index] = pool.own(table[index])
        here = tokens[done : done + BLOCK - slot]
        found.append(Piece(b, here, table[index], slot))
        done += len(here)
    return found


def plan(pool: BlockPool, states: Sequence[PagedState], mask_bt: NDArray[np.bool_]) -> PagedPlan:
    """Where a run's tokens go. Releases blocks that no later query sees, and takes those that the tokens need."""
    pieces: list[Piece] = []
    starts, ends, firsts = [], [], []
    for b, state in enumerate(states):
        tokens = np.flatnonzero(mask_bt[b])
        starts.append(first_seen(state.count, pool.window) // BLOCK)
        let_go(pool, state, BLOCK * starts[-1])
        ends.append(state.count + len(tokens))
        firsts.append(state.first[pool.window])
        pieces += _pieces(pool, state.tables[pool.window], b, tokens, state.count)
    begin_b, end_b = BLOCK * np.array(starts), np.array(ends)
    slots = max(1, int((end_b - begin_b).max()))
    order = begin_b[:, None] + np.arange(slots)
    valid = (order >= np.array(firsts)[:, None]) & (order < end_b[:, None])
    table = np.full((len(states), blocks(slots)), NOBODY, dtype=np.int64)
    for b, (state, start) in enumerate(zip(states, starts, strict=True)):
        row = state.tables[pool.window][start : start + table.shape[1]]
        table[b, : len(row)] = row
    columns = end_b[:, None] - mask_bt.sum(axis=1, keepdims=True) - begin_b[:, None] + np.cumsum(mask_bt, axis=1) - 1
    return PagedPlan(pieces, table, order, valid, np.where(mask_bt, columns, -1))
