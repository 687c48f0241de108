"""Inputs for which float64 decides nothing: sums on midpoints or beside them, sums that cancel, weights that are equal.

Each is a function of a size, so that the same data serve a test of bits, where they are small, and one of time.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import op_cases as op
from numpy.typing import NDArray
from op_cases import Drawn

from lepton_ref.ops import Rope
from lepton_ref.plain.formats import FORMATS, FloatFormat

Reals = NDArray[np.float32]
LEAST = np.float32(2.0**-149)


def midpoints(format: str, count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """(count) numbers halfway between two neighbours of the format, of either sign and parity, from 1 to 2¹²."""
    form = FORMATS[format]
    assert isinstance(form, FloatFormat)
    rng = np.random.default_rng(seed)
    code = rng.integers(2 ** (form.precision - 1), 2**form.precision, count)
    return np.ldexp(2.0 * code + 1, rng.integers(0, 12, count) - form.precision) * rng.choice([-1.0, 1.0], count)


def summands(total: NDArray[np.float64], width: int, *, seed: int = 0) -> Reals:
    """(N) -> (N, width) float32 whose sum along the last axis is exactly the total, however many bits it has.

    Pairs cancel; the last two are the total's upper bits and the rest of it.
    """
    assert width >= 4, "two numbers of a pair and two of the total"
    rng = np.random.default_rng(seed)
    pairs = (width - 2) // 2
    many = np.ldexp(rng.integers(1, 2**20, (total.size, pairs)), rng.integers(-20, 0, (total.size, pairs)))
    upper = total.astype(np.float32)
    rest = (total - upper).astype(np.float32)
    assert np.array_equal(upper.astype(np.float64) + rest, total), "two float32 hold the total"
    parts = [many, -many, upper[:, None], rest[:, None]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _shuffled(x: Reals, seed: int = 0) -> tuple[Reals, NDArray[np.intp]]:
    order = np.random.default_rng(seed).permutation(x.shape[-1])
    return x[..., order], order


# --- linear -----------------------------------------------------------------------------------------------------------


def linear_ties(n: int, width: int = 16, *, format: str = "fp32") -> Drawn:
    """Every sum lies on a midpoint."""
    w, _ = _shuffled(summands(midpoints(format, n), width))
    return op.linear(np.ones((1, n, w.shape[1]), dtype=np.float32), w)


def linear_beside_ties(n: int, width: int = 16, *, format: str = "fp32") -> Drawn:
    """Every sum lies on a midpoint but for the least float32 there is, added, subtracted, or neither."""
    w = summands(midpoints(format, n), width)
    nudge = np.random.default_rng(1).choice([-LEAST, np.float32(0.0), LEAST], (n, 1))
    w, _ = _shuffled(np.concatenate([w, nudge], axis=1))
    return op.linear(np.ones((1, n, w.shape[1]), dtype=np.float32), w)


def linear_ties_of_biases(n: int, width: int = 16, *, format: str = "fp32") -> Drawn:
    """The sum is a number of few bits, and the bias brings it to a midpoint."""
    total = midpoints(format, n)
    upper = total.astype(np.float32)
    w = summands(upper.astype(np.float64), width)
    return op.linear(np.ones((1, n, w.shape[1]), dtype=np.float32), w, (total - upper).astype(np.float32))


def linear_zeros(n: int, width: int = 16) -> Drawn:
    """Every sum cancels exactly; the products are full 48-bit numbers."""
    rng = np.random.default_rng(2)
    half = rng.standard_normal((n, width // 2)).astype(np.float32)
    x = rng.standard_normal((1, n, width // 2)).astype(np.float32)
    order = rng.permutation(2 * (width // 2))
    return op.linear(np.concatenate([x, x], axis=-1)[..., order], np.concatenate([half, -half], axis=-1)[..., order])


def linear_nearly_zeros(n: int, width: int = 16) -> Drawn:
    """Every sum cancels but for one product of the two smallest numbers, which underflows to a zero with a sign."""
    rng = np.random.default_rng(3)
    half = rng.standard_normal((n, width // 2)).astype(np.float32)
    x = rng.standard_normal((1, n, width // 2)).astype(np.float32)
    tiny = rng.choice([-LEAST, np.float32(0.0), LEAST], (n, 1))
    return op.linear(
        np.concatenate([x, x, np.full((1, n, 1), LEAST)], axis=-1), np.concatenate([half, -half, tiny], axis=-1)
    )


# --- norms ------------------------------------------------------------------------------------------------------------


def _signs(n: int, width: int, seed: int = 4) -> Reals:
    """±1.1, whose squares' sum depends on its order."""
    return np.random.default_rng(seed).choice([-1.1, 1.1], (1, n, width)).astype(np.float32)


