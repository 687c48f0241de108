"""What an op may be given: numbers, axes and options, each refused in one line that says what to give instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision
from lepton_ref.numerics.cast import cast
from lepton_ref.ops.base import silence

NUMBERS = ("float32", "float64")
"""The dtypes of numbers."""

OPTION_LEAST, OPTION_MOST = 2.0**-200, 2.0**200
"""Between them a scale or a cap leaves no float32 number outside float64's range, nor its double-double forms."""


NORM_EPS_MOST = 2.0**130
"""A larger ε would leave nothing of a norm's numbers."""


def require_numbers(
    what: str, x: Array, /, *, axes: int | None = None, any_size: bool = False, backend: Backend, precision: Precision
) -> None:
    """Raise ValueError unless x is an array of numbers that the precision takes.

    Proofs rest on numbers of float32's range: 0, or from 2⁻¹⁴⁹ to below 2¹²⁸ in size, or infinite, or NaN.

    Args:
        what: its name, for the message.
        x: an array of the backend.
        axes: how many axes it must have; None for one or more.
        any_size: whether any float64 is taken.
        backend: whose array x must be.
        precision: the op's.
    """
    if isinstance(x, (list, tuple, int, float, str)) or x is None:
        raise ValueError(f"{what} must be an array of backend {backend.name!r}, got {type(x).__name__}")
    xp = backend.xp
    if x.dtype not in (xp.float32, xp.float64):
        raise ValueError(f"{what} must hold {' or '.join(NUMBERS)}, got {x.dtype}; convert it first")
    if x.ndim != axes if axes is not None else x.ndim == 0:
        wanted = "one axis or more" if axes is None else f"{axes} axes"
        raise ValueError(f"{what} must have {wanted}, got shape {tuple(x.shape)}")
    if x.dtype == xp.float64 and precision.proven and not any_size and not _in_range(x, backend):
        raise ValueError(
            f"{what} has numbers outside float32's range, of which precision {precision.name!r} proves nothing; "
            "round them to float32, or take precision 'float64'"
        )


def _in_range(x: Array, backend: Backend) -> bool:
    """Whether the numbers are of sizes that float32 has."""
    xp = backend.xp
    size = xp.abs(x)
    inside = (size >= 2.0**-149) & (size < 2.0**128) | (size == 0.0) | (size == math.inf) | (x != x)
    return bool(backend.to_numpy(xp.all(inside)))


def as_read(x: Array, /, *, backend: Backend, precision: Precision) -> Array:
    """`(...) -> (...)` what an op of this precision reads of another's output: where it proves, float64 as float32."""
    if not precision.proven or x.dtype != backend.xp.float64:
        return x
    with silence():
        return cast(x, "fp32", backend=backend)


def require_number(
    what: str, value: Any, /, *, least: float = -math.inf, most: float = math.inf, open_: bool = False
) -> None:
    """Raise ValueError unless value is a finite real number from least to most, or between them if `open_`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{what} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {value}")
    within = least < value < most if open_ else least <= value <= most
    if not within:
        ends = f"between {least:g} and {most:g}" if math.isfinite(most) else f"{least:g} or more"
        raise ValueError(f"{what} must be {ends}, got {value}")


def require_scale(what: str, value: Any, /) -> None:
    """Raise ValueError unless value is 0, or of a size from `OPTION_LEAST` to `OPTION_MOST`."""
    require_number(what, value, least=-OPTION_MOST, most=OPTION_MOST)
    if value != 0 and abs(value) < OPTION_LEAST:
        raise ValueError(f"{what} must be 0 or of size {OPTION_LEAST:g} or more, got {value}")


def require_cap(cap: Any, /) -> None:
    """Raise ValueError unless cap is a positive number from `OPTION_LEAST` to `OPTION_MOST`."""
    if not isinstance(cap, (int, float)) or not cap > 0:
        raise ValueError(f"a soft cap must be positive, got {cap}; leave it out where a model has none")
    require_number("a soft cap", cap, least=OPTION_LEAST, most=OPTION_MOST)


def require_integers(what: str, index: Any, below: int, /) -> NDArray[np.int64]:
    """`(...) -> (...)` the index as int64; ValueError unless it is an array of integers of [0, below)."""
    if not isinstance(index, np.ndarray) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"{what} must be an array of integers, got {getattr(index, 'dtype', type(index).__name__)}")
    outside = (index < 0) | (index >= below)
    if outside.any():
        raise ValueError(f"{what} must be from 0 to {below - 1}, got {index[outside][0]}")
    return index.astype(np.int64)
