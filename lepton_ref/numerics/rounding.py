"""Round once, proven: Ziv's rounding test on the backend, and the repair of what it leaves open.

An op hands over float64 values, computed in any order, and a bound on their distance to the exact ones. Both ends of
[value − bound, value + bound] are rounded. Where they have the same bits, every number between them rounds to these
bits, the exact one included: the element is proven. The others, a few in ten thousand, are ambiguous: the op's `Repair`
brings them to the host and settles them, first with double-double arithmetic and the same test, then exactly.

A bound covers the test's own two roundings: with e the distance of the float64 value, e + 2⁻⁵²·(|value| + e) is enough,
since value ∓ bound, computed, errs by 2⁻⁵³ of itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import counts
from lepton_ref.numerics.cast import cast, float_format
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.precision import Precision
from lepton_ref.plain.real import Real

Index: TypeAlias = tuple[NDArray[np.intp], ...]
"""Places of elements, one array for each axis, as np.nonzero gives them."""

Reals = NDArray[np.float64]

NEAR_NOTHING = 2.0**-900
"""Stands for what has underflowed; see `one_signed`."""

UNKNOWN = 2
"""What `Repair.side` gives where it cannot tell."""


@dataclass(frozen=True)
class Repair:
    """How an op computes single elements better. Every function takes places in the op's output.

    Attributes:
        plain: the specification's value of one element: a real number, or NaN or an infinity.
        double: values in double-double, and how far the exact ones may lie from them at most; None where there is
            nothing between float64 and `plain`.
        side: on which side of a midpoint the exact value lies: −1, 0 (on it), 1, or `UNKNOWN`; asked where
            double-double left two neighbours. None where only `plain` can tell.
        exact: the exact values rounded to odd in float64, which decides every rounding to activations; the one step
            for ops that are sums of products, instead of the others. None elsewhere.
    """

    plain: Callable[[tuple[int, ...]], Real | float]
    double: Callable[[Index], tuple[Pair, Reals]] | None = None
    side: Callable[[Index, Reals], NDArray[np.int8]] | None = None
    exact: Callable[[Index], Reals] | None = None


def lift(x: Array, /, *, backend: Backend) -> Array:
    """`(...) -> (...)` the same values in float64: exact from every float of 64 bits or fewer."""
    return backend.xp.astype(x, backend.xp.float64, copy=False)


def canonical(rounded: Array, /, *, backend: Backend) -> Array:
    """`(...) -> (...)` NaN as the one quiet NaN: a processor's choice of sign and payload is no part of the result."""
    return backend.xp.where(rounded == rounded, rounded, math.nan)  # only NaN differs from itself


def as_activations(value: Array, /, *, backend: Backend, precision: Precision) -> Array:
    """`(...) -> (...)` float64 rounded as it is to the precision's activations, without proof."""
    return canonical(cast(value, precision.activations, backend=backend), backend=backend)


def one_signed(value: Array, sign: Array, /, *, backend: Backend) -> tuple[Array, Array]:
    """`(...) -> (...)` twice: a value known to have the sign of `sign`, which may have underflowed, and where it had.

    All numbers of one sign below 2⁻²⁰⁰ round alike in every format of activations but fp64. So a value below 2⁻⁹⁰⁰,
    which float64's underflow may have brought to a zero of either sign, is replaced by ±2⁻⁹⁰⁰, with bound 0; where
    `sign` is 0 or NaN, it stays.
    """
    xp = backend.xp
    tiny = (xp.abs(value) < NEAR_NOTHING) & (sign != 0.0) & (sign == sign)
    return xp.where(tiny, NEAR_NOTHING - xp.astype(sign < 0.0, xp.float64) * (2 * NEAR_NOTHING), value), tiny


def round_once(
    value: Array, bound: Array | float, /, *, op: str, repair: Repair, backend: Backend, precision: Precision
) -> Array:
    """`(...) -> (...)` the exact values rounded once to the precision's activations, to nearest even.

    This is the only place where an op rounds. Overflow goes to infinity, as IEEE 754 has it. A value that is infinite
    or NaN stands: it comes from the op's inputs, not from overflow, which the op's range rules out.

    Args:
        value: float64, of the op's output shape.
        bound: how far the exact value may lie from it, the test's own roundings included; broadcast against it. 0
            says that the value is exact. Infinite or NaN says nothing, and the element is repaired.
        op: the kind of op, under which elements are counted.
        repair: computes ambiguous elements better.
        backend: whose array the value is.
        precision: what to round to, and whether to prove it: without proof the value is rounded as it is.
    """
    if not precision.proven:
        return as_activations(value, backend=backend, precision=precision)
    xp = backend.xp
    below, above = value - bound, value + bound
    low, high = (cast(end, precision.activations, backend=backend) for end in (below, above))
    open_ = low != high
    if backend.to_numpy(xp.any(low == 0.0)):  # −0 and +0 differ, which no comparison sees
        open_ = open_ | ((low == 0.0) & (below <= 0.0) & (above >= 0.0) & (below < above))
    kept = counts.current()
    if kept is not None:
        kept.of(op).elements += math.prod(value.shape)
    if not backend.to_numpy(xp.any(open_)):
        return low  # and not the other end, which −0 + 0 makes +0
    return _repaired(value, open_, low, op=op, repair=repair, backend=backend, format=precision.activations)


