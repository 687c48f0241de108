"""Exact powers of two and exact shifts: laws of scaling that hold to the bit, away from underflow and overflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.claim import run
from lepton_ref.conformance.numbers import few_bits, held, moderate
from lepton_ref.conformance.verdict import Verdict, equal_bits
from lepton_ref.interface import Backend, HostArray
from lepton_ref.numerics.cast import float_format

FACTOR = 8.0
SHIFT = 4.0

Change = Callable[[Case], tuple[Case, float]]
"""The changed case, and by what its output must then be multiplied."""


def scalable(case: Case, rng: np.random.Generator) -> Case:
    """Moderate numbers throughout; for softmax few bits, to which a shift can be added exactly."""
    numbers = few_bits if case.op in ("softmax", "log_softmax") else moderate
    inputs: dict[str, HostArray] = {}
    for name, array in case.inputs.items():
        scale = name.startswith("w.") or (name == "w" and array.dtype == np.float16)  # these may be stored in few bits
        if array.dtype.kind == "f" and not scale:
            inputs[name] = held(numbers(rng, array.shape), case.how.activations, array.dtype)
    options: dict[str, Any] = {"normalise": False} if case.op == "pool" else {}
    return case.with_(inputs, options)


def _times(case: Case, *names: str) -> dict[str, HostArray]:
    return {name: case.inputs[name] * case.inputs[name].dtype.type(FACTOR) for name in names if name in case.inputs}


def _norm(case: Case) -> tuple[Case, float]:
    return case.with_(_times(case, "x"), {"eps": case.options["eps"] * FACTOR**2}), 1.0


def _softmax(case: Case) -> tuple[Case, float]:
    return case.with_({"x": case.inputs["x"] + case.inputs["x"].dtype.type(SHIFT)}), 1.0


def _attention(case: Case) -> tuple[Case, float]:
    changed = case.with_(_times(case, "q", "v"), {"scale": case.options["scale"] / FACTOR})
    return changed, FACTOR


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "linear": lambda case: (case.with_(_times(case, "x", "b")), FACTOR),
        "rms_norm": _norm,
        "layer_norm": _norm,
        "softmax": _softmax,
        "log_softmax": _softmax,
        "attention": _attention,
        "embed": lambda case: (case.with_({}, {"scale": case.options["scale"] * FACTOR}), FACTOR),
        "rope": lambda case: (case.with_(_times(case, "x")), FACTOR),
        "add": lambda case: (case.with_(_times(case, "x", "f")), FACTOR),
        "pool": lambda case: (case.with_(_times(case, "x")), FACTOR),
    }
)
"""Op → how it is scaled or shifted."""


def powers_of_two(case: Case, backend: Backend) -> Verdict:
    """Scaling by a power of two scales the result, a shift by an exact constant leaves softmax, to the bit.

    Elements that a format holds with fewer bits on one side, or not at all, are left out.
    """
    changed, factor = CHANGES[case.op](case)
    want, got = run(case, backend) * case.how.dtype.type(factor), run(changed, backend)
    form = float_format(case.how.activations)
    least = 2.0**form.emin * FACTOR
    inside = (np.abs(want) >= least) & (np.abs(want) <= form.largest / FACTOR)
    return equal_bits(np.where(inside, got, want), want, what=f"{case.op} scaled", any_nan=True)
