"""erfc and sigmoid against decimal arithmetic, over the whole line."""

from __future__ import annotations

import exact
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics.bounds import ULPS, UNIT
from lepton_ref.numerics.special import ERFCX_CHEBYSHEV, erfc, sigmoid

BACKEND = NumpyBackend()
LEAST_NORMAL = 2.0**-1022


def relative_errors(function: object, oracle: object, x: np.ndarray) -> np.ndarray:
    got = exact.decimals(function(x, backend=BACKEND))
    errors = [
        abs(value / want - 1)
        for value, want in ((v, oracle(exact.Decimal(float(z)))) for v, z in zip(got, x, strict=True))
    ]
    return np.array(errors, dtype=float)


def test_erfc_of_known_values() -> None:
    """Abramowitz and Stegun, table 7.1, as 1 − erf."""
    x = np.array([0.0, 0.5, 1.0, 2.0])
    known = np.array([1.0, 1 - 0.5204998778, 1 - 0.8427007929, 1 - 0.9953222650])
    assert np.abs(erfc(x, backend=BACKEND) - known).max() <= 0.5e-10


def test_erfc_is_within_its_bound_on_the_whole_line() -> None:
    x = np.concatenate([np.linspace(-7, 26.5, 400), 2.0 ** np.arange(-60, 0), -(2.0 ** np.arange(-60, 0))])
    errors = relative_errors(erfc, exact.erfc_of, x)
    assert errors.max() <= (4 * ULPS + 16) * UNIT


def test_erfc_with_one_coefficient_wrong_is_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = list(ERFCX_CHEBYSHEV)
    wrong[12] *= 1.01
    monkeypatch.setattr("lepton_ref.numerics.special.ERFCX_CHEBYSHEV", tuple(wrong))
    assert relative_errors(erfc, exact.erfc_of, np.linspace(-3, 9, 50)).max() > (4 * ULPS + 16) * UNIT


@given(st.floats(26.6, 27.3))
def test_erfc_below_the_normal_numbers_errs_by_few_of_the_least(x: float) -> None:
    got = erfc(np.array([x]), backend=BACKEND)[0]
    assert got < LEAST_NORMAL
    assert abs(exact.Decimal(float(got)) - exact.erfc_of(exact.Decimal(x))) <= exact.Decimal(
        (2 * ULPS + 6) * 2.0**-1074
    )


def test_erfc_at_the_ends_and_of_nan() -> None:
    x = np.array([28.0, 40.0, 1e300, np.inf, -28.0, -1e300, -np.inf, np.nan])
    with np.errstate(under="ignore"):
        got = erfc(x, backend=BACKEND)
    assert got[:4].tolist() == [0.0] * 4
    assert got[4:7].tolist() == [2.0] * 3
    assert np.isnan(got[7])


def test_sigmoid_is_within_its_bound_and_does_not_overflow() -> None:
    x = np.concatenate([np.linspace(-708, 40, 400), [0.0, -0.0, 1e-300]])
    assert relative_errors(sigmoid, exact.sigmoid_of, x).max() <= (2 * ULPS + 2) * UNIT
    with np.errstate(under="ignore"):
        ends = sigmoid(np.array([-np.inf, -1e300, 1e300, np.inf, np.nan]), backend=BACKEND)
    assert ends[:4].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert np.isnan(ends[4])


@given(st.floats(-700, 700))
def test_the_two_tails_of_sigmoid_add_up_to_one(x: float) -> None:
    both = sigmoid(np.array([x, -x]), backend=BACKEND)
    assert abs(both.sum() - 1) <= (2 * ULPS + 3) * UNIT
