"""A bit diagram as SVG: four bytes a row, bit 7 of each first, a box for adjacent bits that belong together.

Colours are those of parts, one kind of part a colour in all diagrams. They and the grey of what stands outside of boxes
can be read on white and on black. The boxes of one element, the first, have a heavy outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from bit_diagram import Again, Box, Layout, Plane, again, boxes, fold, label, rows
from bit_text import SHORT

BYTES = 4
"""Bytes of a row."""
BIT, HIGH, GAP, LEFT, STEP = 24, 32, 8, 96, 38
"""Pixels: a bit's width, a box's height, between bytes, left of the bytes, from a row to the next."""
WIDE = LEFT + BYTES * (8 * BIT + GAP)
SIZES = {"a": 11.0, "b": 9.0, "c": 7.5, "e": 6.0}
"""Class of text in boxes → its size in pixels."""
LETTER = 0.62
"""A letter's width over its size, at most about."""
NARROW, BROAD = frozenset("[],.it "), frozenset("m…±")
"""Letters that take about 0.6 and 1.5 times that."""

COLOURS = {
    "code": "#a5c8f0", "scale": "#ffc98a", "group": "#a8d8a8", "zero": "#d3b8ec", "sign": "#f5a8a8", "shift": "#8fd5d0",
    "none": "#d9dde2",
}  # fmt: skip
"""Kind of part → colour."""
KINDS = {
    "q": "code", "u": "code", "f": "code", "d": "scale", "G": "scale", "m": "zero", "dmin": "shift", "z": "zero",
    "sc": "group", "s": "group", "a": "group", "SCB": "group", "c": "group", "e": "group", "sign": "sign", "δ": "shift",
}  # fmt: skip
"""Part → kind."""


class Canvas:
    """Boxes and text, gathered by class so that the file names each once."""

    def __init__(self) -> None:
        self.groups: dict[str, list[str]] = {}

    def text(self, x: float, y: float, kind: str, what: str) -> None:
        """Text that begins, or in a box is centred, here."""
        self.groups.setdefault(kind, []).append(f'<text x="{x:g}" y="{y:g}">{escape(what)}</text>')

    def box(self, x: float, y: float, wide: float, high: float, kind: str) -> None:
        """A box with its upper left corner here."""
        mark = f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}"/>'
        self.groups.setdefault(kind, []).append(mark)

    def lines(self) -> list[str]:
        """Boxes first, what is outlined over the others, and text over all."""
        order = sorted(self.groups, key=lambda kind: (kind.split()[0] not in COLOURS, "first" in kind))
        return [f'<g class="{kind}">{"".join(self.groups[kind])}</g>' for kind in order]


def drawing(layout: Layout, title: str, kinds: Mapping[str, str] = KINDS) -> str:
    """The diagram as SVG, with its title and a legend."""
    found = boxes(layout)
    canvas = Canvas()
    canvas.text(4, 14, "t", title)
    _columns(canvas, max(len(row) for plane in layout.planes for row in rows(plane, BYTES)))
    y = 46
    for plane in layout.planes:
        if plane.name:
            canvas.text(4, y + 12, "t", f"{plane.name}: {plane.fields[0].what}")
            y += 22
        y = _plane(plane, found[plane.name], layout, kinds, canvas, y) + 6
    seen = dict.fromkeys(use.part for bytes_ in found.values() for byte in bytes_ for box in byte for use in box.uses)
    _legend(list(seen), kinds, canvas, y + 4)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {y + 28}" role="img" '
            'font-family="sans-serif">',
            f"<title>{escape(title)}</title>",
            _style(),
            *canvas.lines(),
            "</svg>",
            "",
        ]
    )


def _style() -> str:
    colours = "".join(f".{kind}{{fill:{colour}}}" for kind, colour in COLOURS.items())
    sizes = "".join(f".{name}{{font-size:{size:g}px}}" for name, size in SIZES.items())
    middle = ",".join(f".{name}" for name in (*SIZES, "n"))
    return (
        f"<style>rect{{stroke:#57606a;stroke-width:.7;rx:3px}}{colours}.first rect{{stroke:#c2255c;stroke-width:2.2}}"
        f"{middle}{{text-anchor:middle}}{sizes}.a,.b,.c,.e{{fill:#1f2328}}.n,.o,.p,.r,.t{{fill:#768390;font-size:10px}}"
        ".o,.p{text-anchor:end}.p{font-size:11.5px;font-weight:bold}.r{font-size:11px;font-style:italic}"
        ".t{font-size:13px;font-weight:bold}</style>"
    )


