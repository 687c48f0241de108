"""Which bound belongs to an op of a program, with the op's weights, constants, mask and positions put in.

Each function takes a run, an op, its inputs in float64, how far an evaluation's inputs may be from them, an arithmetic
and a `How`, and gives how far the evaluation's results may be from the op's exact value: `RADIUS` is the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref import ops
from lepton_ref.audit.replay import Reals, frequencies
from lepton_ref.models.execute import Run
from lepton_ref.models.program import Op
from lepton_ref.numerics import bounds
from lepton_ref.numerics.arithmetic import UNIT, Arithmetic, finish

Radii = list[Reals | None]
"""Of an op's inputs; None where an input is known exactly."""


@dataclass(frozen=True)
class How:
    """What an evaluation may do besides its arithmetic.

    Attributes:
        output: the format that it keeps activations in; None where results stay as they are.
        frequency_units: how far its RoPE frequencies may be, in unit roundoffs of themselves.
        rescalings: how often its attention raises a running maximum.
    """

    output: str | None = None
    frequency_units: float = 1.0
    rescalings: int = 0


def _matrix(run: Run, op: Op) -> Reals:
    return np.asarray(run.weights[op.weights["w"]].decode(), dtype=np.float64)


def _vector(run: Run, op: Op, role: str) -> Reals | None:
    found = run.vector(op, role)
    return None if found is None else np.asarray(run.backend.to_numpy(found), dtype=np.float64)


def _split(x: Any, heads: int) -> Any:
    return None if x is None else np.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads))


def _linear(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    return bounds.linear_bound(
        x[0], _matrix(run, op), _vector(run, op, "b"),
        arithmetic=a, output=how.output, radius=radii[0], held=how.output,
    )  # fmt: skip


def _rms_norm(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    o, w = op.options, _vector(run, op, "w")
    assert w is not None, "every RMSNorm has a weight"
    radius = bounds.rms_norm_bound(
        _split(x[0], o["heads"]), w, eps=o["eps"], offset=o["offset"],
        arithmetic=a, output=how.output, radius=_split(radii[0], o["heads"]),
    )  # fmt: skip
    return radius.reshape(x[0].shape)


def _layer_norm(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    w = _vector(run, op, "w")
    return bounds.layer_norm_bound(
        x[0], np.ones(op.width) if w is None else w, _vector(run, op, "b"), eps=op.options["eps"],
        arithmetic=a, output=how.output, radius=radii[0],
    )  # fmt: skip


def _rope(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    rope, heads = op.options["rope"], op.options["heads"]
    radius = bounds.rope_bound(
        _split(x[0], heads), run.batch.positions, frequencies(run, rope), factor=ops.attention_factor(rope),
        interleaved=rope.interleaved, frequency_units=how.frequency_units + UNIT / a.unit,
        arithmetic=a, output=how.output, radius=_split(radii[0], heads),
    )  # fmt: skip
    return radius.reshape(x[0].shape)


def _attention(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    o, batch = op.options, run.batch
    heads = (o["heads"], o["kv_heads"], o["kv_heads"])
    q, k, v = (_split(value, n) for value, n in zip(x, heads, strict=True))
    moved_q, moved_k, moved_v = (_split(radius, n) for radius, n in zip(radii, heads, strict=True))
    seen = ops.attention_mask(batch.order, batch.order, batch.mask, causal=o["causal"], window=o["window"])
    radius = bounds.attention_bound(
        q, k, v, seen, scale=o["scale"], cap=o["cap"], rescalings=how.rescalings,
        arithmetic=a, output=how.output, radii=(moved_q, moved_k, moved_v), held=how.output,
    )  # fmt: skip
    return radius.reshape(*x[0].shape[:2], op.width)


def _add(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    return bounds.add_bound(x[0], x[1], arithmetic=a, output=how.output, radii=(radii[0], radii[1]))


def _activate(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    kind = op.options["activation"]
    return bounds.activation_bound(x[0], kind=kind, textbook=True, arithmetic=a, output=how.output, radius=radii[0])


def _gated(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    return bounds.gated_bound(
        x[0], x[1], kind=op.options["activation"], textbook=True,
        arithmetic=a, output=how.output, radii=(radii[0], radii[1]),
    )  # fmt: skip


def _softcap(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    return bounds.softcap_bound(x[0], cap=op.options["cap"], arithmetic=a, output=how.output, radius=radii[0])


def _last(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    """A choice: what an earlier op of the block gave is in the kept format already."""
    return finish(x[0], a.read(x[0]), a, how.output) if radii[0] is None else radii[0]


def _first(run: Run, op: Op, x: list[Reals], radii: Radii, a: Arithmetic, how: How) -> Reals:
    chosen = np.arange(len(x[0])), run.batch.mask.argmax(axis=1)
    return np.asarray(_last(run, op, x, radii, a, how)[chosen][:, None])


RADIUS: Mapping[str, Callable[[Run, Op, list[Reals], Radii, Arithmetic, How], Reals]] = MappingProxyType(
    {
        "linear": _linear,
        "rms_norm": _rms_norm,
        "layer_norm": _layer_norm,
        "rope": _rope,
        "attention": _attention,
        "add": _add,
        "activate": _activate,
        "gated": _gated,
        "softcap": _softcap,
        "last": _last,
        "first": _first,
    }
)
"""Kind of op → the bound of an evaluation of it; an embedding reads integers, which a trace does not have."""
