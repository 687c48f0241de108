"""Every public op as a case: how to draw its inputs, run it, and what the specification says that it gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from strategies import Fill

from lepton_ref import ops
from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision
from lepton_ref.plain import ops as plain
from lepton_ref.plain import quantise
from lepton_ref.plain.real import Value, rounded
from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.encoded import as_operand

Sizes = dict[str, int]
Host = NDArray[Any]
Values = NDArray[np.object_]
"""The specification's values, real numbers not yet rounded, of an op's output shape."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One call of an op: its inputs, and what they should give.

    Attributes:
        on: the op on arrays such as `inputs`, on a backend at a precision, its output brought to the host.
        values: from what linear layers multiply, as `Precision.operands` names it, to the specification's values.
        inputs: the arrays.
    """

    on: Callable[[tuple[Host, ...], Backend, Precision], Host]
    values: Callable[[str], Values]
    inputs: tuple[Host, ...]

    def run(self, backend: Backend, precision: Precision) -> Host:
        """The op on its inputs."""
        return self.on(self.inputs, backend, precision)


@dataclass(frozen=True)
class Case:
    """An op with the axes that it has, and how a call of it is drawn."""

    name: str
    op: Callable[..., Any]
    letters: str
    draw: Callable[[Sizes, Fill], Drawn]


def want(values: Values, precision: Precision) -> Host:
    """Each value rounded once to the precision's activations, in the array that holds them."""
    exact = [rounded(value, precision.activations) for value in values.ravel()]
    return np.array(exact, dtype=np.float64).astype(precision.dtype).reshape(values.shape)


def dense(array: Host) -> Dense:
    """A weight in the array's own format."""
    return Dense(array, format="F64" if array.dtype == np.float64 else "F32")


def as_values(rows: list[Any], shape: tuple[int, ...]) -> Values:
    """A flat list of values, or of rows of values, as an array of that shape."""
    flat = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(shape)


def each_position(x: Host, one: Callable[[list[float]], list[Value]]) -> Values:
    """The specification of one position, over all leading axes."""
    rows = [one(row) for row in x.astype(np.float64).reshape(-1, x.shape[-1]).tolist()]
    width = len(rows[0]) if rows else x.shape[-1]
    return as_values(rows, (*x.shape[:-1], width))


def bits(array: Host) -> Host:
    """A float array's bits as integers."""
    return array.view({4: np.uint32, 8: np.uint64}[array.itemsize])


