"""Write docs/formats/ from the code: a page for each storage format, with a bit diagram and an example, and an index.

    python scripts/format_pages.py            write the pages and drawings
    python scripts/format_pages.py --check    say whether they are what the code gives; exit 1 where they are not

What stands there comes from the docstrings of the formats' modules and of their encoders, from the formats' fields and
formulas, from what `read` names, and from `lepton_ref.audit.explain` of an example. Nothing is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from bit_diagram import Layout, stored_as
from bit_drawing import KINDS, drawing
from bit_text import text
from format_entries import Entry, entries
from format_samples import Sample
from format_words import (
    FOLLOWED,
    chosen,
    code_table,
    code_text,
    docstring,
    element_name,
    escaped,
    fenced,
    headline,
    hidden,
    number_table,
    paragraphs,
    prose,
    table,
    where_table,
)

from lepton_ref.audit.explain import Explanation, exact_text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "formats"
MARK = "<!-- written by scripts/format_pages.py: change the code, then `make docs` -->"
EVERY = 64
"""Examples of so many elements are explained element by element; of larger ones some are, and all values are listed."""
DENSE_KINDS = {**KINDS, "s": "sign", "e": "group"}
"""In a dense number s is the sign."""
READING = """\
A row of a diagram has up to four bytes, in the order of their addresses; in each byte bit 7 stands first, and bit 0 is
worth 1. "q5" are the bits of the part q of element 5; "sc0…31" those of the part sc that elements 0 to 31 share; "d"
those of a part that all share; "q[2,7]" belongs to row (output) 2 and column (input) 7 of a matrix. "bits 4…5" says
which bits of the part's code they are, where there are others. Numbers of several bytes are little-endian. Only
repetitions are left out, and counted; of a matrix "elements (1, 0) higher" are those one row below."""

INDEX = f"""# Storage formats

{MARK}

A page for each format that `lepton_ref` decodes: what its bytes mean, bit by bit, with a diagram, an example block
decoded to the last bit, and the encoder's rule. All of it is made from the code that decodes.

    lepton_ref.storage.decode("Q4_K", raw)      # bytes to numbers, by the name of a dense or block format
    lepton_ref.storage.encode("Q4_K", array)    # numbers to bytes
    lepton-ref explain FILE TENSOR ROW COLUMN   # one number of a file, from its bytes to its value

## How to read the diagrams

{READING}
"""


def pages() -> dict[str, str]:
    """File name → what is in it."""
    all_ = entries()
    found = {"README.md": index(all_)}
    for entry in all_:
        found[f"{entry.name}.md"] = page(entry)
        for number, sample in enumerate(drawn(entry)):
            kinds = DENSE_KINDS if entry.family == "Dense" else KINDS
            found[drawing_name(entry, number)] = drawing(sample.layout(sample.tensors), title(entry, sample), kinds)
    return found


def index(all_: list[Entry]) -> str:
    """The table of contents, a table for each family."""
    parts = [INDEX]
    for family, members in groupby(all_, key=lambda entry: entry.family):
        rows = []
        for entry in members:
            sizes = sorted({size for _, size in entry.sizes})
            span = f"{sizes[0]:.5g}" + (f" … {sizes[-1]:.5g}" if len(sizes) > 1 else "")
            link, number = f"[{escaped(entry.name)}]({entry.name}.md)", "" if entry.gguf is None else entry.gguf
            rows.append((link, number, f"`{formula(entry.samples[0])}`", span, stored(entry)))
        columns = ["format", "GGUF type", "value", "bits per weight", "stored as"]
        parts.append(f"## {family}\n\n{table(columns, rows)}\n")
    return "\n".join(parts)


def stored(entry: Entry) -> str:
    """Elements and bytes of a block, or the tensors."""
    sample = entry.samples[0]
    layout = sample.layout(sample.tensors)
    if layout.columns:
        return ", ".join(f"`{name}` {stored_as(array)}" for name, array in sample.tensors.items())
    (plane,) = layout.planes
    plural = "s" if layout.count > 1 else ""
    return f"{layout.count} element{plural} in {plane.nbytes} bytes"


def formula(sample: Sample) -> str:
    """The value in terms of the parts."""
    return sample.explain(0, 0).formula


def title(entry: Entry, sample: Sample) -> str:
    """What stands over a diagram."""
    what = f", {sample.title}" if sample.title else ""
    layout = sample.layout(sample.tensors)
    size = f"a matrix {sample.weight.shape}" if layout.columns else stored(entry)
    return f"{entry.name}{what}: {size}; value {formula(sample)}"


def drawn(entry: Entry) -> list[Sample]:
    """The examples whose layouts differ."""
    if len(entry.samples) == 1:
        return list(entry.samples)
    found: dict[str, Sample] = {}
    for sample in entry.samples:
        found.setdefault(text(sample.layout(sample.tensors)), sample)
    return list(found.values())


def drawing_name(entry: Entry, number: int) -> str:
    """The file of an example's diagram."""
    return f"{entry.name}{'' if number == 0 else f'-{number + 1}'}.svg"


