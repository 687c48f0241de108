"""What a run is given: its inputs, completed, and what it asks of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array


class Cache(Protocol):
    """What an attention op asks of a cache. Tokens join after the run, so that one that fails changes nothing."""

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all of the layer's: (B, S, G, K) twice, each key's number and validity (B, S)."""


@dataclass(frozen=True)
class Batch:
    """What a run is given.

    Attributes:
        integers: the inputs of embeddings by name, each (B, T).
        mask: (B, T), False for padding.
        order: (B, T), each token's number among the unmasked tokens of its sequence.
        positions: (B, T), what RoPE turns by.
        rope_lengths: (B), the length that length-dependent RoPE takes for each sequence.
        last_only: whether only each sequence's last position is wanted.
    """

    integers: Mapping[str, NDArray[np.int64]]
    mask: NDArray[np.bool_]
    order: NDArray[np.int64]
    positions: NDArray[np.int64]
    rope_lengths: NDArray[np.int64]
    last_only: bool
