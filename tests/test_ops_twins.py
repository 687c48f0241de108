"""Each op against its scalar twin, and its one rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CASES, Case
from strategies import moderate, sizes, wild

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS

BACKEND = NumpyBackend()
REFERENCE, FLOAT64 = PRECISIONS["reference"], PRECISIONS["float64"]
each_op = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def bits(array: np.ndarray) -> np.ndarray:
    return array.view({4: np.uint32, 8: np.uint64}[array.itemsize])


@each_op
@given(data=st.data())
def test_the_array_form_equals_the_scalar_twin_within_both_bounds(case: Case, data: st.DataObject) -> None:
    drawn = case.draw(data.draw(sizes(case.letters, largest=6)), data.draw(moderate()))
    got, want, bound = drawn.run(BACKEND, FLOAT64), drawn.twin(), drawn.bound()
    assert got.dtype == np.float64
    assert got.shape == want.shape == bound.shape
    assert np.isfinite(bound).all(), "an infinite bound would promise nothing"
    assert (np.abs(got - want) <= 2 * bound).all()


@each_op
@given(data=st.data())
def test_special_values_follow_the_twin_and_the_reference_rounds_once(case: Case, data: st.DataObject) -> None:
    drawn = case.draw(data.draw(sizes(case.letters, largest=6)), data.draw(wild()))
    got, want, bound = drawn.run(BACKEND, FLOAT64), drawn.twin(), drawn.bound()
    assert np.array_equal(np.isnan(got), np.isnan(want))
    infinite, finite = np.isinf(want), np.isfinite(want)
    assert np.array_equal(got[infinite], want[infinite])
    assert np.isfinite(got[finite]).all()
    assert not (np.abs(got[finite] - want[finite]) > 2 * bound[finite]).any()  # a NaN bound promises nothing
    rounded = drawn.run(BACKEND, REFERENCE)
    with np.errstate(over="ignore", under="ignore"):
        once = got.astype(np.float32)
    assert rounded.dtype == np.float32
    assert np.array_equal(bits(rounded), bits(once))
    assert (bits(rounded)[np.isnan(rounded)] == 0x7FC00000).all(), "one quiet NaN, without sign or payload"
    assert (bits(got)[np.isnan(got)] == 0x7FF8000000000000).all()
