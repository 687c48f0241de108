"""Every op on array-api-strict, on a device that is not the CPU, and the names that the ops ask of a namespace."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np
import pytest
from adversaries import ADVERSARIES
from op_cases import CASES, Case, assert_bits, bits
from strategies import FEW_BITS, FINITE_SPECIAL, SPECIAL, TIES, Fill, filled
from strict_backend import StrictBackend

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import XP_NAMES, Backend
from lepton_ref.numerics import PRECISIONS

STRICT, NUMPY = StrictBackend(), NumpyBackend()
ROUNDED_ONCE = ("reference", "bf16", "fp16", "w8a8", "w4a8", "fp8")
FILLS: dict[str, Fill] = {
    "moderate": filled(1, 3.0, FINITE_SPECIAL[:2], 0.1),
    "wild": filled(2, 3.0, SPECIAL, 0.1),
    "extreme": filled(3, 60.0, FINITE_SPECIAL, 0.1),
    "of few bits": filled(4, 0.0, FEW_BITS, 1.0),
    "spread": filled(5, 0.0, TIES, 1.0),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("numbers", FILLS)
def test_an_op_has_the_same_bits_on_another_device(case: Case, numbers: str) -> None:
    drawn = case.draw({letter: len(case.letters) - n for n, letter in enumerate(case.letters)}, FILLS[numbers])
    for name in ROUNDED_ONCE if case.name.startswith("linear") else ROUNDED_ONCE[:3]:
        got, want = drawn.run(STRICT, PRECISIONS[name]), drawn.run(NUMPY, PRECISIONS[name])
        assert got.dtype == want.dtype
        assert np.array_equal(bits(got), bits(want))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_an_op_is_repaired_on_another_device(name: str) -> None:
    assert_bits(ADVERSARIES[name].draw(4), PRECISIONS[ADVERSARIES[name].precision], STRICT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", PRECISIONS)
def test_an_op_runs_under_every_precision_on_another_device(case: Case, name: str) -> None:
    """Machine models compute on the host, so their bits are the same too; the fast sums have an order of their own."""
    drawn = case.draw({letter: n for n, letter in enumerate(case.letters, start=1)}, filled(1, 1.0, SPECIAL, 0.0))
    got, want = drawn.run(STRICT, PRECISIONS[name]), drawn.run(NUMPY, PRECISIONS[name])
    assert (got.dtype, got.shape) == (want.dtype, want.shape) == (PRECISIONS[name].dtype, want.shape)
    if PRECISIONS[name].proven:
        assert np.array_equal(bits(got), bits(want))


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
        for name in (*ROUNDED_ONCE, "float64", "fast"):
            drawn.run(backend, PRECISIONS[name])
    return backend.xp.asked


def test_the_ops_ask_for_no_name_that_the_interface_does_not_list_and_for_all_that_it_lists() -> None:
    assert names_asked() == set(XP_NAMES)


def test_the_standard_has_every_name_that_the_interface_lists() -> None:
    missing = [name for name in XP_NAMES if not hasattr(array_api_strict, name)]
    assert missing == []
