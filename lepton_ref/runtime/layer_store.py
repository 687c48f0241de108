"""The buffers of one layer of a contiguous cache, and what a run does with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.kv_codec import Codec, decode, empty, encode, vector_bytes


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


class LayerStore:
    """Keys and values of one layer, (B, G, room, ·) for each part of them."""

    def __init__(self, spec: KeyValueLayer, *, batch: int, room: int, codec: Codec) -> None:
        self.spec = spec
        self.codec = codec
        self.room = room
        self._batch = batch
        self.buffers = self._empty(room)

    def _empty(self, room: int) -> list[Array]:
        return empty(self.codec, (self._batch, self.spec.heads, room), self.spec.width)

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return 2 * self._batch * self.spec.heads * self.room * vector_bytes(self.codec, self.spec.width)

    def grown(self, room: int, used: int) -> list[Array]:
        """Buffers with room for more slots, whose first `used` are what they are here."""
        fresh = self._empty(room)
        for new, old in zip(fresh, self.buffers, strict=True):
            new[:, :, :used, :] = old[:, :, :used, :]
        return fresh

    def pack(self, index_bn: NDArray[np.int64]) -> None:
        """Move each sequence's slots of these numbers to the front."""
        for buffer in self.buffers:
            self._put(buffer, buffer, index_bn, at=0)

    def append(self, k_btgk: Array, v_btgk: Array, plan: Plan) -> tuple[Array, Array]:
        """-> (B, S, G, K) twice: the slots in use and the new ones. The new ones are written behind those in use."""
        whole = self.write(encode(self.codec, k_btgk, v_btgk), plan)
        return decode(self.codec, whole, self.spec.width)

    def write(self, new_btgx: list[Array], plan: Plan) -> list[Array]:
        """Encoded keys and values -> (B, S, G, ·) of each part: the slots in use and the new ones."""
        xp = self.codec.xp
        found = []
        for buffer, part in zip(self.buffers, new_btgx, strict=True):
            new = xp.permute_dims(part, (0, 2, 1, 3))
            if plan.packed is None:
                buffer[:, :, plan.stop : plan.stop + new.shape[2], :] = new
                whole = buffer[:, :, plan.start : plan.stop + new.shape[2], :]
            else:
                whole = xp.concat([buffer[:, :, plan.start : plan.stop, :], new], axis=2)
                self._put(buffer, whole, plan.packed, at=plan.stop)
            found.append(xp.permute_dims(whole, (0, 2, 1, 3)))
        return found

    def read(self, b: int, slots: NDArray[np.int64]) -> list[HostArray]:
        """These slots of a sequence, (G, n, ·) of each part."""
        index = self.codec.from_host(slots)
        rows = [self.codec.xp.take(buffer[b, :, :, :], index, axis=1) for buffer in self.buffers]
        return [self.codec.to_host(row) for row in rows]

    def _put(self, buffer: Array, source: Array, index_bn: NDArray[np.int64], *, at: int) -> None:
        for b, index in enumerate(index_bn):
            rows = self.codec.xp.take(source[b, :, :, :], self.codec.from_host(index), axis=1)
            buffer[b, :, at : at + len(index), :] = rows
