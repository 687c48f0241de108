"""One small literal example of every layout, for the pages of the formats: its bytes, and the weight that they are.

Bytes are those of SHAKE-256 of the format's name, so that every code occurs; scales are replaced by numbers of ordinary
size. No encoder is asked, but where a format has sums beside its codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from bit_diagram import Layout, Plane, block_layout, weight_layout
from numpy.typing import NDArray

from lepton_ref.audit.explain import Explanation, explain
from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockQuantised, Dense, Weight, decode, encode
from lepton_ref.storage.layout import Field, Part

Tensors = Mapping[str, HostArray]

NUMBERS = {"d": 0.1, "dmin": 0.3, "m": -0.7}
"""Part that is a number of its own → about which number the example has."""
SUMS = ("Q8_1", "Q8_K")
"""Formats with sums of codes."""


@dataclass(frozen=True)
class Sample:
    """One example.

    Attributes:
        title: what is special about it; "" where a format has one example.
        tensors: name → the stored array; a block's only name is "".
        make: tensors → the weight.
        layout: tensors → where the elements lie.
    """

    title: str
    tensors: Tensors
    make: Callable[[Tensors], Weight]
    layout: Callable[[Tensors], Layout]

    @property
    def weight(self) -> Weight:
        """The weight itself."""
        return self.make(self.tensors)

    def explain(self, row: int, column: int) -> Explanation:
        """One element, from its bytes to its value."""
        return explain(self.weight, "example", row, column)

    def flipped(self, name: str, bit: int) -> Tensors:
        """The tensors with one bit of one of them the other way round: bit `bit % 8` of byte `bit // 8`."""
        raw = bytearray(self.tensors[name].tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        array = np.frombuffer(bytes(raw), dtype=self.tensors[name].dtype).reshape(self.tensors[name].shape)
        return {**self.tensors, name: array}


def stream(seed: str, count: int) -> NDArray[np.uint8]:
    """`(count,)` bytes that look random and are the same everywhere."""
    return np.frombuffer(hashlib.shake_256(seed.encode()).digest(count), dtype=np.uint8)


def block(name: str) -> Sample:
    """One block of a block format."""
    stored = FORMATS[name]
    raw = bytearray(stream(name, stored.nbytes).tobytes())
    for field in stored.fields:
        inside = range(field.at, field.at + field.nbytes)
        if field.what.startswith("E8M0"):
            raw[field.at] = 122
        if field.what.startswith("UE4M3"):
            for at in inside:
                raw[at] = 0x2A + 3 * (at - field.at)
    assert stored.read is not None, "every format says where its elements lie"
    for part in stored.read(bytes(raw), 0):
        if part.name in NUMBERS and len(part.where) > 1:
            _write(raw, part, NUMBERS[part.name])
    if name in SUMS:
        raw = bytearray(encode(name, decode(name, np.frombuffer(bytes(raw), dtype=np.uint8))).tobytes())
    return Sample("", {"": np.frombuffer(bytes(raw), dtype=np.uint8).reshape(1, -1)}, _blocks(name), _in_block(name))


def _write(raw: bytearray, part: Part, value: float) -> None:
    """Put the fp16 or float32 number nearest to this into the bits of a part."""
    width = sum(bits.width for bits in part.where)
    code = int(np.array(value, dtype=f"<f{width // 8}").view(f"<u{width // 8}"))
    for bits in part.where:
        mask = (1 << bits.width) - 1
        raw[bits.byte] = raw[bits.byte] & ~(mask << bits.low) | (code & mask) << bits.low
        code >>= bits.width


def _blocks(name: str) -> Callable[[Tensors], Weight]:
    return lambda tensors: BlockQuantised(tensors[""], format=FORMATS[name])


def _in_block(name: str) -> Callable[[Tensors], Layout]:
    return lambda tensors: block_layout(FORMATS[name], tensors[""].tobytes())


def dense(name: str) -> Sample:
    """A row of numbers: ordinary ones, the least, the largest, and what is no number. The layout is the first's."""
    dtype = DENSE_FORMATS[name]
    size = 8 * dtype.itemsize
    exponent = {"F64": 11, "F32": 8, "F16": 5, "BF16": 8}[name]
    fraction = size - 1 - exponent
    ones, infinity = (1 << exponent - 1) - 1, ((1 << exponent) - 1) << fraction
    tenth = encode(name, np.array([0.1])).view(f"<u{size // 8}")[0]
    codes = [
        int(tenth), ones << fraction, 1 << size - 1, 1, 1 << fraction, infinity - 1, infinity,
        1 << size - 1 | infinity, infinity | 1 << fraction - 1,
    ]  # fmt: skip
    array = np.array([codes], dtype=f"<u{size // 8}").view(dtype)
    return Sample("", {"": array}, lambda t: Dense(t[""], format=name), lambda t: _number(Dense(t[""], format=name)))


def _number(weight: Dense) -> Layout:
    """The first number of a row as a layout of one element."""
    explanation = explain(weight, "number", 0, 0)
    (field,) = explanation.fields
    plane = Plane("", len(explanation.block), (Field(field.name, 0, field.nbytes, field.what),))
    return Layout((plane,), 1, 0, lambda _e: [("", part) for part in explanation.parts])


def matrix(title: str, tensors: Tensors, make: Callable[[Tensors], Any]) -> Sample:
    """A matrix in several tensors."""
    return Sample(title, tensors, make, lambda given: weight_layout(make(given), given))


def codes(seed: str, shape: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
    """Codes of so many bits."""
    return (stream(seed, int(np.prod(shape))) & np.uint8((1 << bits) - 1)).reshape(shape)


def scales(shape: tuple[int, ...], format: str) -> HostArray:
    """Numbers from 0.02 on in steps of 0.01, as F32, F16 or BF16 stores them."""
    wide = 0.02 + 0.01 * np.arange(int(np.prod(shape))).reshape(shape)
    return encode(format, wide).view(DENSE_FORMATS[format]).reshape(shape)