def rms_norm_ties(n: int, width: int = 16, *, format: str = "bf16", eps: float = 0.0, offset: float = 0.0) -> Drawn:
    """Every |x| of a row is the same, so that y is ±(offset + w): a midpoint; with ε > 0, just inside of it."""
    return op.rms_norm(_signs(n, width), _weights(width, format, offset), eps=eps, offset=offset)


def _weights(width: int, format: str, offset: float) -> Reals:
    w = midpoints(format, width) - offset
    assert np.array_equal(w, w.astype(np.float32)), "a float32 holds the midpoint"
    return w.astype(np.float32)


def layer_norm_ties(n: int, width: int = 16, *, format: str = "bf16", eps: float = 0.0) -> Drawn:
    """Half of a row is one number and half another: their distance to the mean is the same."""
    x = np.full((1, n, width), 0.3, dtype=np.float32)
    x[..., : width // 2] = -1.7
    x = np.random.default_rng(5).permuted(x, axis=-1)
    return op.layer_norm(x, _weights(width, format, 0.0), None, eps=eps)


def layer_norm_ties_of_biases(n: int, width: int = 16, *, format: str = "bf16") -> Drawn:
    """All of a row is one number: what is left is the bias."""
    x = np.full((1, n, width), 0.1, dtype=np.float32)
    return op.layer_norm(x, np.ones(width, dtype=np.float32), _weights(width, format, 0.0), eps=1e-5)


def layer_norm_of_no_weight(n: int, width: int = 16) -> Drawn:
    """All of a row is one number whose mean float64 may miss, and ±0 times what is left of it has a sign."""
    x = np.random.default_rng(4).standard_normal((1, n, 1)).astype(np.float32) * np.ones(width, dtype=np.float32)
    zeros = np.resize(np.array([0.0, -0.0, -0.0, 0.0, 0.0], dtype=np.float32), width)
    return op.layer_norm(x, zeros, None, eps=1e-5)


# --- attention --------------------------------------------------------------------------------------------------------


def _values(n: int, keys: int, width: int, format: str, *, seed: int = 6) -> Reals:
    """(n, keys, 1, width): along the keys they sum to `keys` times a midpoint."""
    total = midpoints(format, n * width, seed=seed) * keys
    return summands(total, keys, seed=seed).reshape(n, width, keys).transpose(0, 2, 1)[:, :, None, :]


def attention_level(n: int, keys: int = 8, width: int = 4, *, format: str = "fp32", score: float = 1.5) -> Drawn:
    """All scores are equal, and the mean of the values lies on a midpoint."""
    values = _values(n, keys, width, format)
    q = np.full((n, 1, 1, 2), score, dtype=np.float32)
    k = np.ones((n, keys, 1, 2), dtype=np.float32)
    return op.attention(q, k, values, np.ones((n, 1, keys), dtype=bool), scale=1.0)


def attention_of_one_key(n: int, keys: int = 8, width: int = 4, *, format: str = "bf16") -> Drawn:
    """Each query sees one key, whose value lies on a midpoint."""
    rng = np.random.default_rng(7)
    q, k = (rng.standard_normal((n, length, 1, 2)).astype(np.float32) for length in (1, keys))
    values = midpoints(format, n * keys * width).reshape(n, keys, 1, width).astype(np.float32)
    mask = np.zeros((n, 1, keys), dtype=bool)
    mask[np.arange(n), 0, rng.integers(0, keys, n)] = True
    return op.attention(q, k, values, mask, scale=0.7)


def attention_in_groups(n: int, keys: int = 8, width: int = 4, *, format: str = "fp32") -> Drawn:
    """Two groups of equal scores, of which each has the same midpoint for a mean: so does the whole."""
    half = keys // 2
    total = midpoints(format, n * width) * half
    parts = [summands(total, half, seed=seed).reshape(n, width, half).transpose(0, 2, 1) for seed in (1, 2)]
    values = np.concatenate(parts, axis=1)[:, :, None, :]
    k = np.ones((n, keys, 1, 1), dtype=np.float32)
    k[:, half:] = 2.0
    q = np.random.default_rng(8).standard_normal((n, 1, 1, 1)).astype(np.float32)
    return op.attention(q, k, values, np.ones((n, 1, keys), dtype=bool), scale=0.7)


def attention_of_huge_scores(n: int, keys: int = 8, width: int = 4, *, format: str = "bf16") -> Drawn:
    """One score exceeds all others by so much that nothing is left of them but a side of the midpoint."""
    rng = np.random.default_rng(9)
    k = rng.standard_normal((n, keys, 1, 1)).astype(np.float32)
    k[:, 0] = 3.0e3
    values = midpoints(format, n * keys * width).reshape(n, keys, 1, width).astype(np.float32)
    q = np.ones((n, 1, 1, 1), dtype=np.float32)
    return op.attention(q, k, values, np.ones((n, 1, keys), dtype=bool), scale=1.0)


def attention_of_huge_scores_and_a_sink(n: int, keys: int = 8, width: int = 4, *, format: str = "bf16") -> Drawn:
    """As `attention_of_huge_scores`, with a sink below them all or above all but one."""
    huge = attention_of_huge_scores(n, keys, width, format=format)
    sinks = np.array([-5.0e3 if n % 2 else 1.0e2], dtype=np.float32)
    return op.attention(*huge.inputs, sinks, scale=1.0)


def attention_capped(n: int, keys: int = 9, width: int = 4, *, format: str = "bf16") -> Drawn:
    """Scores that a cap makes nearly equal, beside a key that is far below them: its part decides."""
    values = _values(n, keys - 1, width, format)
    rng = np.random.default_rng(19)
    low = rng.standard_normal((n, 1, 1, width)).astype(np.float32)
    k = np.full((n, keys, 1, 1), 2.0, dtype=np.float32)
    k[:, -1] = -500.0
    q = np.ones((n, 1, 1, 1), dtype=np.float32)
    mask = np.ones((n, 1, keys), dtype=bool)
    return op.attention(q, k, np.concatenate([values, low], axis=1), mask, scale=1.0, cap=400.0)


def attention_with_a_level_sink_of_zero(n: int, keys: int = 8, width: int = 4, *, format: str = "fp32") -> Drawn:
    """Capped scores that are zero, as the sink is: the only ones that are equal to one."""
    level = attention_with_a_level_sink(n, keys, width, format=format)
    q, k, values, mask, sinks = level.inputs
    return op.attention(0 * q, k, values, mask, 0 * sinks, scale=1.0, cap=30.0)


def attention_with_a_level_sink_beside_infinity(
    n: int, keys: int = 8, width: int = 4, *, format: str = "fp32"
) -> Drawn:
    """As `attention_with_a_level_sink`, after a last key that nobody sees and that is no number."""
    q, k, values, mask, sinks = attention_with_a_level_sink(n, keys, width, format=format).inputs
    k, values = (np.concatenate([x, np.full_like(x[:, :1], np.inf)], axis=1) for x in (k, values))
    return op.attention(q, k, values, np.concatenate([mask, ~mask[..., :1]], axis=-1), sinks, scale=1.0)


def attention_of_large_products(n: int, keys: int = 8, width: int = 4) -> Drawn:
    """Scores are small differences of products of 10⁷: float64's own error in them is larger than a float32's ulp."""
    rng = np.random.default_rng(10)
    q, k = rng.standard_normal((n, 1, 1, 1)), rng.standard_normal((n, keys, 1, 1))
    large = np.full_like(q, 3.0e6), np.full_like(k, 5.0e6)
    q, k = (np.concatenate([a, b, -b], axis=-1) for a, b in ((q, large[0]), (k, large[1])))
    k[..., 2] *= -1
    values = rng.standard_normal((n, keys, 1, width)).astype(np.float32)
    mask = np.ones((n, 1, keys), dtype=bool)
    return op.attention(q.astype(np.float32), k.astype(np.float32), values, mask, scale=1.0)


def attention_that_cancels(n: int, keys: int = 8, width: int = 4) -> Drawn:
    """Equal scores, and values that sum to zero."""
    rng = np.random.default_rng(11)
    half = rng.standard_normal((n, keys // 2, 1, width)).astype(np.float32)
    q, k = np.full((n, 1, 1, 2), 0.3, dtype=np.float32), np.full((n, keys, 1, 2), 0.7, dtype=np.float32)
    return op.attention(q, k, np.concatenate([half, -half], axis=1), np.ones((n, 1, keys), dtype=bool), scale=0.7)


def attention_with_a_level_sink(n: int, keys: int = 8, width: int = 4, *, format: str = "fp32") -> Drawn:
    """A sink equal to all scores: the sum of the values over one more than there are keys lies on a midpoint."""
    values = summands(midpoints(format, n * width) * (keys + 1), keys).reshape(n, width, -1).transpose(0, 2, 1)
    keys = values.shape[1]
    q, k = np.ones((n, 1, 1, 1), dtype=np.float32), np.ones((n, keys, 1, 1), dtype=np.float32)
    mask, sinks = np.ones((n, 1, keys), dtype=bool), np.ones(1, dtype=np.float32)
    return op.attention(q, k, values[:, :, None, :], mask, sinks, scale=1.0)


# --- what is done element by element ----------------------------------------------------------------------------------


def _factors(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Odd numbers of 12 and 13 bits over powers of two, from 1 to √2: products are midpoints of float32."""
    rng = np.random.default_rng(seed)
    one, other = (2.0 * rng.integers(2 ** (bits - 1), int(1.41 * 2 ** (bits - 1)), shape) + 1 for bits in (12, 12))
    return np.ldexp(one, -12), np.ldexp(other, -12)


def gated_of_tiny_gates(n: int, width: int = 16, *, kind: str = "silu") -> Drawn:
    """activation(g) is g/2·(1 + g·…) for a tiny g: with u, beside a midpoint by a part in 2¹⁰⁰."""
    gate, up = _factors((1, n, width), 12)
    return op.gated((gate * 2.0**-100).astype(np.float32), (up * 2.0**90).astype(np.float32), kind)


def gated_of_ties(n: int, width: int = 16, *, kind: str = "relu") -> Drawn:
    """Products on midpoints."""
    gate, up = _factors((1, n, width), 13)
    return op.gated(gate.astype(np.float32), up.astype(np.float32), kind)


def activation_of_ties(n: int, width: int = 16, *, kind: str = "tanh", format: str = "bf16") -> Drawn:
    """x is a midpoint times 2⁻⁷⁰: tanh and the soft cap give x, sigmoid ½, beside a midpoint by a part in 2¹⁴⁰."""
    x = midpoints(format, n * width).reshape(1, n, width) * 2.0**-70
    return op.activation(x.astype(np.float32), kind)


def activation_of_far_left(n: int, width: int = 16, *, kind: str = "silu") -> Drawn:
    """Numbers whose exponentials have underflowed, or nearly."""
    x = -np.geomspace(80.0, 1e30, n * width).reshape(1, n, width)
    return op.activation(x.astype(np.float32), kind)


def softcap_of_ties(n: int, width: int = 16, *, format: str = "bf16") -> Drawn:
    """As `activation_of_ties`."""
    return op.softcap((midpoints(format, n * width).reshape(1, n, width) * 2.0**-70).astype(np.float32), 30.0)


def softmax_of_gaps(n: int, width: int = 16) -> Drawn:
    """Scores that are equal, 40 and 800 apart."""
    return op.softmax(np.random.default_rng(14).choice([0.0, 40.0, 800.0], (1, n, width)).astype(np.float32))


GAPS = (0.14087462425231934, 0.5991945266723633, 0.2773413360118866, 14.30414867401123, 0.3491952419281006)
"""Float32 numbers d for which 1/(1 + exp(±d)) is within 3·10⁻⁸ of half a float32's ulp: the nearest from 2⁻³ to 2⁵."""


def softmax_beside_ties(n: int) -> Drawn:
    """Two scores, of whose shares one lies beside a midpoint."""
    rows = np.array([[gap, 0.0] for gap in GAPS], dtype=np.float32)
    return op.softmax(np.resize(rows, (1, n, 2)))


def log_softmax_of_gaps(n: int, width: int = 16) -> Drawn:
    """As `softmax_of_gaps`: many results are within e⁻⁴⁰ of a number, or of a midpoint."""
    gaps = np.random.default_rng(15).choice([0.0, 40.0, 800.0], (1, n, width))
    gaps[..., 0] = 1000.0
    gaps[..., 1:] += midpoints("bf16", n * (width - 1)).reshape(1, n, width - 1) / 4096
    return op.log_softmax(gaps.astype(np.float32))


def rope_at_zero(n: int, width: int = 16, *, format: str = "bf16") -> Drawn:
    """Nothing turns, and every number is a midpoint."""
    x = midpoints(format, n * width).reshape(1, n, 1, width).astype(np.float32)
    return op.rope(x, np.zeros((1, n), dtype=np.int64), Rope(theta=10000.0, width=width))


def rope_of_zeros_at_zero(n: int, width: int = 16, *, format: str = "bf16") -> Drawn:
    """Nothing turns, and one of each pair is a zero of either sign; the other is a midpoint."""
    call = rope_at_zero(n, width, format=format)
    (x,) = call.inputs
    x[..., : width // 2] = np.random.default_rng(20).choice([0.0, -0.0], (1, n, 1, width // 2))
    return op.rope(x, np.zeros((1, n), dtype=np.int64), Rope(theta=10000.0, width=width))


def rope_of_zeros(n: int, width: int = 16) -> Drawn:
    """At position 10⁶, one of each pair is zero."""
    x = np.random.default_rng(16).standard_normal((1, n, 1, width)).astype(np.float32)
    x[..., ::2] = 0.0
    record = Rope(theta=10000.0, width=width, interleaved=True)
    return op.rope(x, np.full((1, n), 10**6, dtype=np.int64), record)


def embed_of_ties(n: int, width: int = 16) -> Drawn:
    """Three times an odd number of 23 or 24 bits: 25."""
    table = np.random.default_rng(17).integers(2**23 // 3 * 2, 2**24 // 3 * 2, (n, width)) // 2 * 2 + 1
    return op.embed(np.arange(n)[None], table.astype(np.float32), 3.0)


def add_of_ties(n: int, width: int = 16, *, format: str = "bf16") -> Drawn:
    """A midpoint and a number whose exponent is 45 to 80 less."""
    x = midpoints(format, n * width).reshape(1, n, width)
    rng = np.random.default_rng(18)
    f = np.ldexp(rng.choice([-1.0, 1.0], x.shape), rng.integers(-80, -44, x.shape)) * np.abs(x)
    return op.add(x.astype(np.float32), f.astype(np.float32))


def pool_of_ties(n: int, width: int = 16, *, positions: int = 8, format: str = "fp32") -> Drawn:
    """The mean of all positions lies on a midpoint."""
    x = summands(midpoints(format, n * width) * positions, positions).reshape(n, width, -1).transpose(0, 2, 1)
    return op.pool(x, np.ones(x.shape[:2], dtype=bool), kind="mean", normalise=False)


OF_LENGTH_512 = (3, 35, 37, 39, 49, 51, 55, 69, 73, 75, 75, 129, 151, 159, 273, 299)
"""Their squares sum to 2¹⁸, and the last two over 512 lie on midpoints of bf16."""


def pool_of_ties_normalised(n: int) -> Drawn:
    """Vectors of a length that is a power of two."""
    scale = np.ldexp(1.0, np.arange(n) % 40 - 20)
    x = (np.array(OF_LENGTH_512) * scale[:, None])[:, None, :].astype(np.float32)
    return op.pool(x, np.ones((n, 1), dtype=bool), kind="cls", normalise=True)


def pool_at_epsilon(n: int, width: int = 16) -> Drawn:
    """Vectors about as long as the least length they are divided by."""
    x = np.zeros((n, 1, width), dtype=np.float32)
    x[:, 0, 0] = np.float32(1e-12) + np.arange(n, dtype=np.float32) * np.float32(2.0**-63) - np.float32(2.0**-62)
    return op.pool(x, np.ones((n, 1), dtype=bool), kind="max", normalise=True)


@dataclass(frozen=True)
class Adversary:
    """Data for one precision.

    Attributes:
        draw: from a size to a call; about 16 times the size is the number of elements, or 4 times.
        precision: the name of the precision that the data are made for.
        all_of_them: whether every element is ambiguous.
    """

    draw: Callable[[int], Drawn]
    precision: str = "reference"
    all_of_them: bool = True


def _of(draw: Callable[..., Drawn], precision: str = "reference", *, some: bool = False, **options: Any) -> Adversary:
    """`format` is added for a precision of smaller numbers."""
    names = inspect.signature(draw).parameters
    if "format" in names and "format" not in options:
        options["format"] = FORMAT_OF[precision]
    return Adversary(functools.partial(draw, **options), precision, not some)


FORMAT_OF = {"reference": "fp32", "bf16": "bf16", "fp16": "fp16"}

ADVERSARIES: Mapping[str, Adversary] = MappingProxyType(
    {
        "linear, ties": _of(linear_ties),
        "linear, ties of bf16": _of(linear_ties, "bf16"),
        "linear, ties of fp16": _of(linear_ties, "fp16"),
        "linear, long rows of ties": _of(linear_ties, width=576),
        "linear, beside ties": _of(linear_beside_ties),
        "linear, beside ties of bf16": _of(linear_beside_ties, "bf16"),
        "linear, ties of biases": _of(linear_ties_of_biases),
        "linear, zeros": _of(linear_zeros),
        "linear, nearly zeros": _of(linear_nearly_zeros),
        "rms_norm, ties": _of(rms_norm_ties, "bf16"),
        "rms_norm, ties of fp16": _of(rms_norm_ties, "fp16"),
        "rms_norm, beside ties": _of(rms_norm_ties, "bf16", eps=1e-30, offset=1.0),
        "rms_norm, far beside ties": _of(rms_norm_ties, "bf16", eps=5e-324),
        "layer_norm, ties": _of(layer_norm_ties, "bf16"),
        "layer_norm, beside ties": _of(layer_norm_ties, "bf16", eps=1e-30),
        "layer_norm, far beside ties": _of(layer_norm_ties, "bf16", eps=5e-324),
        "layer_norm, ties of biases": _of(layer_norm_ties_of_biases, "bf16"),
        "layer_norm, weights of zero": _of(layer_norm_of_no_weight),
        "attention, level": _of(attention_level),
        "attention, level, of bf16": _of(attention_level, "bf16"),
        "attention, level and huge": _of(attention_level, score=1e19),
        "attention, one key": _of(attention_of_one_key, "bf16"),
        "attention, groups": _of(attention_in_groups),
        "attention, huge scores": _of(attention_of_huge_scores, "bf16"),
        "attention, huge scores and a sink": _of(attention_of_huge_scores_and_a_sink, "bf16"),
        "attention, capped": _of(attention_capped, "bf16"),
        "attention, a level sink of zero": _of(attention_with_a_level_sink_of_zero),
        "attention, large products": _of(attention_of_large_products, some=True),
        "attention, cancels": _of(attention_that_cancels),
        "attention, a level sink beside infinity": _of(attention_with_a_level_sink_beside_infinity),
        "attention, a level sink": _of(attention_with_a_level_sink),
        "gated, tiny gates": _of(gated_of_tiny_gates),
        "gated gelu, tiny gates": _of(gated_of_tiny_gates, kind="gelu"),
        "gated gelu_tanh, tiny gates": _of(gated_of_tiny_gates, kind="gelu_tanh"),
        "gated, ties": _of(gated_of_ties),
        "tanh, beside ties": _of(activation_of_ties, "bf16"),
        "silu, beside ties": _of(activation_of_ties, "bf16", kind="silu"),
        "gelu, beside ties": _of(activation_of_ties, "bf16", kind="gelu"),
        "gelu_tanh, beside ties": _of(activation_of_ties, "bf16", kind="gelu_tanh"),
        "silu, far left": _of(activation_of_far_left, some=True),
        "gelu, far left": _of(activation_of_far_left, kind="gelu", some=True),
        "gelu_tanh, far left": _of(activation_of_far_left, kind="gelu_tanh", some=True),
        "softcap, beside ties": _of(softcap_of_ties, "bf16"),
        "softmax, beside ties": _of(softmax_beside_ties, some=True),
        "softmax, gaps": _of(softmax_of_gaps, some=True),
        "log_softmax, gaps": _of(log_softmax_of_gaps, "bf16", some=True),
        "rope, position 0": _of(rope_at_zero, "bf16"),
        "rope, zeros at position 0": _of(rope_of_zeros_at_zero, "bf16"),
        "rope, zeros": _of(rope_of_zeros, some=True),
        "embed, ties": _of(embed_of_ties),
        "add, ties": _of(add_of_ties, "bf16", some=True),
        "pool, ties": _of(pool_of_ties),
        "pool, ties of bf16": _of(pool_of_ties, "bf16"),
        "pool, ties normalised": _of(pool_of_ties_normalised, "bf16", some=True),
        "pool, at epsilon": _of(pool_at_epsilon, some=True),
    }
)
"""What every op finds hardest."""
