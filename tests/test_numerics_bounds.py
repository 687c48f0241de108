"""The bounds of numerics.bounds against exact values: a search for violations, and wrong bounds that it violates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import exact
import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.numerics.bounds import (
    UNIT,
    activation_bound,
    add_bound,
    embed_bound,
    gamma,
    gated_bound,
    layer_norm_bound,
    linear_bound,
    pool_bound,
    rms_norm_bound,
    rope_bound,
    softcap_bound,
)
from lepton_ref.numerics.bounds_softmax import attention_bound, log_softmax_bound, softmax_bound
from lepton_ref.ops.activation import ACTIVATIONS
from lepton_ref.storage import Dense

Reals = NDArray[np.float64]
Found = Iterator[tuple[Reals, Any, Reals]]
"""What a search yields: the op's value, the exact value, the bound."""

TO_FLOAT64: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["float64"]}


def draw(rng: np.random.Generator, *shape: int, spread: float = 2.0) -> Reals:
    """Numbers whose products round in float64 too."""
    return rng.standard_normal(shape) * np.exp2(rng.uniform(-spread, spread, shape))


def f64(array: Reals) -> Dense:
    return Dense(array, format="F64")


def linear_search(rng: np.random.Generator) -> Found:
    for _ in range(60):
        x, w, b = draw(rng, 3, 5, spread=9), draw(rng, 4, 5, spread=9), draw(rng, 4)
        yield ops.linear(x, f64(w), b, **TO_FLOAT64), exact.linear(x, w, b), linear_bound(x, w, b)


def embed_search(rng: np.random.Generator) -> Found:
    table, ids, scale = draw(rng, 50, 4), np.arange(50)[None], math.sqrt(5)
    want = exact.times(exact.decimals(table), exact.decimals(np.full(table.shape, scale)))
    yield ops.embed(ids, f64(table), scale=scale, **TO_FLOAT64)[0], want, embed_bound(table, scale=scale)


def add_search(rng: np.random.Generator) -> Found:
    x, f = draw(rng, 4, 50), draw(rng, 4, 50)
    yield ops.add(x, f, **TO_FLOAT64), exact.plus(exact.decimals(x), exact.decimals(f)), add_bound(x, f)


def rms_norm_search(rng: np.random.Generator) -> Found:
    for width in (1, 2, 3, 7) * 10:
        x, w = draw(rng, 3, width) * 10.0 ** rng.integers(-6, 3), draw(rng, width)
        for offset in (0.0, 1.0):
            y = ops.rms_norm(x, w, eps=1e-6, offset=offset, **TO_FLOAT64)
            yield y, exact.rms_norm(x, w, eps=1e-6, offset=offset), rms_norm_bound(x, w, eps=1e-6, offset=offset)


def layer_norm_search(rng: np.random.Generator) -> Found:
    for width in (1, 2, 3, 7) * 10:
        far = rng.choice([0.0, 1.0, 1e3, 1e6])  # a mean far from zero: the subtraction cancels
        x, w, b = draw(rng, 3, width) + far, draw(rng, width), draw(rng, width)
        for eps in (1e-5, 1e-12):
            y = ops.layer_norm(x, w, b, eps=eps, **TO_FLOAT64)
            yield y, exact.layer_norm(x, w, b, eps=eps), layer_norm_bound(x, w, b, eps=eps)


def softmax_search(rng: np.random.Generator) -> Found:
    for width in (1, 2, 5, 9) * 8:
        x = draw(rng, 3, width) * rng.choice([1.0, 30.0])
        yield ops.softmax(x, **TO_FLOAT64), exact.softmax(x), softmax_bound(x)


def log_softmax_search(rng: np.random.Generator) -> Found:
    for width in (1, 2, 5, 9) * 8:
        x = draw(rng, 3, width) * rng.choice([1.0, 30.0])
        yield ops.log_softmax(x, **TO_FLOAT64), exact.log_softmax(x), log_softmax_bound(x)


