"""A linear layer's single elements: exact sums of exact products, whatever the numbers are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import dot_sums
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import host_reals
from lepton_ref.plain import algebraic
from lepton_ref.plain.real import Value
from lepton_ref.storage.base import Weight


class LinearRepair:
    """Single elements of a linear layer, from its inputs on the host."""

    def __init__(self, x: Array, w_oi: Weight, b_o: Array | None, start: int, backend: Backend) -> None:
        self.x, self.w_oi, self.b_o, self.start, self.backend = x, w_oi, b_o, start, backend

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, double=self.double, side=self.side)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """Exact sums, cut to a double-double: within 2⁻¹⁰⁴ of themselves. An exact zero has error 0, and its sign."""
        x, w, b = self._operands(places)
        pair = dot_sums(x, w, b).pair()
        zero = np.where(_all_negative(x, w, b), -0.0, 0.0)
        high = np.where(pair.high == 0.0, zero, pair.high)
        return Pair(high, np.where(pair.high == 0.0, zero, pair.low)), np.abs(pair.high) * 2.0**-104

    def side(self, places: Index, middle: Reals) -> NDArray[np.int8]:
        """The sign of Σ x·w + b − m, exactly."""
        x, w, b = self._operands(places)
        return dot_sums(x, w, np.concatenate([b, -middle[:, None]], axis=1)).sign()

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        x, w, b = self._operands(tuple(np.array([at]) for at in place))
        return algebraic.linear(x[0].tolist(), [w[0].tolist()], b[0].tolist() or None)[0]

    def _operands(self, places: Index) -> tuple[Reals, Reals, Reals]:
        """(R, I), (R, I), (R, 1) or (R, 0): the rows of x and of w, and the biases."""
        rows, columns = places[0], places[1] + self.start
        unique, where = np.unique(columns, return_inverse=True)
        b = np.zeros((rows.size, 0))
        if self.b_o is not None:
            b = host_reals(self.b_o, backend=self.backend)[columns][:, None]
        return host_reals(self.x, backend=self.backend)[rows], self.w_oi.operand(unique)[where], b


def _all_negative(x: Reals, w: Reals, b: Reals) -> NDArray[np.bool_]:
    """(R, I), (R, I), (R, B) -> (R): whether every term has a minus sign, as −0 has."""
    return np.asarray((np.signbit(x) != np.signbit(w)).all(axis=1) & np.signbit(b).all(axis=1))
