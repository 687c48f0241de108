"""Examples of linear layers: every storage class, and sums that only exact arithmetic rounds right."""

from __future__ import annotations

import numpy as np

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.drawer import MOST, Drawer
from lepton_ref.conformance.draws_storage import DENSE, linear_of, name_of
from lepton_ref.conformance.draws_stored import dense
from lepton_ref.conformance.numbers import Floats, Generator, held, sizes
from lepton_ref.numerics import get_precision
from lepton_ref.numerics.cast import float_format

CANCELLED = 2.0**26
"""Times a few bits, what is added and taken away again in a midpoint's row: no sum in float64 keeps all of the rest."""

NEEDLE = 2.0**-80
"""What a midpoint is missed by: beyond float64, within double-double."""


def draw_linear(rng: Generator, number: int, precision: str) -> Case:
    """Weights of each storage class, with a bias and without; every third example is of midpoints."""
    how, kind = get_precision(precision), [MOST[number // 2 % 3]]
    midpoints = how.proven and how.machine is None
    if number % 3 == 0 and midpoints:
        return _midpoints(Drawer(rng, number // 2, precision, kind))
    drawer = Drawer(rng, number, precision, kind)
    name = name_of(number - number // 3 - 1 if midpoints else number, precision)
    b, t, width, out = sizes(rng, 4, largest=9)
    if name not in DENSE:
        return linear_of(drawer, name, t=min(t, 3))
    if number % 4 == 2:
        b, t, width = 1, 2, 67  # two whole blocks of activations and a rest
    stored = dense(name, rng, out, drawer.kind, width)
    inputs = {"x": drawer.activations(b, t, width), **stored.inputs}
    if number % 3 != 1:
        inputs["b"] = drawer.vector(out)
    return drawer.case("linear", inputs, **stored.options, kept=number % 4 == 3)


def _midpoints(drawer: Drawer) -> Case:
    """Rows whose exact sum is a midpoint of two neighbours, or misses it by 2⁻⁸⁰, with large terms that cancel.

    A row is 1·(1 + j·2^(1 − p)) ± ulp/2 ± 2⁻⁸⁰ + c·t − c·t, and the same scaled by powers of two; what is left after
    rounding half away from zero, rounding twice or summing in float32 has other bits.
    """
    rng, p = drawer.rng, float_format(drawer.how.activations).precision
    out = 6
    half = rng.choice([-1.0, 1.0], out)
    x = np.array([1.0, 2.0**-6, 2.0**-6, 16.0, 16.0, 0.0])
    w: Floats = np.zeros((out, len(x)))
    w[:, 0] = 1 + rng.integers(1, 2 ** (p - 2), out) * 2.0 ** (1 - p)
    w[:, 1] = half * 2.0 ** (6 - p)
    w[:, 2] = np.resize([0.0, 1.0, -1.0], out) * NEEDLE * 2.0**6
    w[:, 3] = rng.integers(1, 2**8, out) * CANCELLED / 16
    w[:, 4] = -w[:, 3]
    w[:, 5] = rng.standard_normal(out)
    order = rng.permutation(len(x))
    scale = np.exp2(rng.integers(-8, 9, (1, 3, 1)))
    inputs = {"x": held(x[order] * scale, drawer.how.activations), "w": held(w[:, order], "fp32")}
    return drawer.case("linear", inputs, storage="F32", kept=drawer.number % 2 == 1)
