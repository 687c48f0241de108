"""Evaluations of the ops in narrow arithmetic, operation by operation, in a random order: what the bounds must cover.

Nothing here is the package's. A float64 result of two narrow numbers, rounded again to 24 bits or fewer, is the narrow
format's own result: 53 ≥ 2·24 + 2 (Figueroa 1995).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

FORMATS = {"fp32": (24, -126, 3.4028234663852886e38), "tf32": (11, -126, 3.4011621342146535e38),
           "bf16": (8, -126, 3.3895313892515355e38), "fp16": (11, -14, 65504.0)}  # fmt: skip
"""Name → precision, least exponent, largest number."""


def to_format(x: Any, name: str) -> Reals:
    """To nearest even; beyond the largest, to infinity."""
    precision, least, largest = FORMATS[name]
    x = np.asarray(x, dtype=np.float64)
    step = precision - np.maximum(np.frexp(x)[1], least + 1)
    y = np.ldexp(np.rint(np.ldexp(x, step)), -step)
    y = np.where(np.abs(y) > largest, np.copysign(np.inf, x), y)
    return np.where(np.isfinite(x), y, x)


@dataclass
class Machine:
    """Random choices, and one format for all operations.

    Attributes:
        rng: where orders, fusing and the errors of library functions come from.
        working: the format of every result.
        operands: the format to which a contraction's operands are rounded.
        blocks: whether contractions add in blocks that cut.
        fancy: ulps that a library function errs by beside its rounding.
    """

    rng: np.random.Generator
    working: str = "fp32"
    operands: str = "fp32"
    blocks: bool = False
    fancy: int = 3

    def fl(self, x: Any) -> Reals:
        return to_format(x, self.working)

    def call(self, function: Any, x: Any) -> Reals:
        """A library function: its rounded value, some ulps off."""
        y = self.fl(function(np.asarray(x, dtype=np.float64)))
        precision, least, _ = FORMATS[self.working]
        ulp = np.ldexp(1.0, np.maximum(np.frexp(y)[1], least + 1) - precision)
        off = self.rng.integers(-self.fancy, self.fancy + 1, y.shape)
        exact = (y == 0) | ~np.isfinite(y)
        return np.where(exact, y, self.fl(y + off * ulp))

    def total(self, terms: Reals) -> Reals:
        """(..., N) -> (...), in a random order: one after another, by pairs, or in parts."""
        n = terms.shape[-1]
        terms = terms[..., self.rng.permutation(n)] if self.rng.random() < 0.8 else terms
        way = self.rng.integers(3)
        if way == 0 or n < 3:
            total = terms[..., 0]
            for i in range(1, n):
                total = self.fl(total + terms[..., i])
            return total
        if way == 1:
            half = int(self.rng.integers(1, n))
            return self.fl(self.total(terms[..., :half]) + self.total(terms[..., half:]))
        lanes = int(self.rng.integers(2, min(n, 8) + 1))
        return self.total(np.stack([self.total(terms[..., i::lanes]) for i in range(lanes)], axis=-1))

    def dot(self, x: Reals, w: Reals, bias: Any = None) -> Reals:
        """Σ x·w over the last axis, operands rounded first."""
        x, w = np.broadcast_arrays(to_format(x, self.operands), to_format(w, self.operands))
        if self.blocks and self.rng.random() < 0.7:
            y = self._in_blocks(x * w)
        elif self.rng.random() < 0.5:
            y = self.total(self.fl(x * w))
        else:  # fused
            order = self.rng.permutation(x.shape[-1])
            y = np.zeros(x.shape[:-1])
            for i in order:
                y = self.fl(y + x[..., i] * w[..., i])
        return y if bias is None else self.fl(y + self.fl(bias))

    def _in_blocks(self, products: Reals) -> Reals:
        """Aligned to the largest, cut after F bits, added exactly, cut to 24: as tensor cores do."""
        size, kept = int(self.rng.choice([4, 8, 16])), int(self.rng.choice([23, 24, 25]))
        order = self.rng.permutation(products.shape[-1])
        y = np.zeros(products.shape[:-1])
        for start in range(0, len(order), size):
            terms = np.concatenate([y[..., None], products[..., order[start : start + size]]], axis=-1)
            top = np.max(np.where(terms == 0, -9999, np.frexp(terms)[1]), axis=-1, keepdims=True) - 1
            exact = np.ldexp(np.trunc(np.ldexp(terms, kept - top)), top - kept).sum(axis=-1)
            step = 24 - np.maximum(np.frexp(exact)[1], -125)
            y = np.ldexp(np.trunc(np.ldexp(exact, step)), -step)
        return y

    def divide(self, x: Reals, by: Reals) -> Reals:
        """The quotient, or the product by the reciprocal."""
        return self.fl(x / by) if self.rng.random() < 0.5 else self.fl(x * self.fl(1 / by))

    # The ops.

    def linear(self, x: Reals, w: Reals, b: Any = None) -> Reals:
        return self.dot(x[..., None, :], w, b)

    def embed(self, rows: Reals, *, scale: float) -> Reals:
        return self.fl(self.fl(rows) * self.fl(scale))

    def add(self, x: Reals, f: Reals) -> Reals:
        return self.fl(self.fl(x) + self.fl(f))

    def rms_norm(self, x: Reals, w: Reals, *, eps: float, offset: float = 0.0) -> Reals:
        x, w = self.fl(x), self.fl(self.fl(w) + self.fl(offset))
        mean = self.divide(self.total(self.fl(x * x)), np.float64(x.shape[-1]))
        root = self.fl(np.sqrt(self.fl(mean + self.fl(eps))))[..., None]
        return self.divide(self.fl(x * w), root) if self.rng.random() < 0.3 else self.fl(self.divide(x, root) * w)

    def layer_norm(self, x: Reals, w: Reals, b: Any = None, *, eps: float) -> Reals:
        x, width = self.fl(x), np.float64(x.shape[-1])
        centred = self.fl(x - self.divide(self.total(x), width)[..., None])
        variance = self.divide(self.total(self.fl(centred * centred)), width)
        root = self.fl(np.sqrt(self.fl(variance + self.fl(eps))))[..., None]
        y = self.fl(self.divide(centred, root) * self.fl(w))
        return y if b is None else self.fl(y + self.fl(b))

    def sigmoid(self, x: Reals, *, textbook: bool) -> Reals:
        if textbook:
            return self.fl(1 / self.fl(1 + self.call(np.exp, -x)))
        small = self.call(np.exp, -np.abs(x))
        return self.fl(np.where(x >= 0, 1.0, small) / self.fl(1 + small))

    def activation(self, x: Reals, *, kind: str, textbook: bool = False) -> Reals:
        x = self.fl(x)
        erf, erfc = (np.vectorize(f, otypes=[np.float64]) for f in (math.erf, math.erfc))
        if kind in ("relu", "relu2"):
            y = np.maximum(x, 0.0)
            return y if kind == "relu" else self.fl(y * y)
        if kind == "tanh":
            return self.call(np.tanh, x)
        if kind == "sigmoid":
            return self.sigmoid(x, textbook=textbook)
        if kind == "silu":
            return self.fl(x * self.sigmoid(x, textbook=textbook))
        if kind == "quick_gelu":
            return self.fl(x * self.sigmoid(self.fl(self.fl(1.702) * x), textbook=textbook))
        if kind == "gelu":
            z = self.fl(x * self.fl(1 / math.sqrt(2)))
            if textbook:
                return self.fl(self.fl(x * 0.5) * self.fl(1 + self.call(erf, z)))
            return self.fl(self.fl(x * 0.5) * self.call(erfc, -z))
        cube = self.fl(self.fl(self.fl(x * x) * x) * self.fl(0.044715))
        z = self.fl(self.fl(math.sqrt(2 / math.pi)) * self.fl(x + cube))
        if textbook:
            return self.fl(self.fl(x * 0.5) * self.fl(1 + self.call(np.tanh, z)))
        return self.fl(x * self.sigmoid(2 * z, textbook=False))

    def gated(self, gate: Reals, up: Reals, *, kind: str, textbook: bool = False) -> Reals:
        return self.fl(self.activation(gate, kind=kind, textbook=textbook) * self.fl(up))

    def softcap(self, x: Reals, *, cap: float) -> Reals:
        cap_here = self.fl(cap)
        return self.fl(self.call(np.tanh, self.fl(self.fl(x) / cap_here)) * cap_here)

    def exp_of_difference(self, x: Reals, top: Reals, *, natural: bool) -> Reals:
        """exp(x − top), or a power of two."""
        if natural:
            return self.call(np.exp, self.fl(x - top))
        c = self.fl(math.log2(math.e))
        return self.call(np.exp2, self.fl(x * c - self.fl(top * c)))

    def softmax(self, x: Reals) -> Reals:
        x = self.fl(x)
        exps = self.exp_of_difference(x, x.max(axis=-1, keepdims=True), natural=self.rng.random() < 0.5)
        return self.divide(exps, self.total(exps)[..., None])

    def log_softmax(self, x: Reals) -> Reals:
        x = self.fl(x)
        shifted = self.fl(x - x.max(axis=-1, keepdims=True))
        return self.fl(shifted - self.call(np.log, self.total(self.call(np.exp, shifted)))[..., None])

    def rope(self, x: Reals, positions: Reals, frequencies: Reals, *, factor: float, interleaved: bool) -> Reals:
        """(B, T, H, K), (B, T), (R/2): frequencies are rounded once."""
        angle = self.fl(self.fl(positions)[..., None] * self.fl(frequencies))[:, :, None, :]
        cos, sin = (self.fl(self.call(f, angle) * self.fl(factor)) for f in (np.cos, np.sin))
        pairs, y = np.shape(frequencies)[-1], self.fl(x).copy()
        at = np.arange(2 * pairs).reshape(pairs, 2) if interleaved else np.arange(2 * pairs).reshape(2, pairs).T
        first, second = y[..., at[:, 0]], y[..., at[:, 1]]
        turned = self.fl(self.fl(first * cos) - self.fl(second * sin)), self.fl(self.fl(first * sin) + second * cos)
        y[..., at[:, 0]], y[..., at[:, 1]] = turned
        return y

    def attention(
        self, q: Reals, k: Reals, v: Reals, mask: Any, sinks: Any = None, *, scale: float, cap: float | None = None,
        tiles: int = 1,
    ) -> Reals:  # fmt: skip
        """(B, T, H, K), (B, S, G, K), (B, S, G, V), (B, T, S): at once, or tile by tile with a running maximum."""
        q, k, v = (np.moveaxis(array, 2, 1) for array in (q, k, v))
        k, v = (np.repeat(array, q.shape[1] // k.shape[1], axis=1) for array in (k, v))
        seen = np.asarray(mask)[:, None]
        scores = self.fl(self.dot(q[..., None, :], k[:, :, None]) * self.fl(scale))
        scores = scores if cap is None else self.softcap(scores, cap=cap)
        scores = np.where(seen, scores, -np.inf)
        sink = np.full((1, 1, 1, 1), -np.inf) if sinks is None else self.fl(sinks)[:, None, None]
        top, total = np.broadcast_to(sink, (*scores.shape[:3], 1)).copy(), np.where(np.isfinite(sink), 1.0, 0.0)
        y, natural = np.zeros((*scores.shape[:3], v.shape[-1])), self.rng.random() < 0.5
        for part in np.array_split(self.rng.permutation(k.shape[2]), tiles):
            higher = np.maximum(top, scores[..., part].max(axis=-1, keepdims=True, initial=-np.inf))
            safe = np.where(np.isfinite(higher), higher, 0.0)

            def weight(score: Reals, safe: Reals = safe) -> Reals:
                finite = np.isfinite(score)
                return np.where(finite, self.exp_of_difference(np.where(finite, score, safe), safe, natural=natural), 0)

            again, p = weight(top), weight(scores[..., part])
            y, total = self.fl(y * again), self.fl(total * again)
            y = self.fl(y + self.dot(p[..., None, :], np.swapaxes(v[:, :, part], -1, -2)[:, :, None]))
            total, top = self.fl(total + self.total(p)[..., None]), higher
        some = np.any(seen, axis=-1, keepdims=True)
        return np.moveaxis(np.where(some, self.divide(y, np.where(some, total, 1.0)), 0.0), 1, 2)

    def mean_pool(self, x: Reals, *, normalise: bool) -> Reals:
        """(T, D) -> (D)."""
        value = self.divide(self.total(self.fl(x).T), np.float64(len(x)))
        if not normalise:
            return value
        length = self.fl(np.sqrt(self.total(self.fl(value * value)[None])[0]))
        return self.divide(value, np.maximum(length, self.fl(1e-12)))


MACHINES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "tf32": {"operands": "tf32", "blocks": True},
    "bf16": {"operands": "bf16", "blocks": True},
    "fp16": {"operands": "fp16", "blocks": True},
    "pure_fp16": {"working": "fp16", "operands": "fp16"},
    "pure_bf16": {"working": "bf16", "operands": "bf16"},
}
"""Arithmetic → the machine of it."""
