"""Draws the arrays of one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import LAYOUTS, Case
from lepton_ref.conformance.numbers import NUMBERS, Generator, held
from lepton_ref.numerics import get_precision

MOST = ("moderate", "few bits", "wild", "scattered")
"""Kinds of numbers that most ops are given, in turn."""


class Drawer:
    """Draws arrays as a precision's activations hold them, and remembers what kind of numbers they are.

    Args:
        rng: the example's generator.
        number: the example's number.
        precision: a precision's name.
        kinds: kinds of numbers, taken in turn.
    """

    def __init__(self, rng: Generator, number: int, precision: str, kinds: Sequence[str] = MOST) -> None:
        self.rng, self.number, self.precision = rng, number, precision
        self.how = get_precision(precision)
        self.kind = kinds[number % len(kinds)] if self.how.proven else "moderate"

    def activations(self, *shape: int) -> NDArray[Any]:
        """Numbers of the kind as the precision holds them."""
        return held(NUMBERS[self.kind](self.rng, shape), self.how.activations, self.how.dtype)

    def vector(self, *shape: int) -> NDArray[np.float32]:
        """A norm's weight or a bias: float32 whatever the precision."""
        return held(NUMBERS["moderate" if self.kind == "scattered" else self.kind](self.rng, shape), "fp32")

    def case(self, op: str, inputs: Mapping[str, NDArray[Any]], *, what: str = "", **options: Any) -> Case:
        """The case of these inputs; `what` is for people, like the kind of numbers."""
        layout = LAYOUTS[self.number % len(LAYOUTS)]
        return Case(op, inputs, options, self.precision, layout, f"{self.kind}, {what}" if what else self.kind)
