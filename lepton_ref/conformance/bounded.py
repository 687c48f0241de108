"""How far a result may lie from the exact value under a precision that promises a bound and no bits.

Under `float64` that is any evaluation in float64, under `fast` any in float32, whatever the order: the proofs are in
`lepton_ref.numerics.bounds`, and the inputs are those that the op really had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.conformance.case import Case
from lepton_ref.conformance.stored import stored_weight
from lepton_ref.conformance.subjects import rope_record
from lepton_ref.numerics import bounds

Bound = NDArray[np.float64]


def bound_of(case: Case, *, ulps: float) -> Bound:
    """The bound of each element of the case's output.

    Args:
        case: under a precision without proof.
        ulps: what the backend declares of its exp, log and tanh.
    """
    if case.how.accumulate == "float32":
        how: dict[str, Any] = {"arithmetic": "fp32", "output": "fp32"}
    else:
        how = {"arithmetic": "fp64"}
    return BOUNDS[case.op](case, ulps, how)


def _embed(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    ids = case.inputs["ids"]
    rows = stored_weight(case).take(ids.reshape(-1)).reshape(*ids.shape, -1)
    return bounds.embed_bound(rows, scale=case.options["scale"], **how)


def _linear(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    x = case.inputs["x"]
    flat = x.reshape(-1, x.shape[-1])
    found = bounds.linear_bound(flat, stored_weight(case).decode(), case.inputs.get("b"), **how)
    return found.reshape(*x.shape[:-1], -1)


def _rms_norm(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    o = case.options
    return bounds.rms_norm_bound(case.inputs["x"], case.inputs["w"], eps=o["eps"], offset=o["offset"], **how)


def _layer_norm(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    arrays = case.inputs["x"], case.inputs["w"], case.inputs.get("b")
    return bounds.layer_norm_bound(*arrays, eps=case.options["eps"], **how)


def _rope(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    """Each sequence by itself, since its length may have its own frequencies."""
    record, x, positions = rope_record(case), case.inputs["x"], case.inputs["positions"]
    lengths = case.inputs.get("lengths", np.zeros(len(x), dtype=np.int64))
    factor = ops.attention_factor(record)
    parts = [
        bounds.rope_bound(
            x[b : b + 1], positions[b : b + 1], ops.frequencies(record, length=int(lengths[b])),
            factor=factor, interleaved=record.interleaved, frequency_units=1.0, ulps=ulps, **how,
        )
        for b in range(len(x))
    ]  # fmt: skip
    return np.concatenate(parts)


def _attention(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    arrays: list[Any] = [case.inputs.get(name) for name in ("q", "k", "v", "mask", "sinks")]
    o = case.options
    return bounds.attention_bound(*arrays, scale=o["scale"], cap=o["cap"], ulps=ulps, **how)


def _activate(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.activation_bound(case.inputs["x"], kind=case.options["kind"], ulps=ulps, **how)


def _gated(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.gated_bound(case.inputs["gate"], case.inputs["up"], kind=case.options["kind"], ulps=ulps, **how)


def _softcap(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.softcap_bound(case.inputs["x"], cap=case.options["cap"], ulps=ulps, **how)


def _softmax(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.softmax_bound(case.inputs["x"], ulps=ulps, **how)


def _log_softmax(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.log_softmax_bound(case.inputs["x"], ulps=ulps, **how)


def _log_softmax_at(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    index = case.inputs["index"][..., None]
    return np.take_along_axis(_log_softmax(case, ulps, how), index, axis=-1)[..., 0]


def _add(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    return bounds.add_bound(case.inputs["x"], case.inputs["f"], **how)


def _pool(case: Case, ulps: float, how: dict[str, Any]) -> Bound:
    o = case.options
    return bounds.pool_bound(case.inputs["x"], case.inputs["mask"], kind=o["kind"], normalise=o["normalise"], **how)


BOUNDS: Mapping[str, Callable[[Case, float, dict[str, Any]], Bound]] = MappingProxyType(
    {
        "embed": _embed,
        "linear": _linear,
        "rms_norm": _rms_norm,
        "layer_norm": _layer_norm,
        "rope": _rope,
        "attention": _attention,
        "activate": _activate,
        "gated": _gated,
        "softcap": _softcap,
        "softmax": _softmax,
        "log_softmax": _log_softmax,
        "log_softmax_at": _log_softmax_at,
        "add": _add,
        "pool": _pool,
    }
)
"""Op → its bound."""
