"""Attention where it is not one rounding of a real number: the backend's own way in float32, and machine models.

On a machine both products are the machine's, and every other step is rounded once by itself:

    s = machine(q, key)        S = round32(scale·s), soft-capped and rounded to float32 where there is a cap
    p = softmax(S) over the keys that are seen, rounded once to the activations' format; a sink joins the denominator
    y = machine(p, value), rounded to the activations' format

A masked key takes no part: the machine is given the keys that a query sees, in their order. A machine that multiplies
scaled E4M3 numbers is one for linear layers: attention is then rounded once, as under `reference`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision
from lepton_ref.numerics.exact_sum import two_product
from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.machines import machine_matmul
from lepton_ref.numerics.rounding import as_activations, canonical
from lepton_ref.ops.base import host_reals
from lepton_ref.ops.softcap import softcap
from lepton_ref.ops.softmax import softmax

Reals = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def fast_attention(
    q_bthk: Array, k_bsgk: Array, v_bsgk: Array, mask_bts: Array, sinks_h: Array | None,
    *, scale: float, cap: float | None, backend: Backend, precision: Precision,
) -> Array:  # fmt: skip
    """(B, T, H, K), (B, S, G, K), (B, S, G, K), (B, T, S), (H) -> (B, T, H, K) in float32 throughout."""
    xp = backend.xp
    b, t, h, k = q_bthk.shape
    g = k_bsgk.shape[2]
    q = xp.permute_dims(xp.reshape(q_bthk, (b, t, g, h // g, k)), (0, 2, 3, 1, 4))
    keys = xp.expand_dims(xp.permute_dims(k_bsgk, (0, 2, 3, 1)), axis=2)
    values = xp.expand_dims(xp.permute_dims(v_bsgk, (0, 2, 1, 3)), axis=2)
    mask = xp.expand_dims(xp.expand_dims(mask_bts, axis=1), axis=1)
    scores = backend.matmul(q, keys, accumulate="float32") * scale
    if cap is not None:
        scores = xp.tanh(scores / cap) * cap
    scores = xp.where(mask, scores, -math.inf)
    top = xp.max(scores, axis=-1, keepdims=True)
    sinks = None if sinks_h is None else xp.reshape(sinks_h, (1, g, h // g, 1, 1))
    if sinks is not None:
        top = xp.where(top < sinks, sinks, top)
    top = xp.where(top == -math.inf, 0.0, top)
    weights = xp.where(mask, xp.exp(scores - top), 0.0)
    total = backend.sum(weights, axis=-1, keepdims=True, accumulate="float32")
    if sinks is not None:
        total = total + xp.exp(sinks - top)
    seen = xp.any(mask, axis=-1, keepdims=True)
    anyone = xp.any(mask_bts, axis=1)  # a NaN that nobody sees must not meet a weight of zero
    values = xp.where(xp.reshape(anyone, (b, 1, 1, anyone.shape[-1], 1)), values, 0.0)
    y = xp.where(seen, backend.matmul(weights, values, accumulate="float32") / total, 0.0)
    y = xp.reshape(xp.permute_dims(y, (0, 3, 1, 2, 4)), (b, t, h, v_bsgk.shape[-1]))
    return canonical(xp.astype(y, xp.float32, copy=False), backend=backend)


def machine_attention(
    q_bthk: Array, k_bsgk: Array, v_bsgk: Array, mask_bts: Array, sinks_h: Array | None,
    *, scale: float, cap: float | None, backend: Backend, precision: Precision,
) -> Array:  # fmt: skip
    """(B, T, H, K), (B, S, G, K), (B, S, G, K), (B, T, S), (H) -> (B, T, H, K) on the host, as the page above says."""
    assert precision.machine is not None, "the caller has looked"
    q, k, v = (host_reals(array, backend=backend) for array in (q_bthk, k_bsgk, v_bsgk))
    mask = np.asarray(backend.to_numpy(mask_bts))
    sinks = None if sinks_h is None else host_reals(sinks_h, backend=backend)
    per_group = q.shape[2] // k.shape[2]
    y = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        g = h // per_group
        sink = -math.inf if sinks is None else float(sinks[h])
        y[b, :, h] = _head(q[b, :, h], k[b, :, g], v[b, :, g], mask[b], sink, scale, cap, backend, precision)
    return as_activations(backend.from_numpy(y), backend=backend, precision=precision)


def _head(
    q: Reals, k: Reals, v: Reals, mask: Booleans, sink: float, scale: float, cap: float | None,
    backend: Backend, precision: Precision,
) -> Reals:  # fmt: skip
    """One head, (T, K), (S, K), (S, K), (T, S) -> (T, K): queries that see the same keys together, and no other key."""
    machine = precision.machine
    assert machine is not None, "the caller has looked"
    y = np.zeros((len(q), v.shape[1]))
    views, which = np.unique(mask, axis=0, return_inverse=True)
    for number, view in enumerate(views):
        rows, seen = np.flatnonzero(which == number), np.flatnonzero(view)
        if seen.size == 0:
            continue
        high, low = two_product(machine_matmul(q[rows], k[seen], None, machine), np.array(scale))
        scores = round_array(high, "fp32", low=np.where(np.isfinite(low), low, 0.0))
        p = _weights(scores, sink, cap, backend, precision.activations)
        y[rows] = machine_matmul(p, np.ascontiguousarray(v[seen].T), None, machine)
    return y


def _weights(scores: Reals, sink: float, cap: float | None, backend: Backend, format: str) -> Reals:
    """(T, S) -> (T, S): the softmax of the scores and the sink, each step rounded once."""
    if cap is not None:
        capped = softcap(backend.from_numpy(scores), cap=cap, backend=backend, precision=Precision("a step"))
        scores = host_reals(capped, backend=backend)
    row = np.concatenate([scores, np.full((len(scores), 1), sink)], axis=1)
    narrow = Precision("a step", activations=format)
    p = host_reals(softmax(backend.from_numpy(row), backend=backend, precision=narrow), backend=backend)
    return np.ascontiguousarray(p[:, :-1])
