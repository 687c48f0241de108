"""An estimate, to first order, of what an arithmetic's rounding errors do to a model's logits. Not a bound.

A worst case through a deep network is vacuous within a few layers, so this samples instead: the ops run in float64, and
everything that a real evaluation would round is moved by a random amount of the size of its rounding,

    each op's result          uniform within half an ulp of the format that activations are kept in
    a contraction's operands  uniform within half an ulp of their format, where activations have more bits than it
    its sum of n products     every term by a normal share of u·√(n/6): what n roundings of partial sums, one after
                              another, come to where signs are random (the k-th grows as √k and errs by u/√3 of itself)
    norms, functions          a normal share of u
    angles                    uniform within u of themselves, the same in all layers, as tables are

and the spread of the logits over samples is the estimate. The noise comes from Philox with the seed as key and
(sample, op, input) as counter, so a figure depends on nothing else. Errors of real evaluations are not random: equal
weights, sums of one sign or an unlucky order can exceed any number of standard deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.audit.replay import Reals, float64_run, frequencies, replay
from lepton_ref.interface import HostArray
from lepton_ref.models.execute import Run
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Op
from lepton_ref.numerics.arithmetic import (
    BLOCK_UNIT,
    Arithmetic,
    float_format,
    get_arithmetic,
    half_ulp,
    holds,
    is_number_of,
)
from lepton_ref.storage import Weight

SAFE = 6.0
"""How many standard deviations of the difference an arg-max must be ahead by to be called safe."""

SHOWN = 12
"""Positions that a table shows."""

COLUMNS = ("sequence", "position", "first", "second", "margin", "σ of it", "margin/σ", "σ of logits", "largest", "")


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """What rounding may do to a model's outputs: first order, sampled, no bound.

    Attributes:
        arithmetic, output: how the evaluation that is imagined computes, and what it keeps activations in.
        samples, seed: how many noisy runs there were, and of which noise.
        values: (B, T, V) the outputs in float64, without noise.
        sigma: (B, T, V) the root mean square of what the noise changed.
        largest: (B, T, V) the largest that it changed.
        kept: (B, T) False at padding.
        order: (B, T, 2) the indices of the two largest outputs; None where the outputs are no logits.
        margin: (B, T) how far the larger is ahead.
        margin_sigma: (B, T) the root mean square of what the noise changed of that.
        flips: (B, T) in how many samples another index had the largest.
    """

    arithmetic: str
    output: str
    samples: int
    seed: int
    values: Reals
    sigma: Reals
    largest: Reals
    kept: NDArray[np.bool_]
    order: NDArray[np.int64] | None
    margin: Reals
    margin_sigma: Reals
    flips: NDArray[np.int64]

    @property
    def safe(self) -> NDArray[np.bool_]:
        """(B, T) whether the arg-max is ahead by more than `SAFE` standard deviations, and no sample changed it."""
        return np.asarray((self.margin > SAFE * self.margin_sigma) & (self.flips == 0))

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for b, t in np.argwhere(self.kept)[:SHOWN]:
            spread = float(np.sqrt(np.mean(self.sigma[b, t] ** 2))), float(self.largest[b, t].max())
            place: tuple[str, ...] = (f"{b}", f"{t}", "", "", "", "", "", *(f"{number:.2e}" for number in spread), "")
            if self.order is not None:
                margin, sigma = float(self.margin[b, t]), float(self.margin_sigma[b, t])
                verdict = "safe" if self.safe[b, t] else "undecided"
                ratio = margin / sigma if sigma > 0 else math.inf
                numbers = (f"{margin:.3g}", f"{sigma:.2e}", f"{ratio:.3g}")
                place = (*place[:2], *map(str, self.order[b, t]), *numbers, *place[7:9], verdict)
            rows.append(place)
        return rows

    def _title(self) -> str:
        left = int(self.kept.sum()) - SHOWN
        more = f"; {left} more positions" if left > 0 else ""
        return (
            f"Estimate (first order, sampled: no bound) of rounding in {self.arithmetic}, "
            f"activations in {self.output}, {self.samples} samples{more}"
        )

    def __repr__(self) -> str:
        lines = [COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(f"{cell:>{n}}" for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self._title(), *table])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        return f"<table><caption>{escape(self._title())}</caption><tr>{head}</tr>{rows}</table>"


def estimate(
    model: Any,
    input_ids: Any,
    *,
    arithmetic: str | Arithmetic = "fp32",
    output: str | None = None,
    samples: int = 16,
    seed: int = 0,
    attention_mask: Any = None,
    position_ids: Any = None,
    token_type_ids: Any = None,
) -> Estimate:
    """How far an evaluation's outputs may typically be from the exact ones: see the page above.

    Args:
        model: a `lepton_ref.Model`, of any precision: its weights are run in float64.
        input_ids: integers (B, T), and so the other inputs, as `Model.forward` takes them.
        arithmetic: how the evaluation computes; see `lepton_ref.numerics.arithmetic`.
        output: the format that activations are kept in; None is the arithmetic's own. "fp64" with the output "fp32" is
            what the precision `reference` does.
        samples: noisy runs, each of the cost of a float64 run.
        seed: of the noise.
        attention_mask: (B, T), 0 for padding.
        position_ids: (B, T).
        token_type_ids: (B, T).

    Raises:
        ValueError: an unknown arithmetic or format, fewer than two samples, a negative seed.
        TypeError, ValueError, ContextOverflowError: inputs as for `forward`.
    """
    a = get_arithmetic(arithmetic)
    kept_in = float_format(a.activations if output is None else output).name
    if samples < 2 or seed < 0:
        raise ValueError(f"samples is {samples} and seed {seed}; give at least 2 samples and a seed of 0 or more")
    batch = make_batch(
        model.program, model.config, input_ids, attention_mask=attention_mask, position_ids=position_ids,
        token_type_ids=token_type_ids, cache=None, last_only=False,
    )  # fmt: skip
    run, ops = float64_run(model, batch), model.program.ops
    exact = _outputs(run, ops, None)
    logits, kept = ops[-1].kind in ("linear", "softcap"), batch.mask
    if exact.shape[1] != kept.shape[1]:
        kept = np.any(kept, axis=1, keepdims=True)
    noise, sums = _Noise(run, a, kept_in, seed), _Sums(exact, logits and exact.shape[-1] > 1)
    for sample in range(samples):
        noise.sample = sample
        sums.add(_outputs(run, ops, noise))
    return sums.estimate(a.name, kept_in, samples, seed, kept)


def _outputs(run: Run, ops: list[Op], noise: _Noise | None) -> Reals:
    """(B, T, V) of one run, with noise or without."""
    values: dict[str, HostArray] = {}
    last_reader = {name: op.name for op in ops for name in op.inputs}
    for op, _, y in replay(run, ops, values, change=None if noise is None else noise.of_input):
        values[op.name] = y if noise is None else noise.of_output(op, y)
        for name in set(op.inputs):
            if last_reader[name] == op.name:
                del values[name]
    return np.asarray(values[ops[-1].name])


class _Noise:
    """Random roundings, the same for the same (seed, sample, op, input)."""

    def __init__(self, run: Run, arithmetic: Arithmetic, output: str, seed: int) -> None:
        self.run, self.a, self.output, self.seed, self.sample = run, arithmetic, output, seed, 0
        self.numbers: dict[str, int] = {}
        self.frequencies: dict[Any, Reals] = {}
        self.weights_round: dict[str, bool] = {}
        self.sum_unit = BLOCK_UNIT if arithmetic.blocks else arithmetic.unit
        self.narrow = 2.0 ** -float_format(arithmetic.operands).precision / math.sqrt(3)

    def of_input(self, op: Op, number: int, x: Reals) -> Reals:
        """What a contraction reads, with the errors of its sum on one of its operands."""
        if op.kind not in ("linear", "attention"):
            return x
        rng = self._rng(op.name, 1 + number)
        share = 0.0
        if op.kind == "linear":
            share = self.sum_unit**2 * x.shape[-1] / 6 + (self.narrow**2 if self._rounds(op.weights["w"]) else 0.0)
        elif number == 0:  # the queries carry the errors of the scores
            share = self.sum_unit**2 * (x.shape[-1] // op.options["heads"]) / 6
        elif number == 2:  # the values carry those of the weighted sum, and of weights that are rounded as operands
            share = self.sum_unit**2 * x.shape[1] / 6 + (self.narrow**2 if self.a.operands != self.a.working else 0.0)
        if not holds(self.a.operands, self.output):
            x = _rounded(x, self.a.operands, rng)
        return x * (1 + math.sqrt(share) * rng.standard_normal(x.shape))

    def of_output(self, op: Op, y: Reals) -> Reals:
        """The op's own errors, and the rounding of its result."""
        rng = self._rng(op.name, 0)
        if op.kind in ("last", "first") or (op.options.get("activation") == "relu" and op.kind == "activate"):
            return y
        if op.kind == "embed" and op.options["scale"] == 1.0:
            return np.where(is_number_of(y, self.output), y, _rounded(y, self.output, rng))
        if op.kind == "rope":
            y = self._turned(op, y)
        if op.kind not in ("linear", "add", "embed"):
            y = y * (1 + self.a.unit * rng.standard_normal(y.shape))
        return _rounded(y, self.output, rng)

    def _turned(self, op: Op, y: Reals) -> Reals:
        """(B, T, H·K) turned by angles that were rounded: to first order, y₀ − δ·y₁ and y₁ + δ·y₀."""
        rope, heads = op.options["rope"], op.options["heads"]
        if rope not in self.frequencies:
            self.frequencies[rope] = frequencies(self.run, rope)
        angle = self.run.batch.positions[..., None] * self.frequencies[rope]
        delta = (angle * self.a.unit * self._rng(repr(rope), 0).uniform(-1, 1, angle.shape))[:, :, None]
        y, width = y.reshape(*y.shape[:2], heads, -1).copy(), rope.width
        halves = slice(0, width // 2), slice(width // 2, width)
        first, second = (slice(0, width, 2), slice(1, width, 2)) if rope.interleaved else halves
        a, b = y[..., first].copy(), y[..., second].copy()
        y[..., first], y[..., second] = a - delta * b, b + delta * a
        return y.reshape(*y.shape[:2], -1)

    def _rng(self, name: str, number: int) -> np.random.Generator:
        place = self.numbers.setdefault(name, len(self.numbers))
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, number, place, self.sample]))

    def _rounds(self, name: str) -> bool:
        """Whether the weight has numbers that are none of the operands' format."""
        if name not in self.weights_round:
            weight: Weight = self.run.weights[name]
            self.weights_round[name] = bool(self.a.read(weight.decode().astype(np.float64), product=True).any())
        return self.weights_round[name]


