"""Where the bits of one element lie in a block, for explanations and for the diagrams of the documentation."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """Consecutive bytes of a block that hold one kind of thing.

    Attributes:
        name: as the format's formula calls it, such as "d" or "qs".
        at: the first byte.
        nbytes: how many bytes.
        what: "fp16", "4-bit codes", "6-bit scales and minima".
    """

    name: str
    at: int
    nbytes: int
    what: str


@dataclass(frozen=True)
class Bits:
    """Adjacent bits of one byte: bit `low` is worth 1."""

    byte: int
    low: int
    width: int

    def of(self, block: bytes) -> int:
        """The unsigned number that they are."""
        return (block[self.byte] >> self.low) & ((1 << self.width) - 1)


@dataclass(frozen=True)
class Part:
    """One quantity that an element is computed from.

    Attributes:
        name: as the format's formula calls it: "q", "d", "sc".
        where: its bits, those that are worth least first.
        code: the unsigned number that they make.
        value: what the code stands for: of "d" the fp16 number, of a signed byte the signed number.
    """

    name: str
    where: tuple[Bits, ...]
    code: int
    value: float

    def __str__(self) -> str:
        width = sum(bits.width for bits in self.where)
        return f"{self.name} = {self.code:0{width}b} = {self.value:g}"


def part(block: bytes, name: str, where: tuple[Bits, ...], value: float | None = None) -> Part:
    """The part whose code is read from these bits; the value is the code unless given."""
    code, shift = 0, 0
    for bits in where:
        code |= bits.of(block) << shift
        shift += bits.width
    return Part(name, where, code, float(code) if value is None else value)


def number(block: bytes, name: str, at: int, kind: str) -> Part:
    """A whole number or float at byte `at`; `kind` is a letter of struct: "e" fp16, "f" fp32, "b" int8, "B" uint8."""
    size = struct.calcsize(f"<{kind}")
    where = tuple(Bits(at + i, 0, 8) for i in range(size))
    return part(block, name, where, float(struct.unpack_from(f"<{kind}", block, at)[0]))
