"""Rigorous enclosures of one block's results: where any evaluation of it in some arithmetic must end.

A block starts from numbers that are known exactly, what a trace has at its entry. Every op's exact value at the block's
exact intermediates is the middle; the radius is what `lepton_ref.numerics.bounds` proves for an evaluation of the op in
the arithmetic, in any order, whose inputs lie anywhere within the radii of its own inputs, and whose result is rounded
to the format that activations are kept in. So radii grow op by op, by the worst case each time; through a few blocks
they would say nothing, and within one they show where precision is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.audit.interval_bounds import RADIUS, How
from lepton_ref.audit.replay import Reals, float64_run, replay
from lepton_ref.interface import HostArray
from lepton_ref.models.execute import Run
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Op
from lepton_ref.numerics.arithmetic import Arithmetic, float_format, get_arithmetic

LEAST = 2.0**-890
"""More than what the float64 ops do to numbers next to zero, which they keep at ±2⁻⁹⁰⁰."""

COLUMNS = ("op", "kind", "size", "largest radius", "radius/size", "growth")


@dataclass(frozen=True, eq=False)
class Enclosure:
    """An op's results in a block: each lies within `radius` of `middle`.

    Attributes:
        op: the op's name.
        kind: the op's kind.
        middle: (B, T, width) float64, the exact value but for what the radius contains.
        radius: (B, T, width) float64; infinite where nothing can be promised.
        grown_from: the largest of its inputs' relative radii.
    """

    op: str
    kind: str
    middle: Reals
    radius: Reals
    grown_from: float

    def contains(self, values: HostArray, /) -> NDArray[np.bool_]:
        """Whether each value lies in its interval, ends included.

        Raises:
            ValueError: another shape.
        """
        if np.shape(values) != self.middle.shape:
            raise ValueError(f"{self.op} is of shape {self.middle.shape}, got {np.shape(values)}")
        distance = np.abs(np.asarray(values, dtype=np.float64) - self.middle)
        return np.asarray((distance <= self.radius) | np.isinf(self.radius))

    @property
    def relative(self) -> float:
        """The largest radius, relative to the root mean square of the middle."""
        size = float(np.sqrt(np.mean(self.middle**2)))
        largest = float(self.radius.max())
        return largest / size if size > 0 else math.inf if largest > 0 else 0.0

    @property
    def growth(self) -> float:
        """By how much the op multiplied the relative radius of its inputs; infinite where they were exact."""
        return self.relative / self.grown_from if 0 < self.grown_from < math.inf else math.inf


class BlockIntervals(Mapping[str, Enclosure]):
    """The enclosures of a block's ops in order, by name.

    Attributes:
        block: the block's name.
        arithmetic: how the evaluations compute.
        kept_in: the format that they keep activations in.
    """

    def __init__(self, enclosures: Mapping[str, Enclosure], *, block: str, arithmetic: str, kept_in: str) -> None:
        self._enclosures = dict(enclosures)
        self.block, self.arithmetic, self.kept_in = block, arithmetic, kept_in

    def __getitem__(self, name: str) -> Enclosure:
        if name not in self._enclosures:
            raise KeyError(f"block {self.block!r} has no op {name!r}; it has {', '.join(self._enclosures)}")
        return self._enclosures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._enclosures)

    def __len__(self) -> int:
        return len(self._enclosures)

    @property
    def explodes_at(self) -> str | None:
        """The first op whose radius is infinite, or else that of the largest growth; None where there is neither."""
        endless = [name for name, enclosure in self.items() if not np.isfinite(enclosure.radius).all()]
        finite = {name: enclosure.growth for name, enclosure in self.items() if math.isfinite(enclosure.growth)}
        return endless[0] if endless else max(finite, key=lambda name: finite[name]) if finite else None

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for name, enclosure in self.items():
            size, growth = float(np.sqrt(np.mean(enclosure.middle**2))), enclosure.growth
            numbers = (f"{size:.3g}", f"{enclosure.radius.max():.2e}", f"{enclosure.relative:.1e}")
            mark = " ←" if name == self.explodes_at else ""
            rows.append((name, enclosure.kind, *numbers, "" if math.isinf(growth) else f"{growth:.3g}×{mark}"))
        return rows

    def _title(self) -> str:
        return f"Enclosures of {self.block}: any order in {self.arithmetic}, activations in {self.kept_in}"

    def __repr__(self) -> str:
        lines = [COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(f"{cell:<{n}}" for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self._title(), *table])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        return f"<table><caption>{escape(self._title())}</caption><tr>{head}</tr>{rows}</table>"


def block_intervals(
    model: Any,
    trace: Mapping[str, HostArray],
    block: str = "layers.0",
    arithmetic: str | Arithmetic = "fp32",
    *,
    output: str | None = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    frequency_units: float = 1.0,
    rescalings: int = 0,
) -> BlockIntervals:
    """Where an evaluation of a block must end, op by op, from the trace's values at its entry.

    An evaluation may take any order of summation, fuse, use library functions of at most 4 ulps, textbook forms of
    activations, and powers of two for exponentials. Its RoPE frequencies are the exact ones, each rounded once.

    Args:
        model: a `lepton_ref.Model`; its weights, as the float64 of what is stored, are those of the evaluation.
        trace: of a run of it without a cache; only what lies at the block's entry is read.
        block: an op's name, for that op alone, or what the names of a block's ops begin with, before a dot.
        arithmetic: how evaluations compute; see `lepton_ref.numerics.arithmetic`.
        output: the format in which they keep activations; None is the arithmetic's own.
        attention_mask: (B, T), as it was given for the trace.
        position_ids: (B, T), as they were given for the trace.
        frequency_units: how far the evaluation's RoPE frequencies may be, in unit roundoffs of themselves.
        rescalings: how often its attention raises a running maximum; 0 where it sees all keys at once.

    Raises:
        ValueError: an unknown block, or one with an embedding; an unknown arithmetic or format; a trace that cannot be
            of this model with these inputs.
        KeyError: a trace that lacks what the block reads.
    """
    a = get_arithmetic(arithmetic)
    kept_in = float_format(a.activations if output is None else output).name
    alone = [op for op in model.program.ops if op.name == block]
    within = alone or [op for op in model.program.ops if op.name.startswith(f"{block}.")]
    if not within:
        blocks = dict.fromkeys(".".join(op.name.split(".")[:2]) for op in model.program.ops)
        raise ValueError(f"no op belongs to block {block!r}; there are {', '.join(blocks)}")
    reads = [op.name for op in within if op.kind == "embed"]
    if reads:
        raise ValueError(f"{reads[0]} reads integers, which a trace does not have; give a block that has no embedding")
    shape = np.shape(trace[model.program.ops[0].name])[:2]
    batch = make_batch(
        model.program, model.config, np.zeros(shape, dtype=np.int64), attention_mask=attention_mask,
        position_ids=position_ids, token_type_ids=None, cache=None, last_only=False,
    )  # fmt: skip
    made = {op.name for op in within}
    entry = {name: trace[name] for op in within for name in op.inputs if name not in made}
    how = How(kept_in, frequency_units, rescalings)
    found = _enclose(float64_run(model, batch), within, entry, a, how)
    _check(found, trace, model, a, kept_in)
    return BlockIntervals(found, block=block, arithmetic=a.name, kept_in=kept_in)


def _enclose(run: Run, within: list[Op], entry: dict[str, HostArray], a: Arithmetic, how: How) -> dict[str, Enclosure]:
    found: dict[str, Enclosure] = {}
    for op, inputs, middle in replay(run, within, dict(entry)):
        radii = [found[name].radius if name in found else None for name in op.inputs]
        bound = RADIUS[op.kind](run, op, inputs, radii, a, how)
        of_middle = RADIUS[op.kind](run, op, inputs, [None] * len(inputs), get_arithmetic("fp64"), How())
        radius = np.nextafter(bound + of_middle + LEAST, np.inf)
        grown_from = max((found[name].relative for name in op.inputs if name in found), default=0.0)
        found[op.name] = Enclosure(op.name, op.kind, middle, radius, grown_from)
    return found


def _check(
    found: dict[str, Enclosure], trace: Mapping[str, HostArray], model: Any, a: Arithmetic, kept_in: str
) -> None:
    """A trace that was rounded once, and not to a coarser format, is such an evaluation itself."""
    precision = model.precision
    finer = precision.name == "float64" or (precision.name == "reference" and kept_in != "fp64" and a.working != "fp64")
    if not finer or precision.overrides:
        return
    for name, enclosure in found.items():
        if not enclosure.contains(trace[name]).all():
            raise ValueError(
                f"the trace's {name} lies outside of what this model gives; was it made with a cache, a mask or "
                "positions? Give attention_mask and position_ids as they were, and make the trace without a cache"
            )
