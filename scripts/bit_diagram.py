"""Which bits make which elements: what `read` names, gathered bit by bit, and where it repeats itself.

A layout is a block of bytes, or the tensors that together are a matrix; each of them is a plane here. A box is adjacent
bits of one byte that make the same part of the same elements. Rows of boxes that recur, with all elements higher by one
number, are folded: the first is kept, and `Again` says how often it follows. `scripts/bit_text.py` writes the folded
rows for a terminal, `scripts/bit_drawing.py` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.storage import BlockFormat
from lepton_ref.storage.layout import Field, Part

LONGEST_PERIOD = 64
"""Rows: what recurs later than that is not looked for."""
WORTH_FOLDING = 3
"""Rows that must be left out at least."""


@dataclass(frozen=True)
class Use:
    """What some adjacent bits are.

    Attributes:
        part: its name in the formula.
        elements: the elements that it belongs to, ascending.
        first: which bit of the part's code the lowest of the bits is.
        last: which one the highest is.
        of: how many bits the code has.
    """

    part: str
    elements: tuple[int, ...]
    first: int
    last: int
    of: int

    def shape(self) -> tuple[str, int, int, int, int]:
        """All but which elements they are."""
        return self.part, len(self.elements), self.first, self.last, self.of


@dataclass(frozen=True)
class Box:
    """Adjacent bits of one byte. Those without a use are in no value."""

    low: int
    width: int
    uses: tuple[Use, ...]


Byte = tuple[Box, ...]
"""The boxes of a byte, from bit 0 on."""


@dataclass(frozen=True)
class Plane:
    """A block, or one tensor: its bytes in order, in fields."""

    name: str
    nbytes: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Layout:
    """What a diagram is made from.

    Attributes:
        planes: the block alone, or the tensors.
        count: how many elements there are; those of a matrix are counted row by row.
        columns: the length of a matrix's rows; 0 in a block.
        read: element → its parts, each with the name of its plane.
    """

    planes: tuple[Plane, ...]
    count: int
    columns: int
    read: Callable[[int], Sequence[tuple[str, Part]]]


@dataclass(frozen=True)
class Again:
    """The `period` rows before it recur `times` more, the elements `shift` higher each time; `start` is their first."""

    start: int
    period: int
    times: int
    shift: int


def block_layout(format: BlockFormat, block: bytes) -> Layout:
    """The layout of a block format."""
    read = format.read
    if read is None:
        raise ValueError(f"{format.name} does not say where its elements lie; give it a `read`")
    plane = Plane("", format.nbytes, format.fields)
    return Layout((plane,), format.length, 0, lambda e: [("", part) for part in read(block, e)])


def weight_layout(weight: Any, tensors: Mapping[str, HostArray]) -> Layout:
    """The layout of a matrix that lies in these tensors; a tensor that no part names is left out."""
    columns = weight.shape[1]
    used = set(weight.tensors.values())
    planes = tuple(
        Plane(name, array.nbytes, (Field(name, 0, array.nbytes, f"{stored_as(array)} {array.shape}"),))
        for name, array in tensors.items()
        if name in used
    )

    def read(e: int) -> list[tuple[str, Part]]:
        return [(weight.tensors[part.name], part) for part in weight.read(*divmod(e, columns))]

    return Layout(planes, weight.shape[0] * columns, columns, read)


def stored_as(array: HostArray) -> str:
    """A dtype's name; BF16 is what NumPy holds as unsigned integers."""
    return "bfloat16" if array.dtype == np.uint16 else str(array.dtype)


def boxes(layout: Layout) -> dict[str, tuple[Byte, ...]]:
    """Plane → the boxes of each of its bytes."""
    named: dict[str, list[dict[tuple[str, int, int], list[int]]]] = {
        plane.name: [{} for _ in range(8 * plane.nbytes)] for plane in layout.planes
    }
    for e in range(layout.count):
        for plane, part in layout.read(e):
            width, at = sum(bits.width for bits in part.where), 0
            for bits in part.where:
                for bit in range(8 * bits.byte + bits.low, 8 * bits.byte + bits.low + bits.width):
                    named[plane][bit].setdefault((part.name, at, width), []).append(e)
                    at += 1
    return {plane: tuple(map(_joined, _eights(found))) for plane, found in named.items()}


