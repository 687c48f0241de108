"""Scales, zero points and folding: by hand, the orderings that are theorems, bits that folding must keep."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from tiny_models import load

import lepton_ref
from lepton_ref.compress import awq as awq_page
from lepton_ref.compress import fold as fold_page
from lepton_ref.compress import grid as grid_page
from lepton_ref.compress.activations import groups
from lepton_ref.compress.awq import Quadratic, powers, search_scales
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.fold import fold
from lepton_ref.compress.grid import SCALES, Grid, fit, round_to_nearest
from lepton_ref.compress.hessian import hessian, layer_error
from lepton_ref.compress.hqq import hqq, power, shrink
from lepton_ref.compress.quantise import METHODS, grid_of, quantise_weight
from lepton_ref.compress.smoothquant import smooth_scales
from lepton_ref.compress.stored import affine_of
from lepton_ref.storage import Weight, decode, encode

Reals = NDArray[np.float64]
IDS = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
GRIDS = [Grid(4, 8), Grid(2, 8), Grid(8), Grid(3, 4, symmetric=True), Grid(4, stored="bf16"), Grid(5, stored="fp32")]

each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def drawn(seed: int, shape: tuple[int, int] = (5, 16)) -> Reals:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[1]))).astype(np.float32).astype(np.float64)


# --- grids ---------------------------------------------------------------------------------------------------------


def test_codes_by_hand() -> None:
    w = np.array([[-1.0, 0.0, 0.5, 2.0]])  # s = 3/3, z = 1
    coded = round_to_nearest(w, Grid(2))
    assert (coded.scales.tolist(), coded.zeros.tolist()) == ([[1.0]], [[1.0]])
    assert coded.codes.tolist() == [[0, 1, 2, 3]]  # 0.5 + 1 is a tie, to the even 2
    assert coded.decode().tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    symmetric = round_to_nearest(np.array([[-1.5, 1.5, 0.5, 0.0]]), Grid(2, symmetric=True))
    assert (symmetric.scales.tolist(), symmetric.zeros.tolist()) == ([[1.0]], [[2.0]])
    assert symmetric.codes.tolist() == [[0, 3, 2, 2]]  # ties: −1.5 to −2, 1.5 to 2, which is cut off, 0.5 to 0


@each_grid
def test_zeros_and_equal_numbers_are_held(grid: Grid) -> None:
    assert not round_to_nearest(np.zeros((2, 16)), grid).decode().any()
    ones = round_to_nearest(np.full((2, 16), 1.0), Grid(8, stored="fp32")).decode()
    assert np.abs(ones - 1).max() <= 2.0**-24  # the stored scale's rounding
    assert np.isfinite(round_to_nearest(np.full((2, 16), 1e-30), grid).decode()).all()


@each_grid
@given(seed=st.integers(0, 2**32 - 1))
def test_every_code_is_the_nearest(grid: Grid, seed: int) -> None:
    w = drawn(seed)
    coded = round_to_nearest(w, grid)
    length = grid.length(16)
    scales, zeros = (np.repeat(each, length, axis=1)[..., None] for each in (coded.scales, coded.zeros))
    values = scales * (np.arange(grid.last + 1) - zeros)
    best = np.abs(values - w[..., None]).min(axis=-1)
    # w/s + z is rounded twice before the code is chosen: a tie may go the other way by so much
    slack = (np.abs(w) + scales[..., 0] * grid.last) * 2.0**-51
    assert (np.abs(coded.decode() - w) <= best + slack).all()


def errors(page: ModuleType, w: Reals, grid: Grid, h: Reals) -> list[Reals]:
    found = []
    for how in SCALES:
        scale, zero = (each[:, None] for each in page.fit(w, grid, how=how, importance=h))
        away = w - scale * (grid.codes(w, scale, zero) - zero)
        found.append(np.add.reduce(np.ascontiguousarray((away * away * h).T), axis=0))
    return found


def ordered(page: ModuleType, seed: int, grid: Grid) -> bool:
    h = np.random.default_rng(seed).random(16)
    minmax, clip, least = errors(page, drawn(seed), grid, h)
    slack = 16 * 2.0**-52 * minmax  # the sums here and there round in different orders
    return bool((clip <= minmax + slack).all() and (least <= clip + slack).all())


@each_grid
@given(seed=st.integers(0, 2**32 - 1))
def test_better_scales_are_no_worse(grid: Grid, seed: int) -> None:
    assert ordered(grid_page, seed, grid)


def test_keeping_the_last_instead_of_the_best_is_seen() -> None:
    wrong = mutated(grid_page, "won = error < best[2]", "won = error < np.inf")
    assert not all(ordered(wrong, seed, Grid(3)) for seed in range(20))


def test_least_squares_finds_the_scale_that_made_the_weight() -> None:
    q = np.array([[0, 5, 15, 7, 8, 9, 1, 2]])
    scale, zero = fit(0.375 * (q - 8.0), Grid(4, symmetric=True), how="least_squares")
    np.testing.assert_array_equal(scale, [0.375])
    np.testing.assert_array_equal(zero, [8])


def test_stored_codes_decode_to_the_same_numbers() -> None:
    for grid in GRIDS:
        coded = round_to_nearest(drawn(1), grid)
        np.testing.assert_array_equal(affine_of(coded).unrounded(np.arange(5)), coded.decode())
    with pytest.raises(ValueError, match="is no code of 4 bits; quantise with whole=True"):
        affine_of(hqq(drawn(1), Grid(4, 8)))
    affine_of(hqq(drawn(1), Grid(4, 8), whole=True))


# --- HQQ -----------------------------------------------------------------------------------------------------------


@given(x=st.floats(1e-30, 1e30), exponent=st.floats(-2, 2))
def test_powers_are_right(x: float, exponent: float) -> None:
    got = float(power(np.array([x]), exponent)[0])
    assert abs(got - x**exponent) <= 4 * math.ulp(got)  # the C library's own, and one rounding of a double-double


def test_shrinking_by_hand() -> None:
    np.testing.assert_array_equal(shrink(np.array([0.0, 1.0, -1.0, 0.01]), 10.0, 1.0), [0, 0.9, -0.9, 0])


@given(st.floats(0.1, 1000), st.floats(0.1, 1), st.integers(-60, 60))
def test_powers_left_out_are_those_that_leave_nothing(beta: float, norm: float, ulps: int) -> None:
    def in_full(x: Reals) -> Reals:
        return np.sign(x) * np.maximum(np.abs(x) - power(np.abs(x), norm - 1) / beta, 0.0)

    limit = beta ** (-1 / (2 - norm))
    near = limit * (1 + ulps * 2.0 ** -np.array([52, 40, 24, 20, 16, 7]))
    x = np.concatenate([near, -near, limit * np.array([0.25, 0.5, 2, 8])])
    assert np.array_equal(shrink(x, beta, norm), in_full(x))
    assert np.count_nonzero(shrink(x, beta, norm)) >= 2


@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(2, 8), whole=st.booleans())
def test_hqq_is_no_worse_in_its_own_measure(seed: int, bits: int, whole: bool) -> None:
    w = drawn(seed)
    grid = Grid(bits, 8)
    got, plain = (
        np.abs(w - coded.decode()).reshape(5, 2, 8).sum(axis=-1)
        for coded in (hqq(w, grid, whole=whole), round_to_nearest(w, grid))
    )
    assert (got <= plain * (1 + 16 * 2.0**-52)).all()


@pytest.mark.parametrize("whole", [False, True])
def test_hqq_is_better_on_fixed_seeds(whole: bool) -> None:
    for seed in range(5):
        w, grid = np.random.default_rng(seed).standard_t(3, (8, 128)), Grid(3, 64)
        got, plain = (np.abs(w - c.decode()).sum() for c in (hqq(w, grid, whole=whole), round_to_nearest(w, grid)))
        assert got < 0.99 * plain


# --- AWQ and SmoothQuant -------------------------------------------------------------------------------------------


def test_awq_scales_by_hand() -> None:
    np.testing.assert_array_equal(powers(np.array([16.0, 1.0, 1 / 16, 0.0]), 1.0), [4, 1, 0.25, 1])
    np.testing.assert_array_equal(powers(np.array([16.0, 1.0, 1 / 16, 0.0]), 0.5), [2, 1, 0.5, 1])
    np.testing.assert_array_equal(powers(np.zeros(3), 1.0), [1, 1, 1])


@given(seed=st.integers(0, 2**32 - 1), with_hessian=st.booleans())
def test_awq_is_no_worse_in_the_layers_error(seed: int, with_hessian: bool) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((40, 16)) * np.exp(rng.standard_normal(16))).astype(np.float32)
    h = hessian([x])
    w, grid = drawn(seed), Grid(3, 8)
    known = {"hessian": h} if with_hessian else {"importance": np.diag(h)}
    s = search_scales([w], grid, **known)
    loss = h if with_hessian else np.diag(np.diag(h))
    got = layer_error(w - round_to_nearest(w * s, grid).decode() / s, loss)
    assert got <= layer_error(w - round_to_nearest(w, grid).decode(), loss) * (1 + 2.0**-40)
    assert set(np.frexp(s)[0]) == {0.5}  # powers of two


def layer(seed: int, inputs: int = 16, outputs: int = 5) -> tuple[Reals, Reals]:
    """(weight, Hessian) of columns of very different sizes, some of them dead."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((40, inputs)) * np.exp(3 * rng.standard_normal(inputs))).astype(np.float32)
    x[:, rng.random(inputs) < 0.1] = 0
    return rng.standard_normal((outputs, inputs)), hessian([x])