def _columns(canvas: Canvas, count: int) -> None:
    """Above the rows: which byte of the row, and the numbers of the bits."""
    for byte in range(count):
        for bit in range(8):
            canvas.text(_x(byte, bit) + BIT / 2, 40, "n", str(bit))
        canvas.text(_x(byte, 7) + 4 * BIT, 27, "n", f"byte +{byte}")


def _x(byte: int, high: int) -> int:
    """Where the box begins whose highest bit this is."""
    return LEFT + byte * (8 * BIT + GAP) + (7 - high) * BIT


def _plane(
    plane: Plane, bytes_: Sequence[Sequence[Box]], layout: Layout, kinds: Mapping[str, str], canvas: Canvas, y: int
) -> int:
    """Draw the rows of a plane from y on; where the next begins."""
    order = rows(plane, BYTES)
    for item in fold([[tuple(bytes_[at]) for at in row] for row in order], last=False):
        if isinstance(item, Again):
            canvas.text(LEFT, y + 12, "r", f"⋮ {again(item, order, layout)}")
            y += 22
            continue
        row = order[item]
        names = [field.name for field in plane.fields if field.at in row]
        if names and not plane.name:
            canvas.text(LEFT - 30, y + HIGH / 2 + 4, "p", ", ".join(names))
        canvas.text(LEFT - 6, y + HIGH / 2 + 4, "o", str(row[0]))
        for place, at in enumerate(row):
            for box in reversed(bytes_[at]):
                _box(_x(place, box.low + box.width - 1), y, box, layout, kinds, canvas)
        y += STEP
    return y


def _box(x: int, y: int, box: Box, layout: Layout, kinds: Mapping[str, str], canvas: Canvas) -> None:
    kind = kinds.get(box.uses[0].part, "code") if box.uses else "none"
    first = any(use.elements[0] == 0 for use in box.uses)
    wide = box.width * BIT
    canvas.box(x + 1, y + 1, wide - 2, HIGH - 2, kind + " first" * first)
    said = wording(box, layout, wide)
    step = 11.5 if len(said) < 3 else 9.5
    for n, (size, line) in enumerate(said):
        canvas.text(x + wide / 2, y + HIGH / 2 + 3.5 - step * (len(said) - 1) / 2 + step * n, size, line)


def wording(box: Box, layout: Layout, wide: float) -> list[tuple[str, str]]:
    """(class of text, line): each part with its elements, and which bits of its code these are if not all."""
    lines = []
    for use in box.uses:
        name = SHORT.get(use.part, use.part) + label(use, layout)[len(use.part) :]
        lines += _fitting(name, wide, "abce" if box.width > 1 else "ce")
    if len(box.uses) == 1 and box.width < box.uses[0].of:
        (use,) = box.uses
        bits = f"bit {use.first}" if use.first == use.last else f"bits {use.first}…{use.last}"
        lines += _fitting(bits, wide, "bce" if box.width > 1 else "ce")
    return lines or _fitting("unused", wide, "bce")


def letters(line: str) -> float:
    """How many ordinary letters a line is as wide as."""
    return sum(0.6 if letter in NARROW else 1.5 if letter in BROAD else 1.0 for letter in line)


def _fitting(name: str, wide: float, sizes: str) -> list[tuple[str, str]]:
    """A name in the largest text that fits, cut before "…" or an index where none does."""
    cuts = [[name], *([before, mark + after] for mark in "…[" for before, _, after in [name.partition(mark)] if after)]
    for cut in cuts:
        for size in sizes if len(cut) == 1 else "ce":
            if max(map(letters, cut)) * LETTER * SIZES[size] <= 0.92 * wide or (size, cut) == ("e", cuts[-1]):
                return [(size, line) for line in cut]
    raise AssertionError("the last cut in the smallest text is always taken")


def _legend(parts: list[str], kinds: Mapping[str, str], canvas: Canvas, y: int) -> None:
    x = LEFT
    entries = [(kinds.get(part, "code"), f"{SHORT[part]} {part}" if part in SHORT else part) for part in parts]
    for kind, name in [*entries, ("none first", "bits of the first element")]:
        canvas.box(x, y, 14, 14, kind)
        canvas.text(x + 20, y + 11, "r", name)
        x += 40 + 7 * len(name)
