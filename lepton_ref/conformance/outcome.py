"""What became of a check: counts, kernels that ran, failures with what is needed to run them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_ref.conformance.capsule import Capsule


@dataclass(frozen=True)
class Failure:
    """One example on which a claim does not hold.

    Attributes:
        message: one line that says what is wrong.
        capsule: what is needed to run it again.
    """

    message: str
    capsule: Capsule

    def save(self, folder: str | Path) -> Path:
        """Write the capsule into a folder that exists, under a name that says what it is -> its path."""
        c = self.capsule
        path = Path(folder) / f"{c.check}-{c.case.precision}-{c.seed}-{c.number}.npz"
        c.save(path, overwrite=True)
        return path

    def __str__(self) -> str:
        c = self.capsule
        return f"{c.check} under {c.case.precision}, seed {c.seed}, example {c.number} ({c.case.data}): {self.message}"


@dataclass(frozen=True)
class Outcome:
    """What became of one check under one precision.

    Attributes:
        check: the check's name.
        precision: the precision's name; "" where the check knows none.
        examples: how many were tried; fewer than asked for where failures ended it.
        elements: numbers compared.
        rounded: elements that the rounding test saw.
        ambiguous: how many of these it left open.
        kernels: each kernel that was asked: how often it ran, how often it declined.
        failures: at most a few; the check ends with the last.
        seconds: what it took.
        declared: why a failure is no news; None where nothing was declared.
        skipped: why it was not tried; None where it was.
    """

    check: str
    precision: str
    examples: int = 0
    elements: int = 0
    rounded: int = 0
    ambiguous: int = 0
    kernels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    declared: str | None = None
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong that was not declared."""
        return not self.failures or self.declared is not None

    @property
    def verdict(self) -> str:
        """One word, or a few: "passed", "FAILED", or why neither."""
        if self.skipped is not None:
            return f"not tried: {self.skipped}"
        if self.declared is not None:
            return f"declared: {self.declared}" if self.failures else f"passed, though declared: {self.declared}"
        return "FAILED" if self.failures else "passed"

    @property
    def share(self) -> float:
        """Ambiguous elements, of those that the rounding test saw."""
        return self.ambiguous / self.rounded if self.rounded else 0.0

    def facts(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {
            "check": self.check,
            "precision": self.precision,
            "verdict": self.verdict,
            "passed": self.passed,
            "examples": self.examples,
            "elements": self.elements,
            "ambiguous_share": self.share,
            "kernels": {name: {"ran": ran, "declined": no} for name, (ran, no) in self.kernels.items()},
            "seconds": round(self.seconds, 3),
            "failures": [str(failure) for failure in self.failures],
        }


class ConformanceError(AssertionError):
    """A check failed; the message is its first failure's.

    Attributes:
        outcome: all that the check found.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.failures[0]))
        self.outcome = outcome