def bounds_hold(page: ModuleType, seed: int) -> bool:
    """Of differences small and large, and of the largest element where H is smallest."""
    w, h = layer(seed)
    form, rng = page.Quadratic(h), np.random.default_rng(seed)
    for delta in (
        w,
        w * np.exp(9 * rng.standard_normal(w.shape)),
        1e-9 * w,
        1e9 * w * (np.diag(h) == np.diag(h).min()),
    ):
        low, high = form.bounds(delta)
        if not low <= layer_error(delta, h) <= high:
            return False
    return True


@given(seed=st.integers(0, 2**32 - 1))
def test_awqs_bounds_hold(seed: int) -> None:
    assert bounds_hold(awq_page, seed)


def test_awqs_bounds_are_near_and_say_nothing_where_there_is_no_root() -> None:
    w, h = layer(1, inputs=64)
    low, high = Quadratic(h).bounds(w)
    assert 0 < high - low < 1e-9 * high
    assert Quadratic(np.array([[0.0, 1.0], [1.0, 1.0]])).bounds(np.ones((1, 2))) == (-math.inf, math.inf)


def one_after_the_other(weights: list[Reals], grid: Grid, h: Reals, how: str) -> Reals:
    """AWQ's search, every loss in full."""
    best, found = math.inf, np.ones(len(h))
    for step in range(21):
        s = powers(np.diag(h), step / 20)
        errors = (
            w - round_to_nearest(w * s, grid, how=how, importance=np.diag(h) / s**2).decode() / s for w in weights
        )
        loss = math.fsum(layer_error(each, h) for each in errors)
        if loss < best:
            best, found = loss, s
    return found