def _eights(bits: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (bits[at : at + 8] for at in range(0, len(bits), 8))


def _joined(bits: Sequence[Mapping[tuple[str, int, int], list[int]]]) -> Byte:
    """Eight bits as boxes: a bit joins the one below it where it is the next bit of the same parts."""
    found: list[Box] = []
    for low, named in enumerate(bits):
        uses = tuple(Use(part, tuple(elements), at, at, of) for (part, at, of), elements in sorted(named.items()))
        before = found[-1] if found else None
        if before is not None and _continues(before.uses, uses):
            grown = tuple(Use(u.part, u.elements, u.first, u.last + 1, u.of) for u in before.uses)
            found[-1] = Box(before.low, before.width + 1, grown)
        else:
            found.append(Box(low, 1, uses))
    return tuple(found)


def _continues(before: tuple[Use, ...], now: tuple[Use, ...]) -> bool:
    return [(u.part, u.elements, u.last + 1, u.of) for u in before] == [
        (u.part, u.elements, u.first, u.of) for u in now
    ]


def rows(plane: Plane, most: int) -> list[tuple[int, ...]]:
    """The bytes of each row: at most so many, of one field, or of several that fit whole."""
    found: list[tuple[int, ...]] = []
    row: list[int] = []
    for field in plane.fields:
        if row and len(row) + field.nbytes > most:
            found.append(tuple(row))
            row = []
        for at in range(field.at, field.at + field.nbytes):
            row.append(at)
            if len(row) == most:
                found.append(tuple(row))
                row = []
        if row and field.nbytes > most:
            found.append(tuple(row))
            row = []
    return [*found, tuple(row)] if row else found


def fold(
    lines: Sequence[Sequence[Byte]], start: int = 0, stop: int | None = None, *, last: bool = True
) -> list[int | Again]:
    """Which rows to show, by number, and what stands for the others, in order; `last`: of equal rows the last, too."""
    found: list[int | Again] = []
    at, end = start, len(lines) if stop is None else stop
    while at < end:
        period, count, shift = _longest(lines, at, end)
        kept = 1 + last if period == 1 else period
        if count * period - kept < WORTH_FOLDING:
            found.append(at)
            at += 1
            continue
        if period == 1:
            found += [at, Again(at + 1, 1, count - kept, shift), *([at + count - 1] if last else [])]
        else:
            found += [*fold(lines, at, at + period, last=last), Again(at + period, period, count - 1, shift)]
        at += period * count
    return found


def _longest(lines: Sequence[Sequence[Byte]], at: int, end: int) -> tuple[int, int, int]:
    """The shortest period that covers most rows from here on, how often it occurs, and its shift."""
    best = (1, 1, 0)
    for period in range(1, min(LONGEST_PERIOD, (end - at) // 2) + 1):
        if shift_of(lines[at : at + 1], lines[at + period : at + period + 1]) is None:
            continue  # most periods end here
        shift = shift_of(lines[at : at + period], lines[at + period : at + 2 * period])
        if shift is None:
            continue
        count = 2
        while shift == shift_of(
            lines[at + (count - 1) * period : at + count * period],
            lines[at + count * period : min(end, at + (count + 1) * period)],
        ):
            count += 1
        if count * period > best[0] * best[1]:
            best = (period, count, shift)
    return best


def shift_of(before: Sequence[Sequence[Byte]], after: Sequence[Sequence[Byte]]) -> int | None:
    """By what all elements of some rows are higher than those of others; None where the rows differ otherwise."""
    shift: int | None = None
    if [[len(byte) for byte in row] for row in before] != [[len(byte) for byte in row] for row in after]:
        return None
    for one, other in zip(_flat(before), _flat(after), strict=True):
        if (one.low, one.width) != (other.low, other.width):
            return None
        if [use.shape() for use in one.uses] != [use.shape() for use in other.uses]:
            return None
        for use, moved in zip(one.uses, other.uses, strict=True):
            by = moved.elements[0] - use.elements[0]
            if shift not in (None, by) or tuple(e + by for e in use.elements) != moved.elements:
                return None
            shift = by
    return 0 if shift is None else shift


def _flat(some: Sequence[Sequence[Byte]]) -> list[Box]:
    return [box for row in some for byte in row for box in byte]


def label(use: Use, layout: Layout) -> str:
    """The part and its elements, such as "q5", "sc0…31", "q[2,0…7]"; the part alone if it belongs to all."""
    if len(use.elements) == layout.count:
        return use.part
    if layout.columns == 0:
        return use.part + span(use.elements)
    rows_, columns = ({divmod(e, layout.columns)[axis] for e in use.elements} for axis in (0, 1))
    if len(rows_) * len(columns) != len(use.elements):
        raise ValueError(f"the elements of {use.part} are no rectangle of the matrix; give a sample whose groups are")
    return f"{use.part}[{span(sorted(rows_))},{span(sorted(columns))}]"


def span(numbers: Sequence[int]) -> str:
    """Ascending numbers: "5", "0…7", or one after the other."""
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}…{numbers[-1]}"
    return ",".join(map(str, numbers))


def higher(shift: int, layout: Layout) -> str:
    """By what the elements are higher: a number, or (rows, columns)."""
    if layout.columns == 0:
        return str(shift)
    down, right = divmod(shift, layout.columns)
    return f"({down}, {right})"


def again(item: Again, bytes_of: Sequence[Sequence[int]], layout: Layout) -> str:
    """What stands in the place of rows that are left out."""
    left_out = range(item.start, item.start + item.period * item.times)
    size = sum(len(bytes_of[row]) for row in left_out) // item.times
    what = "the byte above" if size == 1 else f"the {size} bytes above"
    where = f"bytes {bytes_of[left_out[0]][0]}…{bytes_of[left_out[-1]][-1]}: {what} "
    times = "once more" if item.times == 1 else f"{item.times} more times"
    return where + times + (f", elements {higher(item.shift, layout)} higher" if item.shift else "") + (
        " each time" if item.shift and item.times > 1 else ""
    )  # fmt: skip
