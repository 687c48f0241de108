"""Residual: y = x + f. One sum of two, so float64 carries at most 2⁻⁵³·|y| of error."""

from __future__ import annotations

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op


@op
def add(x: Array, f: Array, *, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (B, T, D) -> (B, T, D), x + f.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if x.shape != f.shape:
        raise ValueError(f"a residual adds arrays of one shape, got {tuple(x.shape)} and {tuple(f.shape)}")
    return round_once(lift(x, backend=backend) + lift(f, backend=backend), backend=backend, precision=precision)


def add_scalar(x_d: list[float], f_d: list[float]) -> list[float]:
    """One position: the specification."""
    return [x + f for x, f in zip(x_d, f_d, strict=True)]