def page(entry: Entry) -> str:
    """A format's page."""
    words = docstring(entry.module)
    path = entry.module.replace(".", "/") + ".py"
    facts = [
        ("value", "; ".join(dict.fromkeys(f"`{formula(sample)}`" for sample in entry.samples))),
        ("stored as", stored(entry)),
        ("bits per weight", "; ".join(f"{size:.6g}" + (f" ({what})" if what else "") for what, size in entry.sizes)),
        *([("GGUF type", entry.gguf)] if entry.gguf is not None else []),
        ("code", f"[{escaped(path)}](../../{path})"),
    ]
    parts = [f"# {escaped(entry.name)}", MARK, escaped(headline(words)), table(["", ""], facts), "## Layout"]
    body = paragraphs(words)
    parts += [prose(each) for each in body if not each.startswith(tuple(FOLLOWED))]
    first = entry.samples[0].layout(entry.samples[0].tensors)
    if not first.columns:
        fields = [(f"`{f.name}`", f"{f.at}…{f.at + f.nbytes - 1}" if f.nbytes > 1 else f.at, f.nbytes, f.what)
                  for f in first.planes[0].fields]  # fmt: skip
        parts.append(table(["field", "bytes", "how many", "what"], fields))
    for number, sample in enumerate(drawn(entry)):
        parts += diagram(entry, sample, number)
    parts += codes(entry)
    for sample in entry.samples:
        parts += example(sample)
    if entry.encoders:
        parts.append("## How numbers are encoded")
        parts += [said(module) for module in entry.encoders]
    for start in FOLLOWED:
        found = [each.removeprefix(start).lstrip() for each in body if each.startswith(start)]
        parts += [f"## {FOLLOWED[start]}", *map(prose, found)] if found else []
    if entry.also:
        parts.append("## More about it")
    for module in entry.also:
        summary = f"{module.replace('.', '/')}.py: {headline(docstring(module))}"
        parts.append(hidden(escape(summary), "\n\n".join(map(prose, paragraphs(docstring(module))))))
    return "\n\n".join([*parts, "[All formats](README.md)"]) + "\n"


def said(module: str) -> str:
    """A module's docstring as Markdown."""
    words = docstring(module)
    return "\n\n".join([f"**{escaped(headline(words))}**", *map(prose, paragraphs(words))])


def diagram(entry: Entry, sample: Sample, number: int) -> list[str]:
    """The drawing, the same as text, and where some elements lie."""
    layout = sample.layout(sample.tensors)
    name = f"Bit diagram: {sample.title}" if len(drawn(entry)) > 1 else "Bit diagram"
    homes = {part.name: home for home, part in layout.read(0) if part.where}
    lies = "Some elements, and the bits that make them; [n] is byte n"
    lies += f" of the part's tensor: {', '.join(f'{part} in `{home}`' for part, home in homes.items())}." * bool(
        layout.columns
    )
    return [
        f"## {name}",
        f"![{title(entry, sample)}]({drawing_name(entry, number)})",
        hidden("The same as text", fenced(text(layout))),
        escaped(lies) + ("" if layout.columns else " of the block."),
        where_table(layout),
    ]


