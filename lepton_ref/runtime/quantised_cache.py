"""The store of a layer whose keys and values are kept as small numbers: see `lepton_ref.runtime.kv_formats`.

Codes and scales lie in the host's memory; what attention is given is decoded anew in every run, of the slots in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.numerics import Precision
from lepton_ref.runtime.cache import LayerStore, Plan
from lepton_ref.runtime.kv_formats import KVFormat


class QuantisedStore(LayerStore):
    """Keys and values of one layer: codes (B, G, room, bytes) and scales (B, G, room, groups) of each.

    Args:
        spec: the layer's heads and width.
        batch: how many sequences.
        room: slots.
        backend: where keys and values come from and go to.
        precision: its activations' format is what decoded numbers are rounded to.
        format: how vectors are stored.
    """

    def __init__(
        self,
        spec: KeyValueLayer,
        *,
        batch: int,
        room: int,
        backend: Backend,
        precision: Precision,
        format: KVFormat,
    ) -> None:
        self.format = format
        super().__init__(spec, batch=batch, room=room, backend=backend, precision=precision)
        self.scales: list[HostArray] = [self._empty_scales(batch, room) for _ in self.buffers]

    def _empty(self, batch: int, room: int) -> Array:
        return np.zeros((batch, self.spec.heads, room, self.format.code_bytes(self.spec.width)), dtype=np.uint8)

    def _empty_scales(self, batch: int, room: int) -> HostArray:
        return np.zeros((batch, self.spec.heads, room, self.format.groups(self.spec.width)), dtype=np.uint16)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(int(array.nbytes) for array in (*self.buffers, *self.scales))

    def grow(self, room: int, used: int) -> None:
        """Make room for more slots; the first `used` stay where they are."""
        super().grow(room, used)
        for number, old in enumerate(self.scales):
            fresh = self._empty_scales(old.shape[0], room)
            fresh[:, :, :used] = old[:, :, :used]
            self.scales[number] = fresh

    def pack(self, index_bn: NDArray[np.int64]) -> None:
        """Move each sequence's slots of these numbers to the front."""
        for array in (*self.buffers, *self.scales):
            self._put(array, array, index_bn, at=0)

    def append(self, k_btgk: Array, v_btgk: Array, plan: Plan) -> tuple[Array, Array]:
        """-> (B, S, G, K) twice: the slots in use and the new ones, decoded. The new ones are encoded once, here."""
        found = [
            self._append(self.buffers[number], self.scales[number], new, plan)
            for number, new in enumerate((k_btgk, v_btgk))
        ]
        return found[0], found[1]

    def _append(self, codes: HostArray, scales: HostArray, new_btgk: Array, plan: Plan) -> Array:
        new = self.backend.to_numpy(new_btgk).transpose(0, 2, 1, 3)
        whole: list[Any] = []
        for stored, added in zip((codes, scales), self.format.encode(new), strict=True):
            if plan.packed is None:
                stored[:, :, plan.stop : plan.stop + new.shape[2]] = added
                whole.append(stored[:, :, plan.start : plan.stop + new.shape[2]])
            else:
                both = np.concatenate([stored[:, :, plan.start : plan.stop], added], axis=2)
                self._put(stored, both, plan.packed, at=plan.stop)
                whole.append(both)
        activations = self.precision.activations
        values = self.format.decode(whole[0], whole[1], width=self.spec.width, activations=activations)
        decoded = values.astype(self.precision.widest, copy=False).transpose(0, 2, 1, 3)
        return self.backend.from_numpy(np.ascontiguousarray(decoded))

    def _put(self, buffer: Array, source: Array, index_bn: NDArray[np.int64], *, at: int) -> None:
        for b, index in enumerate(index_bn):
            buffer[b, :, at : at + len(index)] = source[b][:, index]