def _repaired(
    value: Array, open_: Array, low: Array, *, op: str, repair: Repair, backend: Backend, format: str
) -> Array:
    started = time.perf_counter()
    result = backend.to_numpy(low).copy()
    host = backend.to_numpy(value)
    places = np.nonzero(backend.to_numpy(open_))
    float64 = host[places]
    special = ~np.isfinite(float64)
    result[tuple(axis[special] for axis in places)] = np.where(np.isnan(float64[special]), math.nan, float64[special])
    places = tuple(axis[~special] for axis in places)
    if places[0].size:
        result[places], exactly = settle(places, repair, format)
        kept = counts.current()
        if kept is not None:
            count = kept.of(op)
            count.in_double_double += places[0].size - exactly
            count.exactly += exactly
            count.seconds += time.perf_counter() - started
    return backend.from_numpy(result)


@np.errstate(all="ignore")
def settle(places: Index, repair: Repair, format: str, /) -> tuple[Reals, int]:
    """-> the exact values at these places, rounded once to the format, and how many needed more than double-double."""
    if repair.exact is not None:
        return round_array(repair.exact(places), format), places[0].size
    low = np.full(places[0].size, -math.inf)
    high = np.full(places[0].size, math.inf)
    if repair.double is not None:
        pair, error = repair.double(places)
        low = round_array(pair.high, format, low=pair.low - error)
        high = round_array(pair.high, format, low=pair.low + error)
        unknown = np.isnan(low) | np.isnan(high)
        low[unknown], high[unknown] = -math.inf, math.inf
        zero = (pair.high == 0.0) & (error == 0.0)  # exact, and of the sign that it has
        low[zero] = high[zero] = pair.high[zero]
    left = np.flatnonzero(~same_bits(low, high))
    settled, undecided = high, left.size
    if left.size and repair.side is not None:
        settled[left] = _by_side(places, left, repair.side, low[left], high[left], format)
        left = left[np.isnan(settled[left])]
    for at in left:
        settled[at] = plainly(repair.plain(tuple(int(axis[at]) for axis in places)), format)
    return settled, undecided


def same_bits(a: Reals, b: Reals, /) -> NDArray[np.bool_]:
    """`(...), (...) -> (...)` whether two float64 arrays hold the same bits."""
    return np.asarray(a.view(np.uint64) == b.view(np.uint64))


def plainly(exact: Real | float, format: str, /) -> float:
    """One value of the specification, rounded once to the format."""
    if isinstance(exact, Real):
        return exact.round(float_format(format))
    return math.nan if math.isnan(exact) else exact  # ∞ − ∞ has the sign that the processor gives it


def _by_side(
    places: Index, left: NDArray[np.intp], side: Callable[[Index, Reals], NDArray[Any]],
    low: Reals, high: Reals, format: str,
) -> Reals:  # fmt: skip
    """The neighbour on the exact value's side of the midpoint; NaN where that is not known."""
    middle = midpoints(low, high, format)
    known = np.flatnonzero(np.isfinite(middle))
    chosen = np.full(left.size, math.nan)
    if known.size == 0:
        return chosen
    found = side(tuple(axis[left[known]] for axis in places), middle[known])
    even = round_array(middle[known], format)
    lower, upper = low[known], high[known]
    picked = np.where(found < 0, lower, np.where(found > 0, upper, even))
    far = (lower < 0.0) & (upper > 0.0) & (found != 0)  # it does not cancel, and that is all that is known
    chosen[known] = np.where(far | (found == UNKNOWN), math.nan, picked)
    return chosen


def midpoints(low: Reals, high: Reals, format: str, /) -> Reals:
    """`(N), (N) -> (N)` the number where rounding changes from low to high; NaN where they are no neighbours.

    Between the largest number and infinity it is half a step above the largest; between −0 and +0 it is 0. A value that
    is exactly 0 there is a sum that cancels, and becomes +0: where all terms are −0, nothing is open.
    Where low is below 0 and high above, 0 stands for the question whether it cancels.
    """
    form: Any = float_format(format)
    step = math.ldexp(1.0, form.emax - form.precision + 1)
    bounded = [np.clip(end, -form.largest - step, form.largest + step) for end in (low, high)]
    middle = bounded[0] / 2 + bounded[1] / 2
    down, up = round_array(middle, format, mode="down"), round_array(middle, format, mode="up")
    across = (low < 0.0) & (high > 0.0)
    neighbours = (down == np.clip(low, -math.inf, form.largest)) & (up == np.clip(high, -form.largest, math.inf))
    return np.where(across, 0.0, np.where(neighbours & ~same_bits(low, high), middle, math.nan))
