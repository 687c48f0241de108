"""docs/peers.md and README's figures from the record that scripts/peers.py made.

`*` marks a figure with samples that other processes disturbed, since there were too few others.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers_figures import amount, missing, ratio, share, speed, threads_label, times, verdicts
from peers_plot import drawing
from peers_rounds import median
from peers_tasks import ENGINES, LLAMA_CPP, MODELS, OPERATIONS, OURS, TASKS

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "peers.json"
PAGE = ROOT / "docs" / "peers.md"
PLOT = ROOT / "docs" / "figures" / "peers.svg"
README = ROOT / "README.md"
BEGIN = "<!-- peers: written by scripts/peers.py -->"
END = "<!-- end of peers -->"

PARTS = ("machine", "rounds", "versions", "missing", "models", "start", "operations")
SHOWN = ("decode16", "prefill128")
"""Tasks in README."""
FROM_IMPORT = "Each time in a new process, whose files and compiled code were cached before; a prompt of 16 tokens."
MATVEC = (
    "A matrix of 128 MiB, as a file stores it, times a vector: GB of the matrix a second, and the share of a plain "
    "reading's.\nA product of 128 × 2048 by 2048 × 2048: operations a second, and the share of OpenBLAS's."
)
HEAD = """# Beside other engines

<!-- written by scripts/peers.py: `make peers` -->

The same files on the same machine in one run: each engine has a process of its own, they are measured in turn, and a
figure is the median of {rounds} rounds. A sample during which other processes used more than 8 % of a core does not
count; where too few others were had, the figure is marked `*`. "lepton_ref, numba" computes under `w8a8` or `w4a8`,
8-bit activations as llama.cpp has them, but rounded once; "reference" has float32 activations. transformers runs the
values that the file decodes to, in the type that is named; onnxruntime runs a graph of them, in float32 or rounded to
its own 4-bit blocks with 8-bit activations.

{machine}

![Tokens a second by engine, model and task](figures/peers.svg)

