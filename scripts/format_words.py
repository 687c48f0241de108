"""Docstrings and numbers as Markdown, for the pages of the formats."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence

import numpy as np
from bit_diagram import Layout
from format_samples import Sample

from lepton_ref.audit.formula import written
from lepton_ref.numerics.formats import decode_array
from lepton_ref.plain.formats import FloatFormat, get_format
from lepton_ref.storage.layout import Bits, Part

WIDEST_TABLE = 6
"""Bits of a code whose values are listed."""
FOLLOWED = {"Engines.": "Where engines differ", "Source:": "Source"}
"""How a paragraph of a docstring begins → the section of the page that it makes."""
NANS = {
    "ieee": "NaN where the exponent is all ones and the fraction is not 0", "none": "no NaN",
    "all_ones": "NaN where all bits but the sign are ones", "negative_zero": "NaN in the place of −0",
}  # fmt: skip
"""What `FloatFormat.nans` means."""
CHOSEN = 8
"""Elements that tables show at most, besides the last."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, a bar in a cell escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def fenced(text: str) -> str:
    """Text as it stands."""
    return f"```text\n{text}\n```"


def hidden(summary: str, text: str) -> str:
    """Text that is shown when asked for."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def docstring(module: str) -> str:
    """A module's docstring."""
    return inspect.getdoc(importlib.import_module(module)) or ""


def headline(text: str) -> str:
    """A docstring's first line, without the name before the colon."""
    return text.splitlines()[0]


def paragraphs(text: str) -> list[str]:
    """A docstring's paragraphs behind its first line; one of `FOLLOWED` begins a paragraph wherever it stands."""
    body = re.sub(rf"\n(?={'|'.join(map(re.escape, FOLLOWED))})", "\n\n", "\n".join(text.splitlines()[1:]))
    return [each.strip("\n") for each in body.split("\n\n") if each.strip()]


def prose(paragraph: str) -> str:
    """A paragraph as Markdown: indented lines keep their shape, in all others marks mean themselves."""
    found: list[tuple[bool, list[str]]] = []
    for line in paragraph.strip("\n").splitlines():
        shaped = line.startswith("    ")
        if not found or found[-1][0] != shaped:
            found.append((shaped, []))
        found[-1][1].append(line)
    return "\n\n".join(_shaped(lines) if shaped else escaped("\n".join(lines)) for shaped, lines in found)


def _shaped(lines: list[str]) -> str:
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return fenced("\n".join(line[indent:] for line in lines))


def escaped(text: str) -> str:
    """Text whose stars, "<" and "_" at the edge of a word are no marks; what stands between backquotes stays."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"(\*|<(?=\w)|(?<!\w)_|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def bits_text(where: Sequence[Bits]) -> str:
    """Bits as "[16] bits 0…3"; a whole byte as "[16]"."""
    return ", ".join(
        f"[{b.byte}]" + ("" if b.width == 8 else f" bit {b.low}" if b.width == 1 else
                         f" bits {b.low}…{b.low + b.width - 1}")
        for b in where
    )  # fmt: skip


def code_text(part: Part) -> str:
    """A part's code and, where that is not the same, its value."""
    shown = str(part.code)
    return shown if written(part.value) == shown else f"{shown} → {written(part.value)}"


def chosen(layout: Layout) -> list[int]:
    """The first element of each way in which elements lie in their bytes, and the last of all."""
    seen: dict[object, int] = {}
    for e in range(layout.count):
        shape = tuple((p.name, tuple((b.low, b.width) for b in p.where)) for _, p in layout.read(e))
        seen.setdefault(shape, e)
    return sorted({*list(seen.values())[:CHOSEN], layout.count - 1})


def element_name(e: int, layout: Layout) -> str:
    """How diagrams call an element."""
    return str(e) if layout.columns == 0 else "[{},{}]".format(*divmod(e, layout.columns))


def where_table(layout: Layout) -> str:
    """For some elements: which bits of which bytes make their parts."""
    rows = []
    for e in chosen(layout):
        rows.append([element_name(e, layout), *(bits_text(part.where) or "–" for _, part in layout.read(e))])
    return table(["element", *(escaped(part.name) for _, part in layout.read(0))], rows)


def code_table(sample: Sample) -> str | None:
    """What each code of a small code book stands for; None where a code is the number itself, or there are too many."""
    layout = sample.layout(sample.tensors)
    home, part = next(found for found in layout.read(0) if found[1].name in ("q", "u", "s"))
    width = sum(bits.width for bits in part.where)
    if width > WIDEST_TABLE:
        return None
    values = []
    for code in range(1 << width):
        raw = bytearray(sample.tensors[home].tobytes())
        left = code
        for bits in part.where:
            mask = (1 << bits.width) - 1
            raw[bits.byte] = raw[bits.byte] & ~(mask << bits.low) | (left & mask) << bits.low
            left >>= bits.width
        array = np.frombuffer(bytes(raw), dtype=sample.tensors[home].dtype).reshape(sample.tensors[home].shape)
        now = sample.layout({**sample.tensors, home: array}).read(0)
        values += [other.value for _, other in now if other.name == part.name]
    if values == list(range(len(values))):
        return None
    return table([f"code {part.name}", "bits", "value"],
                 [(code, f"{code:0{width}b}", written(value)) for code, value in enumerate(values)])  # fmt: skip


def number_table(name: str) -> str:
    """The numbers of a small float format: a row for each exponent field, a column for each fraction."""
    f = get_format(name)
    if not isinstance(f, FloatFormat):
        raise ValueError(f"{name} is no float format; list what its codes are")
    infinite = "infinities where the exponent is all ones and the fraction 0; " if f.infinities else ""
    said = (
        f"{name}: a sign, {f.exponent_bits} bits exponent with bias {f.bias}, {f.mantissa_bits} bits fraction; from "
        f"{f.least:g} to {f.largest:g}; {infinite}{NANS[f.nans]}.\n\n"
    )
    if not f.signed:
        shown = (0, 1, 2, 126, 127, 128, 253, 254, 255)
        return f"{name}: 2^(code − {f.bias}), and NaN.\n\n" + table(
            [f"code of {name}", "value"], [(c, power(float(decode_array(np.array(c), name)))) for c in shown]
        )
    count = 1 << f.mantissa_bits
    rows = []
    for exponent in range(1 << f.exponent_bits):
        codes = range(exponent * count, (exponent + 1) * count)
        rows.append(
            [f"{exponent:0{f.exponent_bits}b}", *(written(float(decode_array(np.array(c), name))) for c in codes)]
        )
    fractions = [f"fraction {c:0{f.mantissa_bits}b}" for c in range(count)]
    return said + table([f"exponent of {name}", *fractions], rows)


def power(value: float) -> str:
    """A power of two as one."""
    mantissa, exponent = np.frexp(value)
    return f"2^{exponent - 1}" if mantissa == 0.5 else written(value)
