"""A linear layer's single elements: exact sums of exact products, whatever the numbers are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.exact_sum import gathered_dot_sums
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import host_reals
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value
from lepton_ref.storage.base import Weight

Places = NDArray[np.intp]


class LinearRepair:
    """Single elements of a linear layer, from its inputs on the host."""

    def __init__(self, x: Array, w_oi: Weight, b_o: Array | None, start: int, backend: Backend) -> None:
        self.x, self.w_oi, self.b_o, self.start, self.backend = x, w_oi, b_o, start, backend

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, exact=self.exact)

    def exact(self, places: Index) -> Reals:
        """Σ x·w + b, rounded to odd; an exact zero is −0 where every term is negative."""
        x, w, b, rows, columns = self._operands(places)
        sums = gathered_dot_sums(x, w, rows, columns, b).odd()
        zero = np.flatnonzero(sums == 0.0)
        row, column = rows[zero], columns[zero]
        sums[zero] = np.where(_all_negative(x[row], w[column], b[column]), -0.0, 0.0)
        return sums

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        x, w, b, (row,), (column,) = self._operands(tuple(np.array([at]) for at in place))
        return algebraic.linear(x[row].tolist(), [w[column].tolist()], b[column].tolist() or None)[0]

    def _operands(self, places: Index) -> tuple[Reals, Reals, Reals, Places, Places]:
        """(M, I), (U, I), (U, 1) or (U, 0), and each place's row of the first and of the others."""
        unique, where = np.unique(places[1] + self.start, return_inverse=True)
        b = np.zeros((unique.size, 0))
        if self.b_o is not None:
            b = host_reals(self.b_o, backend=self.backend)[unique][:, None]
        return host_reals(self.x, backend=self.backend), self.w_oi.operand(unique), b, places[0], where


def _all_negative(x: Reals, w: Reals, b: Reals) -> NDArray[np.bool_]:
    """(R, I), (R, I), (R, B) -> (R): whether every term has a minus sign, as −0 has."""
    return np.asarray((np.signbit(x) != np.signbit(w)).all(axis=1) & np.signbit(b).all(axis=1))
