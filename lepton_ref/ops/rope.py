r"""RoPE (Su et al. 2021): each pair of a head's numbers is turned by an angle that grows with the position.

    (y₀, y₁) = (x₀·cos θ − x₁·sin θ,  x₀·sin θ + x₁·cos θ),    θ = position · frequency[pair]

Which two numbers are a pair is a convention: half-split pairs j with j + R/2 (transformers), interleaved pairs 2j with
2j + 1 (the paper, GGUF's llama); R ≤ K is the rotary width, what lies beyond passes unchanged. YaRN and longrope scale
the result by an attention factor, which the tables contain. Bound: the tables are the real cosines and sines rounded
once, so each product errs by 2 units of 2⁻⁵³ and the sum by one: 3·factor·(|x₀| + |x₁|)·2⁻⁵³, and three units more for
the rounding test. The angle does not enter: `lepton_ref.ops.rope_tables`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.numerics.bounds import UNIT
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.exact_sum import exact_sums, two_product
from lepton_ref.numerics.rounding import Index, Reals, Repair
from lepton_ref.ops.base import host_reals, op, require_axis
from lepton_ref.ops.checks import require_numbers
from lepton_ref.ops.rope_tables import TABLE_ERROR, RopeTables
from lepton_ref.plain import rope as angles
from lepton_ref.plain import turn
from lepton_ref.plain.real import Value


@op
def rope(x: Array, tables: RopeTables, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, H, K) -> (B, T, H, K), each pair turned by its angle.

    Args:
        x: queries or keys, head by head.
        tables: from `rope_tables`, for the positions of x.
        backend: whose array x is.
        precision: what the output is rounded to.

    Raises:
        ValueError: R exceeds K, or the tables belong to other positions.
    """
    require_numbers("x", x, axes=4, backend=backend, precision=precision)
    xp = backend.xp
    rotary = tables.rope.width
    if rotary > x.shape[-1]:
        raise ValueError(f"the rotary width {rotary} exceeds the head width {x.shape[-1]}")
    if tables.positions.shape[0] != 1:
        require_axis("the batch of the rotary tables", tables.positions.shape[0], x.shape[0])
    require_axis("the positions of the rotary tables", tables.positions.shape[1], x.shape[1])
    x64 = lift(x, backend=backend)
    turned, rest = x64[..., :rotary], x64[..., rotary:]
    first, second = _pairs(turned, tables.rope.interleaved, backend)
    cos, sin = xp.expand_dims(tables.cos, axis=2), xp.expand_dims(tables.sin, axis=2)
    value = _unpair(first * cos - second * sin, first * sin + second * cos, tables.rope.interleaved, backend)
    size = (xp.abs(first) + xp.abs(second)) * (8.0 * UNIT * abs(tables.factor))
    bound = _unpair(size, size, tables.rope.interleaved, backend)
    if rotary < x.shape[-1]:
        value = xp.concat([value, rest], axis=-1)
        bound = xp.concat([bound, xp.abs(rest) * 0.0], axis=-1)
    repair = _Repair(x, tables, backend).functions()
    return round_once(value, bound, op="rope", repair=repair, backend=backend, precision=precision)


def _pairs(x: Array, interleaved: bool, backend: Backend) -> tuple[Array, Array]:
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _unpair(first: Array, second: Array, interleaved: bool, backend: Backend) -> Array:
    xp = backend.xp
    if not interleaved:
        return xp.concat([first, second], axis=-1)
    pairs = xp.concat([xp.expand_dims(first, axis=-1), xp.expand_dims(second, axis=-1)], axis=-1)
    return xp.reshape(pairs, (*first.shape[:-1], 2 * first.shape[-1]))


class _Repair:
    """Single elements, from x on the host and the double-double tables."""

    def __init__(self, x: Array, tables: RopeTables, backend: Backend) -> None:
        self.x, self.tables, self.backend = x, tables, backend

    def functions(self) -> Repair:
        """What `round_once` calls."""
        return Repair(plain=self.plain, double=self.double)

    def double(self, places: Index) -> tuple[Pair, Reals]:
        """Exact sums of exact products with the double-double tables."""
        x = host_reals(self.x, backend=self.backend)
        b, t, h, k = places
        pair, second = self._pair_of(k)
        ends = [x[b, t, h, at] for at in self._ends(pair)]
        row = np.minimum(b, self.tables.positions.shape[0] - 1)
        cos, sin = self.tables.cos_pair[row, t, pair], self.tables.sin_pair[row, t, pair]
        a, c = ends[0], np.where(second, ends[1], -ends[1])
        by_a, by_c = (
            Pair(np.where(second, p.high, q.high), np.where(second, p.low, q.low)) for p, q in ((sin, cos), (cos, sin))
        )
        products = [
            part for f, g in ((a, by_a), (c, by_c)) for half in (g.high, g.low) for part in two_product(f, half)
        ]
        value = exact_sums(np.stack(products, axis=1)).pair()
        size = (np.abs(a) + np.abs(c)) * abs(self.tables.factor)
        error = np.where(size > 2.0**-400, size * (4 * TABLE_ERROR), np.inf)
        if not self.tables.factor_is_exact:
            return value, error
        still = (self.tables.positions[row, t] == 0) | self._motionless()[pair]  # x·factor, or a zero
        zero = np.where(second, c + a * 0.0, a + c * 0.0) * self.tables.factor
        high = np.where(still & (value.high == 0.0), zero, value.high)
        return Pair(high, value.low), np.where(still & ((size == 0.0) | (size > 2.0**-400)), 0.0, error)

    def plain(self, place: tuple[int, ...]) -> Value:
        """The specification's value of one element."""
        b, t, h, k = place
        row = min(b, self.tables.positions.shape[0] - 1)
        head = host_reals(self.x, backend=self.backend)[b, t, h].tolist()
        position = int(self.tables.positions[row, t])
        length = int(self.tables.lengths[min(b, len(self.tables.lengths) - 1)])
        return turn.rope(head, position, self.tables.rope, length=length)[k]

    def _motionless(self) -> NDArray[np.bool_]:
        """(R/2): the pairs whose frequency is 0."""
        rope, length = self.tables.rope, int(self.tables.lengths[0])
        return np.array([angles.stands_still(rope, 1, pair, length=length) for pair in range(rope.width // 2)])

    def _pair_of(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which pair each place belongs to, and whether it is the second of it."""
        half = self.tables.rope.width // 2
        return (k // 2, k % 2 == 1) if self.tables.rope.interleaved else (k % half, k >= half)

    def _ends(self, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = self.tables.rope.width // 2
        return (2 * pair, 2 * pair + 1) if self.tables.rope.interleaved else (pair, pair + half)
