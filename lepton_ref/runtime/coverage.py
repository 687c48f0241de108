"""What computed a model's ops in its runs so far: a backend's kernel of whole programs, or the op's own form.

An op that is not in such a kernel is given to `lepton_ref.ops`, where a kernel of that one op may still answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from lepton_ref.models.program import Program
from lepton_ref.numerics import Precision
from lepton_ref.storage import Weight

HEAD = ("op", "weights", "precision", "computed by", "ops")


@dataclass(frozen=True)
class Coverage:
    """Ops of one kind, storage format and precision, counted by what computed them.

    Attributes:
        rows: (kind, format or "", precision, by, how many), in the program's order; by is "kernel" or "op".
    """

    rows: tuple[tuple[str, str, str, str, int], ...]

    def __repr__(self) -> str:
        lines = [HEAD, *((*row[:4], str(row[4])) for row in self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(line[:4], widths[:4], strict=True)),
                       line[4].rjust(widths[4])])
            for line in lines
        )  # fmt: skip

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in HEAD)
        body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table><tr>{head}</tr>{body}</table>"


def coverage(
    program: Program, weights: Mapping[str, Weight], precision: Precision, computed: Mapping[str, bool]
) -> Coverage:
    """Count a program's ops.

    Args:
        program: the ops.
        weights: matrices by name.
        precision: of the runs.
        computed: op name → whether the kernel of whole programs computes it.
    """
    found: Counter[tuple[str, str, str, str]] = Counter()
    for op in program.ops:
        stored = weights[op.weights["w"]].format if op.weights.get("w") in weights else ""
        by = "kernel" if computed.get(op.name, False) else "op"
        found[op.kind, stored, precision.at(op.name).name, by] += 1
    return Coverage(tuple((*key, count) for key, count in found.items()))
