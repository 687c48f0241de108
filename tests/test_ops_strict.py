"""Every op on array-api-strict, on a device that is not the CPU, and the names that the ops ask of a namespace."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_cases import BY_NAME, CASES, Case
from strategies import SPECIAL, filled, moderate, sizes
from strict_backend import StrictBackend

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import XP_NAMES, Backend
from lepton_ref.numerics import PRECISIONS

STRICT, NUMPY = StrictBackend(), NumpyBackend()
FLOAT64 = PRECISIONS["float64"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@given(data=st.data())
def test_an_op_on_another_device_agrees_with_numpy(case: Case, data: st.DataObject) -> None:
    drawn = case.draw(data.draw(sizes(case.letters, largest=6)), data.draw(moderate()))
    got, want, bound = drawn.run(STRICT, FLOAT64), drawn.run(NUMPY, FLOAT64), drawn.bound()
    assert got.dtype == np.float64
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 2 * bound).all()


ELEMENTWISE = [
    "embed",
    "add",
    "relu",
    "relu2",
    "softcap",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gated silu",
    "pool cls",
    "pool max",
    "rope, halves",
    "rope, interleaved and scaled",
]


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_op_without_a_sum_has_the_same_bits_on_both(name: str, precision: str) -> None:
    """array-api-strict computes with NumPy, so the same operations give the same bits, NaN and all."""
    drawn = BY_NAME[name].draw(dict.fromkeys(BY_NAME[name].letters, 5), filled(3, 3.0, SPECIAL, 0.1))
    got, want = drawn.run(STRICT, PRECISIONS[precision]), drawn.run(NUMPY, PRECISIONS[precision])
    assert got.dtype == want.dtype
    assert got.tobytes() == want.tobytes()


def test_the_strict_backend_is_a_backend_and_its_device_is_not_the_cpu() -> None:
    assert isinstance(STRICT, Backend)
    array = STRICT.from_numpy(np.ones(2))
    with pytest.raises((RuntimeError, TypeError)):
        np.asarray(array)
    with pytest.raises(ValueError, match="device"):
        array + array_api_strict.ones(2)


class Recording:
    """NumPy's namespace, noting which names are asked of it."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        return getattr(NumpyBackend.xp, name)


class RecordingBackend(NumpyBackend):
    """NumPy's backend, its namespace recorded."""

    def __init__(self) -> None:
        self.xp = Recording()


def names_asked() -> set[str]:
    backend = RecordingBackend()
    for case in CASES:
        drawn = case.draw({letter: n for n, letter in enumerate(case.letters, start=1)}, filled(1, 3.0, SPECIAL, 0.1))
        for precision in PRECISIONS.values():
            drawn.run(backend, precision)
    return backend.xp.asked


def test_the_ops_ask_for_no_name_that_the_interface_does_not_list() -> None:
    assert names_asked() <= set(XP_NAMES)


def test_the_interface_lists_no_name_that_no_op_asks_for() -> None:
    assert set(XP_NAMES) <= names_asked()


def test_the_standard_has_every_name_that_the_interface_lists() -> None:
    missing = [name for name in XP_NAMES if not hasattr(array_api_strict, name)]
    assert missing == []
