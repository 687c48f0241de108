"""Blocks of slots that sequences share: what lies in them, who counts on them, which are free.

A block holds 16 tokens of one sequence, in order. Block 0 is nobody's and stays zero: it stands for what is not held.
The layers of one window have one pool, and a block's number is the same in all of them.

A block that several sequences count on is read by all and written by none: who is to write takes a copy first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.kv_codec import Codec, decode, empty, vector_bytes

BLOCK = 16
"""Tokens of a block."""

FIRST_BLOCKS = 8
"""Blocks that a pool starts with; it doubles from there."""

NOBODY = 0
"""The block that stands for what is not held."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of a run that go into one block.

    Attributes:
        b: their sequence.
        tokens: where they stand in the run.
        block: the block.
        slot: the first slot in it.
    """

    b: int
    tokens: NDArray[np.int64]
    block: int
    slot: int


class BlockStore:
    """Keys and values of one layer, (blocks, G, 16, ·) for each part of them."""

    def __init__(self, spec: KeyValueLayer, *, blocks: int, codec: Codec) -> None:
        self.spec = spec
        self.codec = codec
        self.blocks = blocks
        self.buffers = self._empty(blocks)

    def _empty(self, blocks: int) -> list[Array]:
        return empty(self.codec, (blocks, self.spec.heads, BLOCK), self.spec.width)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, free ones included."""
        return 2 * self.blocks * self.spec.heads * BLOCK * vector_bytes(self.codec, self.spec.width)

    def grow(self, blocks: int) -> None:
        """Make room for more blocks."""
        fresh = self._empty(blocks)
        for new, old in zip(fresh, self.buffers, strict=True):
            new[: self.blocks, :, :, :] = old
        self.buffers, self.blocks = fresh, blocks

    def copy(self, source: int, target: int) -> None:
        """Fill a block with what another holds."""
        for buffer in self.buffers:
            buffer[target, :, :, :] = buffer[source, :, :, :]

    def write(self, parts: list[Array], pieces: list[Piece]) -> None:
        """Put encoded keys and values, (B, T, G, ·) each, into their blocks."""
        xp = self.codec.xp
        for buffer, part in zip(self.buffers, parts, strict=True):
            part_bgtx = xp.permute_dims(part, (0, 2, 1, 3))
            for piece in pieces:
                rows = xp.take(part_bgtx[piece.b, :, :, :], self.codec.from_host(piece.tokens), axis=1)
                buffer[piece.block, :, piece.slot : piece.slot + len(piece.tokens), :] = rows

    def gather(self, table_bn: NDArray[np.int64]) -> list[Array]:
        """(B, n) -> (B, 16·n, G, ·) of each part: the blocks' slots, one after the other."""
        xp = self.codec.xp
        batch, count = table_bn.shape
        index = self.codec.from_host(np.ascontiguousarray(table_bn.reshape(-1)))
        found = []
        for buffer in self.buffers:
            heads, _, width = buffer.shape[1:]
            blocks = xp.reshape(xp.take(buffer, index, axis=0), (batch, count, heads, BLOCK, width))
            found.append(xp.reshape(xp.permute_dims(blocks, (0, 1, 3, 2, 4)), (batch, count * BLOCK, heads, width)))
        return found

    def decode(self, parts: list[Array]) -> tuple[Array, Array]:
        """The parts -> keys and values."""
        return decode(self.codec, parts, self.spec.width)

    def read(self, table: list[int], start: int, stop: int) -> list[HostArray]:
        """Slots start to stop of one sequence, counted from its table's first block: (G, n, ·) of each part."""
        parts = self.gather(np.array([table], dtype=np.int64))
        return [self.codec.to_host(part)[0, start:stop].transpose(1, 0, 2) for part in parts]


class BlockPool:
    """The blocks of the layers of one window.

    Args:
        window: how many keys back a query sees, or None for all.
        stores: the layers' blocks.

    Attributes:
        references: how many sequences count on each block.
    """

    def __init__(self, window: int | None, stores: list[BlockStore]) -> None:
        self.window = window
        self.stores = stores
        self.references = [1]
        self._free: list[int] = []
        self._offer(stores[0].blocks)

    def _offer(self, blocks: int) -> None:
        for block in range(len(self.references), blocks):
            self.references.append(0)
            heapq.heappush(self._free, block)

    @property
    def in_use(self) -> int:
        """Blocks that some sequence counts on."""
        return len(self.references) - 1 - len(self._free)

    def take(self) -> int:
        """A free block, for one sequence; the pool grows where there is none."""
        if len(self._free) == 0:
            blocks = 2 * len(self.references)
            for store in self.stores:
                store.grow(blocks)
            self._offer(blocks)
        block = heapq.heappop(self._free)
        self.references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more sequence counts on a block."""
        if block != NOBODY:
            self.references[block] += 1

    def release(self, block: int) -> None:
        """One sequence less; a block that none counts on is free."""
        if block == NOBODY:
            return
        self.references[block] -= 1
        if self.references[block] == 0:
            heapq.heappush(self._free, block)

    def own(self, block: int) -> int:
        """The block to write into: this one where no other sequence counts on it, otherwise a copy, or a free one."""
        if block == NOBODY:  # let go of by a window of one token, and gone back to
            return self.take()
        if self.references[block] == 1:
            return block
        fresh = self.take()
        for store in self.stores:
            store.copy(block, fresh)
        self.release(block)
        return fresh

    def release_from(self, table: list[int], kept: int) -> None:
        """A sequence counts on no block of its table but the first so many."""
        while len(table) > kept:
            self.release(table.pop())
