r"""RoPE's cosines and sines, from the angle as a real number.

The angle is position·f with f as in `lepton_ref.ops.rope_frequencies`. f/2π is enclosed once for each pair and kept as
an integer, its fraction in units of 2⁻²⁵⁶; times the position, an integer, and modulo whole turns it is exact but for
position·2⁻²⁵⁶. The rest of the way is double-double: within 2⁻⁹⁸ of the real cosine and sine. No library's cosine, and
no rounding of an angle that grows with the position.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.double_functions import cos_sin
from lepton_ref.ops.rope_frequencies import Rope
from lepton_ref.plain import functions
from lepton_ref.plain import rope as plain

TABLE_ERROR = 2.0**-97
"""How far a double-double cosine or sine may lie from the real one, relative to the attention factor."""

BITS = 256
"""Fraction bits of a turn. Positions below 2¹⁰⁰ leave more than enough."""

DIGITS = 110
"""Decimal digits to which f/2π is enclosed: 2²⁵⁶ has 78, and f may be large."""


@dataclass(frozen=True, eq=False)
class RopeTables:
    """Factor·cos θ and factor·sin θ for the positions of a run, θ = position·frequency[pair].

    Attributes:
        cos: (B, T, R/2) float64 on the backend, rounded.
        sin: likewise.
        cos_pair: the same as double-double on the host.
        sin_pair: likewise.
        rope: how the model rotates.
        positions: (B, T).
        lengths: (B) or (1), the context's length for the kinds that depend on it.
        factor: the attention factor, rounded.
        factor_is_exact: whether it needed no rounding.
    """

    cos: Array
    sin: Array
    cos_pair: Pair
    sin_pair: Pair
    rope: Rope
    positions: NDArray[np.int64]
    lengths: NDArray[np.int64]
    factor: float
    factor_is_exact: bool


def rope_tables(
    positions_bt: NDArray[np.int64], rope: Rope, *, lengths: NDArray[np.int64] | None = None, backend: Backend
) -> RopeTables:
    """(B, T) -> (B, T, R/2) twice: the tables for these positions.

    Args:
        positions_bt: integers, on the host.
        rope: how the model rotates.
        lengths: (B) or (1), for the kinds that depend on the context's length; None for those that do not.
        backend: where the tables lie.

    Raises:
        ValueError: positions that are not integers of shape (B, T), no lengths where they are needed, or lengths of
            another shape.
    """
    positions = np.asarray(positions_bt)
    if positions.ndim != 2 or not np.issubdtype(positions.dtype, np.integer):
        raise ValueError(f"positions must be integers of shape (B, T), got {positions.dtype} {positions.shape}")
    if positions.size and positions.min() < 0:
        raise ValueError(f"a position must not be negative, got {positions.min()}")
    if lengths is None and rope.depends_on_length:
        raise ValueError(f"RoPE scaling {rope.kind!r} depends on the context's length; give lengths, one a sequence")
    given = np.zeros(1, dtype=np.int64) if lengths is None else np.asarray(lengths)
    if not np.issubdtype(given.dtype, np.integer) or (given.size and given.min() < 0):
        raise ValueError(f"lengths must be integers from 0 up, got {given.dtype} {given.tolist()}")
    given = given.astype(np.int64)
    if given.shape not in ((1,), (positions.shape[0],)):
        raise ValueError(f"lengths must be of shape ({positions.shape[0]},) or (1,), got {given.shape}")
    cos, sin = cos_sin(_angles(positions, rope, given))
    factor = _pair(rope)
    cos, sin = cos * factor, sin * factor
    rounded = float(factor.high)
    exact = plain.attention_factor(rope).exact == Fraction(rounded)
    return RopeTables(
        backend.from_numpy(cos.high), backend.from_numpy(sin.high), cos, sin, rope, positions, given, rounded, exact
    )


def _angles(positions: NDArray[np.int64], rope: Rope, lengths: NDArray[np.int64]) -> Pair:
    """(B, T) -> (B, T, R/2), in (−π, π], within 2⁻¹⁰²."""
    high = np.empty((*positions.shape, rope.width // 2))
    low = np.empty_like(high)
    whole, half = 1 << BITS, 1 << (BITS - 1)
    for b, row in enumerate(positions.tolist()):
        turns = _turns(rope, int(lengths[min(b, len(lengths) - 1)]))
        for t, position in enumerate(row):
            for j, turn in enumerate(turns):
                fraction = (position * turn + half) % whole - half
                top = float(fraction)
                high[b, t, j], low[b, t, j] = top, float(fraction - int(top))
    return Pair(high, low).scaled(-BITS) * _two_pi()


@functools.lru_cache(maxsize=256)
def _turns(rope: Rope, length: int) -> tuple[int, ...]:
    """Each pair's f/2π, its fraction in units of 2^−BITS, rounded down."""
    found = []
    for pair in range(rope.width // 2):
        turn = plain.frequency(rope, pair, length=length)(DIGITS) / (functions.pi(DIGITS) * 2)
        found.append(int(Fraction(turn.low) * 2**BITS) % 2**BITS)
    return tuple(found)


@functools.cache
def _two_pi() -> Pair:
    return Pair.rational(Fraction((functions.pi(60) * 2).low))


@functools.lru_cache(maxsize=256)
def _pair(rope: Rope) -> Pair:
    """The attention factor in double-double."""
    factor = plain.attention_factor(rope)
    return Pair.rational(factor.exact if factor.exact is not None else Fraction(factor.enclose(60).low))