def assert_bits(call: Drawn, precision: Precision, backend: Backend, *, most: int = 40) -> Host:
    """The op gives the specification's bits, at up to `most` evenly spaced places; its whole output is returned."""
    got, values = call.run(backend, precision), call.values(precision.operands)
    assert got.dtype == precision.dtype
    assert got.shape == values.shape
    step = max(1, -(-got.size // most))
    found, wanted = got.ravel()[::step], want(values.ravel()[::step], precision)
    for at in np.flatnonzero(bits(found) != bits(wanted)):
        place = tuple(int(axis) for axis in np.unravel_index(at * step, got.shape))
        raise AssertionError(f"{precision.name}: at {place} got {found[at]!r}, want {wanted[at]!r}")
    return got


def drawn(
    call: Callable[..., Array], arrays: tuple[Host | None, ...], values: Callable[[], Values], **options: Any
) -> Drawn:
    """A call whose inputs are arrays, some perhaps left out, and whose values do not depend on operands."""

    def on(inputs: tuple[Host, ...], backend: Backend, precision: Precision) -> Host:
        given = iter(inputs)
        sent = [None if array is None else backend.from_numpy(next(given)) for array in arrays]
        return backend.to_numpy(call(*sent, **options, backend=backend, precision=precision))

    kept = functools.cache(values)
    return Drawn(on, lambda operands: kept(), tuple(array for array in arrays if array is not None))


# --- one function an op: the inputs themselves, so that a test may choose them ----------------------------------------


def linear(
    x: Host, w: Host, b: Host | None = None, *, module: Any = ops, weight: Callable[[Host], Weight] = dense
) -> Drawn:
    """x·wᵀ + b, w stored as it is and encoded where a precision says so."""

    def on(inputs: tuple[Host, ...], backend: Backend, precision: Precision) -> Host:
        x, w, *rest = inputs
        stored = as_operand(weight(w), precision.operands)
        biases = [backend.from_numpy(bias) for bias in rest]
        y = module.linear(backend.from_numpy(x), stored, *biases, backend=backend, precision=precision)
        return backend.to_numpy(y)

    @functools.cache
    def values(operands: str) -> Values:
        rows = [quantise.weights(row, operands) for row in w.tolist()]
        bias = None if b is None else b.tolist()
        return each_position(x, lambda row: plain.linear(quantise.activations(row, operands), rows, bias))

    return Drawn(on, values, (x, w) if b is None else (x, w, b))


def embed(ids: NDArray[np.int64], table: Host, scale: float, *, module: Any = ops) -> Drawn:
    """Rows of a table, scaled."""
    rows = table.astype(np.float64).tolist()
    return Drawn(
        on=lambda inputs, backend, precision: backend.to_numpy(
            module.embed(ids, dense(inputs[0]), scale=scale, backend=backend, precision=precision)
        ),
        values=lambda operands: as_values(
            [plain.embed(int(token), rows, scale=scale) for token in ids.ravel()], (*ids.shape, table.shape[1])
        ),
        inputs=(table,),
    )


def add(x: Host, f: Host, *, module: Any = ops) -> Drawn:
    """x + f."""
    return drawn(module.add, (x, f), lambda: as_values(plain.add(x.ravel().tolist(), f.ravel().tolist()), x.shape))


def rms_norm(x: Host, w: Host, *, eps: float, offset: float = 0.0, module: Any = ops) -> Drawn:
    """A norm without a mean."""

    def one(row: list[float]) -> list[Value]:
        return plain.rms_norm(row, w.tolist(), eps=eps, offset=offset)

    return drawn(module.rms_norm, (x, w), lambda: each_position(x, one), eps=eps, offset=offset)


def layer_norm(x: Host, w: Host, b: Host | None, *, eps: float, module: Any = ops) -> Drawn:
    """A norm with a mean."""

    def one(row: list[float]) -> list[Value]:
        return plain.layer_norm(row, w.tolist(), None if b is None else b.tolist(), eps=eps)

    return drawn(module.layer_norm, (x, w, b), lambda: each_position(x, one), eps=eps)


def rope(
    x: Host, positions: NDArray[np.int64], record: ops.Rope, length: int = 0, *, module: Any = ops, tables: Any = ops
) -> Drawn:
    """(B, T, H, K), (B, T): heads turned by their positions' angles."""

    @functools.lru_cache(maxsize=1)
    def turned(backend: Backend) -> Any:
        return tables.rope_tables(positions, record, lengths=np.array([length]), backend=backend)

    def on(inputs: tuple[Host, ...], backend: Backend, precision: Precision) -> Host:
        y = module.rope(backend.from_numpy(inputs[0]), turned(backend), backend=backend, precision=precision)
        return backend.to_numpy(y)

    @functools.cache
    def values() -> Values:
        rows = []
        for b, t, h in np.ndindex(*x.shape[:3]):
            position = int(positions[min(b, len(positions) - 1), t])
            rows.append(plain.rope(x[b, t, h].tolist(), position, record, length=length))
        return as_values(rows, x.shape)

    return Drawn(on, lambda operands: values(), (x,))


def attention(
    q: Host, keys: Host, values: Host, mask: Host, sinks: Host | None = None,
    *, scale: float, cap: float | None = None, module: Any = ops,
) -> Drawn:  # fmt: skip
    """(B, T, H, K), (B, S, G, K), (B, S, G, L), (B, T, S), (H)."""
    per_group = q.shape[2] // keys.shape[2]

    def exact() -> Values:
        rows = []
        for b, t, h in np.ndindex(*q.shape[:3]):
            seen, g = mask[b, t].tolist(), h // per_group
            sink = None if sinks is None else float(sinks[h])
            sequence = (keys[b, :, g].tolist(), values[b, :, g].tolist(), seen)
            rows.append(plain.attention(q[b, t, h].tolist(), *sequence, scale=scale, cap=cap, sink=sink))
        return as_values(rows, (*q.shape[:3], values.shape[-1]))

    return drawn(module.attention, (q, keys, values, mask, sinks), exact, scale=scale, cap=cap)


def activation(x: Host, kind: str, *, module: Any = ops) -> Drawn:
    """activation(x)."""
    return drawn(module.activate, (x,), lambda: as_values(plain.activate(x.ravel().tolist(), kind), x.shape), kind=kind)


def gated(gate: Host, up: Host, kind: str, *, module: Any = ops) -> Drawn:
    """activation(gate)·up."""

    def exact() -> Values:
        return as_values(plain.gated(gate.ravel().tolist(), up.ravel().tolist(), kind), gate.shape)

    return drawn(module.gated, (gate, up), exact, kind=kind)


def softcap(x: Host, cap: float, *, module: Any = ops) -> Drawn:
    """cap·tanh(x/cap)."""
    return drawn(module.softcap, (x,), lambda: as_values(plain.softcap(x.ravel().tolist(), cap), x.shape), cap=cap)


def softmax(x: Host, *, module: Any = ops) -> Drawn:
    """Over the last axis."""
    return drawn(module.softmax, (x,), lambda: each_position(x, plain.softmax))


def log_softmax(x: Host, *, module: Any = ops) -> Drawn:
    """Over the last axis."""
    return drawn(module.log_softmax, (x,), lambda: each_position(x, plain.log_softmax))


def log_softmax_at(x: Host, index: NDArray[np.int64], *, module: Any = ops) -> Drawn:
    """(B, T, V), (B, T): at one place of each row."""

    def on(inputs: tuple[Host, ...], backend: Backend, precision: Precision) -> Host:
        y = module.log_softmax_at(backend.from_numpy(inputs[0]), index, backend=backend, precision=precision)
        return backend.to_numpy(y)

    @functools.cache
    def values() -> Values:
        return np.take_along_axis(each_position(x, plain.log_softmax), index[..., None], axis=-1)[..., 0]

    return Drawn(on, lambda operands: values(), (x,))


def pool(x: Host, mask: Host, *, kind: str, normalise: bool, module: Any = ops) -> Drawn:
    """(B, T, D), (B, T)."""

    def exact() -> Values:
        rows = [
            plain.pool(each[seen].tolist(), kind=kind, normalise=normalise) for each, seen in zip(x, mask, strict=True)
        ]
        return as_values(rows, (x.shape[0], x.shape[2]))

    return drawn(module.pool, (x, mask), exact, kind=kind, normalise=normalise)


# --- the cases: inputs drawn by shape ---------------------------------------------------------------------------------


def _linear(sizes: Sizes, fill: Fill) -> Drawn:
    b, t, i, o = (sizes[letter] for letter in "btio")
    return linear(fill((b, t, i)), fill((o, i)))


def _linear_with_bias(sizes: Sizes, fill: Fill) -> Drawn:
    b, t, i, o = (sizes[letter] for letter in "btio")
    return linear(fill((b, t, i)), fill((o, i)), fill((o,)))


def _embed(sizes: Sizes, fill: Fill) -> Drawn:
    b, t, v, d = (sizes[letter] for letter in "btvd")
    return embed(np.random.default_rng(v).integers(0, v, (b, t)), fill((v, d)), math.sqrt(d))


def _add(sizes: Sizes, fill: Fill) -> Drawn:
    return add(fill(tuple(sizes.values())), fill(tuple(sizes.values())))


def _rms_norm(eps: float, offset: float) -> Callable[[Sizes, Fill], Drawn]:
    return lambda sizes, fill: rms_norm(fill(tuple(sizes.values())), fill((sizes["d"],)), eps=eps, offset=offset)


def _layer_norm(bias: bool, eps: float) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        x, w = fill(tuple(sizes.values())), fill((sizes["d"],))
        return layer_norm(x, w, fill((sizes["d"],)) if bias else None, eps=eps)

    return draw


def _rope(interleaved: bool, **options: Any) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, h, k = (sizes[letter] for letter in "bthk")
        width = 2 * ((k + 4) // 2)
        x = fill((b, t, h, width + k % 3))  # some heads have numbers that do not turn
        positions = np.random.default_rng(k).integers(0, 5000, (b, t))
        positions[0, 0] = 0
        record = ops.Rope(theta=10000.0, width=width, interleaved=interleaved, **options)
        return rope(x, positions, record, length=5000)

    return draw


def _attention(cap: float | None, sinks: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, r, s, g, k = (sizes[letter] for letter in "btrsgk")
        q, keys, values = fill((b, t, r * g, k)), fill((b, s, g, k)), fill((b, s, g, k + 1))
        sink = fill((r * g,)) if sinks else None
        mask = np.random.default_rng(s).random((b, t, s)) < 0.6
        return attention(q, keys, values, mask, sink, scale=1 / math.sqrt(k), cap=cap)

    return draw


def _log_softmax_at(sizes: Sizes, fill: Fill) -> Drawn:
    b, t, v = (sizes[letter] for letter in "btv")
    return log_softmax_at(fill((b, t, v)), np.random.default_rng(v).integers(0, v, (b, t)))


def _pool(kind: str, normalise: bool) -> Callable[[Sizes, Fill], Drawn]:
    def draw(sizes: Sizes, fill: Fill) -> Drawn:
        b, t, d = (sizes[letter] for letter in "btd")
        mask = np.random.default_rng(t).random((b, t)) < 0.6
        mask[:, -1] |= ~mask.any(axis=1)
        return pool(fill((b, t, d)), mask, kind=kind, normalise=normalise)

    return draw


def _whole(one: Callable[..., Drawn], arrays: int = 1, **options: Any) -> Callable[[Sizes, Fill], Drawn]:
    return lambda sizes, fill: one(*(fill(tuple(sizes.values())) for _ in range(arrays)), **options)


CASES: tuple[Case, ...] = (
    Case("embed", ops.embed, "btvd", _embed),
    Case("linear", ops.linear, "btio", _linear),
    Case("linear with a bias", ops.linear, "btio", _linear_with_bias),
    Case("rms_norm", ops.rms_norm, "btd", _rms_norm(1e-6, 0.0)),
    Case("rms_norm with an offset", ops.rms_norm, "btd", _rms_norm(1e-6, 1.0)),
    Case("rms_norm without epsilon", ops.rms_norm, "btd", _rms_norm(0.0, 0.0)),
    Case("rms_norm of heads", ops.rms_norm, "bthd", _rms_norm(2.0**-20, 0.0)),
    Case("layer_norm", ops.layer_norm, "btd", _layer_norm(bias=False, eps=1e-5)),
    Case("layer_norm with a bias", ops.layer_norm, "btd", _layer_norm(bias=True, eps=1e-5)),
    Case("layer_norm without epsilon", ops.layer_norm, "btd", _layer_norm(bias=True, eps=0.0)),
    Case("rope, halves", ops.rope, "bthk", _rope(False)),
    Case("rope, interleaved and stretched", ops.rope, "bthk", _rope(True, kind="linear", factor=8.0)),
    Case("rope, scaled", ops.rope, "bthk", _rope(False, kind="yarn", factor=4.0, original_length=1024)),
    Case("rope, by the length", ops.rope, "bthk", _rope(True, kind="dynamic", factor=2.0, original_length=64)),
    Case("attention", ops.attention, "btrsgk", _attention(None, sinks=False)),
    Case("attention with a cap", ops.attention, "btrsgk", _attention(2.0, sinks=False)),
    Case("attention with sinks", ops.attention, "btrsgk", _attention(None, sinks=True)),
    Case("attention with both", ops.attention, "btrsgk", _attention(50.0, sinks=True)),
    *(Case(kind, ops.activate, "btf", _whole(activation, kind=kind)) for kind in plain.ACTIVATIONS),
    *(Case(f"gated {kind}", ops.gated, "btf", _whole(gated, 2, kind=kind)) for kind in plain.ACTIVATIONS),
    Case("softcap", ops.softcap, "btv", _whole(softcap, cap=3.0)),
    Case("softcap of 30", ops.softcap, "btv", _whole(softcap, cap=30.0)),
    Case("softmax", ops.softmax, "btv", _whole(softmax)),
    Case("log_softmax", ops.log_softmax, "btv", _whole(log_softmax)),
    Case("log_softmax at a place", ops.log_softmax_at, "btv", _log_softmax_at),
    Case("add", ops.add, "btd", _add),
    *(
        Case(f"pool {kind}{', normalised' if normalise else ''}", ops.pool, "btd", _pool(kind, normalise))
        for kind in ("mean", "cls", "max")
        for normalise in (False, True)
    ),
)
"""Every public op that computes, each option that changes its formula."""

BY_NAME = {case.name: case for case in CASES}
