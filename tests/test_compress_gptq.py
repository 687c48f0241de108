"""GPTQ: its identities as theorems, its codes by hand, and planted mistakes that these catch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from gptq_theorems import drawn, exact_trace, is_the_trace
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.compress import gptq as page
from lepton_ref.compress import hessian as hessian_page
from lepton_ref.compress import reproducible
from lepton_ref.compress.gptq import feed_back, gptq
from lepton_ref.compress.grid import Grid, round_to_nearest
from lepton_ref.compress.hessian import damped, factor, hessian, layer_error

Reals = NDArray[np.float64]


def integers(seed: int, n: int) -> tuple[Reals, Reals, Reals]:
    """(H, U, D) of small integers and powers of two, so that every step is exact in float64."""
    rng = np.random.default_rng(seed)
    u = np.eye(n) + np.triu(rng.integers(-1, 2, (n, n)), 1)
    d = 2.0 ** rng.integers(0, 4, n)
    return (u * d) @ u.T, u, d


def unit(column: int, wanted: Reals) -> tuple[NDArray[np.uint8], Reals]:
    """Codes of a grid of whole numbers around 128."""
    q = np.clip(np.rint(wanted), -128, 127)
    return (q + 128).astype(np.uint8), q


# --- by hand -------------------------------------------------------------------------------------------------------


def test_two_columns_by_hand() -> None:
    # H = [[5, 2], [2, 1]] = U·D·Uᵀ with U = [[1, 2], [0, 1]] and D = (1, 1). The first column rounds 0.25 to 0; its
    # error 0.25 is fed to the second twofold: 0.25 + 0.5 = 0.75 is wanted and 1 is taken, where 0.25 alone gives 0.
    h = np.array([[5.0, 2.0], [2.0, 1.0]])
    u, d = factor(h)
    np.testing.assert_array_equal(u, [[1, 2], [0, 1]])
    np.testing.assert_array_equal(d, [1, 1])
    done = feed_back(np.array([[0.25, 0.25]]), h, unit)
    np.testing.assert_array_equal(done.values, [[0, 1]])
    assert done.objective == 0.25**2 + 0.25**2 == layer_error(np.array([[0.25, -0.75]]), h)
    assert layer_error(np.array([[0.25, 0.25]]), h) == 0.625  # what rounding to nearest costs


def test_act_order_takes_the_larger_diagonal_first() -> None:
    h = np.array([[1.0, 2.0], [2.0, 5.0]])  # the same two columns the other way round
    done = feed_back(np.array([[0.25, 0.25]]), h, unit, act_order=True)
    np.testing.assert_array_equal(done.values, [[1, 0]])
    np.testing.assert_array_equal(done.codes, [[129, 128]])


def test_damping_is_added_once() -> None:
    np.testing.assert_array_equal(damped(np.diag([1.0, 3.0]), 0.5), np.diag([2.0, 4.0]))


# --- theorems ------------------------------------------------------------------------------------------------------


def objective_is_the_trace(page: ModuleType, seed: int, n: int = 9) -> bool:
    h, _, _ = integers(seed, n)
    w = np.random.default_rng(seed).integers(-40, 40, (3, n)) / 8
    done = page.feed_back(w, h, unit)
    return Fraction(done.objective) == exact_trace(w - done.values, h)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
def test_objective_is_the_trace_exactly(seed: int, n: int) -> None:
    assert objective_is_the_trace(page, seed, n)


def near_the_trace(page: ModuleType, seed: int, act_order: bool) -> bool:
    w, h = drawn(seed, inputs=9)
    coded = page.gptq(w, h, Grid(3), act_order=act_order)
    return is_the_trace(coded.objective, w - coded.decode(), damped(h, 0.01), act_order=act_order)


@given(seed=st.integers(0, 2**32 - 1), act_order=st.booleans())
def test_objective_is_the_trace_within_float64(seed: int, act_order: bool) -> None:
    assert near_the_trace(page, seed, act_order)


@given(seed=st.integers(0, 2**32 - 1), symmetric=st.booleans(), act_order=st.booleans(), bits=st.integers(2, 8))
def test_a_diagonal_hessian_is_rounding_to_nearest(seed: int, symmetric: bool, act_order: bool, bits: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((5, 12))
    h = np.diag(np.exp(rng.standard_normal(12)))
    grid = Grid(bits, group=4, symmetric=symmetric)
    got, want = gptq(w, h, grid, damp=0.0, act_order=act_order), round_to_nearest(w, grid)
    np.testing.assert_array_equal(got.codes, want.codes)
    np.testing.assert_array_equal(got.decode(), want.decode())


NF4 = np.array(
    [-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0, 0.08, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0]
)


def codebook(column: int, wanted: Reals) -> tuple[NDArray[np.uint8], Reals]:
    """The nearest of sixteen numbers that lie unevenly, scaled by 3."""
    codes = np.abs(wanted[:, None] - 3 * NF4).argmin(axis=1)
    return codes.astype(np.uint8), 3 * NF4[codes]


@pytest.mark.parametrize("seed", range(8))
def test_any_codebook_will_do(seed: int) -> None:
    w, h = drawn(seed, inputs=32, tokens=100)
    plain = np.stack([codebook(j, w[:, j])[1] for j in range(32)], axis=1)
    alone = feed_back(w, np.diag(np.diag(h)), codebook)
    np.testing.assert_array_equal(alone.values, plain)
    np.testing.assert_array_equal(3 * NF4[alone.codes], plain)
    assert layer_error(w - feed_back(w, damped(h, 0.01), codebook).values, h) < layer_error(w - plain, h)


def block_makes_no_difference(page: ModuleType, seed: int) -> bool:
    h, _, _ = integers(seed, 9)
    w = np.random.default_rng(seed).integers(-40, 40, (3, 9)) / 8
    return len({page.feed_back(w, h, unit, block=block).values.tobytes() for block in (1, 2, 4, 9, 100)}) == 1


@given(seed=st.integers(0, 2**32 - 1))
def test_the_block_size_changes_nothing_where_all_is_exact(seed: int) -> None:
    assert block_makes_no_difference(page, seed)


@pytest.mark.parametrize("seed", range(5))
def test_the_block_size_changes_no_code_off_ties(seed: int) -> None:
    w, h = drawn(seed, inputs=32, tokens=100)
    found = [gptq(w, h, Grid(4, 8), block=block).codes for block in (1, 7, 32, 128)]
    for codes in found[1:]:
        np.testing.assert_array_equal(codes, found[0])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("way", [{}, {"act_order": True}, {"follow": True}, {"scales": "least_squares"}], ids=str)
def test_gptq_errs_less_than_rounding_on_fixed_seeds(seed: int, way: dict[str, object]) -> None:
    w, h = drawn(seed, inputs=32, tokens=100)
    got, plain = (
        layer_error(w - coded.decode(), h)
        for coded in (gptq(w, h, Grid(3, 16), **way), round_to_nearest(w, Grid(3, 16)))  # type: ignore[arg-type]
    )
    assert got < plain


@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_alone_has_the_same_codes(seed: int) -> None:
    w, h = drawn(seed)
    whole = gptq(w, h, Grid(4, 8)).codes
    np.testing.assert_array_equal(gptq(w[2:3], h, Grid(4, 8)).codes, whole[2:3])


# --- the factors ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
def test_factors_are_exact_where_they_can_be(seed: int, n: int) -> None:
    h, u, d = integers(seed, n)
    found = factor(h)
    np.testing.assert_array_equal(found[0], u)
    np.testing.assert_array_equal(found[1], d)


def test_factors_over_many_blocks_give_the_hessian_back() -> None:
    _, h = drawn(3, inputs=150, tokens=400)
    u, d = factor(h)
    size = (np.abs(u) * d) @ np.abs(u).T
    assert (np.abs((u * d) @ u.T - h) <= 2 * 150 * 2.0**-53 * size).all()  # Higham, Accuracy and Stability, § 10.1
    assert (d > 0).all()
    np.testing.assert_array_equal(u, np.triu(u))


def test_a_hessian_is_the_sum_over_tokens_whatever_the_pieces() -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-50, 50, (5000, 7)).astype(np.float32)
    whole = hessian([x])
    np.testing.assert_array_equal(whole, x.astype(np.int64).T @ x.astype(np.int64))
    np.testing.assert_array_equal(hessian([x[:999], x[999:1000], x[1000:]]), whole)


# --- products ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0, 8, 60]))
def test_products_are_within_their_bound(seed: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(s) * 2.0 ** rng.integers(-spread, spread + 1, s) for s in ((3, 5), (5, 4)))
    got, bound = reproducible.product(a, b), reproducible.bound(a, b)
    for m, n in np.ndindex(3, 4):
        exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a[m], b[:, n], strict=True))
        assert abs(Fraction(got[m, n]) - exact) <= Fraction(bound[m, n])


@given(seed=st.integers(0, 2**32 - 1))
def test_products_do_not_depend_on_the_order_of_their_terms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((3, 70)), rng.standard_normal((70, 4))
    order = rng.permutation(70)
    np.testing.assert_array_equal(
        reproducible.product(a[:, order], b[order]).view(np.int64), reproducible.product(a, b).view(np.int64)
    )
    x = rng.standard_normal((70, 5))
    gram = reproducible.gram(x)
    np.testing.assert_array_equal(reproducible.gram(x[order]).view(np.int64), gram.view(np.int64))
    np.testing.assert_array_equal(gram, gram.T)


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0, 8, 300]))
def test_a_sum_is_rounded_once(seed: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 7)) * 2.0 ** rng.integers(-spread, spread + 1, (3, 7))
    exact = sum(map(Fraction, x.ravel().tolist()))
    assert reproducible.exact_sum(x) == reproducible.exact_sum(x.T) == float(exact)


def peak(page: ModuleType, x: Reals) -> int:
    tracemalloc.start()
    page.exact_sum(x)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_a_sum_makes_no_list_of_all() -> None:
    x = np.random.default_rng(0).standard_normal((400, 500))
    assert peak(reproducible, x) < x.nbytes / 8 < 4 * x.nbytes < 2 * peak(listed(), x)


def listed() -> ModuleType:
    return mutated(reproducible, "chain.from_iterable(map(np.ndarray.tolist, x))", "x.ravel().tolist()")


# --- bad input -----------------------------------------------------------------------------------------------------


def singular() -> None:
    gptq(np.ones((2, 3)), np.ones((3, 3)), Grid(4), damp=0.0)


def weighed(count: int) -> None:
    gptq(np.ones((2, 64)), np.eye(64), Grid(4, 32), importance=np.ones(count))


BAD = [
    (singular, "not positive definite: 0 is left of column 1; give damping"),
    (lambda: gptq(np.ones((2, 3)), np.eye(4), Grid(4)), "a Hessian of shape (4, 4); give (3, 3)"),
    (lambda: gptq(np.ones((2, 3)), np.triu(np.ones((3, 3))), Grid(4)), "not symmetric: 1.0 at"),
    (lambda: gptq(np.ones((2, 3)), np.full((3, 3), np.nan), Grid(4)), "Hessian holds NaN"),
    (lambda: gptq(np.full((2, 3), np.inf), np.eye(3), Grid(4)), "weight is inf at (0, 0)"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4), damp=-1), "damp=-1; give a share"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4), block=0), "block=0; give at least 1"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4), block=True), "block=True; give at least 1, as a whole number"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4), block=1.5), "block=1.5; give at least 1, as a whole number"),  # type: ignore[arg-type]
    (lambda: weighed(100), "importance has shape (100,); give one number for each of 64 inputs"),
    (lambda: weighed(10), "importance has shape (10,); give one number for each of 64 inputs"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4, 2)), "no whole groups of 2"),
    (lambda: gptq(np.ones((2, 3)), np.eye(3), Grid(4), act_order=True, follow=True), "leave act_order"),
    (lambda: hessian([]), "calibration set is empty"),
    (lambda: hessian([np.array([[1.0, np.nan]])]), "activations hold nan at token 0, channel 1"),
    (lambda: hessian([np.ones((2, 3)), np.ones((2, 4))]), "activations have shape (2, 4); give (tokens, 3)"),
    (lambda: reproducible.exact_sum(np.ones(3)), "a sum over shape (3,); give a matrix"),
    (lambda: reproducible.product(np.ones((2, 3)), np.ones((2, 3))), "give (M, K) and (K, N)"),
    (lambda: reproducible.product(np.full((1, 1), 1e300), np.ones((1, 1))), "scale it by a power of two"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- planted mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("wanted[:, j + 1 : stop] += error", "wanted[:, j + 1 : stop] += 0 * error"),
        ("wanted[:, j + 1 : stop] += error", "wanted[:, j + 1 : stop] -= error"),
        ("error = ordered[:, j] - values[:, j]", "error = wanted[:, j] - values[:, j]"),
        ("u[start:stop, stop:])", "0 * u[start:stop, stop:])"),
    ],
    ids=["not propagated", "the wrong way", "the wrong error", "not beyond the block"],
)
def test_feedback_that_is_wrong_is_seen(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug)
    seeds = range(20)
    assert not all(objective_is_the_trace(wrong, seed) and block_makes_no_difference(wrong, seed) for seed in seeds)


def test_an_order_that_is_not_undone_is_seen() -> None:
    wrong = mutated(page, "back = np.argsort(order)", "back = np.arange(len(order))")
    h = np.array([[1.0, 2.0], [2.0, 5.0]])
    assert wrong.feed_back(np.array([[0.25, 0.25]]), h, unit, act_order=True).values.tolist() != [[1, 0]]


def test_damping_twice_is_seen() -> None:
    wrong = mutated(page, "w64, damped(h, damp), nearest", "w64, damped(damped(h, damp), damp), nearest")
    assert near_the_trace(page, 1, act_order=False)
    assert not near_the_trace(wrong, 1, act_order=False)


def test_a_hessian_that_is_not_symmetrised_is_seen() -> None:
    wrong = mutated(reproducible, "total += crossed + crossed.T", "total += 2 * crossed")
    x = np.random.default_rng(1).standard_normal((9, 4))
    assert not np.array_equal(wrong.gram(x), wrong.gram(x).T)
    with pytest.raises(ValueError, match="not symmetric"):
        hessian_page.require_hessian(wrong.gram(x))


# --- the same bytes on any machine's BLAS --------------------------------------------------------------------------

HASH = """
import hashlib
import numpy as np
from lepton_ref.compress.gptq import gptq
from lepton_ref.compress.grid import Grid
from lepton_ref.compress.hessian import hessian
rng = np.random.default_rng(0)
x = (rng.standard_normal((700, 192)) @ rng.standard_normal((192, 192))).astype(np.float32)
coded = gptq(rng.standard_normal((64, 192)), hessian([x]), Grid(4, 64), act_order=True, scales="least_squares")
found = hessian([x]).tobytes() + coded.codes.tobytes() + coded.scales.tobytes()
print(hashlib.sha256(found).hexdigest(), float(coded.objective).hex())
"""


def test_threads_and_kernels_of_blas_change_nothing() -> None:
    hashes = set()
    for setting in ({"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "4"}, {"OPENBLAS_CORETYPE": "Haswell"}):
        done = subprocess.run(
            [sys.executable, "-c", HASH], env={**os.environ, **setting}, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1
