"""Drawn matrices, dense and in blocks: any codes, and scales that are numbers.

Codes are random bits. Scales are moderate where the example's numbers are; among those of a "few bits" are powers of
two, and among "wild" and "scattered" ones ±0, the least subnormal and the largest number of their format. So every
element decodes to a number, or to the infinity that a product beyond float32 is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.numbers import NUMBERS, Floats, Generator, held
from lepton_ref.storage import BlockFormat


@dataclass(frozen=True, eq=False)
class Stored:
    """A drawn matrix: the inputs and options of a case, and its shape."""

    storage: str
    shape: tuple[int, int]
    inputs: Mapping[str, NDArray[Any]]
    parts: Mapping[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the case's options say of it."""
        parts = {} if self.parts is None else {"parts": dict(self.parts)}
        return {"storage": self.storage, **parts}


Recipe = Callable[[Generator, int, str], Stored]
"""From a generator, a number of rows and a kind of numbers to a matrix."""

SPECIAL_KINDS = ("wild", "scattered")
"""Kinds of numbers with zeros, subnormals and the largest among the scales."""

LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"F32": (2.0**-149, 3.4028234663852886e38), "BF16": (2.0**-133, 3.3895313892515355e38), "F16": (2.0**-24, 65504.0)}
)
"""Format of a scale → its least and its largest number."""


HELD: Mapping[str, tuple[str, type[Any]]] = MappingProxyType({"F32": ("fp32", np.float32), "F16": ("fp16", np.float16)})
"""Format that NumPy has → the number format, and its dtype."""


def bf16_bits(x: Floats) -> NDArray[np.uint16]:
    """The numbers rounded to bfloat16, as its bits."""
    bits: NDArray[np.uint32] = held(x, "bf16").view(np.uint32) >> np.uint32(16)
    return bits.astype(np.uint16)


def scales(rng: Generator, shape: tuple[int, ...], kind: str, format: str) -> NDArray[Any]:
    """Scales of a format as they are stored: BF16 as its bits, E8M0 and E4M3 as codes."""
    if format == "E8M0":
        low, high = (0, 255) if kind in SPECIAL_KINDS else (120, 135)
        exponents: NDArray[Any] = rng.integers(low, high, shape, dtype=np.uint8)
        return exponents
    if format == "E4M3":
        codes: NDArray[Any] = rng.integers(0, 127, shape) | rng.choice([0, 128], shape, p=[0.9, 0.1])
        return np.asarray(codes, dtype=np.uint8)
    x: Floats = rng.standard_normal(shape) / 8
    if kind == "few bits":
        x = np.exp2(rng.integers(-6, 1, shape)) * rng.choice([-1.0, 1.0], shape)
    if kind in SPECIAL_KINDS:
        least, largest = LIMITS[format]
        x = np.where(rng.random(shape) < 0.25, rng.choice([0.0, -0.0, least, -least, largest, -largest], shape), x)
    if format == "BF16":
        return bf16_bits(x)
    found: NDArray[Any] = held(x, *HELD[format])
    return found


def dense(storage: str, rng: Generator, rows: int, kind: str, width: int = 33) -> Stored:
    """One number an element."""
    x = NUMBERS[kind](rng, (rows, width))
    raw: NDArray[Any] = bf16_bits(x) if storage == "BF16" else held(x, *HELD[storage])
    return Stored(storage, (rows, width), {"w": raw})


def blocks(block: BlockFormat) -> Recipe:
    """Rows of one or two blocks of any bytes, whose scales are numbers."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        count = int(rng.integers(1, 3)) if block.length < 256 else 1
        rows = rows if block.length < 256 else min(rows, 3)
        raw = rng.integers(0, 256, (rows, count, block.nbytes), dtype=np.uint8)
        for part in block.fields:
            held_as = {"fp16": "F16", "fp32": "F32", "E8M0 scale, halved": "E8M0"}.get(part.what)
            if held_as is not None:
                drawn = np.ascontiguousarray(scales(rng, (rows, count, 1), kind, held_as))
                raw[..., part.at : part.at + part.nbytes] = drawn.view(np.uint8)
        if block.name == "IQ1_M":  # its fp16 number is the high nibbles of every second byte, the lowest first
            bits = scales(rng, (rows, count, 1), kind, "F16").view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16)
            raw[..., 49::2] = raw[..., 49::2] & 15 | ((bits & 15) << 4).astype(np.uint8)
        return Stored(block.name, (rows, count * block.length), {"w": raw.reshape(rows, -1)})

    return draw
