"""Run a program: a loop over its ops, each handed to the function of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.interface import Array, Backend
from lepton_ref.models.batch import Batch, Cache
from lepton_ref.models.program import Op, Program
from lepton_ref.numerics import Precision
from lepton_ref.ops.base import silence
from lepton_ref.ops.checks import as_read
from lepton_ref.storage import Weight
from lepton_ref.storage.kept import join


@dataclass(frozen=True)
class Join:
    """Linear ops that read the same value, as one.

    Attributes:
        ops: the ops, next to one another in the program.
        weight: their matrices, one below the other.
        bias: their biases, one after the other; None where they have none.
    """

    ops: tuple[Op, ...]
    weight: Weight
    bias: Array | None


def joins(
    program: Program,
    weights: Mapping[str, Weight],
    vectors: Mapping[str, Array],
    *,
    backend: Backend,
    precision: Precision,
) -> dict[str, Join]:
    """The linear ops that can run as one, by the name of the first: q, k and v, or gate and up, as a rule.

    It is the same function with fewer calls, which matters where one token is decoded at a time.
    """
    found = {}
    for _, group in groupby(program.ops, key=lambda op: (op.kind, op.inputs, precision.at(op.name))):
        together = tuple(group)
        biases = [vectors[op.weights["b"]] for op in together if "b" in op.weights]
        on_machine = precision.at(together[0].name).machine is not None  # which counts output features
        if together[0].kind != "linear" or len(together) < 2 or len(biases) not in (0, len(together)) or on_machine:
            continue
        matrices = [weights[op.weights["w"]] for op in together]
        if precision.at(together[0].name).operands == "ggml" and len({matrix.format for matrix in matrices}) > 1:
            continue  # what a row is multiplied by depends on its format
        weight = join(matrices)
        if weight is not None:
            bias = backend.xp.concat(biases, axis=0) if biases else None
            found[together[0].name] = Join(together, weight, bias)
    return found


@dataclass
class Run:
    """One run in progress.

    Attributes:
        weights: matrices, as stored.
        vectors: biases and norm weights, decoded on the backend.
        batch: the inputs.
        cache: earlier keys and values, or None.
        joins: linear ops that run as one, by the name of the first.
        ready: outputs that were computed together with an earlier op's.
        layer: how many attention ops have used the cache so far.
        tables: RoPE's tables by record, shared by all layers.
        masks: who sees whom, by causality, window and number of keys: layers of one window keep the same keys.
        memo: what a backend's kernel of whole programs keeps from one run to the next.
        threads: how many threads it may use; None leaves its own choice.
        limit: the context in which BLAS keeps to as many; see `generic`.
    """

    weights: Mapping[str, Weight]
    vectors: Mapping[str, Array]
    batch: Batch
    cache: Cache | None
    backend: Backend
    precision: Precision
    joins: Mapping[str, Join] = field(default_factory=dict)
    ready: dict[str, Array] = field(default_factory=dict)
    layer: int = 0
    tables: dict[ops.Rope, ops.RopeTables] = field(default_factory=dict)
    masks: dict[tuple[object, ...], Array] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    limit: AbstractContextManager[None] = field(default_factory=nullcontext)

    def how(self, op: Op) -> dict[str, Any]:
        """Where and in which precision the op computes, as keywords of `lepton_ref.ops`."""
        return {"backend": self.backend, "precision": self.precision.at(op.name)}

    def vector(self, op: Op, role: str) -> Array | None:
        """The op's vector of that role, or None where it has none."""
        return self.vectors[op.weights[role]] if role in op.weights else None

    def compute(self, op: Op, *inputs: Array) -> Array:
        """The op's output, by the function of its kind."""
        return HANDLERS[op.kind](self, op, *(as_read(x, **self.how(op)) for x in inputs))

    def seen(self, op: Op, order_bs: NDArray[np.int64], valid_bs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(B, S) twice -> (B, T, S): which of these keys an attention op's queries see."""
        o = op.options
        return ops.attention_mask(self.batch.order, order_bs, valid_bs, causal=o["causal"], window=o["window"])

    @contextmanager
    def generic(self) -> Iterator[None]:
        """What Python computes: in silence, and BLAS within the run's limit."""
        with silence(), self.limit:
            yield

    def turns(self, rope: ops.Rope, positions_bt: NDArray[np.int64], lengths: NDArray[np.int64]) -> ops.RopeTables:
        """(B, T), (B) or (1) -> RoPE's tables for positions and lengths of a kernel's choice."""
        with silence():
            return ops.rope_tables(positions_bt, rope, lengths=lengths, backend=self.backend)


def execute(run: Run, program: Program, *, watch: Callable[[str, Array], None] | None = None) -> Array:
    """-> the output of the program's last op. An intermediate is dropped after its last use.

    Where nobody watches, a backend's kernel under ("program", NoneType), of the run and the program, goes first.

    Args:
        run: inputs, weights, and how to compute.
        program: the op list.
        watch: called with each op's name and output, in order.
    """
    whole = run.backend.kernels.get(("program", type(None))) if watch is None else None
    if whole is not None and (done := whole(run, program)) is not NotImplemented:
        return done
    with run.generic():
        return _op_by_op(run, program, watch)


def _op_by_op(run: Run, program: Program, watch: Callable[[str, Array], None] | None) -> Array:
    last_use = {name: number for number, op in enumerate(program.ops) for name in op.inputs}
    values: dict[str, Array] = {}
    for number, op in enumerate(program.ops):
        values[op.name] = run.compute(op, *(values[name] for name in op.inputs))
        if watch is not None:
            watch(op.name, values[op.name])
        for name in set(op.inputs):
            if last_use[name] == number:
                del values[name]
    return values[program.output]


def _heads(x: Array, heads: int, backend: Backend) -> Array:
    return backend.xp.reshape(x, (x.shape[0], x.shape[1], heads, x.shape[2] // heads))


def _flat(x: Array, backend: Backend) -> Array:
    return backend.xp.reshape(x, (x.shape[0], x.shape[1], x.shape[2] * x.shape[3]))


def _embed(run: Run, op: Op) -> Array:
    ids = run.batch.integers[op.options["of"]] + op.options["offset"]
    table = run.weights[op.weights["w"]]
    return ops.embed(ids, table, scale=op.options["scale"], **run.how(op))


def _linear(run: Run, op: Op, x: Array) -> Array:
    if op.name in run.ready:
        return run.ready.pop(op.name)
    together = run.joins.get(op.name)
    if together is None:
        bias = run.vector(op, "b")
        return ops.linear(x, run.weights[op.weights["w"]], bias, **run.how(op))
    y = ops.linear(x, together.weight, together.bias, **run.how(op))
    start = 0
    for each in together.ops:
        run.ready[each.name] = y[..., start : start + each.width]
        start += each.width
    return run.ready.pop(op.name)


def _rms_norm(run: Run, op: Op, x: Array) -> Array:
    split = _heads(x, op.options["heads"], run.backend)
    y = ops.rms_norm(split, run.vector(op, "w"), eps=op.options["eps"], offset=op.options["offset"], **run.how(op))
    return _flat(y, run.backend)


def _layer_norm(run: Run, op: Op, x: Array) -> Array:
    w, b = run.vector(op, "w"), run.vector(op, "b")
    if w is None:
        w = run.backend.from_numpy(np.ones(op.width))  # OPT's layer_norm_elementwise_affine = false
    return ops.layer_norm(x, w, b, eps=op.options["eps"], **run.how(op))


def _rope(run: Run, op: Op, x: Array) -> Array:
    rope: ops.Rope = op.options["rope"]
    if rope not in run.tables:
        lengths = run.batch.rope_lengths if rope.depends_on_length else run.batch.rope_lengths[:1]
        run.tables[rope] = ops.rope_tables(run.batch.positions, rope, lengths=lengths, backend=run.backend)
    y = ops.rope(_heads(x, op.options["heads"], run.backend), run.tables[rope], **run.how(op))
    return _flat(y, run.backend)


def _attention(run: Run, op: Op, q: Array, k: Array, v: Array) -> Array:
    o = op.options
    q, k, v = (_heads(x, n, run.backend) for x, n in ((q, o["heads"]), (k, o["kv_heads"]), (v, o["kv_heads"])))
    order, valid = run.batch.order, run.batch.mask
    if run.cache is not None:
        k, v, order, valid = run.cache.extend(run.layer, k, v)
        run.layer += 1
    key = (o["causal"], o["window"], order.shape[1])
    if key not in run.masks:
        seen = ops.attention_mask(run.batch.order, order, valid, causal=o["causal"], window=o["window"])
        run.masks[key] = run.backend.from_numpy(np.ascontiguousarray(seen))
    y = ops.attention(q, k, v, run.masks[key], scale=o["scale"], cap=o["cap"], **run.how(op))
    return _flat(y, run.backend)


def _add(run: Run, op: Op, x: Array, f: Array) -> Array:
    return ops.add(x, f, **run.how(op))


def _activate(run: Run, op: Op, x: Array) -> Array:
    return ops.activate(x, kind=op.options["activation"], **run.how(op))


def _gated(run: Run, op: Op, gate: Array, up: Array) -> Array:
    return ops.gated(gate, up, kind=op.options["activation"], **run.how(op))


def _softcap(run: Run, op: Op, x: Array) -> Array:
    return ops.softcap(x, cap=op.options["cap"], **run.how(op))


def _last(run: Run, op: Op, x: Array) -> Array:
    if not run.batch.last_only:
        return x
    mask = run.batch.mask
    return _at(x, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1), run.backend)


def _first(run: Run, op: Op, x: Array) -> Array:
    return _at(x, run.batch.mask.argmax(axis=1), run.backend)


def _at(x: Array, index_b: NDArray[np.int64], backend: Backend) -> Array:
    """(B, T, D), (B) -> (B, 1, D)."""
    return backend.xp.concat([x[b : b + 1, int(t) : int(t) + 1, :] for b, t in enumerate(index_b)], axis=0)


HANDLERS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "embed": _embed,
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
"""Kind of op → how it is run."""
