"""A precision says which format an op's output is rounded to, once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Precision:
    """How a model computes.

    Attributes:
        name: what `lepton_ref.load(precision=…)` and `--precision` take.
        activations: the format that every op's output is rounded to: "float32" or "float64".
    """

    name: str
    activations: str

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The NumPy dtype that holds an activation."""
        return np.dtype(self.activations)


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("reference", activations="float32"),
        Precision("float64", activations="float64"),
    )
}


def get_precision(precision: str | Precision, /) -> Precision:
    """The precision of that name, or the record itself.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(precision, Precision):
        return precision
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]
