"""The Numba backend's logarithm of softmax at one place of each row: the op's bits, or the op itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import BACKEND, PRECISIONS, Floats, caught, mutant, numbers, same_bits, seeds, stuck_list
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.backends import numba_softmax
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import get_precision


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


def check(x: Floats, index: NDArray[np.int64], form: int = 0, module: Any = numba_softmax) -> bool:
    """Whether the kernel did it; then its bits are the op's."""
    how: Any = {"backend": BACKEND, "precision": PRECISIONS[form]}
    y = module.log_softmax_at(x, index, **how)
    if y is NotImplemented:
        return False
    assert y.shape == index.shape
    same_bits(y.reshape(-1, 1), np.asarray(ops.log_softmax_at(x, index, **how)).reshape(-1, 1), stuck_list(0))
    return True


@given(seed=seeds, width=st.sampled_from([1, 2, 15, 16, 63, 64, 65, 300]), form=st.integers(0, 2),
       spread=st.sampled_from([0.1, 1.0, 3.0]), special=st.sampled_from([0.0, 0.0, 0.02]))  # fmt: skip
def test_log_softmax_at(seed: int, width: int, form: int, spread: float, special: float) -> None:
    x = numbers(seed, 2, 3, width, spread=spread, special=special)
    check(x, np.random.default_rng(seed).integers(0, width, (2, 3)), form)


def test_ordinary_rows_are_the_kernels() -> None:
    x = numbers(0, 4, 5000, spread=0.5)
    assert check(x, np.array([0, 17, 4999, 4992]))
    assert check(x[:, ::2], np.array([1, 2, 3, 4]))  # not in one piece
    assert check(x[0], np.array(3))


@pytest.mark.parametrize(
    ("x", "index"),
    [
        (np.zeros((2, 3)), np.zeros(2, dtype=np.int64)),
        (np.zeros((2, 0), dtype=np.float32), np.zeros(2, dtype=np.int64)),
        (np.zeros((2, 3), dtype=np.float32), np.zeros(3, dtype=np.int64)),
        (np.zeros((2, 3), dtype=np.float32), np.array([0, 3])),
        (np.zeros((2, 3), dtype=np.float32), np.array([0, -1])),
        (np.zeros((2, 3), dtype=np.float32), np.zeros(2)),
        (np.zeros((2, 1), dtype=np.float32), np.array([0, 0])),
        (np.array([[0, np.nan]], dtype=np.float32), np.array([0])),
        (np.array([[0, np.inf]], dtype=np.float32), np.array([0])),
        (np.array([[0, -np.inf]], dtype=np.float32), np.array([1])),
    ],
)
def test_what_is_unusual_is_left_to_the_op(x: Any, index: Any) -> None:
    assert numba_softmax.log_softmax_at(x, index, backend=BACKEND, precision=PRECISIONS[0]) is NotImplemented


@pytest.mark.parametrize("name", ["fast", "float64", "ftz-fp32", "h100-bf16"])
def test_other_precisions_are_left_to_the_op(name: str) -> None:
    how: Any = {"backend": BACKEND, "precision": get_precision(name)}
    assert numba_softmax.log_softmax_at(numbers(0, 4, 50), np.arange(4), **how) is NotImplemented


def test_a_check_that_forgets_machines_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_softmax, "form_of", lambda precision: 0)
    with pytest.raises(AssertionError):
        test_other_precisions_are_left_to_the_op("ftz-fp32")


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("width * np.arange(picked.size)\n    distance", "np.arange(picked.size)\n    distance"),
        ("found += total(exp(splat_f64(np.float64(x[i]) - most))) / 16", "found += 0.0"),
    ],
)
def test_planted_bugs_are_seen(text: str, bug: str) -> None:
    wrong = mutant(numba_softmax, text, bug)
    caught(lambda: check(numbers(0, 3, 67, spread=0.1), np.array([1, 2, 3]), module=wrong) or None)


def test_a_zero_has_the_sign_that_the_op_gives_it() -> None:
    x, how = np.array([[0.0, -36.0]], dtype=np.float32), get_precision("fp16")
    want, got = (
        ops.log_softmax_at(x, np.array([0]), backend=backend, precision=how)
        for backend in (NumpyBackend(), NumbaBackend())
    )
    assert np.array_equal(want.view(np.uint32), got.view(np.uint32))
