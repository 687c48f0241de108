"""The one rounding, the lift into float64, and the registry of precisions."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, Precision, get_precision, lift, round_once

BACKEND = NumpyBackend()
REFERENCE, FLOAT64 = PRECISIONS["reference"], PRECISIONS["float64"]


def once(value: float) -> np.float32:
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(round_once(np.array([value]), backend=BACKEND, precision=REFERENCE)[0])


LITERALS = [
    (1 + 2.0**-24, 0x3F800000),  # a tie goes to the even neighbour, below
    (1 + 3 * 2.0**-24, 0x3F800002),  # and above
    (1 + 2.0**-24 + 2.0**-50, 0x3F800001),  # off the tie
    (2.0**-150, 0x00000000),  # half the least subnormal: a tie with zero
    (2.0**-150 * (1 + 2.0**-50), 0x00000001),
    (-(2.0**-150), 0x80000000),  # the sign of zero stays
    (2.0**-126 - 2.0**-150, 0x00800000),  # from a subnormal up to the least normal
    (3.4028235677973366e38, 0x7F800000),  # halfway to 2¹²⁸ overflows
    (3.4028235677973362e38, 0x7F7FFFFF),
    (float("-inf"), 0xFF800000),
    (float("nan"), 0x7FC00000),
]


@pytest.mark.parametrize(("value", "bits"), LITERALS)
def test_a_value_rounds_to_the_nearest_float32_ties_to_even(value: float, bits: int) -> None:
    assert once(value).view(np.uint32) == bits


@given(st.floats(-3e38, 3e38))
def test_no_float32_is_nearer(value: float) -> None:
    got = once(value)
    error = abs(Fraction(float(got)) - Fraction(value))
    for neighbour in (np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))):
        other = abs(Fraction(float(neighbour)) - Fraction(value)) if np.isfinite(neighbour) else error + 1
        assert error < other or (error == other and got.view(np.uint32) % 2 == 0)


@pytest.mark.parametrize("payload", [0xFFF8000000000000, 0x7FF8000000000001, 0xFFFFFFFFFFFFFFFF])
def test_a_nan_loses_its_sign_and_its_payload(payload: int) -> None:
    value = np.array([payload], dtype=np.uint64).view(np.float64)
    assert round_once(value, backend=BACKEND, precision=FLOAT64).view(np.uint64)[0] == 0x7FF8000000000000
    assert round_once(value, backend=BACKEND, precision=REFERENCE).view(np.uint32)[0] == 0x7FC00000


def test_float64_is_left_as_it_is() -> None:
    value = np.array([1 + 2.0**-52, -0.0, 5e-324, np.inf])
    got = round_once(value, backend=BACKEND, precision=FLOAT64)
    assert np.array_equal(got.view(np.uint64), value.view(np.uint64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lifting_is_exact(dtype: type[np.floating]) -> None:
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([least, -least, most, 1 / dtype(3), -0.0], dtype=dtype)
    lifted = lift(x, backend=BACKEND)
    assert lifted.dtype == np.float64
    assert [Fraction(float(a)) for a in lifted] == [Fraction(float(a)) for a in x]
    assert np.signbit(lifted[-1])


def test_precisions_are_found_by_name_or_given_as_records() -> None:
    assert get_precision("reference") is REFERENCE
    assert get_precision(FLOAT64) is FLOAT64
    assert [(p.name, p.dtype) for p in PRECISIONS.values()] == [
        ("reference", np.dtype(np.float32)),
        ("float64", np.dtype(np.float64)),
    ]


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown precision 'fp32'; known: reference, float64$"):
        get_precision("fp32")


def test_a_precision_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Precision("reference", activations="float32").activations = "float64"  # type: ignore[misc]
