"""How a model looks in a terminal and in a notebook."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from html import escape
from itertools import islice

from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Weight
from lepton_ref.storage.show import SAMPLE, human, summary

LISTED = 1000
"""Weights that a notebook lists, at most."""

GLANCE = 1 << 12
"""Elements that are looked at of each, at most, where a row is no longer: a model of 300 weights is shown at once."""


def facts(parts: Parts) -> dict[str, str]:
    """What one wants to know first, in order."""
    weights = parts.weights.values()
    elements = sum(math.prod(weight.shape) for weight in weights)
    formats = Counter(weight.format for weight in weights)
    return {
        "architecture": parts.architecture,
        "output": parts.head.replace("_", " "),
        "parameters": f"{elements:,}",
        "stored": f"{human(parts.file.nbytes)} as {', '.join(f'{name} ×{n}' for name, n in formats.most_common())}",
        "layers": str(sum(op.kind == "attention" for op in parts.program.ops)),
        "ops": f"{len(parts.program.ops)} of {len({op.kind for op in parts.program.ops})} kinds",
        "file": str(parts.path),
    }


def text(parts: Parts, how: dict[str, str]) -> str:
    """A line for each fact."""
    rows = {**facts(parts), **how}
    width = max(map(len, rows))
    return "\n".join([f"Model({parts.config.__class__.__name__})", *(f"  {k:<{width}}  {v}" for k, v in rows.items())])


def html(parts: Parts, how: dict[str, str]) -> str:
    """Facts, config and weights as tables; the weights fold out, each with its range and histogram."""
    config = {field.name: getattr(parts.config, field.name) for field in dataclasses.fields(parts.config)}
    rows = [_row(name, weight) for name, weight in islice(parts.weights.items(), LISTED)]
    if len(parts.weights) > LISTED:
        rows.append(f"<tr><td>and {len(parts.weights) - LISTED} more</td></tr>")
    return (
        _table({**facts(parts), **how})
        + f"<details><summary>config</summary>{_table(config)}</details>"
        + f"<details><summary>{len(parts.weights)} weights</summary><table>{''.join(rows)}</table></details>"
    )


def _row(name: str, weight: Weight) -> str:
    sample = max(GLANCE, min(SAMPLE, math.prod(weight.shape[1:])))
    seen = summary(weight, sample=sample)
    spread = "" if seen.low is None else f"{seen.low:.4g} … {seen.high:.4g}"
    odd = f"{seen.odd} of {seen.seen} not finite" if seen.odd else ""
    cells = (name, weight.format, weight.shape, human(weight.nbytes), spread, seen.bars, odd)
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _table(rows: dict[str, object] | dict[str, str]) -> str:
    cells = (f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"
