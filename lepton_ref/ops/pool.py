r"""Pooling: one vector for a sentence, from the unmasked positions alone.

    mean: Σₜ m[t]·x[t] / Σₜ m[t]      cls: x at the first unmasked position      max: maxₜ over m
    normalise: y / max(√Σ y², ε)

Mean and normalisation are one op where both are asked for. Bound: mean β = γ_n·Σₜ |x[t]|/n over the n unmasked; cls and
max are exact (β = 0). Normalised, with v the vector and L its length: (β + |v|·(‖β‖/L + γ_{⌈D/2⌉+3}))/L to first
order, since every element's error also changes the length.
"""

from __future__ import annotations

import math

import numpy as np

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op, real_sum, require_booleans

KINDS = ("mean", "cls", "max")
NORMALISE_EPS = 1e-12
"""What sentence-transformers and torch.nn.functional.normalize put below a vector's length."""


@op
def pool(x_btd: Array, mask_bt: Array, *, kind: str, normalise: bool, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (B, T) -> (B, D), one vector a sequence.

    Raises:
        ValueError: an unknown kind, a mask of another shape, or a sequence without an unmasked position.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown pooling {kind!r}; known: {', '.join(KINDS)}")
    if tuple(mask_bt.shape) != tuple(x_btd.shape[:2]):
        raise ValueError(f"the mask must be of shape {tuple(x_btd.shape[:2])}, got {tuple(mask_bt.shape)}")
    xp = backend.xp
    require_booleans("the mask", mask_bt, backend=backend)
    if not backend.to_numpy(xp.any(mask_bt, axis=-1)).all():
        raise ValueError("a sequence has no unmasked position to pool; leave empty texts out")
    x64 = lift(x_btd, backend=backend)
    mask = xp.expand_dims(mask_bt, axis=-1)
    if kind == "max":
        value = xp.max(xp.where(mask, x64, -math.inf), axis=1)
    elif kind == "cls":
        value = _first(x64, mask_bt, backend)
    else:
        kept = backend.sum(xp.where(mask, x64, 0.0), axis=1, keepdims=False, accumulate="float64")
        value = kept / backend.sum(xp.astype(mask, xp.float64), axis=1, keepdims=False, accumulate="float64")
    if normalise:
        length = xp.sqrt(backend.sum(value * value, axis=-1, keepdims=True, accumulate="float64"))
        value = value / xp.where(length < NORMALISE_EPS, NORMALISE_EPS, length)
    return round_once(value, backend=backend, precision=precision)


def _first(x_btd: Array, mask_bt: Array, backend: Backend) -> Array:
    """(B, T, D), (B, T) -> (B, D), each sequence's first unmasked position."""
    b, t, d = x_btd.shape
    rows = backend.to_numpy(mask_bt).argmax(axis=1) + t * np.arange(b)
    return backend.xp.take(backend.xp.reshape(x_btd, (b * t, d)), backend.from_numpy(rows), axis=0)


def _max_scalar(column: tuple[float, ...]) -> float:
    return math.nan if any(map(math.isnan, column)) else max(column)


def pool_scalar(x_td: list[list[float]], mask_t: list[bool], *, kind: str, normalise: bool) -> list[float]:
    """One sequence: the specification."""
    kept = [x for x, m in zip(x_td, mask_t, strict=True) if m]
    columns = zip(*kept, strict=True)
    reduce = {"mean": lambda c: real_sum(c) / len(c), "cls": lambda c: c[0], "max": _max_scalar}[kind]
    value = [reduce(column) for column in columns]
    if not normalise:
        return value
    length = max(math.sqrt(real_sum(v * v for v in value)), NORMALISE_EPS)
    return [v / length for v in value]