def softcap_search(rng: np.random.Generator) -> Found:
    for cap in (0.3, 7.0, 30.0):
        x = draw(rng, 150, spread=6)
        yield ops.softcap(x, cap=cap, **TO_FLOAT64), exact.softcap(x, cap=cap), softcap_bound(x, cap=cap)


def rope_search(rng: np.random.Generator) -> Found:
    """The oracle takes float64 frequencies, each half an ulp or less from the op's."""
    how = ops.Rope(10000.0, 8, kind="yarn", factor=4.0, original_length=64, attention_factor=1.2)
    frequencies = ops.frequencies(how, length=1)
    for _ in range(12):
        x, positions = draw(rng, 4, 8), rng.integers(0, 100_000, 4)
        tables = ops.rope_tables(positions[None], how, backend=NumpyBackend())
        y = ops.rope(x[None, :, None], tables, **TO_FLOAT64)[0, :, 0]
        bound = rope_bound(x[None, :, None], positions[None], frequencies, factor=1.2, frequency_units=1)[0, :, 0]
        yield y, exact.rope_of_halves(x, positions, frequencies, factor=1.2), bound


def attention_search(rng: np.random.Generator) -> Found:
    for step in range(40):
        keys = int(rng.integers(1, 7))
        q, k, v = draw(rng, 3, 4), draw(rng, keys, 4), draw(rng, keys, 4, spread=9)
        mask = rng.random((3, keys)) < 0.7
        mask[:, 0] = True
        cap, sink = (None, 3.0)[step % 2], (None, 0.5)[step // 2 % 2]
        sinks = None if sink is None else np.array([sink])
        arrays = (q[None, :, None], k[None, :, None], v[None, :, None], mask[None], sinks)
        y = ops.attention(*arrays, scale=0.5, cap=cap, **TO_FLOAT64)[0, :, 0]
        bound = attention_bound(*arrays, scale=0.5, cap=cap)[0, :, 0]
        yield y, exact.attention(q, k, v, mask, sink, scale=0.5, cap=cap), bound


def pool_search(rng: np.random.Generator) -> Found:
    for count in (1, 2, 3, 6) * 5:
        x = draw(rng, count, 5, spread=9)
        mask = np.ones((1, count), dtype=bool)
        for normalise in (False, True):
            y = ops.pool(x[None], mask, kind="mean", normalise=normalise, **TO_FLOAT64)[0]
            bound = pool_bound(x[None], mask, kind="mean", normalise=normalise)[0]
            yield y, exact.mean_pool(x, normalise=normalise), bound


def activation_search(kind: str) -> Callable[[np.random.Generator], Found]:
    def search(rng: np.random.Generator) -> Found:
        x = np.concatenate([rng.uniform(-37, 10, 150), draw(rng, 60, spread=8)])
        x = x[[y == 0 or abs(y) > 2.0**-890 for y in exact.activation(x, kind=kind)]]  # the op stops at ±2⁻⁹⁰⁰
        yield ops.activate(x, kind=kind, **TO_FLOAT64), exact.activation(x, kind=kind), activation_bound(x, kind=kind)
        up = draw(rng, len(x))
        want = exact.times(exact.activation(x, kind=kind), exact.decimals(up))
        yield ops.gated(x, up, kind=kind, **TO_FLOAT64), want, gated_bound(x, up, kind=kind)

    return search


SEARCHES: dict[str, Callable[[np.random.Generator], Found]] = {
    "linear": linear_search,
    "embed": embed_search,
    "add": add_search,
    "rms_norm": rms_norm_search,
    "layer_norm": layer_norm_search,
    "softmax": softmax_search,
    "log_softmax": log_softmax_search,
    "softcap": softcap_search,
    "rope": rope_search,
    "attention": attention_search,
    "pool": pool_search,
    **{kind: activation_search(kind) for kind in ACTIVATIONS},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_no_value_is_further_from_the_exact_one_than_the_bound(name: str) -> None:
    for got, want, bound in SEARCHES[name](np.random.default_rng(7)):
        assert np.isfinite(bound).all()
        assert exact.worst_ratio(got, want, bound) <= 1


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "relu"])
def test_a_value_that_was_rounded_to_float32_is_beyond_the_bound(name: str) -> None:
    """The search would see an op that computes in float32: relu alone has nothing to round."""
    ratios = [
        exact.worst_ratio(got.astype(np.float32), want, bound)
        for got, want, bound in SEARCHES[name](np.random.default_rng(7))
    ]
    assert max(ratios) > 1000


