"""What a run of the suite found, as a table in a terminal, in a notebook, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from lepton_ref.conformance.outcome import Failure, Outcome


@dataclass(frozen=True)
class Report:
    """All outcomes of one run.

    Attributes:
        backend: the backend's repr.
        seed: of the examples.
        outcomes: one for each check and precision, in order.
        kernels: the backend's kernels: how often each ran, how often it declined.
        idle: kernels that never gave a result, with what that means; those that were declared are not among them.
        versions: of Python, NumPy and this package.
    """

    backend: str
    seed: int
    outcomes: tuple[Outcome, ...]
    kernels: Mapping[str, tuple[int, int]]
    idle: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether every check that was tried passed or was declared, some were, and every kernel was exercised."""
        tried = any(outcome.skipped is None for outcome in self.outcomes)
        return tried and not self.idle and all(outcome.passed for outcome in self.outcomes)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All failures that were not declared."""
        return tuple(failure for outcome in self.outcomes if not outcome.passed for failure in outcome.failures)

    @property
    def verdict(self) -> str:
        """One line: what was shown, or how many checks failed."""
        failed = [outcome.check for outcome in self.outcomes if not outcome.passed]
        if failed or self.idle:
            parts = [f"{len(failed)} of {len(self.outcomes)} checks FAILED"] if failed else []
            parts += [f"{len(self.idle)} kernels were not exercised"] if self.idle else []
            return f"{', '.join(parts)}: {self.backend} does not conform"
        if not self.passed:
            return f"nothing was tried: {self.backend} is neither shown to conform nor not to"
        return f"{self.elements} numbers compared, none differs: {self.backend} conforms on these examples"

    @property
    def elements(self) -> int:
        """Numbers compared."""
        return sum(outcome.elements for outcome in self.outcomes)

    def facts(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "backend": self.backend,
            "passed": self.passed,
            "verdict": self.verdict,
            "seed": self.seed,
            "versions": dict(self.versions),
            "kernels": {name: {"ran": ran, "declined": declined} for name, (ran, declined) in self.kernels.items()},
            "kernels_not_exercised": dict(self.idle),
            "checks": [outcome.facts() for outcome in self.outcomes],
        }

    def to_json(self) -> str:
        """JSON in one line."""
        return json.dumps(self.facts(), ensure_ascii=False, allow_nan=False)

    def rows(self) -> list[dict[str, str]]:
        """The table: one row for each check."""
        return [
            {
                "check": outcome.check,
                "precision": outcome.precision,
                "examples": str(outcome.examples),
                "numbers": str(outcome.elements),
                "ambiguous": f"{outcome.share:.1e}" if outcome.rounded else "",
                "kernels": ", ".join(f"{name} {ran}×" for name, (ran, _) in outcome.kernels.items() if ran),
                "seconds": f"{outcome.seconds:.2f}",
                "verdict": outcome.verdict,
            }
            for outcome in self.outcomes
        ]

    def notes(self) -> list[str]:
        """Below the table: failures, idle kernels, the verdict."""
        return [
            *(f"FAILED {failure}" for failure in self.failures),
            *(f"FAILED kernel {name}: {why}" for name, why in self.idle.items()),
            self.verdict,
        ]

    def __repr__(self) -> str:
        rows = self.rows()
        names = list(rows[0]) if rows else []
        cells = [names, *([row[name] for name in names] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
        return "\n".join([*lines, *self.notes()])

    def _repr_html_(self) -> str:
        rows = self.rows()
        names = list(rows[0]) if rows else []
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(f"<tr>{''.join(f'<td>{escape(row[name])}</td>' for name in names)}</tr>" for row in rows)
        below = "".join(f"<p>{escape(note)}</p>" for note in self.notes())
        return f"<table><caption>{escape(self.backend)}</caption><tr>{head}</tr>{body}</table>{below}"
