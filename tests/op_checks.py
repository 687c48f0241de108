"""What must hold of an op, by literals and by the scalar twins: each check takes the op's module, real or mutated."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import exact
import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Array, Backend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.numerics.bounds import (
    ULPS,
    UNIT,
    activation_bound,
    gated_bound,
    layer_norm_bound,
    linear_bound,
    pool_bound,
    rms_norm_bound,
    rope_bound,
    softcap_bound,
)
from lepton_ref.numerics.bounds_softmax import attention_bound, log_softmax_bound, softmax_bound
from lepton_ref.ops.rope_frequencies import Rope
from lepton_ref.ops.rope_tables import rope_tables
from lepton_ref.plain import ops as plain
from lepton_ref.storage import Dense
from lepton_ref.storage.base import Panel

Host = NDArray[Any]
TO_FLOAT64: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["float64"]}
TO_FLOAT32: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["reference"]}


def numbers(*shape: int, seed: int = 0) -> Host:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_exact(got: Host, want: exact.Exact, bound: Host) -> None:
    assert got.shape == want.shape
    assert exact.worst_ratio(got, want, bound) <= 1


def float64(values: list[plain.Value]) -> Host:
    """The specification's values, each rounded once to float64."""
    return np.array([plain.rounded(value, "fp64") for value in values])


def half_ulp(values: list[plain.Value]) -> Host:
    """How far these floats may lie from the values that they were rounded from."""
    return np.spacing(np.abs(float64(values))) / 2


class InPanels(Dense):
    """A dense weight that is decoded two rows at a time."""

    def panels(self, *, backend: Backend) -> Any:
        for start in range(0, self.shape[0], 2):
            stop = min(start + 2, self.shape[0])
            yield Panel(start, stop, backend.from_numpy(self.operand(np.arange(start, stop))), backend)


def linear(module: ModuleType) -> None:
    x, w, b = numbers(2, 3, 4), numbers(5, 4, seed=1), numbers(5, seed=2)
    for weight in (Dense(w, format="F32"), InPanels(w, format="F32")):
        assert_exact(module.linear(x, weight, b, **TO_FLOAT64), exact.linear(x, w, b), linear_bound(x, w, b))
        assert_exact(module.linear(x, weight, **TO_FLOAT64), exact.linear(x, w), linear_bound(x, w))


def linear_sums_in_float64(module: ModuleType) -> None:
    x, w = numbers(4, 200), numbers(9, 200, seed=1)
    want = np.vectorize(float)(exact.linear(x, w)).astype(np.float32)
    assert np.array_equal(module.linear(x, Dense(w, format="F32"), **TO_FLOAT32), want)


def embed(module: ModuleType) -> None:
    table = Dense(np.arange(6, dtype=np.float32).reshape(3, 2), format="F32")
    assert module.embed(np.array([[2, 0]]), table, scale=2.0, **TO_FLOAT64).tolist() == [[[8.0, 10.0], [0.0, 2.0]]]


def embed_refuses_ids_outside(module: ModuleType) -> None:
    table = Dense(np.ones((3, 2), dtype=np.float32), format="F32")
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"^id {wrong} is outside the table of 3 rows$"):
            module.embed(np.array([[wrong]]), table, **TO_FLOAT64)


def add(module: ModuleType) -> None:
    assert module.add(np.array([1.0]), np.array([2.0**-53]), **TO_FLOAT64)[0] == 1.0
    assert module.add(np.float32([3.0]), np.float32([-4.5]), **TO_FLOAT32)[0] == -1.5