def _rounded(x: Reals, format: str, rng: np.random.Generator) -> Reals:
    """x, moved uniformly within half an ulp of the format; infinite where it overflows."""
    half = half_ulp(x, format)
    fits = np.isfinite(half)
    moved = x + np.where(fits, half, 0.0) * rng.uniform(-1, 1, x.shape)
    return np.where(fits, moved, np.copysign(np.inf, x))


class _Sums:
    """Sums over samples."""

    def __init__(self, exact: Reals, logits: bool) -> None:
        self.exact, self.square, self.largest = exact, np.zeros(exact.shape), np.zeros(exact.shape)
        self.order = np.argsort(-exact, axis=-1, kind="stable")[..., :2] if logits else None
        self.of_margin, self.flips = np.zeros(exact.shape[:2]), np.zeros(exact.shape[:2], dtype=np.int64)

    def add(self, noisy: Reals) -> None:
        """One sample more."""
        change = noisy - self.exact
        self.square += change * change
        self.largest = np.maximum(self.largest, np.abs(change))
        if self.order is not None:
            pair = np.take_along_axis(change, self.order, axis=-1)
            self.of_margin += (pair[..., 0] - pair[..., 1]) ** 2
            self.flips += np.argmax(noisy, axis=-1) != self.order[..., 0]

    def estimate(self, arithmetic: str, output: str, samples: int, seed: int, kept: NDArray[np.bool_]) -> Estimate:
        """The figures, zero at padding."""
        margin = np.zeros(self.exact.shape[:2])
        if self.order is not None:
            pair = np.take_along_axis(self.exact, self.order, axis=-1)
            margin = pair[..., 0] - pair[..., 1]
        values, sigma, largest = (
            np.where(kept[..., None], x, 0.0) for x in (self.exact, np.sqrt(self.square / samples), self.largest)
        )
        return Estimate(
            arithmetic, output, samples, seed, values, sigma, largest, kept, self.order,
            np.where(kept, margin, 0.0), np.sqrt(self.of_margin / samples), self.flips,
        )  # fmt: skip
