"""Figures of the record that scripts/peers.py makes: speeds, ratios, shares, and what they say of the targets.

A speed is the tokens, or the repetitions, of a sample over the median of its seconds; a ratio is our speed over the
other's; a share is that of the bytes a second that a plain reading of memory had in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peers_rounds import median
from peers_tasks import ENGINES, LLAMA_CPP, MODELS, OPERATIONS, OUR_REFERENCE, OURS, READING, TASKS

DECODE, PREFILL, REFERENCE, SHARE, SGEMM, START = 2.0, 2.5, 1.2, 0.85, 0.6, 1.0
"""The project's targets: times llama.cpp's speed; of the bandwidth; of sgemm's speed; seconds after llama.cpp."""
REFERENCE_MODELS = ("smollm2-q8_0", "smollm2-q4_0")


def speed(entry: Mapping[str, Any]) -> tuple[float, bool]:
    """Tokens, or repetitions, a second, and whether disturbed samples had to count."""
    seconds, dirty = median(entry)
    return entry.get("tokens", 1) / seconds, dirty


def ratio(ours: Mapping[str, Any], others: Mapping[str, Any]) -> float:
    """How many times the other's speed ours is."""
    return speed(ours)[0] / speed(others)[0]


def amount(entry: Mapping[str, Any]) -> float:
    """Bytes, or floating-point operations, a second."""
    return float(entry["amount"] * speed(entry)[0])


def bandwidth(found: Mapping[str, Any]) -> float | None:
    """Bytes a second of plain reading, measured in turn with a task's engines; None where it was not."""
    return amount(found[READING]) if READING in found else None


def share(name: str, found: Mapping[str, Any]) -> float:
    """The operation's bytes or work a second as a share of those of the operation that it stands beside."""
    beside = next(operation.beside for operation in OPERATIONS if operation.name == name)
    return amount(found[name]) / amount(found[beside])


def times(value: float) -> str:
    """A ratio as the pages show it."""
    return f"{value:.2f} ×"


def threads_label(count: str) -> str:
    """`1 thread`, `2 threads`."""
    return "1 thread" if count == "1" else f"{count} threads"


def verdicts(record: Mapping[str, Any]) -> list[str]:
    """A line for every target: what was reached, and whether that is enough."""
    lines = ["| target | reached | |", "|---|---|---|"]
    for name, place in record["models"].items():
        for count, tasks in sorted(place["threads"].items(), key=_number):
            for task in TASKS:
                lines += _against_llama_cpp(name, count, task.name, tasks.get(task.name, {}), record)
    for count, found in sorted(record["operations"].items(), key=_number):
        for operation in OPERATIONS:
            if operation.beside and operation.name in found and operation.beside in found:
                least = SGEMM if operation.work else SHARE
                of = "sgemm's speed" if operation.work else "the bandwidth"
                got = share(operation.name, found)
                where = f"{operation.label}, {threads_label(count)}"
                lines.append(f"| {where}: ≥ {least:.0%} of {of} | {got:.0%} | {_met(got >= least)} |")
    for name, found in record["start"].items():
        if OURS in found and LLAMA_CPP in found:
            late = median(found[OURS])[0] - median(found[LLAMA_CPP])[0]
            where = f"{MODELS[name].label}, start: ≤ {START:g} s after llama.cpp"
            lines.append(f"| {where} | {late:+.2f} s | {_met(late <= START)} |")
    return lines


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _against_llama_cpp(
    name: str, count: str, task: str, found: Mapping[str, Any], record: Mapping[str, Any]
) -> Iterator[str]:
    label = next(one.label for one in TASKS if one.name == task)
    decodes = task.startswith("decode")
    wanted = [(OURS, DECODE if decodes else PREFILL)]
    if decodes and name in REFERENCE_MODELS:
        wanted.append((OUR_REFERENCE, REFERENCE))
    for engine, least in wanted:
        if engine not in found or LLAMA_CPP not in found:
            continue
        got = ratio(found[engine], found[LLAMA_CPP])
        reached, met = times(got), got >= least
        most = bandwidth(found)
        if decodes and most is not None:
            part = record["models"][name]["bytes"] * speed(found[engine])[0] / most
            reached += f", {part:.0%} of the bandwidth"
            met = met or (engine == OURS and part >= SHARE)
        which = ", `reference`" if engine == OUR_REFERENCE else ""
        where = f"{MODELS[name].label}{which}, {label}, {threads_label(count)}"
        yield f"| {where}: ≥ {least:g} × llama.cpp | {reached} | {_met(met)} |"


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def missing(record: Mapping[str, Any]) -> list[str]:
    """Every engine that has no figure, or not all, and why."""
    said = {name: list(reasons) for name, reasons in record["missing"].items()}
    for engine in ENGINES:
        measured = any(
            engine.name in found
            for place in record["models"].values()
            for tasks in place["threads"].values()
            for found in tasks.values()
        )
        if not measured:
            said.setdefault(engine.name, ["it was left out of this run"])
    return [f"- {name}: {'; '.join(reasons)}." for name, reasons in said.items()]
