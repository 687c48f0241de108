"""What is checked: each op as a backend computes it, and as `lepton_ref.plain` says it is.

A subject runs a case's op on a backend, and gives the specification's values of the same case, not yet rounded. The
two share no arithmetic: one side is `lepton_ref.ops` on arrays, the other plain Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref import ops
from lepton_ref.conformance.case import Case, Given
from lepton_ref.conformance.specified import DENSE, minima, specified_rows
from lepton_ref.conformance.stored import stored_weight
from lepton_ref.interface import Array, HostArray
from lepton_ref.plain import ggml, machine_dot, quantise
from lepton_ref.plain import ops as plain
from lepton_ref.plain.formats import round_to
from lepton_ref.storage.encoded import as_operand
from lepton_ref.storage.kept import Kept


@dataclass(frozen=True)
class Subject:
    """One op.

    Attributes:
        run: the op of a case on the backend that its inputs were given to.
        values: the specification's values, as nested lists of the output's shape.
        batched: inputs whose first axis is the batch; none where there is no batch.
        timed: inputs whose second axis is the position, where each position is computed by itself.
    """

    run: Callable[[Given], Array]
    values: Callable[[Case], Any]
    batched: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()


def _how(given: Given) -> dict[str, Any]:
    return {"backend": given.backend, "precision": given.case.how}


def _listed(case: Case, name: str) -> Any:
    """An input as nested lists of floats; None where the case has none."""
    return case.inputs[name].astype(np.float64).tolist() if name in case.inputs else None


def _rows(case: Case, name: str = "x") -> Any:
    """(..., N) -> a flat list of rows."""
    array = case.inputs[name]
    return array.reshape(-1, array.shape[-1]).astype(np.float64).tolist()


def _shaped(case: Case, rows: Any, name: str = "x") -> Any:
    """A list of rows as nested lists of the input's shape; the last axis may differ."""
    flat = np.empty((len(rows), len(rows[0])), dtype=object)
    for index, row in enumerate(rows):
        flat[index] = row
    return flat.reshape(*case.inputs[name].shape[:-1], -1)


def _embed(given: Given) -> Array:
    return ops.embed(given.host("ids"), stored_weight(given.case), scale=given.case.options["scale"], **_how(given))


def _embed_values(case: Case) -> Any:
    ids, scale = case.inputs["ids"], case.options["scale"]
    found, place = np.unique(ids, return_inverse=True)
    table = specified_rows(case, rounded=True, rows=found.tolist())
    places: Any = place.reshape(ids.shape).tolist()
    return [[plain.embed(at, table, scale=scale) for at in line] for line in places]


def _linear(given: Given) -> Array:
    weight, how = stored_weight(given.case), given.case.how
    weight = as_operand(weight, how.operands, encode_all=how.machine is not None)
    if given.case.options["kept"]:
        dtype = np.float32 if how.accumulate == "float32" else np.float64
        weight = Kept(
            weight, backend=given.backend, room=np.empty((weight.shape[0], weight.operand_width), dtype=dtype)
        )
    return ops.linear(given("x"), weight, given("b"), **_how(given))


def _linear_values(case: Case) -> Any:
    how, matrix, bias = case.how, _matrix(case), _listed(case, "b")
    rows = [quantise.activations(row, how.operands, case.options["storage"]) for row in _rows(case)]
    if how.machine is None:
        return _shaped(case, [plain.linear(row, matrix, bias) for row in rows])
    biases = [None] * len(matrix) if bias is None else bias
    numbers = list(enumerate(zip(matrix, biases, strict=True)))
    return _shaped(
        case, [[machine_dot.dot(row, w, b, how.machine, feature=o) for o, (w, b) in numbers] for row in rows]
    )


def _matrix(case: Case) -> list[list[float]]:
    """What a linear layer multiplies by, as rows of floats."""
    operands, storage = case.how.operands, case.options["storage"]
    if storage in DENSE:
        return [quantise.weights(row, operands) for row in specified_rows(case, rounded=True)]
    matrix = specified_rows(case, rounded=operands in ("stored", "fp8"))
    if operands == "ggml" and ggml.BLOCKS[storage] == "Q8_1":
        return [row + least for row, least in zip(matrix, minima(case), strict=True)]
    return matrix


def _rms_norm(given: Given) -> Array:
    o = given.case.options
    return ops.rms_norm(given("x"), given("w"), eps=o["eps"], offset=o["offset"], **_how(given))


def _rms_norm_values(case: Case) -> Any:
    o, w = case.options, _listed(case, "w")
    return _shaped(case, [plain.rms_norm(row, w, eps=o["eps"], offset=o["offset"]) for row in _rows(case)])


def _layer_norm(given: Given) -> Array:
    return ops.layer_norm(given("x"), given("w"), given("b"), eps=given.case.options["eps"], **_how(given))


def _layer_norm_values(case: Case) -> Any:
    w, b = _listed(case, "w"), _listed(case, "b")
    return _shaped(case, [plain.layer_norm(row, w, b, eps=case.options["eps"]) for row in _rows(case)])