def finds_the_same(page: ModuleType, seed: int, how: str = "minmax") -> bool:
    (w, h), grid = layer(seed), Grid(3, 8)
    found = page.search_scales([w, w[:2]], grid, hessian=h, how=how)
    return np.array_equal(found, one_after_the_other([w, w[:2]], grid, h, how))


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), how=st.sampled_from(["minmax", "clip"]))
def test_awq_finds_what_computing_every_loss_finds(seed: int, how: str) -> None:
    assert finds_the_same(awq_page, seed, how)


def by_importance(page: ModuleType, seed: int) -> bool:
    """Without a Hessian: the least Σ h·δ², every scale in full."""
    (w, h), grid = layer(seed), Grid(3, 8)
    known = np.diag(h).copy()
    best, found = math.inf, np.ones(len(known))
    for s in (powers(known, step / 20) for step in range(21)):
        delta = w - round_to_nearest(w * s, grid, importance=known / s**2).decode() / s
        loss = math.fsum((delta * delta * known).ravel().tolist())
        if loss < best:
            best, found = loss, s
    return np.array_equal(page.search_scales([w], grid, importance=known), found)


@pytest.mark.parametrize("seed", range(4))
def test_awq_by_importance_alone_finds_what_computing_every_loss_finds(seed: int) -> None:
    assert by_importance(awq_page, seed)


def test_a_search_that_searches_nothing_is_seen() -> None:
    wrong = mutated(awq_page, "return tried[losses.index(min(losses))]", "return tried[0]")
    assert not any(by_importance(wrong, seed) for seed in range(4))


def takes_the_first_of_equals(page: ModuleType) -> bool:
    """Of a weight that every scale stores as it is."""
    return np.array_equal(page.search_scales([np.zeros((2, 16))], Grid(3, 8), hessian=layer(0)[1]), np.ones(16))


def test_the_first_of_equal_losses_wins() -> None:
    assert takes_the_first_of_equals(awq_page)
    assert not takes_the_first_of_equals(mutated(awq_page, "losses.index(min(losses))", "len(losses) - 1"))