def add_does_not_broadcast(module: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(1, 3\)$"):
        module.add(np.ones((2, 3)), np.ones((1, 3)), **TO_FLOAT64)


def rms_norm(module: ModuleType) -> None:
    x, w = numbers(2, 3, 5) * np.float32(1e-3), numbers(5, seed=1)
    for offset in (0.0, 1.0):
        got = module.rms_norm(x, w, eps=1e-5, offset=offset, **TO_FLOAT64)
        bound = rms_norm_bound(x, w, eps=1e-5, offset=offset)
        assert_exact(got, exact.rms_norm(x, w, eps=1e-5, offset=offset), bound)


def rms_norm_rounds_once(module: ModuleType) -> None:
    x, w = numbers(40, 5), numbers(5, seed=1)
    want = np.vectorize(float)(exact.rms_norm(x, w, eps=1e-6)).astype(np.float32)
    assert np.array_equal(module.rms_norm(x, w, eps=1e-6, **TO_FLOAT32), want)


def layer_norm(module: ModuleType) -> None:
    x, w, b = numbers(2, 3, 5) * np.float32(1e-2) + 1, numbers(5, seed=1), numbers(5, seed=2)
    bound = layer_norm_bound(x, w, b, eps=1e-5)
    assert_exact(module.layer_norm(x, w, b, eps=1e-5, **TO_FLOAT64), exact.layer_norm(x, w, b, eps=1e-5), bound)
    far = x + 1e6  # E[x²] − E[x]² would cancel
    bound = layer_norm_bound(far, w, b, eps=1e-5)
    assert_exact(module.layer_norm(far, w, b, eps=1e-5, **TO_FLOAT64), exact.layer_norm(far, w, b, eps=1e-5), bound)


def activations(module: ModuleType) -> None:
    x, up = np.linspace(-30, 8, 77).astype(np.float32), numbers(77)
    for kind in exact.ACTIVATIONS:
        want = exact.activation(x, kind=kind)
        assert_exact(module.activate(x, kind=kind, **TO_FLOAT64), want, activation_bound(x, kind=kind))
        product = exact.times(want, exact.decimals(up))
        assert_exact(module.gated(x, up, kind=kind, **TO_FLOAT64), product, gated_bound(x, up, kind=kind))


def activations_of_special_values(module: ModuleType) -> None:
    x = np.array([-np.inf, -0.0, 0.0, np.inf, np.nan])
    want = {
        "relu": [0.0, 0.0, 0.0, np.inf, np.nan],
        "relu2": [0.0, 0.0, 0.0, np.inf, np.nan],
        "sigmoid": [0.0, 0.5, 0.5, 1.0, np.nan],
        "tanh": [-1.0, -0.0, 0.0, 1.0, np.nan],
        "silu": [np.nan, -0.0, 0.0, np.inf, np.nan],
        "quick_gelu": [np.nan, -0.0, 0.0, np.inf, np.nan],
        "gelu": [np.nan, -0.0, 0.0, np.inf, np.nan],
        "gelu_tanh": [np.nan, -0.0, 0.0, np.inf, np.nan],
    }
    for kind, values in want.items():
        assert module.activate(x, kind=kind, **TO_FLOAT64).tobytes() == np.array(values).tobytes(), kind


def softcap(module: ModuleType) -> None:
    x = np.linspace(-200, 200, 41).astype(np.float32)
    assert_exact(module.softcap(x, cap=30.0, **TO_FLOAT64), exact.softcap(x, cap=30.0), softcap_bound(x, cap=30.0))


def softmax(module: ModuleType) -> None:
    x = numbers(3, 4) * 30
    assert_exact(module.softmax(x, **TO_FLOAT64), exact.softmax(x), softmax_bound(x))
    assert_exact(module.log_softmax(x, **TO_FLOAT64), exact.log_softmax(x), log_softmax_bound(x))


def softmax_does_not_overflow(module: ModuleType) -> None:
    x = np.array([[1e38, 0.0, -1e38, -np.inf]], dtype=np.float32)
    assert module.softmax(x, **TO_FLOAT64).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    top = float(np.float32(1e38))
    assert module.log_softmax(x, **TO_FLOAT64).tolist() == [[0.0, -top, -2 * top, -np.inf]]


def softmax_of_a_row_that_holds_an_infinity(module: ModuleType) -> None:
    for row in ([np.inf, 0.0], [np.nan, 0.0], [-np.inf, -np.inf]):
        assert np.isnan(module.softmax(np.array([row]), **TO_FLOAT64)).all()
        assert np.isnan(module.log_softmax(np.array([row]), **TO_FLOAT64)).all()


def rope_halves(module: ModuleType) -> None:
    _rope(module, interleaved=False, rest=0)


def rope_interleaved(module: ModuleType) -> None:
    _rope(module, interleaved=True, rest=0)


def rope_partial(module: ModuleType) -> None:
    _rope(module, interleaved=False, rest=2)
    _rope(module, interleaved=True, rest=3)


def _rope(module: ModuleType, *, interleaved: bool, rest: int) -> None:
    """Against complex numbers in decimals; interleaved pairs are gathered first, the oracle knows halves alone."""
    record = Rope(
        theta=16.0, width=4, kind="longrope", factor=4.0, original_length=16, attention_factor=1.5,
        short_factors=(1.0, 1.0), long_factors=(1.0, 1.0), interleaved=interleaved,
    )  # fmt: skip
    frequencies, positions = np.array([1.0, 0.25]), np.array([3, 0, 17])
    x = numbers(1, 3, 1, 4 + rest)
    tables = rope_tables(positions[None], record, lengths=np.array([4]), backend=NumpyBackend())
    got = module.rope(x, tables, **TO_FLOAT64)
    order = [0, 2, 1, 3] if interleaved else [0, 1, 2, 3]
    want = exact.rope_of_halves(x[0, :, 0, order].T, positions, frequencies, factor=1.5)
    bound = rope_bound(x, positions[None], frequencies, factor=1.5, interleaved=interleaved)
    assert_exact(got[0, :, 0, order].T, want, bound[0, :, 0, order].T)
    assert np.array_equal(got[..., 4:], x[..., 4:])


def rope_turns_by_the_angle(module: ModuleType) -> None:
    """A turn by one radian takes (1, 0) to (cos 1, sin 1), not to (cos 1, −sin 1)."""
    tables = rope_tables(np.array([[1]]), Rope(theta=10000.0, width=2), backend=NumpyBackend())
    got = module.rope(np.array([[[[1.0, 0.0]]]]), tables, **TO_FLOAT64)[0, 0, 0]
    assert got.tolist() == [0.5403023058681398, 0.8414709848078965]


def tables_are_of_the_angles(module: ModuleType) -> None:
    """Positions 3, 0 and 10⁶ by frequencies 1 and ¼: cosines and sines from decimals, to the last bit."""
    positions = np.array([3, 0, 10**6])
    record = Rope(theta=16.0, width=4, kind="linear", factor=1.0)
    tables = module.rope_tables(positions[None], record, backend=NumpyBackend())
    angles = positions[:, None] * np.array([1.0, 0.25])
    want = exact.each(exact.cos_and_sin_of)(exact.decimals(angles))
    assert tables.cos[0].tolist() == [[float(pair[0]) for pair in row] for row in want]
    assert tables.sin[0].tolist() == [[float(pair[1]) for pair in row] for row in want]


def tables_take_the_attention_factor(module: ModuleType) -> None:
    record = Rope(theta=16.0, width=4, kind="yarn", factor=4.0, original_length=16, attention_factor=1.5)
    tables = module.rope_tables(np.array([[0, 5]]), record, backend=NumpyBackend())
    assert tables.factor == 1.5
    assert tables.cos[0, 0].tolist() == [1.5, 1.5]
    lengths = np.hypot(tables.cos[0, 1], tables.sin[0, 1])
    assert (np.abs(lengths - 1.5) <= 4 * UNIT * 1.5).all()


def masks(module: ModuleType) -> None:
    """Two queries at the end of four keys, the first key being padding; a window of two."""
    orders, valid = (np.array([[1, 2]]), np.array([[0, 0, 1, 2]])), np.array([[False, True, True, True]])
    causal = module.attention_mask(*orders, valid, causal=True, window=None)[0].astype(int).tolist()
    assert causal == [[0, 1, 1, 0], [0, 1, 1, 1]]
    window = module.attention_mask(*orders, valid, causal=True, window=2)[0].astype(int).tolist()
    assert window == [[0, 1, 1, 0], [0, 0, 1, 1]]
    both = module.attention_mask(*orders, valid, causal=False, window=None)[0].astype(int).tolist()
    assert both == [[0, 1, 1, 1], [0, 1, 1, 1]]
    around = module.attention_mask(*orders, valid, causal=False, window=2)[0].astype(int).tolist()
    assert around == [[0, 1, 1, 1], [0, 0, 1, 1]]


def attention_inputs(seed: int = 0) -> tuple[Host, Host, Host, Host, Host]:
    """Four heads over two key/value heads; query 1 of sequence 1 sees nothing."""
    rng = np.random.default_rng(seed)
    q, k, v = numbers(2, 3, 4, 5, seed=seed), numbers(2, 6, 2, 5, seed=seed + 1), numbers(2, 6, 2, 3, seed=seed + 2)
    mask = rng.random((2, 3, 6)) < 0.6
    mask[1, 1] = False
    return q, k, v, mask, numbers(4, seed=seed + 3)


def attention(module: ModuleType) -> None:
    q, k, v, mask, sinks = attention_inputs()
    for cap, given in ((None, None), (1.5, None), (None, sinks), (1.5, sinks)):
        got = module.attention(q, k, v, mask, given, scale=0.7, cap=cap, **TO_FLOAT64)
        bound = attention_bound(q, k, v, mask, given, scale=0.7, cap=cap)
        for b, t, h in np.ndindex(2, 3, 4):
            want = plain.attention(
                q[b, t, h].tolist(), k[b, :, h // 2].tolist(), v[b, :, h // 2].tolist(), mask[b, t].tolist(),
                scale=0.7, cap=cap, sink=None if given is None else float(given[h]),
            )  # fmt: skip
            assert (np.abs(got[b, t, h] - float64(want)) <= bound[b, t, h] + half_ulp(want)).all()


def attention_without_a_key_gives_zero(module: ModuleType) -> None:
    q, k, v, mask, sinks = attention_inputs()
    for given in (None, sinks):
        got = module.attention(q, k, v, mask, given, scale=0.7, **TO_FLOAT64)
        assert (got[1, 1] == 0.0).all()
        assert np.isfinite(got).all()


def attention_of_masked_nan(module: ModuleType) -> None:
    """NaN and infinities in the keys and values that are masked for everyone, or for some, reach no one else."""
    q, k, v, mask, sinks = attention_inputs()
    mask[:, :, 2], mask[0, :, 4] = False, [False, True, False]
    for given in (None, sinks):
        clean = module.attention(q, k, v, mask, given, scale=0.7, **TO_FLOAT64)
        for bad in (np.nan, np.inf, -np.inf):
            sick_k, sick_v = k.copy(), v.copy()
            sick_k[:, 2], sick_v[:, 2] = bad, bad
            got = module.attention(q, sick_k, sick_v, mask, given, scale=0.7, **TO_FLOAT64)
            assert np.array_equal(got, clean)
            sick_v[0, 4, 0, 1] = bad  # query 1 of sequence 0 sees it, with heads 0 and 1, in value 1
            got = module.attention(q, sick_k, sick_v, mask, given, scale=0.7, **TO_FLOAT64)
            struck = np.zeros(got.shape, dtype=bool)
            struck[0, 1, :2, 1] = True
            assert np.array_equal(got[struck], np.full(2, bad), equal_nan=True)
            assert (np.abs(got[~struck] - clean[~struck]) <= 32 * UNIT).all()


def attention_masks_whatever_the_score(module: ModuleType) -> None:
    """A seen score of −10¹² beats a masked one of any size: masks are no large negative numbers."""
    q, k, v = np.array([[[[1.0]]]]), np.array([[[[-1e12]], [[5.0]]]]), np.array([[[[3.0]], [[100.0]]]])
    mask = np.array([[[True, False]]])
    for cap in (None, 2.0):
        assert module.attention(q, k, v, mask, scale=1.0, cap=cap, **TO_FLOAT64).tolist() == [[[[3.0]]]]


def attention_with_a_sink(module: ModuleType) -> None:
    """Equal scores and a sink of the same size: a third each, and the sink's third is lost."""
    q, k, v = np.zeros((1, 1, 1, 1)), np.zeros((1, 2, 1, 1)), np.array([[[[3.0]], [[6.0]]]])
    seen = np.ones((1, 1, 2), dtype=bool)
    got = module.attention(q, k, v, seen, np.array([0.0]), scale=1.0, **TO_FLOAT64)[0, 0, 0, 0]
    assert got == 3.0
    for sink, want in ((-np.inf, 4.5), (np.inf, 0.0), (1e38, 0.0), (np.nan, np.nan)):
        got = module.attention(q, k, v, seen, np.array([sink]), scale=1.0, **TO_FLOAT64)[0, 0, 0, 0]
        assert got == want or (math.isnan(got) and math.isnan(want))


def attention_with_special_scores(module: ModuleType) -> None:
    """A score of −∞ weighs nothing beside a finite one or a sink, alone 0/0; no weight underflows to 0 · ∞."""
    q, seen = np.array([[[[1.0]]]]), np.ones((1, 1, 2), dtype=bool)

    def run(keys: list[float], values: list[float], sinks: Array | None = None) -> float:
        k, v = (np.array(column).reshape(1, 2, 1, 1) for column in (keys, values))
        return float(module.attention(q, k, v, seen, sinks, scale=1.0, **TO_FLOAT64)[0, 0, 0, 0])

    assert run([-np.inf, 0.0], [5.0, 7.0]) == 7.0
    assert run([-np.inf, -np.inf], [5.0, 7.0], np.array([0.0])) == 0.0
    assert math.isnan(run([-np.inf, -np.inf], [5.0, 7.0]))
    assert math.isnan(run([np.inf, 0.0], [5.0, 7.0]))
    assert math.isnan(run([np.nan, 0.0], [5.0, 7.0]))
    assert run([-2000.0, 0.0], [np.inf, 7.0]) == np.inf
    assert math.isnan(run([-np.inf, 0.0], [np.inf, 7.0]))
    assert math.isnan(run([0.0, 0.0], [np.inf, -np.inf]))


def attention_in_tiles(module: ModuleType) -> None:
    """One query at a time gives what all at once give."""
    q, k, v, mask, sinks = attention_inputs()
    whole = module.attention(q, k, v, mask, sinks, scale=0.7, **TO_FLOAT64)
    kept, module.TILE = module.TILE, 1
    try:
        tiled = module.attention(q, k, v, mask, sinks, scale=0.7, **TO_FLOAT64)
    finally:
        module.TILE = kept
    assert (np.abs(whole - tiled) <= 2 * attention_bound(q, k, v, mask, sinks, scale=0.7)).all()


def pool(module: ModuleType) -> None:
    """Padding on the left, and on the right, holds numbers larger than any other."""
    x, mask = numbers(3, 4, 5), np.array([[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    x[~mask] = 1e3
    for kind in ("mean", "cls", "max"):
        for normalise in (False, True):
            got = module.pool(x, mask, kind=kind, normalise=normalise, **TO_FLOAT64)
            bound = pool_bound(x, mask, kind=kind, normalise=normalise)
            for row, seen, found, most in zip(x, mask, got, bound, strict=True):
                want = plain.pool(row[seen].tolist(), kind=kind, normalise=normalise)
                assert (np.abs(found - float64(want)) <= most + half_ulp(want)).all()


def pool_of_special_values(module: ModuleType) -> None:
    mask = np.array([[False, True, True]])
    for kind in ("mean", "cls", "max"):
        x = np.array([[[np.nan], [2.0], [2.0]]])
        assert module.pool(x, mask, kind=kind, normalise=False, **TO_FLOAT64).tolist() == [[2.0]]
        zero = module.pool(np.zeros((1, 3, 2)), mask, kind=kind, normalise=True, **TO_FLOAT64)
        assert zero.tolist() == [[0.0, 0.0]]
    assert np.signbit(module.pool(np.array([[[1.0], [-0.0], [1.0]]]), mask, kind="cls", normalise=False, **TO_FLOAT64))
    assert np.isnan(module.pool(np.array([[[1.0], [np.nan], [1.0]]]), mask, kind="max", normalise=False, **TO_FLOAT64))


def sums(module: ModuleType) -> None:
    a, backend = np.array([[1.0, 2.0], [3.0, 5.0]]), module.NumpyBackend()
    for axis, want in ((0, [4.0, 7.0]), (1, [3.0, 8.0]), (-1, [3.0, 8.0])):
        assert backend.sum(a, axis=axis, keepdims=False, accumulate="float64").tolist() == want
    big = np.array([2.0**24, 1.0], dtype=np.float32)
    assert float(backend.sum(big, axis=0, keepdims=False, accumulate="float64")) == 2.0**24 + 1


def erfc(module: ModuleType) -> None:
    x = np.linspace(-6, 26, 64)
    got, want = module.erfc(x, backend=NumpyBackend()), exact.each(exact.erfc_of)(exact.decimals(x))
    assert_exact(got, want, (4 * ULPS + 16) * UNIT * np.vectorize(float)(want))
    assert np.isnan(module.erfc(np.array([np.nan]), backend=NumpyBackend())[0])
