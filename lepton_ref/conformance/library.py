"""Whether exp, log and tanh err by no more ulps than the backend declares.

Thousands of arguments, hard ones among them, are measured with double-double functions, whose error is far below an
ulp. Those that look worst are then judged by enclosures of the real number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.verdict import Verdict
from lepton_ref.interface import Backend
from lepton_ref.numerics import double_functions
from lepton_ref.numerics.double_double import Pair
from lepton_ref.plain import functions
from lepton_ref.plain.interval import Interval

Reals = NDArray[np.float64]

DRAWN = 2000
"""Arguments of each function in one example."""
WORST = 8
"""How many of them are judged by enclosures."""
DIGITS = 60


def draw_arguments(rng: np.random.Generator, number: int, precision: str) -> Case:
    """Arguments from where each function is large, small, steep or subnormal."""
    tiny = np.ldexp(rng.uniform(1, 2, DRAWN // 4), rng.integers(-1060, -2, DRAWN // 4)) * rng.choice(
        [-1, 1], DRAWN // 4
    )
    steps = rng.integers(-1000, 1000, DRAWN // 4) * math.log(2.0) / 2 * (1 + rng.standard_normal(DRAWN // 4) * 2.0**-50)
    exp = [rng.uniform(-745, 709.7, DRAWN // 2), rng.uniform(-2, 2, DRAWN // 4), steps, tiny]
    near = 1 + np.ldexp(rng.uniform(-1, 1, DRAWN // 4), rng.integers(-52, -1, DRAWN // 4))
    log = [np.exp2(rng.uniform(-1022, 1023, DRAWN // 2)), near, rng.uniform(0.5, 2, DRAWN // 4), np.abs(tiny)]
    tanh = [rng.uniform(-20, 20, DRAWN // 2), rng.uniform(-1, 1, DRAWN // 4), tiny]
    return Case("contract", {"exp": np.concatenate(exp), "log": np.concatenate(log), "tanh": np.concatenate(tanh)})


def library(case: Case, backend: Backend) -> Verdict:
    """Each function's largest error is at most `backend.ulps` ulps of the exact value."""
    elements = 0
    for name, (measured, enclosed) in FUNCTIONS.items():
        x = case.inputs[name]
        got = backend.to_numpy(getattr(backend.xp, name)(backend.from_numpy(x.copy())))
        if got.dtype != np.float64 or got.shape != x.shape:
            return Verdict(elements, f"{name}: {got.dtype} {got.shape} where float64 {x.shape} must be", got, None)
        with np.errstate(all="ignore"):
            exact = measured(Pair.of(x))
            errors = np.abs((got - exact.high) - exact.low) / np.spacing(np.abs(exact.high))
        errors = np.where(np.isfinite(errors), errors, np.inf)
        for at in np.argsort(-errors)[:WORST]:
            ulps = _ulps(float(got[at]), enclosed(Interval.of(float(x[at]), DIGITS)))
            if not ulps <= backend.ulps:
                text = f"{name}({x[at]}) is {got[at]}, {float(ulps):.3g} ulps from the exact value"
                return Verdict(elements, f"{text}; the backend declares {backend.ulps}", got[at : at + 1], None)
        elements += x.size
    return Verdict(elements)


def _ulps(got: float, exact: Interval) -> Fraction | float:
    """At least how many ulps of the exact value lie between it and what was got."""
    low, high = Fraction(exact.low), Fraction(exact.high)
    size = max(abs(low), abs(high))
    if not math.isfinite(got):
        return math.inf
    distance = max(low - Fraction(got), Fraction(got) - high, Fraction(0))
    exponent = max(math.frexp(float(size))[1] - 1, -1022) if size > Fraction(2) ** -1074 else -1022
    return distance / Fraction(2) ** (exponent - 52)


FUNCTIONS: Mapping[str, tuple[Callable[[Pair], Pair], Callable[[Interval], Interval]]] = MappingProxyType(
    {
        "exp": (double_functions.exp, functions.exp),
        "log": (double_functions.log, functions.log),
        "tanh": (double_functions.tanh, functions.tanh),
    }
)
"""Name → the function in double-double, and on intervals."""