def codes(entry: Entry) -> list[str]:
    """The values of small codes."""
    found = [number_table(name) for name in entry.numbers] or [
        each for each in dict.fromkeys(code_table(sample) for sample in entry.samples) if each is not None
    ]
    return ["## Codes", *found] if found else []


def example(sample: Sample) -> list[str]:
    """The bytes, some elements from bits to value, and the values of all."""
    layout = sample.layout(sample.tensors)
    weight = sample.weight
    columns = weight.shape[1]
    name = f"Example: {sample.title}" if sample.title else "Example"
    dense = layout.count == 1
    places = range(columns) if dense else chosen(layout)
    found = [sample.explain(*divmod(e, columns)) for e in places]
    shown = "\n".join(line for line in str(found[0]).splitlines() if not line.startswith(("file", "element")))
    parts = [f"## {name}", fenced(hexadecimal(sample)), "The first element:", fenced(shown), "Some elements:"]
    parts.append(_table(dict(zip(places, found, strict=True)), layout, dense))
    if not dense and layout.count <= EVERY:
        every = {e: sample.explain(*divmod(e, columns)) for e in range(layout.count)}
        parts.append(hidden(f"All {layout.count} elements", _table(every, layout, dense)))
    elif not dense:
        parts.append(hidden(f"All {layout.count} values", fenced(_values(weight.decode(), layout))))
    return parts


def _table(found: dict[int, Explanation], layout: Layout, dense: bool) -> str:
    names = [escaped(part.name) for part in next(iter(found.values())).parts]
    rows = [_row(e, each, layout, dense) for e, each in found.items()]
    return table(["element", *names, "in numbers", "exact", "float32"], rows)


def _row(e: int, explanation: Explanation, layout: Layout, dense: bool) -> list[str]:
    value, kind = explanation.value, "f8" if explanation.format == "F64" else "f4"
    code = np.array([value], dtype=f">{kind}").tobytes().hex()
    number = repr(value) if kind == "f8" else str(np.float32(value))
    where = str(e) if dense else element_name(e, layout)
    parts = [code_text(part) for part in explanation.parts]
    return [
        escaped(where),
        *parts,
        escaped(explanation.substituted),
        exact_text(explanation.exact),
        f"{number} `0x{code}`",
    ]


def hexadecimal(sample: Sample) -> str:
    """The bytes of each tensor, sixteen a line."""
    lines = []
    for name, array in sample.tensors.items():
        if name:
            lines.append(f"{name}: {stored_as(array)} {array.shape}")
        raw = array.tobytes()
        lines += [f"{at:>4}  {raw[at : at + 16].hex(' ')}" for at in range(0, len(raw), 16)]
    return "\n".join(lines)


def _values(values: np.ndarray, layout: Layout) -> str:
    """Eight values a line, as float32 prints them."""
    flat = values.reshape(-1)
    step = 8 if layout.columns == 0 else min(8, layout.columns)
    lines = []
    for at in range(0, flat.size, step):
        lines.append(f"{element_name(at, layout):>8}  " + " ".join(f"{value!s:>14}" for value in flat[at : at + step]))
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is not the code's")
    found, there = pages(), {path.name for path in FOLDER.glob("*")}
    if parser.parse_args().check:
        wrong = [
            name for name, page_ in found.items() if name not in there or (FOLDER / name).read_text("utf-8") != page_
        ]
        wrong += sorted(there - found.keys())
        print(f"docs/formats: run `make docs`: {', '.join(wrong)}" if wrong else "docs/formats is what the code gives")
        return int(bool(wrong))
    FOLDER.mkdir(exist_ok=True)
    for name in there - found.keys():
        (FOLDER / name).unlink()
    for name, page_ in found.items():
        (FOLDER / name).write_text(page_, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
