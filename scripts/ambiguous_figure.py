"""How often float64 cannot decide a rounding: measure it on SmolLM2-135M, draw it, and write the page's table.

    python scripts/ambiguous_figure.py --measure    run the model and record the counts in docs/figures/ambiguous.json
    python scripts/ambiguous_figure.py              draw docs/figures/ambiguous.svg and write the table between the
                                                    markers of docs/round-once.md, from what is recorded

The text is the golden prompts one after the other, as one sequence, of at most 128 tokens. The counts are
those of `lepton_ref.numerics.counting`. Which elements are ambiguous depends a little on the order in which BLAS adds;
what they are rounded to does not.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "figures" / "ambiguous.json"
DRAWING = ROOT / "docs" / "figures" / "ambiguous.svg"
PAGE = ROOT / "docs" / "round-once.md"
PROMPTS = ROOT / "golden" / "real" / "smollm2" / "prompts.json"
BEGIN = "<!-- ambiguous shares: written by scripts/ambiguous_figure.py -->"
END = "<!-- end of ambiguous shares -->"

TOKENS = 128
PRECISIONS = {"reference": "#1b6ca8", "bf16": "#d1495b", "fp16": "#66a182", "w8a8": "#edae49"}
"""Precision → the colour of its mark."""

LEFT, RIGHT, TOP, STEP = 110, 560, 34, 26
"""Pixels: where the axis begins and ends, where the first row lies, and from one row to the next."""
DECADES = (-8, -2)
"""The axis, as powers of ten."""


def measure() -> dict[str, Any]:
    """Count what becomes of every element of one forward pass, under each precision."""
    import numpy as np

    import lepton_ref
    from lepton_ref import demo
    from lepton_ref.numerics import counting

    try:
        path = demo.find(demo.MODEL)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; `make docs-figures` installs it") from error
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))
    ids = [token for prompt in prompts for token in prompt["ids"]][:TOKENS]
    counts: dict[str, Any] = {}
    for precision in PRECISIONS:
        model = lepton_ref.load(path, precision=precision)
        with counting() as kept:
            model.forward([ids])
        counts[precision] = {
            op: {"elements": count.elements, "double_double": count.in_double_double, "exact": count.exactly}
            for op, count in [*kept.by_op.items(), ("all", kept.total)]
        }
    versions = {"lepton_ref": lepton_ref.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"model": "SmolLM2-135M-Instruct, Q4_1", "tokens": len(ids), "versions": versions, "counts": counts}


def share(count: dict[str, int]) -> float:
    """The part of the elements that the rounding test left open."""
    return (count["double_double"] + count["exact"]) / count["elements"]


def table(record: dict[str, Any]) -> str:
    """The shares as a table: an op a row, a precision a column; and how many elements there are."""
    counts = record["counts"]
    lines = [f"| op | elements | {' | '.join(f'`{name}`' for name in counts)} |", "|---|---:|" + "---:|" * len(counts)]
    first = next(iter(counts.values()))
    for op in first:
        cells = [cell(counts[name][op]) for name in counts]
        lines.append(f"| {op} | {first[op]['elements']:,} | {' | '.join(cells)} |")
    exact = ", ".join(f"{name['all']['exact'] - name['linear']['exact']} under `{key}`" for key, name in counts.items())
    what = f"{record['model']}, {record['tokens']} tokens. Outside `linear`, which is summed exactly at once,"
    return "\n".join([*lines, "", what, "double-double left to exact arithmetic:", f"{exact}."])


def cell(count: dict[str, int]) -> str:
    """`4.8e-04`, or `0`."""
    return f"{share(count):.1e}" if share(count) else "0"


def across(value: float) -> float:
    """Where a share lies on the axis, in pixels; zero lies at its beginning."""
    exponent = DECADES[0] if value == 0 else min(max(math.log10(value), DECADES[0]), DECADES[1])
    return round(LEFT + (RIGHT - LEFT) * (exponent - DECADES[0]) / (DECADES[1] - DECADES[0]), 1)


def drawing(record: dict[str, Any]) -> str:
    """The shares as an SVG: a row for each op, a mark for each precision, on a logarithmic axis."""
    counts = record["counts"]
    ops = list(next(iter(counts.values())))
    bottom = TOP + STEP * len(ops)
    title = f"Share of elements whose rounding float64 leaves open: {record['model']}, {record['tokens']} tokens"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT + 40} {bottom + 66}" role="img" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{RIGHT + 40}" height="{bottom + 66}" fill="white"/>',
    ]
    for power in range(DECADES[0], DECADES[1] + 1):
        x = across(10.0**power)
        lines.append(f'<line x1="{x}" y1="{TOP - 14}" x2="{x}" y2="{bottom - 8}" stroke="#ddd"/>')
        label = "0" if power == DECADES[0] else f'10<tspan dy="-4" font-size="9">{power}</tspan>'
        lines.append(f'<text x="{x}" y="{bottom + 10}" text-anchor="middle">{label}</text>')
    for row, op in enumerate(ops):
        y = TOP + STEP * row
        lines.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(op)}</text>')
        for number, (name, colour) in enumerate(PRECISIONS.items()):
            x, shift = across(share(counts[name][op])), 4 * number - 6
            lines.append(f'<circle cx="{x}" cy="{y + shift}" r="4" fill="{colour}" fill-opacity="0.85"/>')
    for number, (name, colour) in enumerate(PRECISIONS.items()):
        x = LEFT + 110 * number
        lines.append(f'<circle cx="{x}" cy="{bottom + 40}" r="4" fill="{colour}"/>')
        lines.append(f'<text x="{x + 10}" y="{bottom + 44}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


def with_table(page: str, written: str) -> str:
    """The page with the table between its markers replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/round-once.md has no {BEGIN!r} … {END!r}")
    return f"{before}{BEGIN}\n{written}\n{END}{after}"


def recorded() -> dict[str, Any]:
    """What was measured last."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def main() -> int:
    """Measure where asked, then draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the real model first")
    if parser.parse_args().measure:
        RECORD.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    record = recorded()
    DRAWING.write_text(drawing(record), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(record)), encoding="utf-8")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
