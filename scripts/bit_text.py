"""A bit diagram as text: a byte a line, bit 7 first, for a terminal.

    q5          these bits are the whole code q of element 5
    q5.0-3      bits 0 to 3 of that code
    q0…7        the code that elements 0 to 7 share
    d           the code that all elements share
    ±5          the part "sign"
    ·           in no value

A line without bars says which bytes are left out and how they follow from those above: nothing is lost.
"""

from __future__ import annotations

from bit_diagram import Again, Box, Layout, Plane, again, boxes, fold, label, rows

NARROWEST = 5
"""Characters of a bit at least."""
SHORT = {"sign": "±"}
"""Part → how it is shown."""


def text(layout: Layout) -> str:
    """The diagram of all planes."""
    found = boxes(layout)
    return "\n\n".join("\n".join(_plane(plane, found[plane.name], layout)) for plane in layout.planes)


def _plane(plane: Plane, bytes_: tuple[tuple[Box, ...], ...], layout: Layout) -> list[str]:
    order = rows(plane, 1)
    folded = fold([[bytes_[at] for at in row] for row in order])
    shown = [box for item in folded if isinstance(item, int) for box in bytes_[order[item][0]]]
    bit = max(NARROWEST, *(-(-(len(cell(box, layout)) + 1) // box.width) - 1 for box in shown))
    lines = [f"{plane.name}: {plane.fields[0].what}"] if plane.name else []
    lines.append(
        (
            f"byte  {'' if plane.name else 'field':<8}" + " ".join(f"{number:^{bit}}" for number in range(7, -1, -1))
        ).rstrip()
    )
    names = {} if plane.name else {field.at: field.name for field in plane.fields}
    for item in folded:
        if isinstance(item, Again):
            lines.append(f"      … {again(item, order, layout)}")
        else:
            (at,) = order[item]
            cells = [f"{cell(box, layout):<{(bit + 1) * box.width - 1}}" for box in reversed(bytes_[at])]
            lines.append(f"{at:>4}  {names.get(at, ''):<7}│{'│'.join(cells)}│")
    return lines


def cell(box: Box, layout: Layout) -> str:
    """What a box says."""
    shown = [SHORT.get(use.part, use.part) + label(use, layout)[len(use.part) :] for use in box.uses]
    if len(box.uses) == 1 and box.width < box.uses[0].of:
        (use,) = box.uses
        shown[0] += f".{use.first}" + (f"-{use.last}" if use.last > use.first else "")
    return " ".join(shown) or "·"
