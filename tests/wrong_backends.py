"""Backends that are wrong in ways that shipped elsewhere, or would: each with the checks that must kill it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lepton_ref import ops
from lepton_ref.backends.numpy_backend import Namespace, NumpyBackend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.storage import BlockQuantised, Dense
from lepton_ref.storage.kept import Kept

RIGHT = NumpyBackend()
REFERENCE = PRECISIONS["reference"]
Array = np.ndarray[Any, np.dtype[Any]]


class Altered(NumpyBackend):
    """NumPy's backend with some members replaced."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


def with_xp(**names: Any) -> Altered:
    known = {name: getattr(Namespace, name) for name in dir(Namespace) if not name.startswith("_")}
    return Altered(xp=SimpleNamespace(**{**known, **names}))


def with_kernel(op: str, kernel: Callable[..., Any], *storage: type) -> Altered:
    classes = storage if storage else (NoneType,)
    return Altered(kernels={(op, kind): kernel for kind in classes})


def linear_kernel(product: Callable[[Array, Array, Array | None], Array]) -> Altered:
    """A kernel for stored weights under precisions with float32 activations; `product` takes x, w and b."""

    def kernel(x: Array, w: Any, b: Array | None, *, backend: Any, precision: Any) -> Any:
        if precision.activations != "fp32" or precision.operands != "stored":
            return NotImplemented
        with np.errstate(all="ignore"):
            return product(x, w.operand(np.arange(w.shape[0])), b).astype(np.float32)

    return with_kernel("linear", kernel, Dense, Kept)


def instead(op: Callable[..., Any], change: Callable[..., tuple[Any, ...]]) -> Altered:
    """A kernel that computes the op of other arguments: `change` takes the given ones, and may change the keywords."""

    def kernel(*args: Any, backend: Any, **kwargs: Any) -> Any:
        return op(*change(kwargs, *args), backend=RIGHT, **kwargs)

    return with_kernel(op.__name__, kernel)


def f64(x: Array) -> Array:
    return x.astype(np.float64)


# --- members ----------------------------------------------------------------------------------------------------------


def default_policy() -> Altered:
    return Altered(matmul=lambda a, b, accumulate="float64": RIGHT.matmul(a, b, accumulate=accumulate))


def matmul_in(rounding: Callable[[Array], Array]) -> Altered:
    def matmul(a: Array, b: Array, /, *, accumulate: str) -> Array:
        return f64(np.matmul(rounding(a), rounding(b)))

    return Altered(matmul=matmul)


