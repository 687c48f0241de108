"""Linear layers that are not one rounding of a real number: the backend's own sums in float32, and machine models."""

from __future__ import annotations

import numpy as np

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift
from lepton_ref.numerics.exact_sum import two_sum
from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.machines import machine_matmul
from lepton_ref.numerics.operands import scaled_activations
from lepton_ref.numerics.rounding import as_activations, canonical
from lepton_ref.ops.base import host_reals
from lepton_ref.storage.base import Weight
from lepton_ref.storage.encoded import Encoded
from lepton_ref.storage.kept import Kept


def fast(x: Array, w_oi: Weight, b_o: Array | None, backend: Backend, precision: Precision) -> Array:
    """(M, I), (O, I), (O) -> (M, O): the backend's own sums in float32."""
    xp = backend.xp
    parts = []
    for panel in w_oi.panels(backend=backend):
        part = backend.matmul(x, xp.permute_dims(panel.rows, (1, 0)), accumulate="float32")
        parts.append(part if b_o is None else part + b_o[panel.start : panel.stop])
        del panel  # so that the next one is not decoded beside it
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)
    return canonical(xp.astype(y, xp.float32, copy=False), backend=backend)


def by_machine(x: Array, w_oi: Weight, b_o: Array | None, backend: Backend, precision: Precision) -> Array:
    """(M, I), (O, I), (O) -> (M, O) step by step as the machine does it, on the host.

    E4M3 numbers are multiplied without their scales. The two scales, whose product is exact, then multiply the sum with
    one rounding to float32, and the bias is added with another.
    """
    assert precision.machine is not None, "the caller has looked"
    bias = None if b_o is None else host_reals(b_o, backend=backend)
    every = np.arange(w_oi.shape[0])
    if precision.operands != "fp8":
        y = machine_matmul(host_reals(x, backend=backend), w_oi.operand(every), bias, precision.machine)
    else:
        stored = w_oi.base if isinstance(w_oi, Kept) else w_oi
        if not isinstance(stored, Encoded):
            raise ValueError(f"{precision.name} multiplies E4M3 numbers; wrap the weight: storage.encoded.as_operand")
        scaled = scaled_activations(lift(x, backend=backend), "fp8", backend=backend)
        q, scale = (host_reals(part, backend=backend) for part in scaled)
        codes, scales = stored.scaled(every)
        y = round_array(machine_matmul(q, codes, None, precision.machine) * (scale * scales.T), "fp32")
        if bias is not None:
            total, lost = two_sum(y, bias)
            y = round_array(total, "fp32", low=np.where(np.isfinite(lost), lost, 0.0))
    return as_activations(backend.from_numpy(y), backend=backend, precision=precision)
