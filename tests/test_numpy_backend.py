"""The NumPy backend keeps the protocol, refuses what is not NumPy's, and sums in float64."""

from __future__ import annotations

from fractions import Fraction

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict_backend import StrictBackend

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import XP_NAMES, Backend
from lepton_ref.numerics.bounds import gamma

BACKEND = NumpyBackend()


def test_it_is_a_backend() -> None:
    assert isinstance(BACKEND, Backend)
    assert BACKEND.name == "numpy"
    assert dict(BACKEND.kernels) == {}
    assert repr(BACKEND) == f"NumpyBackend(numpy {np.__version__})"


def test_an_object_without_a_contraction_is_not_a_backend() -> None:
    class Half:
        name, xp, kernels = "half", np, {}

    assert not isinstance(Half(), Backend)


def test_its_namespace_has_the_names_of_the_interface_and_no_other() -> None:
    public = {name for name in dir(BACKEND.xp) if not name.startswith("_")}
    assert public == set(XP_NAMES)


def test_its_kernels_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        BACKEND.kernels["linear", object] = print  # type: ignore[index]


@pytest.mark.parametrize("foreign", [[1.0], (1.0,), 1.0, np.float64(1.0), None, memoryview(b"a")])
def test_what_is_not_an_array_of_numpy_is_refused(foreign: object) -> None:
    with pytest.raises(TypeError, match=r"^expected a NumPy array, got \w+; use that array's own backend$"):
        BACKEND.to_numpy(foreign)


def test_an_array_of_another_library_is_refused() -> None:
    with pytest.raises(TypeError, match="got Array; use that array's own backend"):
        BACKEND.to_numpy(array_api_strict.ones(3))


def test_conversions_keep_dtype_shape_and_memory() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = BACKEND.from_numpy(array)
    assert np.shares_memory(there, array)
    assert BACKEND.to_numpy(there) is there
    assert (there.dtype, there.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("accumulate", ["float16", "fast", ""])
def test_another_accumulator_than_float64_and_float32_is_refused(accumulate: str) -> None:
    a = np.ones((2, 2))
    with pytest.raises(ValueError, match=f"accumulates in float64 or float32, got '{accumulate}'"):
        BACKEND.matmul(a, a, accumulate=accumulate)
    with pytest.raises(ValueError, match=f"accumulates in float64 or float32, got '{accumulate}'"):
        BACKEND.sum(a, axis=0, keepdims=False, accumulate=accumulate)


@pytest.mark.parametrize("backend", [BACKEND, StrictBackend()], ids=lambda backend: backend.name)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 4), k=st.integers(1, 40), n=st.integers(1, 4))
def test_contractions_are_within_the_bound_of_any_order(backend: Backend, seed: int, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape) * np.exp2(rng.uniform(-20, 20, shape)) for shape in ((m, k), (k, n)))
    product = backend.to_numpy(backend.matmul(backend.from_numpy(a), backend.from_numpy(b), accumulate="float64"))
    sums = backend.to_numpy(backend.sum(backend.from_numpy(a), axis=1, keepdims=True, accumulate="float64"))
    assert (product.dtype, product.shape) == (np.float64, (m, n))
    assert (sums.dtype, sums.shape) == (np.float64, (m, 1))
    exact_a, exact_b = (np.vectorize(Fraction, otypes=[object])(array) for array in (a, b))
    for got, want, size, terms in (
        (product, exact_a @ exact_b, abs(exact_a) @ abs(exact_b), k),
        (sums, exact_a.sum(axis=1, keepdims=True), abs(exact_a).sum(axis=1, keepdims=True), k - 1),
    ):
        most = Fraction(float(gamma(terms)))
        assert all(
            abs(Fraction(float(g)) - w) <= most * s for g, w, s in zip(got.flat, want.flat, size.flat, strict=True)
        )


def test_float32_inputs_are_summed_in_float64() -> None:
    """2²⁴ + 1 is no float32: a float32 accumulator would lose every 1."""
    a = np.array([[2.0**24, 1.0, 1.0, 1.0]], dtype=np.float32)
    assert float(BACKEND.matmul(a, np.ones((4, 1), dtype=np.float32), accumulate="float64")[0, 0]) == 2.0**24 + 3
    assert float(BACKEND.sum(a, axis=1, keepdims=False, accumulate="float64")[0]) == 2.0**24 + 3
    assert float(a.sum(axis=1, dtype=np.float32)[0]) != 2.0**24 + 3


@given(axis=st.integers(-4, 3))
def test_expand_dims_puts_one_axis_where_the_standard_says(axis: int) -> None:
    x = np.zeros((2, 3, 5))
    assert (
        BACKEND.xp.expand_dims(x, axis=axis).shape
        == array_api_strict.expand_dims(array_api_strict.asarray(x), axis=axis).shape
    )
