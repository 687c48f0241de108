"""Laws that need no specification: two runs of one op on one backend that must have the same bits.

They hold because an op is a function of real numbers, rounded once: what does not change the real number does not
change a bit. Of RoPE four laws hold to the bit: a pair turned by a quarter before or after; the position times s under
linear scaling by s; neighbours and halves; and where in the run a position stands. That scores depend on differences of
positions alone is no such law: turned queries and keys are rounded before they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.conformance.case import Case, Draw
from lepton_ref.conformance.claim import run
from lepton_ref.conformance.draws import DRAWS
from lepton_ref.conformance.numbers import held
from lepton_ref.conformance.stored import outputs
from lepton_ref.conformance.subjects import SUBJECTS
from lepton_ref.conformance.verdict import Verdict, equal_bits, first_wrong
from lepton_ref.interface import Backend, HostArray


def drawn_from(*ops: str, then: Callable[[Case, np.random.Generator], Case] | None = None) -> Draw:
    """Examples of these ops in turn; `then` adds what the law needs, drawn from the same generator."""

    def draw(rng: np.random.Generator, number: int, precision: str) -> Case:
        case = DRAWS[ops[number % len(ops)]](rng, number // len(ops), precision)
        return case if then is None else then(case, rng)

    return draw


def _part(case: Case, names: Sequence[str], index: Any) -> Case:
    """The case with some inputs taken at an index."""
    return case.with_({name: case.inputs[name][index] for name in names if name in case.inputs})


def batch_position(case: Case, backend: Backend) -> Verdict:
    """A sequence has the same bits alone and at every place of a batch; where positions are alone too, one position."""
    subject = SUBJECTS[case.op]
    names = subject.batched
    count = len(case.inputs[names[0]])
    order = [*range(count), *reversed(range(count))]
    whole = run(_part(case, names, np.array(order)), backend)
    alone = [run(_part(case, names, slice(b, b + 1)), backend) for b in range(count)]
    found = [equal_bits(np.concatenate([alone[b] for b in order]), whole, what=f"{case.op} in a batch")]
    if subject.timed == names:
        first = _part(case, names, np.s_[:1, :1])
        found.append(equal_bits(run(first, backend), whole[:1, :1], what=f"{case.op} of one position"))
    return first_wrong(found)


def chunks(case: Case, backend: Backend) -> Verdict:
    """Positions one at a time have the bits of all at once; attention is given no key that comes later."""
    names, whole = SUBJECTS[case.op].timed, run(case, backend)
    parts = []
    for t in range(whole.shape[1]):
        part = _part(case, names, np.s_[:, t : t + 1])
        if case.op == "attention":
            last = int(np.flatnonzero(part.inputs["mask"].any(axis=(0, 1))).max(initial=0)) + 1
            part = _part(part, ("k", "v"), np.s_[:, :last])
            part = _part(part, ("mask",), np.s_[:, :, :last])
        parts.append(run(part, backend))
    return equal_bits(np.concatenate(parts, axis=1), whole, what=f"{case.op} in chunks")


def padding_side(case: Case, backend: Backend) -> Verdict:
    """Masked positions before or behind the others, full of NaN, change nothing."""
    want, verdicts = run(case, backend), []
    for side in ((2, 0), (0, 2)):
        padded = {}
        for name in ("k", "v") if case.op == "attention" else ("x",):
            array = case.inputs[name]
            padded[name] = np.pad(array, [(0, 0), side, *[(0, 0)] * (array.ndim - 2)], constant_values=np.nan)
        mask = case.inputs["mask"]
        padded["mask"] = np.pad(mask, [*[(0, 0)] * (mask.ndim - 1), side], constant_values=False)
        got = run(case.with_(padded), backend)
        verdicts.append(equal_bits(got, want, what=f"{case.op} padded on the {'left' if side[0] else 'right'}"))
    return first_wrong(verdicts)


def gqa_is_repeated(case: Case, backend: Backend) -> Verdict:
    """Grouped key/value heads are each head's own, repeated next to one another."""
    each = case.inputs["q"].shape[2] // case.inputs["k"].shape[2]
    repeated = case.with_({name: np.repeat(case.inputs[name], each, axis=2) for name in ("k", "v")})
    return equal_bits(run(case, backend), run(repeated, backend), what="grouped heads")


