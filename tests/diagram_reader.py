"""Bit diagrams read back: what a page's text and its drawing say of every bit, repetitions counted out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

Cell = tuple[int, int, tuple[str, ...]]
"""Lowest bit, width, and what the box says: "sc0…31.4-5"."""
Said = tuple[str, int, int | None]
"""Part, element, and which bit of its code; None where the diagram does not say."""


@dataclass(frozen=True)
class Shown:
    """One byte that is shown."""

    byte: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Again:
    """Bytes that are left out."""

    first: int
    last: int
    size: int
    times: int
    shift: tuple[int, int]


Items = list[Shown | Again]

AGAIN = re.compile(
    r"bytes (\d+)…(\d+): the (?:(\d+) bytes|byte) above (?:(\d+) more times|once more)"
    r"(?:, elements (?:\((\d+), (\d+)\)|(\d+)) higher(?: each time)?)?"
)
WORD = re.compile(r"(\D+?)(?:\[([^\]]*)\]|(\d[\d…,]*))?(?:\.(\d+)(?:-(\d+))?)?")


def text_planes(page: str) -> list[str]:
    """The text of each plane of each diagram on a page."""
    blocks = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    found = [plane for block in blocks for plane in block.split("\n\n")]
    return [plane for plane in found if re.search(r"^byte  .*7 .*0$", plane, re.MULTILINE)]


def of_text(plane: str) -> Items:
    """What a plane's text says, in order."""
    found: Items = []
    for line in plane.splitlines():
        if line.lstrip().startswith("…"):
            found.append(_again(line.lstrip("… ")))
        elif "│" in line:
            offset, inner = line.split("│", 1)
            bit = len(inner) // 8  # characters of a bit and its border
            assert len(inner) == 8 * bit, line
            high, cells = 8, []
            for cell in inner[:-1].split("│"):
                width, rest = divmod(len(cell) + 1, bit)
                assert rest == 0, line
                high -= width
                cells.append((high, width, tuple(cell.split())))
            assert high == 0, line
            found.append(Shown(int(offset.split()[0]), tuple(cells)))
    return found


def of_drawing(svg: str, *, left: int, bit: int, gap: int) -> list[Items]:
    """What a drawing says, plane by plane: boxes by their place, words by the box that they stand in."""
    groups = [(group.get("class", ""), group) for group in ElementTree.fromstring(svg) if group.tag.endswith("}g")]
    rects = [_numbers(rect) for kind, group in groups if kind != "none first" for rect in group if _is(rect, "rect")]
    words = [(kind, *_place(text), text.text or "") for kind, group in groups for text in group if _is(text, "text")]
    rects = [rect for rect in rects if rect["height"] > 20]  # those of the legend are smaller
    heights = sorted({rect["y"] for rect in rects})
    lines: list[tuple[float, Any]] = [(y, [rect for rect in rects if rect["y"] == y]) for y in heights]
    lines += [(y, said.lstrip("⋮ ")) for kind, _, y, said in words if kind == "r" and said.startswith("⋮")]
    lines += [(y, None) for kind, _, y, said in words if kind == "t" and y > 20]  # a tensor's name
    planes: list[Items] = [[]]
    for y, what in sorted(lines, key=lambda line: line[0]):
        if what is None:
            planes.append([])
        elif isinstance(what, str):
            planes[-1].append(_again(what))
        else:
            (first,) = [int(said) for kind, _, at, said in words if kind == "o" and y < at < y + 30]
            planes[-1] += _row(what, [word for word in words if word[0] in "abce"], first, left, bit, gap)
    return [plane for plane in planes if plane]


