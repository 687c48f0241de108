"""Examples of linear layers: every storage format, and sums that only exact arithmetic rounds right."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.drawer import MOST, Drawer
from lepton_ref.conformance.numbers import NUMBERS, Floats, Generator, held, sizes
from lepton_ref.numerics.cast import float_format
from lepton_ref.storage import FORMATS as BLOCK_FORMATS

SCALES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}
)
"""Block format → where its fp16 scales stand in a block."""

STORAGES = ("F32", "Q8_0", "BF16", "Q4_0", "F16", "Q4_K", "F32", "Q5_0", "Q4_1", "Q6_K")
"""How weights lie, in turn."""

CANCELLED = 2.0**26
"""Times a few bits, what is added and taken away again in a midpoint's row: no sum in float64 keeps all of the rest."""

NEEDLE = 2.0**-80
"""What a midpoint is missed by: beyond float64, within double-double."""


def matrix(rng: Generator, storage: str, rows: int, width: int, kind: str) -> NDArray[Any]:
    """A matrix as it is stored; a block format's scales are moderate, its codes any bytes."""
    if storage not in BLOCK_FORMATS:
        x = NUMBERS[kind](rng, (rows, width))
        if storage == "BF16":
            return (held(x, "bf16").view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return held(x, {"F32": "fp32", "F16": "fp16"}[storage], {"F32": np.float32, "F16": np.float16}[storage])
    block = BLOCK_FORMATS[storage]
    raw = rng.integers(0, 256, (rows, width // block.length, block.nbytes), dtype=np.uint8)
    for at in SCALES[storage]:
        scale = (rng.standard_normal(raw.shape[:2]) / 8).astype(np.float16)
        raw[..., at : at + 2] = scale[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def draw_linear(rng: Generator, number: int, precision: str) -> Case:
    """Weights of each storage class, with a bias and without; every third example is of midpoints."""
    drawer = Drawer(rng, number // 2, precision, MOST[:3])
    if number % 3 == 0 and drawer.how.proven and drawer.how.machine is None:
        return _midpoints(drawer)
    storage = STORAGES[number % len(STORAGES)]
    b, t, width, out = sizes(rng, 4, largest=9)
    if storage in BLOCK_FORMATS:
        b, t, out, width = 1, min(t, 3), min(out, 4), max(BLOCK_FORMATS[storage].length, 32 * (number % 2 + 1))
    elif number % 4 == 2:
        b, t, width = 1, 2, 67  # two whole blocks of activations and a rest
    inputs = {"x": drawer.activations(b, t, width), "w": matrix(rng, storage, out, width, drawer.kind)}
    if number % 3 != 1:
        inputs["b"] = drawer.vector(out)
    return drawer.case("linear", inputs, storage=storage, kept=number % 4 == 3)


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
