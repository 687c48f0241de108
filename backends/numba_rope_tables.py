"""RoPE's cosines and sines as the step reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_plan import KIND, ROPE, SCALE, WHICH
from lepton_ref.backends.numba_step import INTERLEAVED, PLANE, ROTARY, TABLE


class RopeTables:
    """Cosines and sines of positions, computed once and looked up from then on.

    Args:
        ropes: the rotations of a plan.
    """

    AHEAD = 64
    """Positions that are computed at a time."""

    def __init__(self, ropes: list[Any]) -> None:
        self.ropes = ropes
        self.known: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.factors, self.written = [1.0] * len(ropes), [0.0] * len(ropes)
        self.held: dict[int, NDArray[np.float64]] = {}
        self.places: dict[int, tuple[int, int]] = {}
        self.rows = np.zeros((max(1, len(ropes)), 4), dtype=np.int64)
        for number, rope in enumerate(ropes):
            self.rows[number, [ROTARY, INTERLEAVED]] = rope.width, int(rope.interleaved)

    def of(self, run: Any, records: NDArray[np.int64], reals: NDArray[np.float64]) -> NDArray[np.int64]:
        """(ropes, 4): the address of each one's tables and their planes' length, R, whether pairs are neighbours.

        A plane has a row for each row of the run; planes are cosines, sines, and what those lose.
        """
        positions = run.batch.positions
        first = int(positions[0, 0])
        in_order = positions.size == 1 or (
            len(positions) == 1 and bool((positions[0] == np.arange(first, first + positions.size)).all())
        )
        for number, rope in enumerate(self.ropes):
            planes, by_position = self._planes_of(run, number, rope)
            width, start = rope.width // 2, 0
            if by_position and in_order:
                start = 8 * width * first
            elif by_position:
                planes = planes[:, positions.reshape(-1)]
            if planes is not self.held.get(number):
                planes = np.ascontiguousarray(planes)
                self.places[number] = planes.ctypes.data, planes.shape[1] * width
                self.held[number] = planes
            place, size = self.places[number]
            self.rows[number, TABLE], self.rows[number, PLANE] = place + start, size
            if self.factors[number] != self.written[number]:
                reals[(records[:, KIND] == ROPE) & (records[:, WHICH] == number), SCALE] = self.factors[number]
                self.written[number] = self.factors[number]
        return self.rows

    def _planes_of(self, run: Any, number: int, rope: Any) -> tuple[NDArray[np.float64], bool]:
        """(4, P, R/2) for all positions up to a run's last, and True; or (4, N, R/2) for its own, and False."""
        positions, lengths = run.batch.positions, run.batch.rope_lengths
        if rope.depends_on_length and len(set(lengths.tolist())) > 1:
            return self._planes(run, number, rope, positions, lengths), False
        key = number, int(lengths[0]) if rope.depends_on_length else 0
        known = self.known.get(key, np.empty((4, 0, rope.width // 2)))
        end = (int(positions.max()) if positions.size > 1 else int(positions[0, 0])) + 1
        if end > known.shape[1]:
            if end > 4 * max(known.shape[1], self.AHEAD) and positions.size * 4 < end:
                return self._planes(run, number, rope, positions, lengths), False  # far out, and few
            new = np.arange(known.shape[1], end + self.AHEAD)[None]
            known = np.concatenate([known, self._planes(run, number, rope, new, lengths[:1])], axis=1)
            self.known = {other: kept for other, kept in self.known.items() if other[0] != number}  # one length's alone
            self.known[key] = known
        return known, True

    def _planes(
        self, run: Any, number: int, rope: Any, positions: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        tables = run.turns(rope, positions, lengths)
        self.factors[number] = tables.factor
        planes = (tables.cos_pair.high, tables.sin_pair.high, tables.cos_pair.low, tables.sin_pair.low)
        return np.stack([plane.reshape(-1, rope.width // 2) for plane in planes])