def _linear_by_the_result(rng: np.random.Generator) -> Found:
    for got, want, _ in linear_search(rng):
        yield got, want, gamma(6) * np.abs(got)


def _layer_norm_without_the_mean(rng: np.random.Generator) -> Found:
    for got, want, _ in layer_norm_search(rng):
        yield got, want, gamma(8) * (np.abs(got) + 10)


def _softmax_without_the_distance(rng: np.random.Generator) -> Found:
    for got, want, _ in softmax_search(rng):
        yield got, want, (got.shape[-1] + 4) * UNIT * got


def _rope_without_the_angle(rng: np.random.Generator) -> Found:
    for got, want, _ in rope_search(rng):
        yield got, want, np.full(got.shape, 12 * UNIT * np.abs(got).max() * 2)


def _attention_without_the_scores(rng: np.random.Generator) -> Found:
    for _ in range(20):
        q, k, v = draw(rng, 1, 1), np.array([[0.0], [-700.1]]) * rng.random(), np.array([[0.0], [1.0]])
        arrays = (q[None, :, None], k[None, :, None], v[None, :, None], np.ones((1, 1, 2), dtype=bool))
        y = ops.attention(*arrays, scale=0.3, **TO_FLOAT64)[0, :, 0]
        want = exact.attention(q, k, v, np.ones((1, 2), dtype=bool), None, scale=0.3, cap=None)
        yield y, want, (2 * 2 + 8) * UNIT * np.abs(y)


def _gelu_without_the_tail(rng: np.random.Generator) -> Found:
    for got, want, _ in activation_search("gelu")(rng):
        yield got, want, 35 * UNIT * np.abs(got)


PLANTED = [
    _linear_by_the_result,
    _layer_norm_without_the_mean,
    _softmax_without_the_distance,
    _rope_without_the_angle,
    _attention_without_the_scores,
    _gelu_without_the_tail,
]
"""Bounds that leave out a term: cancellation, the mean's error, what enters exp absolutely, the rounded angle."""


@pytest.mark.parametrize("search", PLANTED)
def test_the_search_violates_a_bound_that_leaves_out_a_term(search: Callable[[np.random.Generator], Found]) -> None:
    assert max(exact.worst_ratio(*found) for found in search(np.random.default_rng(7))) > 1


def test_gamma_is_nu_over_one_minus_nu_and_infinite_beyond() -> None:
    assert gamma(1) == 2.0**-53 / (1 - 2.0**-53)
    assert gamma(2.0**52) == 1.0
    assert gamma(2.0**53) == np.inf


def test_a_bound_of_an_unknown_activation_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'swish'; known: relu"):
        activation_bound(np.ones(2), kind="swish")


def test_attention_promises_no_more_than_a_mean_where_the_weights_may_be_anything() -> None:
    """Scores of ±10¹⁸ that cancel: each may be hundreds off, so that either key may weigh all."""
    q, k = np.full((1, 1, 1, 2), 1e9), np.array([[[[1e9, -1e9]], [[-1e9, 1e9]]]])
    v = np.array([[[[1.0, 3.0]], [[1.0, -3.0]]]])
    bound = attention_bound(q, k, v, np.ones((1, 1, 2), dtype=bool), scale=1.0)[0, 0, 0]
    assert bound[1] >= 3  # the exact mean of 3 and −3 is 0
    assert (bound <= 6 * (1 + 2.0**-29)).all()
    assert (attention_bound(q * 1e295, k, v, np.ones((1, 1, 2), dtype=bool), scale=1.0) == np.inf).all()
