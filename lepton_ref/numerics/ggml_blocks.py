"""Activations as ggml's linear layers multiply them, on any backend's float64: see `lepton_ref.plain.ggml`.

ggml computes in float32. A product of two float32 is exact in float64, and a quotient of two, rounded to float64 and
then to float32, is rounded once (53 ≥ 2·24 + 2): one rounding to float32 after each operation gives ggml's numbers.
"""

from __future__ import annotations

import math

from lepton_ref.interface import Array, Backend
from lepton_ref.numerics.cast import INTEGER, cast
from lepton_ref.plain.ggml import BLOCKS, LENGTHS


def ggml_activations(x: Array, format: str, /, *, backend: Backend) -> Array:
    """`(M, I) float64 -> (M, I)`, or `(M, I + I/32)` for a weight with minima, float64.

    Args:
        x: float32 numbers.
        format: the weight's.
        backend: whose array x is.

    Raises:
        ValueError: a format that ggml has no activations for, or rows that are not whole blocks.
    """
    if format not in BLOCKS:
        raise ValueError(f"ggml has no activations for weights in {format!r}; known: {', '.join(BLOCKS)}")
    blocks = BLOCKS[format]
    if blocks in ("F16", "BF16"):
        return _to(x, "fp16" if blocks == "F16" else "bf16", backend)
    if blocks == "F32":
        return x
    rows, width = x.shape
    length = LENGTHS[blocks]
    if width % length:
        raise ValueError(f"{blocks} takes rows of whole blocks of {length}, got {width} numbers")
    xp = backend.xp
    parts = xp.reshape(x, (rows, width // length, length))
    if blocks == "Q8_K":
        return xp.reshape(_q8_k(parts, backend), (rows, width))
    value, rest = _q8_1(parts, backend)
    flat = xp.reshape(value, (rows, width))
    return flat if blocks == "Q8_0" else xp.concat([flat, rest], axis=1)


def _to(x: Array, format: str, backend: Backend) -> Array:
    return backend.xp.astype(cast(x, format, backend=backend), backend.xp.float64)


def _inverse(x: Array, backend: Backend) -> tuple[Array, Array]:
    """1/x in float32, and where it is neither infinite nor of zero; 0 elsewhere, but NaN of NaN."""
    xp = backend.xp
    inverse = _to(1.0 / xp.where(x == 0.0, 1.0, x), "fp32", backend)
    usable = (x != 0.0) & (xp.abs(inverse) != math.inf)
    return xp.where(usable, inverse, 0.0 * x), usable


def _q8_1(x: Array, backend: Backend) -> tuple[Array, Array]:
    """(M, N, 32) -> (M, N, 32), (M, N): d·q, and s − d·Σq."""
    xp = backend.xp
    largest = _healthy(xp.max(xp.abs(x), axis=-1, keepdims=True), backend)
    exact = _to(largest / 127.0, "fp32", backend)
    inverse, usable = _inverse(exact, backend)
    d = xp.where(usable, _to(exact, "fp16", backend), 0.0 * exact)
    scaled = _to(xp.where(inverse == inverse, x, 0.0) * inverse, "fp32", backend)
    size = xp.abs(scaled)
    even = (size + INTEGER) - INTEGER
    size = xp.where(size - even == 0.5, even + 1.0, even)  # half away from zero
    q = xp.where(scaled < 0.0, -size, size)
    total = backend.sum(q, axis=-1, keepdims=True, accumulate="float64")
    s = _to(_to(exact * total, "fp32", backend), "fp16", backend)
    rest = xp.where(usable, s - d * total, 0.0 * exact)
    return d * q, xp.reshape(rest, rest.shape[:2])


def _q8_k(x: Array, backend: Backend) -> Array:
    """(M, N, 256) -> (M, N, 256): d·q."""
    xp = backend.xp
    amax = _healthy(xp.max(xp.abs(x), axis=-1, keepdims=True), backend)
    factor = _to(127.0 / xp.where(amax == 0.0, 1.0, amax), "fp32", backend)
    factor = xp.where((amax != 0.0) & (factor != math.inf), factor, 0.0 * amax)
    scaled = _to(xp.where(factor == factor, x, 0.0) * factor, "fp32", backend)
    d, _ = _inverse(factor, backend)
    return d * ((scaled + INTEGER) - INTEGER)


def _healthy(amax: Array, backend: Backend) -> Array:
    """NaN for what is infinite."""
    return backend.xp.where(amax == math.inf, math.nan, amax)
