"""Every public op as a case: how to draw its inputs, run it, run its scalar twin, and bound its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from strategies import Fill

from lepton_ref import ops
from lepton_ref.interface import Backend
from lepton_ref.numerics import Precision, bounds, bounds_softmax
from lepton_ref.ops import activation as activation_module
from lepton_ref.ops.attention import attention_scalar
from lepton_ref.ops.embed import embed_scalar
from lepton_ref.ops.layer_norm import layer_norm_scalar
from lepton_ref.ops.linear import linear_scalar
from lepton_ref.ops.pool import pool_scalar
from lepton_ref.ops.residual import add_scalar
from lepton_ref.ops.rms_norm import rms_norm_scalar
from lepton_ref.ops.rope import rope_scalar
from lepton_ref.ops.softcap import softcap_scalar
from lepton_ref.ops.softmax import log_softmax_scalar, softmax_scalar
from lepton_ref.storage import Dense

Sizes = dict[str, int]
Host = NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """One call of an op: its inputs, and what they should give.

    Attributes:
        run: the op on a backend at a precision, its output brought to the host.
        twin: the scalar form's output as float64.
        bound: how far a float64 evaluation may lie from the exact value.
        inputs: the float inputs, for a test to look at.
    """

    run: Callable[[Backend, Precision], Host]
    twin: Callable[[], Host]
    bound: Callable[[], Host]
    inputs: tuple[Host, ...]


@dataclass(frozen=True)
class Case:
    """An op with the axes that it has, and how a call of it is drawn."""

    name: str
    op: Callable[..., Any]
    letters: str
    draw: Callable[[Sizes, Fill], Drawn]


def dense(array: Host) -> Dense:
    return Dense(array, format="F64" if array.dtype == np.float64 else "F32")


def each_position(x: Host, one: Callable[[list[float]], list[float]]) -> Host:
    """A scalar twin of one position, over all leading axes."""
    flat = x.astype(np.float64).reshape(-1, x.shape[-1])
    rows = [one(row.tolist()) for row in flat]
    return np.array(rows, dtype=np.float64).reshape(*x.shape[:-1], -1)


def ieee_product(a: Host, b: Host) -> Host:
    """Of float64 values, special ones in silence."""
    with np.errstate(all="ignore"):
        return np.asarray(a.astype(np.float64) * b.astype(np.float64))


def _elementwise(
    op: Callable[..., Any], twin: Callable[[list[float]], list[float]], bound: Callable[..., Host], **options: Any
) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        x = fill(tuple(sizes.values()))
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                op(backend.from_numpy(x), **options, backend=backend, precision=precision)
            ),
            twin=lambda: each_position(x, twin),
            bound=lambda: bound(x, **options),
            inputs=(x,),
        )

    return draw


def _gated(kind: str) -> Callable[[Sizes, Fill], Drawn]:
    one = activation_module.SCALARS[kind]

    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        gate, up = fill(tuple(sizes.values())), fill(tuple(sizes.values()))
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                ops.gated(
                    backend.from_numpy(gate), backend.from_numpy(up), kind=kind, backend=backend, precision=precision
                )
            ),
            twin=lambda: ieee_product(each_position(gate, lambda row: [one(x) for x in row]), up),
            bound=lambda: bounds.gated_bound(gate, up, kind=kind),
            inputs=(gate, up),
        )

    return draw


def _linear(bias: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, i, o = (sizes[letter] for letter in "btio")
        x, w = fill((b, t, i)), fill((o, i))
        b_o = fill((o,)) if bias else None
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                ops.linear(
                    backend.from_numpy(x),
                    dense(w),
                    None if b_o is None else backend.from_numpy(b_o),
                    backend=backend,
                    precision=precision,
                )
            ),
            twin=lambda: each_position(
                x, lambda row: linear_scalar(row, w.tolist(), None if b_o is None else b_o.tolist())
            ),
            bound=lambda: bounds.linear_bound(x, w, b_o),
            inputs=(x, w) if b_o is None else (x, w, b_o),
        )

    return draw


def _embed(sizes: Sizes, fill: Fill) -> Drawn:
    b, t, v, d = (sizes[letter] for letter in "btvd")
    table, scale = fill((v, d)), math.sqrt(d)
    ids = np.random.default_rng(v).integers(0, v, (b, t))
    return Drawn(
        run=lambda backend, precision: backend.to_numpy(
            ops.embed(ids, dense(table), scale=scale, backend=backend, precision=precision)
        ),
        twin=lambda: np.array([[embed_scalar(int(i), table.tolist(), scale=scale) for i in row] for row in ids]),
        bound=lambda: bounds.embed_bound(table[ids], scale=scale),
        inputs=(table,),
    )


def _add(sizes: Sizes, fill: Fill) -> Drawn:
    x, f = fill(tuple(sizes.values())), fill(tuple(sizes.values()))
    return Drawn(
        run=lambda backend, precision: backend.to_numpy(
            ops.add(backend.from_numpy(x), backend.from_numpy(f), backend=backend, precision=precision)
        ),
        twin=lambda: np.array(add_scalar(x.ravel().tolist(), f.ravel().tolist())).reshape(x.shape),
        bound=lambda: bounds.add_bound(x, f),
        inputs=(x, f),
    )


def _rms_norm(offset: float) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        x, w = fill(tuple(sizes.values())), fill((sizes["d"],))
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                ops.rms_norm(
                    backend.from_numpy(x),
                    backend.from_numpy(w),
                    eps=1e-6,
                    offset=offset,
                    backend=backend,
                    precision=precision,
                )
            ),
            twin=lambda: each_position(x, lambda row: rms_norm_scalar(row, w.tolist(), eps=1e-6, offset=offset)),
            bound=lambda: bounds.rms_norm_bound(x, w, eps=1e-6, offset=offset),
            inputs=(x, w),
        )

    return draw


def _layer_norm(bias: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        x, w = fill(tuple(sizes.values())), fill((sizes["d"],))
        w = np.where(np.isinf(w), np.float32(1), w)  # ∞ times what cancels to a rounding has either sign
        b = fill((sizes["d"],)) if bias else None
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                ops.layer_norm(
                    backend.from_numpy(x),
                    backend.from_numpy(w),
                    None if b is None else backend.from_numpy(b),
                    eps=1e-5,
                    backend=backend,
                    precision=precision,
                )
            ),
            twin=lambda: each_position(
                x, lambda row: layer_norm_scalar(row, w.tolist(), None if b is None else b.tolist(), eps=1e-5)
            ),
            bound=lambda: bounds.layer_norm_bound(x, w, b, eps=1e-5),
            inputs=(x, w) if b is None else (x, w, b),
        )

    return draw


def _rope(interleaved: bool, factor: float) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, h, k = (sizes[letter] for letter in "bthk")
        pairs = (k + 2) // 2  # half of a width of 2·pairs + k % 3, so that some heads have numbers that do not turn
        x = fill((b, t, h, 2 * pairs + k % 3))
        positions = np.random.default_rng(k).integers(0, 5000, (b, t))
        frequencies = np.array([10000.0 ** (-j / pairs) for j in range(pairs)])

        def run(backend: Backend, precision: Precision) -> Host:
            cos, sin = ops.rope_tables(positions, frequencies, factor=factor, backend=backend)
            turned = ops.rope(
                backend.from_numpy(x), cos, sin, interleaved=interleaved, backend=backend, precision=precision
            )
            return backend.to_numpy(turned)

        def twin() -> Host:
            y = np.empty(x.shape)
            for at in np.ndindex(b, t, h):
                y[at] = rope_scalar(
                    x[at].tolist(), int(positions[at[:2]]), frequencies.tolist(), factor=factor, interleaved=interleaved
                )
            return y

        return Drawn(
            run=run,
            twin=twin,
            bound=lambda: bounds.rope_bound(x, positions, frequencies, factor=factor, interleaved=interleaved),
            inputs=(x,),
        )

    return draw


def _attention(cap: float | None, sinks: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, r, s, g, k = (sizes[letter] for letter in "btrsgk")
        q, keys, values = fill((b, t, r * g, k)), fill((b, s, g, k)), fill((b, s, g, k + 1))
        sink = fill((r * g,)) if sinks else None
        mask = np.random.default_rng(s).random((b, t, s)) < 0.6
        options: dict[str, Any] = {"scale": 1 / math.sqrt(k), "cap": cap}

        def run(backend: Backend, precision: Precision) -> Host:
            arrays = [backend.from_numpy(array) for array in (q, keys, values, mask)]
            sent = None if sink is None else backend.from_numpy(sink)
            return backend.to_numpy(ops.attention(*arrays, sent, **options, backend=backend, precision=precision))

        def twin() -> Host:
            y = np.empty((b, t, r * g, k + 1))
            for batch, query, head in np.ndindex(b, t, r * g):
                group = head // r
                y[batch, query, head] = attention_scalar(
                    q[batch, query, head].tolist(),
                    keys[batch, :, group].tolist(),
                    values[batch, :, group].tolist(),
                    mask[batch, query].tolist(),
                    sink=None if sink is None else float(sink[head]),
                    **options,
                )
            return y

        return Drawn(
            run=run,
            twin=twin,
            bound=lambda: bounds_softmax.attention_bound(q, keys, values, mask, sink, **options),
            inputs=(q, keys, values) if sink is None else (q, keys, values, sink),
        )

    return draw


def _pool(kind: str, normalise: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, d = (sizes[letter] for letter in "btd")
        x = fill((b, t, d))
        mask = np.random.default_rng(t).random((b, t)) < 0.6
        mask[:, -1] |= ~mask.any(axis=1)
        options: dict[str, Any] = {"kind": kind, "normalise": normalise}
        return Drawn(
            run=lambda backend, precision: backend.to_numpy(
                ops.pool(
                    backend.from_numpy(x), backend.from_numpy(mask), **options, backend=backend, precision=precision
                )
            ),
            twin=lambda: np.array(
                [pool_scalar(rows.tolist(), seen.tolist(), **options) for rows, seen in zip(x, mask, strict=True)]
            ),
            bound=lambda: bounds.pool_bound(x, mask, **options),
            inputs=(x,),
        )

    return draw


def _activation(kind: str) -> Callable[[Sizes, Fill], Drawn]:
    one = activation_module.SCALARS[kind]
    return _elementwise(ops.activate, lambda row: [one(x) for x in row], bounds.activation_bound, kind=kind)


CASES: tuple[Case, ...] = (
    Case("embed", ops.embed, "btvd", _embed),
    Case("linear", ops.linear, "btio", _linear(bias=False)),
    Case("linear with a bias", ops.linear, "btio", _linear(bias=True)),
    Case("rms_norm", ops.rms_norm, "btd", _rms_norm(0.0)),
    Case("rms_norm with an offset", ops.rms_norm, "btd", _rms_norm(1.0)),
    Case("rms_norm of heads", ops.rms_norm, "bthd", _rms_norm(0.0)),
    Case("layer_norm", ops.layer_norm, "btd", _layer_norm(bias=False)),
    Case("layer_norm with a bias", ops.layer_norm, "btd", _layer_norm(bias=True)),
    Case("rope, halves", ops.rope, "bthk", _rope(False, 1.0)),
    Case("rope, interleaved and scaled", ops.rope, "bthk", _rope(True, 1.25)),
    Case("attention", ops.attention, "btrsgk", _attention(None, sinks=False)),
    Case("attention with a cap", ops.attention, "btrsgk", _attention(2.0, sinks=False)),
    Case("attention with sinks", ops.attention, "btrsgk", _attention(None, sinks=True)),
    *(Case(kind, ops.activate, "btf", _activation(kind)) for kind in activation_module.ACTIVATIONS),
    *(Case(f"gated {kind}", ops.gated, "btf", _gated(kind)) for kind in ("relu", "silu", "gelu", "gelu_tanh")),
    Case("softcap", ops.softcap, "btv", _elementwise(ops.softcap, lambda row: softcap_scalar(row, cap=3.0), bounds.softcap_bound, cap=3.0)),  # noqa: E501 - a row of a table
    Case("softmax", ops.softmax, "btv", _elementwise(ops.softmax, softmax_scalar, bounds_softmax.softmax_bound)),
    Case("log_softmax", ops.log_softmax, "btv", _elementwise(ops.log_softmax, log_softmax_scalar, bounds_softmax.log_softmax_bound)),  # noqa: E501 - a row of a table
    Case("add", ops.add, "btd", _add),
    *(
        Case(f"pool {kind}{', normalised' if normalise else ''}", ops.pool, "btd", _pool(kind, normalise))
        for kind in ("mean", "cls", "max")
        for normalise in (False, True)
    ),
)  # fmt: skip
"""Every public op that computes, each option that changes its formula."""

BY_NAME = {case.name: case for case in CASES}