"""


def _number(entry: Mapping[str, Any]) -> str:
    value, dirty = speed(entry)
    return f"{value:.0f}{'*' if dirty else ''}" if value >= 100 else f"{value:.1f}{'*' if dirty else ''}"


def model_table(place: Mapping[str, Any]) -> list[str]:
    """One model: an engine a row; for each task and number of threads tokens a second, and times llama.cpp."""
    every = sorted(place["threads"], key=int)
    names = [f"{task.label}, {threads_label(count)}" for task in TASKS for count in every]
    lines = [f"| tokens/s | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for engine in ENGINES:
        cells = []
        for task in TASKS:
            for count in every:
                found = place["threads"][count].get(task.name, {})
                entry, beside = found.get(engine.name), found.get(LLAMA_CPP)
                cell = "–" if entry is None else _number(entry)
                if entry is not None and beside is not None and engine.name != LLAMA_CPP:
                    cell += f" ({times(ratio(entry, beside))})"
                cells.append(cell)
        if any(cell != "–" for cell in cells):
            lines.append(f"| {engine.name} | {' | '.join(cells)} |")
    return lines


def operations_table(record: Mapping[str, Any]) -> list[str]:
    """An operation a row: GB or GFLOP a second, and the share of what it is measured against."""
    every = sorted(record["operations"], key=int)
    lines = [f"| | {' | '.join(threads_label(count) for count in every)} |", "|---|" + "---:|" * len(every)]
    for operation in OPERATIONS:
        cells = []
        for count in every:
            found = record["operations"][count]
            entry, beside = found.get(operation.name), found.get(operation.beside)
            if entry is None:
                cells.append("–")
                continue
            unit = "GB/s" if operation.weights else "GFLOP/s"
            cell = f"{amount(entry) / 1e9:.1f} {unit}{'*' if speed(entry)[1] else ''}"
            if beside is not None:
                cell += f" ({share(operation.name, found):.0%})"
            cells.append(cell)
        if any(cell != "–" for cell in cells):
            lines.append(f"| {operation.label} | {' | '.join(cells)} |")
    return lines


def start_table(record: Mapping[str, Any]) -> list[str]:
    """Seconds from import to the first token: an engine a row, a model a column."""
    names = list(record["start"])
    lines = [f"| seconds | {' | '.join(MODELS[name].label for name in names)} |", "|---|" + "---:|" * len(names)]
    for engine in ENGINES:
        found = [record["start"][name].get(engine.name) for name in names]
        if any(entry is not None for entry in found):
            cells = ["–" if entry is None else "{:.2f}{}".format(*_seconds(entry)) for entry in found]
            lines.append(f"| {engine.name} | {' | '.join(cells)} |")
    return lines


def _seconds(entry: Mapping[str, Any]) -> tuple[float, str]:
    seconds, dirty = median(entry)
    return seconds, "*" if dirty else ""


def machine_line(record: Mapping[str, Any]) -> str:
    """The machine and the versions, as one paragraph."""
    told = record["machine"]
    versions = {name: number for said in record["versions"].values() for name, number in said.items()}
    build = versions.pop("build", None)
    listed = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    text = (
        f"{told['cpu']}, {told['cores']} cores ({', '.join(told['instructions'])}), last cache {told['last cache']}, "
        f"{told['memory GiB']} GiB, {told['system']}; load average {told['load average before']:.1f} before the run. "
        f"{listed}."
    )
    return text if build is None else f"{text} llama.cpp was built for {build}."


def page(record: Mapping[str, Any]) -> str:
    """docs/peers.md.

    Raises:
        ValueError: the record lacks a part; with its name.
    """
    lacking = [name for name in PARTS if name not in record]
    if lacking:
        raise ValueError(f"the record lacks {', '.join(lacking)}: make it with `make peers`")
    lines = [fill(HEAD.format(rounds=record["rounds"], machine=machine_line(record)))]
    for name, place in record["models"].items():
        lines += [f"## {MODELS[name].label}", "", *model_table(place), ""]
    if record["start"]:
        lines += ["## From import to the first token", "", FROM_IMPORT, "", *start_table(record), ""]
    if record["operations"]:
        lines += ["## Operations", "", MATVEC, "", *operations_table(record), ""]
    lines += ["## Targets", "", *verdicts(record), ""]
    gone = missing(record)
    lines += ["## Not measured", "", *gone, ""] if gone else []
    return "\n".join(lines)


def fill(text: str) -> str:
    """The text with its paragraphs filled to 120 columns; headings, comments and pictures stay."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part[:1] in "#<!" else textwrap.fill(part, 120) for part in parts)


def readme_table(record: Mapping[str, Any]) -> str:
    """README's table: by model, tokens a second of ours and of llama.cpp, with the most threads that were measured."""
    count = max((count for place in record["models"].values() for count in place["threads"]), key=int)
    shown = [task for task in TASKS if task.name in SHOWN]
    names = [f"{task.label}: ours, llama.cpp" for task in shown]
    lines = [f"| tokens/s, {threads_label(count)} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for name, place in record["models"].items():
        cells = []
        for task in shown:
            found = place["threads"].get(count, {}).get(task.name, {})
            ours, theirs = found.get(OURS), found.get(LLAMA_CPP)
            both = ["–" if entry is None else _number(entry) for entry in (ours, theirs)]
            cells.append(
                ", ".join(both) + ("" if ours is None or theirs is None else f" ({times(ratio(ours, theirs))})")
            )
        lines.append(f"| {MODELS[name].label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *textwrap.wrap(f"On {record['machine']['cpu']}, in one run.", 120)])


def write(record: Mapping[str, Any]) -> None:
    """Write the page, its plot, and README's table where README has the markers."""
    PAGE.write_text(page(record), encoding="utf-8")
    PLOT.write_text(drawing(record), encoding="utf-8")
    before = README.read_text(encoding="utf-8")
    if BEGIN in before:
        README.write_text(with_table(before, readme_table(record)), encoding="utf-8")
    else:
        print(f"README.md has no {BEGIN!r}: its figures were not written", file=sys.stderr)


def with_table(readme: str, written: str) -> str:
    """The README with the table between its markers replaced.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN!r} … {END!r}: put both where the table is to stand")
    return f"{before}{BEGIN}\n{written}\n{END}{after}"
