"""Counting what became of every element: proven by the rounding test, or repaired, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Count:
    """Elements of one kind of op.

    Attributes:
        elements: all that were rounded.
        in_double_double: those that float64 left ambiguous and double-double decided.
        exactly: those that were decided by exact arithmetic.
        seconds: time spent on repairs.
    """

    elements: int = 0
    in_double_double: int = 0
    exactly: int = 0
    seconds: float = 0.0

    @property
    def proven(self) -> int:
        """Elements that the rounding test settled."""
        return self.elements - self.ambiguous

    @property
    def ambiguous(self) -> int:
        """Elements that the rounding test left open."""
        return self.in_double_double + self.exactly


@dataclass
class Counts:
    """Counts by op, in the order in which ops were first met."""

    by_op: dict[str, Count] = field(default_factory=dict)

    def of(self, op: str) -> Count:
        """The count of that op; a new one where there is none yet."""
        return self.by_op.setdefault(op, Count())

    @property
    def total(self) -> Count:
        """All ops together."""
        counts = list(self.by_op.values())
        return Count(
            sum(count.elements for count in counts),
            sum(count.in_double_double for count in counts),
            sum(count.exactly for count in counts),
            sum(count.seconds for count in counts),
        )

    def __repr__(self) -> str:
        lines = [f"{'op':<14}{'elements':>12}{'ambiguous':>11}{'share':>9}{'double':>8}{'exact':>7}{'repair s':>10}"]
        for op, count in [*self.by_op.items(), ("all", self.total)]:
            share = count.ambiguous / count.elements if count.elements else 0.0
            lines.append(
                f"{op:<14}{count.elements:>12}{count.ambiguous:>11}{share:>9.1e}"
                f"{count.in_double_double:>8}{count.exactly:>7}{count.seconds:>10.3f}"
            )
        return "\n".join(lines)


_COUNTS: ContextVar[Counts | None] = ContextVar("counts", default=None)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count every proven rounding within the block.

        with counting() as counts:
            model.forward(ids)

    Blocks nest; the inner one counts alone. Each thread and task has its own.
    """
    counts = Counts()
    before = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(before)


def current() -> Counts | None:
    """The counts of the innermost block, or None where nobody counts."""
    return _COUNTS.get()
