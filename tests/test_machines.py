"""Machine models: both twins give the same bits on whatever is drawn, and the laws that each model must keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine_checks import Tools
from numpy.typing import NDArray

from lepton_ref.numerics import machine_units, machines
from lepton_ref.numerics.machines import MACHINES, Machine, Sums, TensorCore, get_machine, machine_matmul
from lepton_ref.numerics.philox import random_bits as array_bits
from lepton_ref.plain.machine_dot import dot
from lepton_ref.plain.machines import ACCUMULATORS, INPUTS, ORDERS, RESULTS, SUM_MODES
from lepton_ref.plain.philox import philox, random_bits

Reals = NDArray[np.float64]

SPECIAL = np.array(
    [
        *(0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 65504.0, 448.0, 3.4e38, -3e38, 2.0**127),
        *(2.0**-9, 2.0**-14, 2.0**-24, -(2.0**-15), 2.0**-126, 2.0**-133, -(2.0**-149)),
        *(2.0**-67, 2.0**-75, 1 + 2.0**-7, 1 + 2.0**-11),
    ]
)


def numbers(seed: int, kind: str, shape: tuple[int, ...]) -> Reals:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(shape)
    if kind == "plain":
        return normal
    if kind == "ties":
        return rng.integers(-4, 5, shape) * np.exp2(rng.integers(-12, 12, shape))
    if kind == "far":
        return normal * np.exp2(rng.integers(-75, 60, shape))
    return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), normal * np.exp2(rng.integers(-20, 15, shape)))


def records() -> st.SearchStrategy[Machine]:
    """Machines of every kind, most of which nobody built."""
    formats, accumulators = st.sampled_from(INPUTS), st.sampled_from(ACCUMULATORS)
    plain = {
        "name": st.just("drawn"),
        "inputs": formats,
        "accumulate": accumulators,
        "mode": st.sampled_from(SUM_MODES),
    }
    more = {"flush_to_zero": st.booleans(), "seed": st.integers(0, 2**64 - 1), "block": st.integers(1, 5)}
    pairs = st.builds(Sums, order=st.just("pairwise"), **plain, **more)
    others = [order for order in ORDERS if order != "pairwise"]
    loops = st.builds(Sums, order=st.sampled_from(others), fused=st.booleans(), **plain, **more)
    cores = st.builds(
        TensorCore,
        name=st.just("drawn"),
        inputs=formats,
        products=st.integers(1, 9),
        fraction_bits=st.integers(5, 35),
        result=st.sampled_from(RESULTS),
        kept_bits=st.integers(3, 23),
        least_exponent=st.sampled_from([-300, -133, -20, 0]),
    )
    return st.one_of(st.sampled_from(list(MACHINES.values())), loops, pairs, cores)


def by_scalars(x: Reals, w: Reals, bias: Reals | None, machine: Machine, first: int) -> Reals:
    """`machine_matmul` one element at a time."""
    columns = [(first + j, row.tolist(), None if bias is None else float(bias[j])) for j, row in enumerate(w)]
    return np.array([[dot(row.tolist(), w, b, machine, feature=j) for j, w, b in columns] for row in x])


KINDS = st.sampled_from(["plain", "ties", "far", "special"])


@given(records(), KINDS, KINDS, st.integers(0, 2**32 - 1), st.integers(0, 20), st.booleans())
def test_both_twins_give_the_same_bits(
    machine: Machine, kind: str, other: str, seed: int, k: int, has_bias: bool
) -> None:
    x, w = numbers(seed, kind, (2, k)), numbers(seed + 1, other, (3, k))
    bias = numbers(seed + 2, other, (3,)) if has_bias else None
    first = seed % 1000
    y = machine_matmul(x, w, bias, machine, first_feature=first)
    assert y.shape == (2, 3)
    assert y.dtype == np.float64
    assert y.tobytes() == by_scalars(x, w, bias, machine, first).reshape(2, 3).tobytes()


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("kind", ["ties", "far", "special"])
def test_both_twins_of_every_machine_that_has_a_name(name: str, kind: str) -> None:
    x, w, bias = numbers(1, kind, (2, 70)), numbers(2, kind, (2, 70)), numbers(3, kind, (2,))
    y = machine_matmul(x, w, bias, name)
    assert y.tobytes() == by_scalars(x, w, bias, MACHINES[name], 0).tobytes()


@given(st.sampled_from(list(MACHINES)), st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_neither_the_batch_nor_the_cut_changes_a_bit(name: str, seed: int, k: int) -> None:
    x, w, bias = numbers(seed, "plain", (5, k)), numbers(seed + 1, "plain", (6, k)), numbers(seed + 2, "plain", (6,))
    whole = machine_matmul(x, w, bias, name)
    rows = [machine_matmul(row[None], w, bias, name) for row in x]
    assert whole.tobytes() == np.concatenate(rows).tobytes()
    parts = [machine_matmul(x, w[a:b], bias[a:b], name, first_feature=a) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert whole.tobytes() == np.concatenate(parts, axis=1).tobytes()


def test_panels_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, bias = numbers(1, "plain", (7, 50)), numbers(2, "plain", (9, 50)), numbers(3, "plain", (9,))
    whole = {name: machine_matmul(x, w, bias, name).tobytes() for name in MACHINES}
    monkeypatch.setattr(machines, "PANEL", 6)
    monkeypatch.setattr(machines, "OPERANDS", 100)
    assert len(list(machines._panels(7, 9, 50))) > 4
    assert {name: machine_matmul(x, w, bias, name).tobytes() for name in MACHINES} == whole


@given(st.sampled_from([name for name, m in MACHINES.items() if isinstance(m, TensorCore)]), st.data())
def test_the_order_within_a_step_changes_nothing(name: str, data: st.DataObject) -> None:
    core = get_machine(name)
    assert isinstance(core, TensorCore)
    p, seed = core.products, data.draw(st.integers(0, 2**32 - 1))
    x, w = numbers(seed, "ties", (2, 3 * p)), numbers(seed + 1, "special", (2, 3 * p))
    order = np.concatenate([start + np.array(data.draw(st.permutations(range(p)))) for start in (0, p, 2 * p)])
    y = machine_matmul(x, w, None, core)
    assert y.tobytes() == machine_matmul(x[:, order], w[:, order], None, core).tobytes()
    padded = [np.concatenate([array, np.zeros((2, 1))], axis=1) for array in (x, w)]
    assert y.tobytes() == machine_matmul(*padded, None, core).tobytes()


def test_the_order_across_steps_changes_something() -> None:
    x = np.array([[2.0**-12] * 4 + [1.0] + [0.0] * 3])
    assert machine_matmul(x, x, None, "v100-fp16")[0, 0] == 1 + 2.0**-22
    assert machine_matmul(x[:, ::-1].copy(), x[:, ::-1].copy(), None, "v100-fp16")[0, 0] == 1.0


@given(st.sampled_from(list(MACHINES)), st.integers(0, 2**32 - 1), st.integers(-3, 3))
def test_a_power_of_two_scales_the_result(name: str, seed: int, power: int) -> None:
    """Of numbers that stay normal: products are multiples of 2⁻²⁰; where subnormals are lost, one product is large.

    |256·w| ≥ 256 exceeds the sum of the others, 39·4; E4M3 has no 256·2³, and no machine that loses subnormals.
    """
    rng = np.random.default_rng(seed)
    x, w = (rng.choice([-1, 1], (2, 40)) * rng.uniform(1, 2, (2, 40)) for _ in range(2))
    if get_machine(name).inputs != "e4m3fn":
        x[:, 0] = 256.0
    scaled = machine_matmul(x * 2.0**power, w, None, name)
    assert np.array_equal(scaled, machine_matmul(x, w, None, name) * 2.0**power)


@given(st.sampled_from([name for name in MACHINES if "stochastic" not in name]), st.integers(0, 2**32 - 1))
def test_the_negative_of_the_weights_gives_the_negative(name: str, seed: int) -> None:
    x, w = numbers(seed, "ties", (2, 30)), numbers(seed + 1, "special", (3, 30))
    y, negative = machine_matmul(x, w, None, name), machine_matmul(x, -w, None, name)
    assert np.array_equal(negative, -y, equal_nan=True)  # zeros may differ: x − x is +0 both ways


@given(st.sampled_from(list(MACHINES)), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_small_integers_are_exact_on_every_machine(name: str, seed: int, k: int) -> None:
    """|Σ| ≤ 40·4 + 4 < 2⁸: every product and every sum in any order is a number of bf16, the smallest accumulator."""
    rng = np.random.default_rng(seed)
    x, w = (rng.integers(-2, 3, (3, k)).astype(float) for _ in range(2))
    bias = rng.integers(-4, 5, 3).astype(float)
    assert np.array_equal(machine_matmul(x, w, bias, name), x @ w.T + bias)


@given(st.sampled_from(["sequential", "pairwise", "blocked", "fma"]), st.sampled_from(ACCUMULATORS), st.data())
def test_sums_stay_within_higham_s_bound(order: str, accumulate: str, data: st.DataObject) -> None:
    """|ŝ − s| ≤ γ_n Σ|x·w| for n roundings a term; integers, so that nothing underflows, and too few to overflow."""
    seed, k = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 60))
    rng = np.random.default_rng(seed)
    x, w = (rng.integers(-16, 17, (1, k)).astype(float) for _ in range(2))
    y = machine_matmul(x, w, None, f"{order}-{accumulate}")[0, 0]
    unit = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}[accumulate]
    gamma = Fraction(k) * Fraction(unit) / (1 - Fraction(k) * Fraction(unit))
    exact, size = Fraction(float(x[0] @ w[0])), Fraction(float(np.abs(x[0]) @ np.abs(w[0])))
    assert abs(Fraction(float(y)) - exact) <= gamma * size


def test_numpy_s_own_float16_products_and_sums_are_no_machine_of_that_name() -> None:
    x = np.array([1.0, *[2.0**-11] * 64], dtype=np.float16)
    ones = np.ones_like(x)
    assert float(x @ ones) == float(np.einsum("i,i", x, ones)) == 1 + 2.0**-5
    assert dot(x.astype(float).tolist(), ones.astype(float).tolist(), None, "sequential-fp16") == 1.0


LOW_HALVES = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0xF000, 0xFFFF]


@pytest.mark.parametrize("low", LOW_HALVES)
def test_the_fast_roundings_are_those_of_numpy_and_ml_dtypes(low: int) -> None:
    """Every sign, exponent and upper mantissa of float32, at ties of either format and beside them."""
    x = (np.arange(1 << 16, dtype=np.uint32) << 16 | np.uint32(low)).view(np.float32)
    x = np.where(np.isnan(x), np.float32(np.nan), x)
    with np.errstate(all="ignore"):
        to_bf16, in_range = machine_units.to_bf16(x), x[~(np.abs(x) > 2.0**100) | np.isinf(x)]
        to_fp16, expected = machine_units.to_fp16(in_range), in_range.astype(np.float16).astype(np.float32)
    assert np.array_equal(to_bf16.view(np.uint32), x.astype(ml_dtypes.bfloat16).astype(np.float32).view(np.uint32))
    assert np.array_equal(to_fp16.view(np.uint32), expected.view(np.uint32))


@given(st.floats(-(2.0**300), 2.0**300), st.floats(-(2.0**300), 2.0**300))
def test_rounding_to_odd_is_exact_or_odd_and_next_to_the_sum(a: float, b: float) -> None:
    total = a + b
    exact = Fraction(a) + Fraction(b)
    error = float(exact - Fraction(total))
    odd = float(machine_units.to_odd(np.array([total]), np.array([error]))[0])
    if error == 0:
        assert odd == total
        return
    assert np.float64(odd).view(np.uint64) % 2 == 1
    assert abs(Fraction(odd) - exact) < Fraction(math.ulp(odd))


def test_philox_is_the_one_of_its_authors() -> None:
    """The three vectors of kat_vectors in Random123."""
    ones = 0xFFFFFFFF
    assert philox((0, 0), (0, 0, 0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones, ones), (ones, ones, ones, ones)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert philox((0xA4093822, 0x299F31D0), pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert random_bits(0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88) == 0x94FDCCEBD16CFE09


@given(*[st.integers(0, 2**64 - 1)] * 3)
def test_both_twins_draw_the_same_bits(seed: int, feature: int, step: int) -> None:
    drawn = array_bits(seed, np.array([feature, 5], dtype=np.uint64), np.array([[step], [7]], dtype=np.uint64))
    expected = [[random_bits(seed, o, n) for o in (feature, 5)] for n in (step, 7)]
    assert drawn.tolist() == expected


def test_what_a_name_stands_for() -> None:
    named = {"v100-fp16", "a100-fp16", "a100-tf32", "h100-fp16", "h100-fp8", "b200-fp8", "stochastic-bf16"}
    orders = {f"{order}-{f}" for order in ORDERS for f in ACCUMULATORS}
    assert named | orders <= set(MACHINES)
    assert all(machine.name == name for name, machine in MACHINES.items())
    assert get_machine("a100-tf32") is MACHINES["a100-tf32"]
    assert get_machine(MACHINES["a100-tf32"]) is MACHINES["a100-tf32"]
    assert Tools().machines is MACHINES


X, W = np.ones((2, 3)), np.ones((4, 3))

BAD: list[tuple[type[Exception], str, Callable[[], object]]] = [
    (ValueError, "unknown machine 'v100'; known: sequential-fp32", lambda: machine_matmul(X, W, None, "v100")),
    (ValueError, "unknown machine 5; known", lambda: get_machine(5)),  # type: ignore[arg-type]
    (ValueError, "unknown machine 'a'", lambda: dot([1.0], [1.0], None, "a")),
    (ValueError, "x has 1 elements and w has 2; give one", lambda: dot([1.0], [1.0, 2.0], None, "fma-fp16")),
    (ValueError, "feature -1; give", lambda: dot([1.0], [1.0], None, "stochastic-fp16", feature=-1)),
    (TypeError, "x is float32; give", lambda: machine_matmul(X.astype("f4"), W, None, "fma-fp16")),
    (TypeError, "w is list; give", lambda: machine_matmul(X, W.tolist(), None, "fma-fp16")),
    (TypeError, "bias is int64; give", lambda: machine_matmul(X, W, np.ones(4, dtype=int), "fma-fp16")),
    (ValueError, r"x has shape \(3,\); give 2 axes", lambda: machine_matmul(X[0], W, None, "fma-fp16")),
    (ValueError, r"bias has shape \(1, 4\); give 1 axes", lambda: machine_matmul(X, W, np.ones((1, 4)), "fma-fp16")),
    (ValueError, "x has 2 columns and w has 3; give", lambda: machine_matmul(X[:, :2], W, None, "fma-fp16")),
    (ValueError, "bias has 3 elements and w has 4 rows", lambda: machine_matmul(X, W, np.ones(3), "fma-fp16")),
    (ValueError, "first_feature -2; give", lambda: machine_matmul(X, W, None, "fma-fp16", first_feature=-2)),
    (ValueError, "machine 'a': inputs 'fp64'; known: fp32", lambda: Sums("a", "fp64", "fp16", "kahan")),
    (ValueError, "machine 'a': accumulate 'tf32'; known", lambda: Sums("a", "fp16", "tf32", "kahan")),
    (ValueError, "machine 'a': order 'any'; known", lambda: Sums("a", "fp16", "fp16", "any")),
    (ValueError, "machine 'a': mode 'up'; known", lambda: Sums("a", "fp16", "fp16", "kahan", mode="up")),
    (ValueError, "machine 'a': seed -1; give", lambda: Sums("a", "fp16", "fp16", "kahan", seed=-1)),
    (ValueError, "machine 'a': block 0; give", lambda: Sums("a", "fp16", "fp16", "blocked", block=0)),
    (ValueError, "machine 'a': block True; give", lambda: Sums("a", "fp16", "fp16", "blocked", block=True)),
    (ValueError, "fused must be False", lambda: Sums("a", "fp16", "fp16", "pairwise", fused=True)),
    (ValueError, "machine 'a': inputs 'int8'; known", lambda: TensorCore("a", "int8", 4, 23)),
    (ValueError, "machine 'a': products 0; give", lambda: TensorCore("a", "fp16", 0, 23)),
    (ValueError, "machine 'a': fraction_bits 36; give an integer of 1 … 35", lambda: TensorCore("a", "fp16", 4, 36)),
    (ValueError, "machine 'a': result 'bf16'; known", lambda: TensorCore("a", "fp16", 4, 23, result="bf16")),
    (ValueError, "machine 'a': kept_bits 24; give", lambda: TensorCore("a", "fp16", 4, 23, kept_bits=24)),
    (ValueError, "machine 'a': least_exponent 1; give", lambda: TensorCore("a", "fp16", 4, 23, least_exponent=1)),
    (ValueError, "seed -1; give", lambda: array_bits(-1, np.zeros(1, np.uint64), np.zeros(1, np.uint64))),
    (ValueError, "step 18446744073709551616; give", lambda: random_bits(0, 0, 2**64)),
    (ValueError, "machine 'fma-fp16': products", lambda: replace(MACHINES["a100-tf32"], name="fma-fp16", products=-1)),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_input_is_named(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()
