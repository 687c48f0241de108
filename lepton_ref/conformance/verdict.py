"""Comparing what a backend gave with what it must give: equal bits, or within a proven bound. Nothing in between."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.plain.real import Real, Value


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of one case.

    Attributes:
        elements: how many were compared.
        wrong: one line that says what is wrong; None where nothing is.
        got: what the backend gave.
        want: what it must give, or the exact values rounded to float64 where a bound decides.
    """

    elements: int
    wrong: str | None = None
    got: HostArray | None = None
    want: HostArray | None = None


def equal_bits(got: HostArray, want: HostArray, *, what: str = "", any_nan: bool = False) -> Verdict:
    """Equal shapes, dtypes and bits.

    Args:
        got: what the backend gave.
        want: what it must give.
        what: put before the message.
        any_nan: whether all NaN are one; an op's result has the one quiet NaN without a sign.
    """
    before = f"{what}: " if what else ""
    if got.shape != want.shape or got.dtype != want.dtype:
        text = f"{before}{got.dtype} {got.shape} where {want.dtype} {want.shape} must be"
        return Verdict(want.size, text, got, want)
    unequal = _bits(got) != _bits(want)
    if any_nan and got.dtype.kind == "f":
        unequal &= ~(np.isnan(got) & np.isnan(want))
    if not unequal.any():
        return Verdict(want.size)
    place = tuple(int(axis[0]) for axis in np.nonzero(unequal))
    text = f"{before}{_place(place)} is {_shown(got[place])}, must be {_shown(want[place])}"
    return Verdict(want.size, f"{text}; {int(unequal.sum())} of {want.size} differ", got, want)


def within_bound(got: HostArray, values: NDArray[Any], bound: NDArray[np.float64]) -> Verdict:
    """Every element no further from the exact value than its bound, compared as rational numbers.

    Where the exact value is NaN or an infinity, so must the element be. Where the bound is no finite number, it says
    nothing.

    Args:
        got: float32 or float64.
        values: the specification's, of the same shape.
        bound: of the same shape.
    """
    want = np.array([_float64(value) for value in values.ravel()]).reshape(values.shape)
    if got.shape != values.shape:
        return Verdict(values.size, f"{got.shape} where {values.shape} must be", got, want)
    said = 0
    for place in np.ndindex(*values.shape):
        value: Any = values[place]
        if not _within(float(got[place]), value, float(bound[place])):
            text = f"{_place(place)} is {_shown(got[place])}, more than {bound[place]:.3g} from {want[place]}"
            return Verdict(values.size, text, got, want)
        said += not isinstance(value, Real) or bool(np.isfinite(bound[place]))
    return Verdict(said)


def first_wrong(verdicts: list[Verdict]) -> Verdict:
    """The first verdict that finds something wrong, with the elements of all; a verdict of their sum otherwise."""
    elements = sum(verdict.elements for verdict in verdicts)
    wrong = next((verdict for verdict in verdicts if verdict.wrong is not None), Verdict(0))
    return Verdict(elements, wrong.wrong, wrong.got, wrong.want)


def _within(got: float, value: Value, bound: float) -> bool:
    if not isinstance(value, Real):
        return got == value or (np.isnan(got) and np.isnan(value))
    if not np.isfinite(bound):
        return True
    if not np.isfinite(got):
        return False
    middle, distance = Fraction(got), Fraction(bound)
    return value.compare(middle - distance) >= 0 and value.compare(middle + distance) <= 0


def _float64(value: Value) -> float:
    return value.round("fp64") if isinstance(value, Real) else value


def _bits(array: HostArray) -> HostArray:
    if array.dtype.kind != "f":
        return array
    return np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))


def _place(place: tuple[int, ...]) -> str:
    return f"element {list(place)}" if place else "the result"


def _shown(value: Any) -> str:
    """A number, and its bits where that says more."""
    if value.dtype.kind != "f":
        return str(value)
    return f"{value} (0x{int(_bits(np.asarray([value]))[0]):0{2 * value.dtype.itemsize}x})"