def to_tf32(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def sum_in_float32() -> Altered:
    def total(a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        return f64(np.add.reduce(a.astype(np.float32), axis=axis, keepdims=keepdims))

    return Altered(sum=total)


def sum_loses_axis_0() -> Altered:
    def total(a: Array, /, *, axis: int, keepdims: bool, accumulate: str) -> Array:
        return np.asarray(np.add.reduce(a, axis=axis or -1, keepdims=keepdims))

    return Altered(sum=total)


def float32_on_the_way_in() -> Altered:
    return Altered(from_numpy=lambda array: array.astype(np.float32) if array.dtype == np.float64 else array)


def exp_far_off() -> Altered:
    """100 ulps where |x| is large, as without the second part of ln 2."""
    return with_xp(exp=lambda x: np.where(np.abs(x) > 300, np.exp(x) * (1 + 100 * 2.0**-52), np.exp(x)))


def exp_flushed() -> Altered:
    return with_xp(exp=lambda x: np.where(x < -87.34, 0.0, np.exp(x)))


def three_ulps_declared_as_half() -> Altered:
    """Only in the last part of the range, as a table with one bad entry would have it."""
    altered = with_xp(tanh=lambda x: np.where(np.abs(x) > 0.9, np.tanh(x) * (1 - 3 * 2.0**-52), np.tanh(x)))
    altered.ulps = 2.0
    return altered


def maximum_passes_nan_by() -> Altered:
    def most(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return np.asarray(np.fmax.reduce(x, axis=axis, keepdims=keepdims))

    return with_xp(max=most)


def any_over_the_wrong_axis() -> Altered:
    def anyone(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return np.asarray(np.logical_or.reduce(x, axis=axis if axis is None else -1, keepdims=keepdims))

    return with_xp(any=anyone)


def flushes_to_zero() -> Altered:
    def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
        y = x.astype(dtype, copy=copy)
        return np.where(np.abs(y) < np.finfo(y.dtype).tiny, 0 * y, y) if y.dtype == np.float32 else y

    return with_xp(astype=astype)


def truncates() -> Altered:
    def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
        y = x.astype(dtype, copy=copy)
        if x.dtype != np.float64 or y.dtype != np.float32:
            return y
        return np.where(np.abs(f64(y)) > np.abs(x), np.nextafter(y, np.float32(0)), y)

    return with_xp(astype=astype)


def root_by_power() -> Altered:
    return with_xp(sqrt=lambda x: np.exp(np.log(x) / 2))


# --- linear -----------------------------------------------------------------------------------------------------------


def exact(x: Array, w: Array, b: Array | None) -> Array:
    """Sums of more than float64's bits, where long double has them; right but for the last rounding."""
    y = x.astype(np.longdouble) @ w.T.astype(np.longdouble)
    return np.asarray(y if b is None else y + b)


def without_bias(x: Array, w: Array, b: Array | None) -> Array:
    return RIGHT.to_numpy(ops.linear(x, Dense(w.astype(np.float32), format="F32"), backend=RIGHT, precision=REFERENCE))


def once(x: Array, w: Array, b: Array | None) -> Array:
    return np.asarray(ops.linear(x, Dense(w, format="F64"), b, backend=RIGHT, precision=REFERENCE))


def half_away(x: Array, w: Array, b: Array | None) -> Array:
    y = f64(exact(x, w, b))
    return y * (1 + 2.0**-53 * 2)


def zeros(x: Array, w: Array, b: Array | None) -> Array:
    return np.zeros((*x.shape[:-1], len(w)))


def beyond_the_end(x: Array, w: Array, b: Array | None) -> Array:
    """Two numbers at a time, so that a row of odd length takes in what lies behind it."""
    if x.shape[-1] % 2 == 0 or x.strides[-1] == x.itemsize or x.strides[-1] < 0:
        return once(x, w, b)
    wide = as_strided(x, (*x.shape[:-1], x.shape[-1] + 1), x.strides, writeable=False)
    behind = np.where(np.isnan(wide[..., -1:]), 1.0, wide[..., -1:])
    return once(x, w, b) + behind


def vector_in_float32(x: Array, w: Array, b: Array | None) -> Array:
    """One row goes by another road than many."""
    if math.prod(x.shape[:-1]) > 1:
        return once(x, w, b)
    y = x.astype(np.float32) @ w.astype(np.float32).T
    return y if b is None else y + b


def one_after_the_other(x: Array, w: Array, b: Array | None) -> Array:
    """float64 in order, without proof."""
    y = np.zeros((*x.shape[:-1], len(w)))
    for i in range(x.shape[-1]):
        y = y + f64(x[..., i : i + 1]) * w[:, i]
    return y if b is None else y + b


def remembers_by_shape() -> Altered:
    """Decoded weights are kept under their shape: two layers of one shape share the first one's."""
    kept: dict[tuple[int, ...], Array] = {}

    def product(x: Array, w: Array, b: Array | None) -> Array:
        return once(x, kept.setdefault(w.shape, w.copy()), b)

    return linear_kernel(product)


def always_declines() -> Altered:
    return with_kernel("linear", lambda *args, **kwargs: NotImplemented, Dense, Kept)


def inverted_high_bits() -> Altered:
    """A kernel for Q3_K that subtracts 4 where the high bit is set, and not where it is not."""

    def kernel(x: Array, w: Any, b: Array | None, *, backend: Any, precision: Any) -> Any:
        if w.format != "Q3_K":
            return NotImplemented
        raw = w.raw.reshape(-1, 110).copy()
        raw[:, :32] ^= 255
        other = BlockQuantised(raw.reshape(w.raw.shape), format=w.block)
        return ops.linear(x, other, b, backend=RIGHT, precision=precision)

    return with_kernel("linear", kernel, BlockQuantised)


# --- other ops --------------------------------------------------------------------------------------------------------


def tanh_for_erf(kwargs: dict[str, Any], *args: Array) -> tuple[Array, ...]:
    kwargs["kind"] = {"gelu": "gelu_tanh"}.get(kwargs["kind"], kwargs["kind"])
    return args


def gate_rounded_first() -> Altered:
    def kernel(gate: Array, up: Array, *, kind: str, backend: Any, precision: Any) -> Array:
        rounded = ops.activate(gate, kind=kind, backend=RIGHT, precision=precision)
        return np.asarray((f64(rounded) * f64(up)).astype(np.float32))

    return with_kernel("gated", kernel)


def large_negative_mask() -> Altered:
    """A score of −1e10 where nothing may be seen."""

    def kernel(q: Array, k: Array, v: Array, mask: Array, sinks: Any = None, **kwargs: Any) -> Array:
        k, v = np.nan_to_num(k, posinf=0, neginf=0), np.nan_to_num(v, posinf=0, neginf=0)
        y = ops.attention(q, k, v, mask, sinks, **{**kwargs, "backend": RIGHT})
        everyone = ops.attention(q, k, v, mask | True, sinks, **{**kwargs, "backend": RIGHT})
        return np.where(mask.any(axis=-1)[:, :, None, None], y, everyone)

    return with_kernel("attention", kernel)


def naive_attention(**how: bool) -> Altered:
    """Attention in float64 as many write it, with one mistake; long double, so that rounding is hardly any."""

    def kernel(
        q: Array, k: Array, v: Array, mask: Array, sinks: Array | None = None,
        *, scale: float, cap: float | None = None, backend: Any, precision: Any,
    ) -> Array:  # fmt: skip
        h, g = q.shape[2], k.shape[2]
        heads = np.arange(h) % g if how.get("tiled") else np.arange(h) * g // h
        if how.get("upper_left"):
            mask = np.broadcast_to(np.tril(np.ones(mask.shape[1:], dtype=bool)), mask.shape)
        scores = np.einsum("bthk,bshk->bhts", f64(q), f64(k)[:, :, heads]) * scale
        seen = mask[:, None]
        if how.get("mask_first"):
            scores = np.where(seen, scores, -np.inf)
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        if not how.get("mask_first"):
            scores = np.where(seen, scores, -np.inf)
        top = np.max(scores, axis=-1, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is not None and not how.get("no_sink"):
            total = total + np.exp(f64(sinks)[None, :, None, None] - top)
        y = np.einsum("bhts,bshk->bthk", weights / total, f64(v)[:, :, heads])
        return np.asarray(y.astype(np.float32))

    return with_kernel("attention", kernel)


def nan_under_the_mask() -> Altered:
    """What is masked is weighed with zero, and zero times NaN is NaN."""

    def kernel(q: Array, k: Array, v: Array, mask: Array, *args: Any, backend: Any, **kwargs: Any) -> Array:
        y = ops.attention(q, k, v, mask, *args, backend=RIGHT, **kwargs)
        return np.where(np.isnan(v).any(axis=(1, 2))[:, None, None, :], np.float32(np.nan), y)

    return with_kernel("attention", kernel)


def later_keys_weigh() -> Altered:
    """The denominator counts every key that is there, seen or not."""

    def kernel(q: Array, k: Array, v: Array, mask: Array, *args: Any, backend: Any, **kwargs: Any) -> Array:
        y = ops.attention(q, k, v, mask, *args, backend=RIGHT, **kwargs)
        return np.asarray(y * np.float32(1 - 2.0**-20 * k.shape[1]))

    return with_kernel("attention", kernel)


def rope_of(change: Callable[[Any], Any]) -> Altered:
    """RoPE by other tables: `change` takes the given ones."""

    def kernel(x: Array, tables: Any, *, backend: Any, precision: Any) -> Array:
        return np.asarray(ops.rope(x, change(tables), backend=RIGHT, precision=precision))

    return with_kernel("rope", kernel)


def other_convention(tables: Any) -> Any:
    return replace(tables, rope=replace(tables.rope, interleaved=not tables.rope.interleaved))


def slots_for_positions(tables: Any) -> Any:
    slots = np.broadcast_to(np.arange(tables.positions.shape[1]), tables.positions.shape)
    return ops.rope_tables(slots, tables.rope, lengths=tables.lengths, backend=RIGHT)


def first_row_for_all(tables: Any) -> Any:
    rows = np.broadcast_to(tables.positions[:1], tables.positions.shape)
    return ops.rope_tables(rows, tables.rope, lengths=tables.lengths, backend=RIGHT)


def angle_in_float32(tables: Any) -> Any:
    """The angle of position and frequency in float32, as most engines have it."""
    frequency = ops.frequencies(tables.rope, length=int(tables.lengths[0])).astype(np.float32)
    angle = tables.positions.astype(np.float32)[..., None] * frequency
    zero = np.zeros(angle.shape)
    cos, sin = f64(np.cos(angle)) * tables.factor, f64(np.sin(angle)) * tables.factor
    pair = type(tables.cos_pair)
    return replace(tables, cos=cos, sin=sin, cos_pair=pair(cos, zero), sin_pair=pair(sin, zero))


def epsilon_outside() -> Altered:
    def kernel(x: Array, w: Array, *, eps: float, offset: float = 0.0, backend: Any, precision: Any) -> Array:
        square = np.mean(f64(x) ** 2, axis=-1, keepdims=True)
        return np.asarray((f64(x) / (np.sqrt(square) + eps) * (offset + f64(w))).astype(np.float32))

    return with_kernel("rms_norm", kernel)


def epsilon_of_its_own(kwargs: dict[str, Any], *args: Array) -> tuple[Array, ...]:
    kwargs["eps"] = 1e-5
    return args


def variance_that_cancels() -> Altered:
    def kernel(x: Array, w: Array, b: Array | None = None, *, eps: float, backend: Any, precision: Any) -> Array:
        x64 = f64(x)
        mean = x64.mean(axis=-1, keepdims=True)
        variance = (x64**2).mean(axis=-1, keepdims=True) - mean**2
        y = (x64 - mean) / np.sqrt(variance + eps) * w
        return np.asarray((y if b is None else y + b).astype(np.float32))

    return with_kernel("layer_norm", kernel)


def softmax_without_shift() -> Altered:
    def kernel(x: Array, *, backend: Any, precision: Any) -> Array:
        exps = np.exp(f64(x))
        return np.asarray((exps / exps.sum(axis=-1, keepdims=True)).astype(np.float32))

    return with_kernel("softmax", kernel)


def logarithm_of_softmax(op: str) -> Altered:
    def kernel(x: Array, *index: Array, backend: Any, precision: Any) -> Array:
        y = np.log(ops.softmax(x, backend=RIGHT, precision=precision))
        return np.asarray(np.take_along_axis(y, index[0][..., None], axis=-1)[..., 0] if index else y)

    return with_kernel(op, kernel)


def memory_order(*arrays: Array) -> list[Array]:
    """Numbers as they lie, whatever the strides say."""
    return [array.ravel(order="K").reshape(array.shape) for array in arrays]


def contiguous_only() -> Altered:
    def kernel(x: Array, f: Array, *, backend: Any, precision: Any) -> Array:
        return np.asarray(ops.add(*memory_order(x), *memory_order(f)[::-1], backend=RIGHT, precision=precision))

    def capped(x: Array, *, cap: float, backend: Any, precision: Any) -> Array:
        return np.asarray(ops.softcap(*memory_order(x), cap=cap, backend=RIGHT, precision=precision))

    return Altered(kernels={("add", NoneType): kernel, ("softcap", NoneType): capped})


def in_place() -> Altered:
    """The residual sum goes into x, which someone may still read."""

    def kernel(x: Array, f: Array, *, backend: Any, precision: Any) -> Array:
        x += f
        return x

    return with_kernel("add", kernel)


def pooled_with_padding(kwargs: dict[str, Any], x: Array, mask: Array) -> tuple[Array, ...]:
    return np.nan_to_num(x, posinf=0, neginf=0), mask | True


def padding_id_is_zero() -> Altered:
    def kernel(ids: Array, w: Any, *, scale: float = 1.0, backend: Any, precision: Any) -> Array:
        y = ops.embed(ids, w, scale=scale, backend=RIGHT, precision=precision)
        return np.where(ids[..., None] == 0, np.float32(0), y)

    return with_kernel("embed", kernel)


@dataclass(frozen=True)
class Wrong:
    """One wrong backend.

    Attributes:
        make: the backend, new.
        checks: names of the checks each of which must kill it.
    """

    make: Callable[[], Any]
    checks: tuple[str, ...]


def wrong(make: Callable[[], Any], *checks: str) -> Wrong:
    return Wrong(make, checks)


WRONG: Mapping[str, Wrong] = {
    "matmul's policy has a default": wrong(default_policy, "members"),
    "matmul in float32": wrong(lambda: matmul_in(lambda x: x.astype(np.float32)), "matmul", "linear", "attention"),
    "matmul in TF32": wrong(lambda: matmul_in(to_tf32), "matmul", "linear", "model"),
    "sum in float32": wrong(sum_in_float32, "sums", "rms_norm"),
    "`axis or -1` loses axis 0": wrong(sum_loses_axis_0, "sums"),
    "float64 arrays become float32": wrong(float32_on_the_way_in, "round_trip", "rope"),
    "exp is 100 ulps off where |x| is large": wrong(exp_far_off, "library"),
    "exp is flushed below -87": wrong(exp_flushed, "library"),
    "tanh errs by more than is declared": wrong(three_ulps_declared_as_half, "library"),
    "a maximum passes NaN by": wrong(maximum_passes_nan_by, "functions"),
    "any over the wrong axis": wrong(any_over_the_wrong_axis, "functions"),
    "subnormals are flushed to zero": wrong(flushes_to_zero, "conversion", "embed"),
    "float32 by truncation": wrong(truncates, "conversion", "softcap"),
    "the root as a power": wrong(root_by_power, "arithmetic"),
    "the bias is lost": wrong(lambda: linear_kernel(without_bias), "linear"),
    "two roundings": wrong(lambda: linear_kernel(lambda x, w, b: f64(exact(x, w, b))), "linear"),
    "half away from zero": wrong(lambda: linear_kernel(half_away), "linear"),
    "zeros": wrong(lambda: linear_kernel(zeros), "linear"),
    "reads beyond the end of odd rows": wrong(lambda: linear_kernel(beyond_the_end), "linear"),
    "one row goes another road": wrong(lambda: linear_kernel(vector_in_float32), "batch_position"),
    "sums in order, without proof": wrong(lambda: linear_kernel(one_after_the_other), "permutations", "linear"),
    "Q3_K's high bits the other way round": wrong(inverted_high_bits, "storage"),
    "decoded weights kept by shape": wrong(remembers_by_shape, "model"),
    "GELU by tanh where erf is meant": wrong(lambda: instead(ops.activate, tanh_for_erf), "activate"),
    "the gate is rounded before the product": wrong(gate_rounded_first, "gated"),
    "a mask of -1e10": wrong(large_negative_mask, "attention"),
    "the mask before the cap": wrong(lambda: naive_attention(mask_first=True), "attention"),
    "causal from the upper left": wrong(lambda: naive_attention(upper_left=True), "attention"),
    "key/value heads are tiled": wrong(lambda: naive_attention(tiled=True), "attention", "gqa_is_repeated_mha"),
    "the sink is ignored": wrong(lambda: naive_attention(no_sink=True), "attention"),
    "NaN under the mask leaks": wrong(nan_under_the_mask, "padding_side", "attention"),
    "keys that come later weigh": wrong(later_keys_weigh, "chunked_is_whole", "cache_is_none"),
    "RoPE's other convention": wrong(lambda: rope_of(other_convention), "rope"),
    "RoPE turns by the slot": wrong(lambda: rope_of(slots_for_positions), "rope_shift", "model_padding_side"),
    "RoPE takes the first row's positions": wrong(lambda: rope_of(first_row_for_all), "rope", "model_batch_position"),
    "RoPE's angle in float32": wrong(lambda: rope_of(angle_in_float32), "rope"),
    "epsilon outside the root": wrong(epsilon_outside, "rms_norm"),
    "an epsilon of its own": wrong(lambda: instead(ops.rms_norm, epsilon_of_its_own), "powers_of_two", "rms_norm"),
    "the variance cancels": wrong(variance_that_cancels, "layer_norm"),
    "softmax without the shift": wrong(softmax_without_shift, "softmax"),
    "log-softmax as a logarithm": wrong(lambda: logarithm_of_softmax("log_softmax"), "log_softmax"),
    "log-softmax at a place as one": wrong(lambda: logarithm_of_softmax("log_softmax_at"), "log_softmax_at"),
    "right for contiguous inputs alone": wrong(contiguous_only, "softcap"),
    "the residual sum in place": wrong(in_place, "add"),
    "the mean is taken over padding": wrong(lambda: instead(ops.pool, pooled_with_padding), "pool"),
    "id 0 is taken for padding": wrong(padding_id_is_zero, "embed", "model_vocabulary"),
}
"""What is wrong → the backend and the checks that must kill it."""