def _row(rects: list[dict[str, float]], words: list[Any], first: int, left: int, bit: int, gap: int) -> Iterator[Shown]:
    cells: dict[int, list[Cell]] = {}
    for rect in sorted(rects, key=lambda each: each["x"]):
        byte, across = divmod(round(rect["x"]) - 1 - left, 8 * bit + gap)
        width, high = (round(rect["width"]) + 2) // bit, 8 - across // bit
        right, bottom = rect["x"] + rect["width"], rect["y"] + rect["height"]
        inside = [said for _, x, y, said in sorted(words, key=lambda word: word[2])
                  if rect["x"] < x < right and rect["y"] < y < bottom]  # fmt: skip
        cells.setdefault(first + byte, []).append((high - width, width, _joined(inside)))
    return (Shown(byte, tuple(found)) for byte, found in cells.items())


def _joined(lines: list[str]) -> tuple[str, ...]:
    """The lines of a box as the text has them: "sc128", "…159", "bits 4…5" are "sc128…159.4-5"."""
    found: list[str] = []
    for line in lines:
        if line.startswith("bit"):
            found[-1] += "." + line.split()[1].replace("…", "-")
        elif line.startswith(("…", "[")):
            found[-1] += line
        elif line != "unused":
            found.append(line)
    return tuple(found) or ("·",)


def expanded(items: Items, count: int, columns: int) -> dict[tuple[int, int], set[Said]]:
    """(byte, bit) → what it is, repetitions counted out. Every byte is said once, in order."""
    found: dict[tuple[int, int], set[Said]] = {}
    for item in items:
        if isinstance(item, Shown):
            for low, width, said in item.cells:
                for bit in range(low, low + width):
                    assert (item.byte, bit) not in found, f"byte {item.byte} is shown twice"
                    found[item.byte, bit] = {
                        each for word in said for each in _uses(word, bit - low, width, len(said), count, columns)
                    }
            continue
        assert item.last - item.first + 1 == item.size * item.times, f"{item} counts other bytes than it names"
        shift = item.shift[0] * columns + item.shift[1]
        for byte in range(item.first, item.last + 1):
            for bit in range(8):
                assert (byte, bit) not in found, f"byte {byte} is shown twice"
                found[byte, bit] = {(part, e + shift, at) for part, e, at in found[byte - item.size, bit]}
    assert {byte for byte, _ in found} == set(range(len(found) // 8))
    return found


def _uses(word: str, bit: int, width: int, uses: int, count: int, columns: int) -> Iterator[Said]:
    if word == "·":
        return
    match = WORD.fullmatch(word)
    assert match is not None, word
    part, cell, plain, low, high = match.groups()
    if cell is not None:
        down, right = cell.rsplit(",", 1) if cell.count(",") == 1 else _halves(cell)
        elements = [r * columns + c for r in _span(down) for c in _span(right)]
    else:
        elements = list(range(count)) if plain is None else _span(plain)
    if low is not None:
        assert width == int(high or low) - int(low) + 1, word
    at = None if uses > 1 else bit + int(low or 0)
    yield from (("sign" if part == "±" else part, e, at) for e in elements)


def _halves(cell: str) -> tuple[str, str]:
    raise AssertionError(f"{cell!r} is no row and column")


def _span(text: str) -> list[int]:
    if "…" in text:
        first, last = text.split("…")
        return list(range(int(first), int(last) + 1))
    return [int(each) for each in text.split(",")]


def _again(text: str) -> Again:
    match = AGAIN.fullmatch(text)
    assert match is not None, text
    first, last, size, times, down, right, plain = match.groups()
    shift = (0, int(plain or 0)) if down is None else (int(down), int(right))
    return Again(int(first), int(last), int(size or 1), int(times or 1), shift)


def _is(element: ElementTree.Element, tag: str) -> bool:
    return element.tag.endswith("}" + tag)


def _numbers(rect: ElementTree.Element) -> dict[str, float]:
    return {name: float(rect.attrib[name]) for name in ("x", "y", "width", "height")}


def _place(text: ElementTree.Element) -> tuple[float, float]:
    return float(text.attrib["x"]), float(text.attrib["y"])