def rope_example(case: Case, rng: np.random.Generator) -> Case:
    """No scaling, and no zeros or special values, whose signs other laws rule."""
    x = case.inputs["x"]
    x = np.where(np.isfinite(x) & (x != 0) & (np.abs(x) < 2.0**10), x, x.dtype.type(1.5))
    fields = {"theta": 10000.0, "width": case.options["rope"]["width"]}
    kept = {name: array for name, array in case.inputs.items() if name != "lengths"}
    order = rng.permutation(x.shape[1])
    options = {"rope": fields, "order": order.tolist()}
    return Case("rope", {**kept, "x": x}, options, case.precision, case.layout, case.data)


def rope_laws(case: Case, backend: Backend) -> Verdict:
    """The four laws of RoPE."""
    x, positions, fields = case.inputs["x"], case.inputs["positions"], case.options["rope"]
    width, want = fields["width"], run(case, backend)
    half = width // 2

    def turned(array: HostArray) -> HostArray:
        parts = [-array[..., half:width], array[..., :half], array[..., width:]]
        return np.concatenate(parts, axis=-1)

    order = np.array(case.options["order"])
    pairs = [*np.arange(width).reshape(2, half).T.ravel(), *range(width, x.shape[-1])]
    stretched = case.with_({"positions": positions * 4}, {"rope": {**fields, "kind": "linear", "factor": 4.0}})
    neighbours = case.with_({"x": x[..., pairs]}, {"rope": {**fields, "interleaved": True}})
    moved = case.with_({"x": x[:, order], "positions": positions[:, order]})
    laws = {
        "a quarter turn first": (run(case.with_({"x": turned(x)}), backend), turned(want)),
        "positions times 4, scaled by 4": (run(stretched, backend), want),
        "neighbours for halves": (run(neighbours, backend), want[..., pairs]),
        "positions in another order": (run(moved, backend), want[:, order]),
    }
    for array in (got for pair in laws.values() for got in pair):
        array[..., width:] = 0  # what passes by is no matter of turning
    return first_wrong([equal_bits(got, what, what=name) for name, (got, what) in laws.items()])


PERMUTED: Mapping[str, Sequence[tuple[Mapping[str, int], int | None]]] = MappingProxyType(
    {
        "linear": (({"x": -1, "w": 1}, None), ({"w": 0, "b": 0}, -1)),
        "attention": (({"k": 1, "v": 1, "mask": 2}, None),),
        "softmax": (({"x": -1}, -1),),
        "log_softmax": (({"x": -1}, -1),),
        "rms_norm": (({"x": -1, "w": 0}, -1),),
        "layer_norm": (({"x": -1, "w": 0, "b": 0}, -1),),
        "pool": (({"x": 1, "mask": 1}, None),),
    }
)
"""Op → the ways in which it may be permuted: input → axis, and the output's axis, None where the output stays."""


def permutable(case: Case, rng: np.random.Generator) -> Case:
    """A dense matrix where there is one, no pooling of the first position, and an order for every size up to 512."""
    options: dict[str, Any] = {"orders": {str(n): rng.permutation(n).tolist() for n in {*range(1, 70), 256, 512}}}
    if case.options.get("kind") == "cls":
        options["kind"] = "mean"
    if case.op == "linear" and case.options["storage"] not in ("F32", "BF16", "F16"):
        width = case.inputs["x"].shape[-1]
        options["storage"] = "F32"
        return case.with_({"w": held(rng.standard_normal((outputs(case), width)), "fp32")}, options)
    return case.with_({}, options)


def permutations(case: Case, backend: Backend) -> Verdict:
    """What is summed over in another order changes nothing; outputs permuted and permuted back are as they were."""
    want, verdicts = run(case, backend), []
    for axes, output in PERMUTED[case.op]:
        if case.op == "linear" and output is None and case.how.operands != "stored":
            continue  # blocks of 32 neighbours share a scale
        name, axis = next(iter(axes.items()))
        order = np.array(case.options["orders"][str(case.inputs[name].shape[axis])])
        inputs = {
            name: np.take(case.inputs[name], order, axis=axis) for name, axis in axes.items() if name in case.inputs
        }
        got = run(case.with_(inputs), backend)
        back = got if output is None else np.take(got, np.argsort(order), axis=output)
        verdicts.append(equal_bits(back, want, what=f"{case.op} permuted"))
    return first_wrong(verdicts)