def test_a_search_that_leaves_the_best_out_is_seen() -> None:
    wrong = mutated(awq_page, "if low <= least]", "if low > least]")
    assert not all(finds_the_same(wrong, seed) for seed in range(4))


def test_bounds_that_leave_roundings_out_are_seen() -> None:
    wrong = mutated(awq_page, "1.05 * ((len(self.h) + delta.size + 6) * U * wide + rest)", "0.0")
    assert all(bounds_hold(awq_page, seed) for seed in range(5))
    assert not all(bounds_hold(wrong, seed) for seed in range(5))


def test_smooth_scales_by_hand() -> None:
    weights = [np.array([[1.0, 4.0, 1.0]]), np.array([[-0.25, 1.0, 0.0]])]
    np.testing.assert_array_equal(smooth_scales(np.array([16.0, 1.0, 0.0]), weights), [4, 0.5, 1])
    np.testing.assert_array_equal(smooth_scales(np.array([16.0, 1.0, 9.0]), weights, exact=False), [4, 0.5, 3])
    np.testing.assert_array_equal(smooth_scales(np.array([16.0, 1.0, 9.0]), weights, alpha=0.0), [1, 0.25, 1])


def with_weights(model: lepton_ref.Model, changed: Mapping[str, Weight]) -> lepton_ref.Model:
    parts = dataclasses.replace(model.parts, weights={**model.parts.weights, **changed})
    return type(model)(parts, backend=model.backend, precision=model.precision)


FOLDABLE = {
    "llama": ["attn_norm", "mlp_norm", "mlp"],
    "llama_biased": ["attn_norm", "mlp_norm", "mlp"],
    "gpt2": ["attn_norm", "mlp_norm", "attn"],
    "qwen3": ["attn_norm", "mlp_norm", "mlp"],
    "gpt_neox": ["attn_norm", "mlp_norm", "attn"],
}


def keeps_bits(page: ModuleType, name: str, seed: int) -> bool:
    """Whether scales of powers of two, folded into one input after the other, leave the logits as they are."""
    model = load(GOLDEN / "tiny" / name)
    rng = np.random.default_rng(seed)
    before = [model.forward([ids]) for ids in IDS]
    for read in (f"layers.{layer}.{each}" for layer in (0, 1) for each in FOLDABLE[name]):
        width = next(op.width for op in model.program.ops if op.name == read)
        scale = np.ldexp(1.0, rng.integers(-3, 4, width))
        model = with_weights(model, page.fold(model.program, model.parts.weights, read, scale))
    return all(np.array_equal(model.forward([ids]), want) for ids, want in zip(IDS, before, strict=True))


@pytest.mark.parametrize("name", FOLDABLE)
@pytest.mark.parametrize("seed", [0, 1])
def test_folding_powers_of_two_keeps_every_bit(name: str, seed: int) -> None:
    assert keeps_bits(fold_page, name, seed)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("array / (rows if", "array * (rows if"),
        ("astype(np.float64) * scale)", "astype(np.float64) / scale)"),
        ("made.inputs[1 if", "made.inputs[0 if"),
    ],
    ids=["multiplied where it is divided", "divided where it is multiplied", "the gate for up"],
)
def test_folding_the_wrong_way_is_seen(text: str, bug: str) -> None:
    assert not keeps_bits(mutated(fold_page, text, bug), "llama", 0)