def rope_record(case: Case) -> ops.Rope:
    """How a case rotates: its option "rope", the fields of the record.

    Raises:
        ValueError: a rotary width beyond the head's: a damaged capsule, since none is drawn.
    """
    if case.options["rope"]["width"] > case.inputs["x"].shape[-1]:
        raise ValueError(f"the rotary width {case.options['rope']['width']} exceeds the head width")
    fields: dict[str, Any] = {}
    for name, value in case.options["rope"].items():
        fields[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    return ops.Rope(**fields)


def _rope(given: Given) -> Array:
    lengths = given.host("lengths") if "lengths" in given.case.inputs else None
    record = rope_record(given.case)
    tables = ops.rope_tables(given.host("positions"), record, lengths=lengths, backend=given.backend)
    return ops.rope(given("x"), tables, **_how(given))


def _rope_values(case: Case) -> Any:
    record, x, positions = rope_record(case), case.inputs["x"].astype(np.float64), case.inputs["positions"]
    lengths = case.inputs.get("lengths", np.zeros(len(x), dtype=np.int64))
    values = np.empty(x.shape, dtype=object)
    for b, t, h in np.ndindex(*x.shape[:3]):
        values[b, t, h] = plain.rope(x[b, t, h].tolist(), int(positions[b, t]), record, length=int(lengths[b]))
    return values


def _attention(given: Given) -> Array:
    o = given.case.options
    arrays = [given(name) for name in ("q", "k", "v", "mask", "sinks")]
    return ops.attention(*arrays, scale=o["scale"], cap=o["cap"], **_how(given))


def _attention_values(case: Case) -> Any:
    q, k, v, mask = (case.inputs[name] for name in ("q", "k", "v", "mask"))
    sinks, o = _listed(case, "sinks"), case.options
    values = np.empty((*q.shape[:3], v.shape[-1]), dtype=object)
    for b, t, h in np.ndindex(*q.shape[:3]):
        g = h * k.shape[2] // q.shape[2]
        query, keys, numbers = (_attended(array, case) for array in (q[b, t, h], k[b, :, g], v[b, :, g]))
        sink = None if sinks is None else sinks[h]
        seen = mask[b, t].tolist()
        values[b, t, h] = plain.attention(query, keys, numbers, seen, scale=o["scale"], cap=o["cap"], sink=sink)
    return values


def _attended(array: HostArray, case: Case) -> Any:
    """Lists of the numbers as the precision lets attention take them."""
    if case.how.attended is None:
        return array.astype(np.float64).tolist()
    rounded = [round_to(float(x), case.how.attended) for x in array.ravel()]
    return np.array(rounded, dtype=np.float64).reshape(array.shape).tolist()


def _pool(given: Given) -> Array:
    o = given.case.options
    return ops.pool(given("x"), given("mask"), kind=o["kind"], normalise=o["normalise"], **_how(given))


def _pool_values(case: Case) -> Any:
    o = case.options
    seen = [rows[mask] for rows, mask in zip(case.inputs["x"].astype(np.float64), case.inputs["mask"], strict=True)]
    return [plain.pool(rows.tolist(), kind=o["kind"], normalise=o["normalise"]) for rows in seen]


def _log_softmax_at(given: Given) -> Array:
    return ops.log_softmax_at(given("x"), given.host("index"), **_how(given))


def _log_softmax_at_values(case: Case) -> Any:
    index = case.inputs["index"]
    rows = zip(_rows(case), index.ravel().tolist(), strict=True)
    values = np.empty(index.size, dtype=object)
    values[:] = [plain.log_softmax(row)[at] for row, at in rows]
    return values.reshape(index.shape)


def _by_row(run: Callable[..., Array], value: Callable[..., Any], *names: str, **renamed: str) -> Subject:
    """An op that takes the arrays of these names and computes each row by itself; its options by their other names."""

    def values(case: Case) -> Any:
        options = [case.options[renamed[name]] for name in renamed]
        rows = zip(*(_rows(case, name) for name in names), strict=True)
        return _shaped(case, [value(*row, *options) for row in rows], names[0])

    def on_backend(given: Given) -> Array:
        options = {name: given.case.options[option] for name, option in renamed.items()}
        return run(*(given(name) for name in names), **options, **_how(given))

    return Subject(on_backend, values, names, names)


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        "embed": Subject(_embed, _embed_values, ("ids",), ("ids",)),
        "linear": Subject(_linear, _linear_values, ("x",), ("x",)),
        "rms_norm": Subject(_rms_norm, _rms_norm_values, ("x",), ("x",)),
        "layer_norm": Subject(_layer_norm, _layer_norm_values, ("x",), ("x",)),
        "rope": Subject(_rope, _rope_values, ("x", "positions", "lengths"), ("x", "positions")),
        "attention": Subject(_attention, _attention_values, ("q", "k", "v", "mask"), ("q", "mask")),
        "activate": _by_row(ops.activate, plain.activate, "x", kind="kind"),
        "gated": _by_row(ops.gated, plain.gated, "gate", "up", kind="kind"),
        "softcap": _by_row(ops.softcap, plain.softcap, "x", cap="cap"),
        "softmax": _by_row(ops.softmax, plain.softmax, "x"),
        "log_softmax": _by_row(ops.log_softmax, plain.log_softmax, "x"),
        "log_softmax_at": Subject(_log_softmax_at, _log_softmax_at_values, ("x", "index"), ("x", "index")),
        "add": _by_row(ops.add, plain.add, "x", "f"),
        "pool": Subject(_pool, _pool_values, ("x", "mask")),
    }
)
"""Op → how it is run and what it is."""
