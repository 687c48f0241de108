"""What `lint` says: a severity, a place, a reason and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

SEVERITIES = ("error", "warning", "unknown", "info")
"""error: the model computes nonsense, or less than it could; warning: likely a mistake; unknown: the data do not decide
what whoever loads the file must know; info: nothing wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: one of `SEVERITIES`.
        rule: which check.
        tensor: where; "" for the file.
        reason: what stands there, and why it is a finding.
        remedy: what to do.
    """

    severity: str
    rule: str
    tensor: str
    reason: str
    remedy: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is {self.severity!r}; known: {', '.join(SEVERITIES)}")

    def row(self) -> dict[str, str]:
        """For a table."""
        return {
            "severity": self.severity,
            "rule": self.rule,
            "tensor": self.tensor,
            "reason": self.reason,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        where = f"{self.tensor}: " if self.tensor else ""
        return f"{self.severity}: {self.rule}: {where}{self.reason}; {self.remedy}"


class Findings(tuple[Finding, ...]):
    """Findings in order, as a table in a notebook."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in one.row().values()) for one in self)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
