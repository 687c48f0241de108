"""How a model looks in a terminal and in a notebook."""

from __future__ import annotations

import dataclasses
from collections import Counter
from html import escape

import numpy as np

from lepton_ref.runtime.parts import Parts
from lepton_ref.storage.show import human, summary


def facts(parts: Parts) -> dict[str, str]:
    """What one wants to know first, in order."""
    weights = parts.weights.values()
    elements = sum(int(np.prod(weight.shape, dtype=np.int64)) for weight in weights)
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
    rows = []
    for name, weight in parts.weights.items():
        cells = (name, weight.format, weight.shape, *summary(weight).notes[:3])
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return (
        _table({**facts(parts), **how})
        + f"<details><summary>config</summary>{_table(config)}</details>"
        + f"<details><summary>{len(rows)} weights</summary><table>{''.join(rows)}</table></details>"
    )


def _table(rows: dict[str, object] | dict[str, str]) -> str:
    cells = (f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"
