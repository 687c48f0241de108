"""docs/figures/peers.svg: tokens a second by engine, model and task, from the record of scripts/peers.py.

A panel for each model; in it a column for each task with a scale of its own, a row for each engine, and in the row a
bar for each number of threads, one below the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from peers_figures import speed, threads_label
from peers_tasks import ENGINES, MODELS, TASKS

LEFT, COLUMN, GAP, ROW, TOP, PANEL = 200, 190, 20, 30, 84, 60
BAR = 10
COLOURS = {"lepton_ref": "#2f6fb0", "llama.cpp": "#c8553d", "transformers": "#8a8d91", "onnxruntime": "#5f9e6e"}
"""By the first word of an engine's name."""
OPACITY = ("0.55", "1", "0.8", "0.7")
"""Of the bars of 1, 2 and more threads."""


def rows(place: Mapping[str, Any]) -> list[str]:
    """The engines that have a figure for this model, in the tables' order."""
    measured = {name for tasks in place["threads"].values() for found in tasks.values() for name in found}
    return [engine.name for engine in ENGINES if engine.name in measured]


def drawing(record: Mapping[str, Any]) -> str:
    """The figure as SVG.

    Raises:
        ValueError: no model was measured.
    """
    if not record["models"]:
        raise ValueError("the record has no models to draw: measure with `make peers`")
    panels, y = [], TOP
    for name, place in record["models"].items():
        panels += _panel(MODELS[name].label, place, y)
        y += PANEL + ROW * len(rows(place))
    width = LEFT + len(TASKS) * (COLUMN + GAP)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}" role="img" '
        'font-family="sans-serif" font-size="12">',
        "<title>Tokens a second by engine, model and task</title>",
        f'<rect width="{width}" height="{y + 10}" fill="white"/>',
        '<text x="16" y="26" font-size="16">Tokens a second</text>',
        *_legend(record, width),
    ]
    return "\n".join([*head, *panels, "</svg>", ""])


def _legend(record: Mapping[str, Any], width: int) -> list[str]:
    counts = sorted({count for place in record["models"].values() for count in place["threads"]}, key=int)
    lines = []
    for number, count in enumerate(counts):
        x = width - 110 * (len(counts) - number)
        lines.append(f'<rect x="{x}" y="16" width="22" height="{BAR}" fill="#444" fill-opacity="{OPACITY[number]}"/>')
        lines.append(f'<text x="{x + 28}" y="26">{threads_label(count)}</text>')
    return lines


def _panel(label: str, place: Mapping[str, Any], y: int) -> list[str]:
    names, counts = rows(place), sorted(place["threads"], key=int)
    lines = [f'<text x="16" y="{y - 26}" font-size="14" font-weight="bold">{escape(label)}</text>']
    for row, name in enumerate(names):
        lines.append(f'<text x="{LEFT - 10}" y="{y + ROW * row + 16}" text-anchor="end">{escape(name)}</text>')
    for column, task in enumerate(TASKS):
        x = LEFT + column * (COLUMN + GAP)
        lines.append(f'<text x="{x}" y="{y - 8}" fill="#444">{task.label}</text>')
        lines.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{y + ROW * len(names) - 4}" stroke="#bbb"/>')
        found = {
            (name, count): speed(place["threads"][count][task.name][name])[0]
            for name in names
            for count in counts
            if name in place["threads"][count].get(task.name, {})
        }
        longest = max(found.values(), default=1.0)
        for (name, count), value in found.items():
            lines.append(_bar(x, y + ROW * names.index(name), counts.index(count), name, value, longest))
    return lines


def _bar(x: int, y: int, number: int, name: str, value: float, longest: float) -> str:
    long = round((COLUMN - 46) * value / longest, 1)
    top = y + 3 + number * (BAR + 2)
    colour = COLOURS[name.split(",")[0]]
    shown = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
    return (
        f'<rect x="{x}" y="{top}" width="{long}" height="{BAR}" fill="{colour}" fill-opacity="{OPACITY[number]}"/>'
        f'<text x="{x + long + 4}" y="{top + 9}" font-size="10">{shown}</text>'
    )
