r"""Pooling: one vector for a sentence, from the unmasked positions alone.

    mean: Σₜ m[t]·x[t] / Σₜ m[t]      cls: x at the first unmasked position      max: maxₜ over m
    normalise: y / max(√Σ y², ε)

Mean and normalisation are one op where both are asked for. Bound: mean γ_{T+1}·mean |x|; normalised (D + 6)·2⁻⁵³·|y| more.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import Precision, lift, round_once
from lepton_ref.ops.base import op

KINDS = ("mean", "cls", "max")
NORMALISE_EPS = 1e-12
"""What sentence-transformers and torch.nn.functional.normalize put below a vector's length."""


@op
def pool(x_btd: Array, mask_bt: Array, *, kind: str, normalise: bool, backend: Backend, precision: Precision) -> Array:
    """(B, T, D), (B, T) -> (B, D)

    Raises:
        ValueError: an unknown kind, a mask of another shape, or a sequence without an unmasked position.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown pooling {kind!r}; known: {', '.join(KINDS)}")
    if tuple(mask_bt.shape) != tuple(x_btd.shape[:2]):
        raise ValueError(f"the mask must be of shape {tuple(x_btd.shape[:2])}, got {tuple(mask_bt.shape)}")
    xp = backend.xp
    if not bool(xp.all(xp.any(mask_bt, axis=-1))):
        raise ValueError("a sequence has no unmasked position to pool; leave empty texts out")
    x64 = lift(x_btd, backend=backend)
    mask = xp.expand_dims(mask_bt, axis=-1)
    if kind == "max":
        value = xp.max(xp.where(mask, x64, -math.inf), axis=1)
    else:
        chosen = mask if kind == "mean" else _first(mask, backend)
        kept = backend.sum(xp.where(chosen, x64, 0.0), axis=1, keepdims=False, accumulate="float64")
        count = backend.sum(xp.astype(chosen, xp.float64), axis=1, keepdims=False, accumulate="float64")
        value = kept / count
    if normalise:
        length = xp.sqrt(backend.sum(value * value, axis=-1, keepdims=True, accumulate="float64"))
        value = value / xp.where(length < NORMALISE_EPS, NORMALISE_EPS, length)
    return round_once(value, backend=backend, precision=precision)


def _first(mask_bt1: Array, backend: Backend) -> Array:
    """(B, T, 1) -> (B, T, 1), True at each sequence's first True alone."""
    host = backend.to_numpy(mask_bt1)
    return backend.from_numpy(host & (host.cumsum(axis=1) == 1))


def pool_scalar(x_td: list[list[float]], mask_t: list[bool], *, kind: str, normalise: bool) -> list[float]:
    """One sequence: the specification."""
    kept = [x for x, m in zip(x_td, mask_t, strict=True) if m]
    columns = zip(*kept, strict=True)
    reduce = {"mean": lambda c: math.fsum(c) / len(c), "cls": lambda c: c[0], "max": max}[kind]
    value = [reduce(column) for column in columns]
    if not normalise:
        return value
    length = max(math.sqrt(math.fsum(v * v for v in value)), NORMALISE_EPS)
    return [v / length for v in value]
