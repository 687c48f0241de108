"""One example that a check is held against: an op or a law, its inputs and options, and how arrays lie in memory.

A case is all that is needed to run it again: that is what a capsule keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.numerics import Precision, get_precision

LAYOUTS = ("plain", "transposed", "sliced")
"""How activations lie in memory: as they are; with reversed strides; every second number of a row twice as long, NaN
between them, so that what reads beyond its elements shows."""

LAID_OUT = ("x", "f", "gate", "up", "q", "k", "v")
"""Inputs that a layout is about: activations. Ids, masks and weights come as the runtime gives them."""


@dataclass(frozen=True, eq=False)
class Case:
    """One example.

    Attributes:
        op: which subject, a key of `lepton_ref.conformance.subjects.SUBJECTS`.
        inputs: arrays by name; what an op may lack is not there.
        options: constants that JSON can hold, by name.
        precision: the name of a precision.
        layout: one of `LAYOUTS`.
        data: what kind of numbers these are, for people.
    """

    op: str
    inputs: Mapping[str, HostArray]
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "reference"
    layout: str = "plain"
    data: str = ""

    def with_(self, inputs: Mapping[str, HostArray], options: Mapping[str, Any] | None = None) -> Case:
        """The same case with some inputs and options replaced."""
        merged = dict(self.options) if options is None else {**self.options, **options}
        return Case(self.op, {**self.inputs, **inputs}, merged, self.precision, self.layout, self.data)

    @property
    def how(self) -> Precision:
        """The precision itself."""
        return get_precision(self.precision)


Draw = Callable[[np.random.Generator, int, str], Case]
"""From a generator, the example's number and a precision to a case."""


class Given:
    """A case's inputs as a backend is given them; it remembers what it gave.

    Args:
        case: whose inputs.
        backend: where the arrays lie.
    """

    def __init__(self, case: Case, backend: Backend) -> None:
        self.case = case
        self.backend = backend
        self._handed: dict[str, Array] = {}

    def __call__(self, name: str) -> Array:
        """The input of that name on the backend, laid out; None where the case has none."""
        if name not in self.case.inputs:
            return None
        if name not in self._handed:
            layout = self.case.layout if name in LAID_OUT else "plain"
            self._handed[name] = laid_out(self.case.inputs[name], layout, self.backend)
        return self._handed[name]

    def host(self, name: str) -> HostArray:
        """The input of that name where ops take host arrays: ids and positions."""
        return self.case.inputs[name].copy()

    def changed(self) -> str | None:
        """The name of an input whose numbers are no longer what was given."""
        for name, array in self._handed.items():
            if not same(self.backend.to_numpy(array), self.case.inputs[name]):
                return name
        return None


def laid_out(array: HostArray, layout: str, backend: Backend) -> Array:
    """A copy of the array on the backend, lying in memory as `LAYOUTS` says."""
    if layout == "transposed" and array.ndim > 1:
        axes = tuple(reversed(range(array.ndim)))
        return backend.xp.permute_dims(backend.from_numpy(np.ascontiguousarray(array.transpose(axes))), axes)
    if layout == "sliced":
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1] + 1), np.nan, dtype=array.dtype)
        wide[..., 1::2] = array
        return backend.from_numpy(wide)[..., 1::2]
    return backend.from_numpy(array.copy())


def same(got: HostArray, want: HostArray) -> bool:
    """Whether shape, dtype and numbers are equal: −0 is not +0, all NaN are one."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, want))
    equal = (got == want) & (np.signbit(got) == np.signbit(want))
    return bool((equal | (np.isnan(got) & np.isnan(want))).all())