def test_one_scale_serves_all_heads_that_share_a_value() -> None:
    model = load(GOLDEN / "tiny" / "llama")
    attention = next(op for op in model.program.ops if op.name == "layers.0.attn")
    heads, shared = attention.options["heads"], attention.options["kv_heads"]
    scale = np.ldexp(1.0, np.random.default_rng(0).integers(-2, 3, (shared, 1, attention.width // heads)))
    scale = np.repeat(scale, heads // shared, axis=1).reshape(-1)
    folded = with_weights(model, fold(model.program, model.parts.weights, "layers.0.attn", scale))
    np.testing.assert_array_equal(folded.forward(IDS[:1]), model.forward(IDS[:1]))


# --- all of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_quantises_every_matrix_of_a_model(method: str) -> None:
    model = load(GOLDEN / "tiny" / "llama")
    seen = calibrate(model, IDS)
    for group, h in seen.hessians():
        for op in group.ops:
            w = model.parts.weights[op.weights["w"]].decode()
            known: dict[str, Any] = {"importance": seen.channels[op.weights["w"]].importance, "hessian": h}
            first, again = (quantise_weight(w, "int4-g8", method=method, **known) for _ in range(2))
            assert first.coded is not None
            assert again.coded is not None
            assert first.coded.codes.tobytes() == again.coded.codes.tobytes()
            assert first.coded.scales.tobytes() == again.coded.scales.tobytes()
            affine_of(first.coded)
            assert (first.inputs is not None) == (method == "awq")
    assert set(groups(model.program)) >= {"layers.0.attn_norm", "norm"}


def test_gguf_formats_go_to_their_own_encoders() -> None:
    w = drawn(0, (3, 64)).astype(np.float32)
    done = quantise_weight(w, "Q8_0", importance=np.ones(64))
    assert done.raw is not None
    np.testing.assert_array_equal(done.raw, encode("Q8_0", w))
    assert decode("Q8_0", done.raw).shape == w.shape


def test_names_of_grids() -> None:
    assert grid_of("int4-g64") == Grid(4, 64)
    assert grid_of("int8") == Grid(8)
    assert grid_of("int3-g32-sym-fp32") == Grid(3, 32, symmetric=True, stored="fp32")
    assert grid_of("Q4_K") is None
    assert grid_of("int9") is None


LLAMA = GOLDEN / "tiny" / "llama"
ONES = np.ones((2, 8))


def folded(name: str, read: str, scale: Reals) -> Callable[[], object]:
    def run() -> object:
        model = load(GOLDEN / "tiny" / name)
        return fold(model.program, model.parts.weights, read, scale)

    return run


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Grid(9), "bits=9; an integer grid has 2 to 8"),
    (lambda: Grid(4, 0), "group=0; give at least 1"),
    (lambda: Grid(4, stored="fp8"), "stored='fp8'; scales are stored as fp16"),
    (lambda: round_to_nearest(ONES, Grid(4, 3)), "rows of 8 are no whole groups of 3"),
    (lambda: round_to_nearest(np.full((1, 2), np.nan), Grid(4)), "the weight is nan at (0, 0)"),
    (lambda: round_to_nearest(np.full((1, 2), 1e30), Grid(4)), "is beyond fp16; store scales as fp32"),
    (lambda: round_to_nearest(ONES, Grid(4), how="best"), "unknown way to choose scales 'best'"),
    (lambda: round_to_nearest(ONES, Grid(4), importance=np.ones(7)), "importance has shape (7,)"),
    (lambda: round_to_nearest(ONES, Grid(4), importance=-np.ones(8)), "importance holds -1"),
    (lambda: hqq(ONES, Grid(4, symmetric=True)), "HQQ chooses zero points"),
    (lambda: hqq(ONES, Grid(4), norm=0), "norm=0, beta=10.0, rounds=20"),
    (lambda: search_scales([], Grid(4)), "give those that read one input"),
    (lambda: search_scales([ONES], Grid(4)), "neither importance nor a Hessian"),
    (lambda: smooth_scales(np.ones(8), [ONES], alpha=2), "alpha=2; give 0"),
    (lambda: smooth_scales(-np.ones(8), [ONES]), "hold a negative number"),
    (lambda: smooth_scales(np.ones(7), [ONES]), "for 7 channels; give their readers"),
    (lambda: quantise_weight(ONES, "int4", method="best"), "unknown method 'best'; known: rtn"),
    (lambda: quantise_weight(ONES, "Q9"), "unknown format 'Q9'; known: F64"),
    (lambda: quantise_weight(ONES, "int4", method="gptq"), "gptq needs the Hessian"),
    (lambda: quantise_weight(ONES, "int4", method="awq"), "awq needs to know the weight's inputs"),
    (lambda: quantise_weight(np.ones((2, 32)), "IQ3_S", method="gptq"), "has an encoder of its own and no gptq"),
    (folded("llama", "nowhere", np.ones(3)), "no op is named 'nowhere'"),
    (folded("llama", "layers.0.mlp", np.ones(3)), "a scale of shape (3,); give 40"),
    (folded("llama", "layers.0.mlp", np.zeros(40)), "give 40 positive numbers"),
    (folded("llama", "layers.0.attn_residual", np.ones(24)), "only linear ops can take a scale"),
    (folded("gpt2", "layers.0.mlp", np.ones(80)), "layers.0.mlp is of kind activate, which no scale goes through"),
    (folded("gemma2", "layers.0.attn_norm", np.ones(20)), "it cannot take a scale exactly"),
    (folded("llama_tied", "norm", np.ones(24)), "embed.weight is read by other ops than those of norm; untie it"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)
