"""The one rounding, the lift into float64, and the registry of precisions."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, Precision, get_precision, lift, round_once
from lepton_ref.numerics.machines import MACHINES
from lepton_ref.numerics.rounding import Repair

BACKEND = NumpyBackend()
REFERENCE, FLOAT64 = PRECISIONS["reference"], PRECISIONS["float64"]


def no_repair(place: tuple[int, ...]) -> float:
    raise AssertionError("an exact value is repaired")


def rounded(value: NDArray[np.float64], precision: Precision) -> NDArray[Any]:
    """Values that are exact: a bound of zero, and nothing to repair."""
    with np.errstate(all="ignore"):
        return round_once(value, 0.0, op="t", repair=Repair(no_repair), backend=BACKEND, precision=precision)


def once(value: float) -> np.float32:
    return np.float32(rounded(np.array([value]), REFERENCE)[0])


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
    assert rounded(value, FLOAT64).view(np.uint64)[0] == 0x7FF8000000000000
    assert rounded(value, REFERENCE).view(np.uint32)[0] == 0x7FC00000


def test_float64_is_left_as_it_is() -> None:
    value = np.array([1 + 2.0**-52, -0.0, 5e-324, np.inf])
    got = rounded(value, FLOAT64)
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
    own = [name for name, precision in PRECISIONS.items() if precision.machine is None]
    assert own == ["reference", "bf16", "fp16", "fp8", "w8a8", "w4a8", "ggml", "float64", "fast"]
    assert set(PRECISIONS) == {*own, *MACHINES}
    assert [name for name, precision in PRECISIONS.items() if precision.dtype == np.float64] == ["float64"]


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown precision 'fp32'; known: reference, bf16, fp16, fp8, w8a8, w4a8"):
        get_precision("fp32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activations": "float32"}, "unknown activations 'float32'; known: fp32, bf16, fp16, fp64"),
        ({"operands": "w2a2"}, "unknown operands 'w2a2'; known: stored, w8a8, w4a8, fp8"),
        ({"accumulate": "fp16"}, "unknown accumulate 'fp16'; known: float64, float32"),
        ({"activations": "fp64"}, "no proof for activations in fp64"),
        ({"accumulate": "float32"}, "sums in float32; set proven=False"),
    ],
)
def test_a_precision_that_there_is_not_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Precision("mine", **fields)


def test_the_first_override_that_matches_counts() -> None:
    how = REFERENCE.override({"layers.0.*": "bf16", "layers.*": FLOAT64})
    assert [how.at(op).name for op in ("layers.0.attn", "layers.1.attn", "head")] == ["bf16", "float64", "reference"]
    assert how.dtype == np.float32
    assert how.widest == np.float64
    with pytest.raises(ValueError, match="the override of 'x' has overrides itself"):
        REFERENCE.override({"x": how})
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        REFERENCE.override({"head": "half"})


def test_a_precision_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Precision("mine").activations = "bf16"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Precision("x", machine="a100-fp16"), "must be a Machine, got 'a100-fp16'"),
        (lambda: Precision(5), "name must be text, got 5"),
        (lambda: REFERENCE.override(["a"]), "a mapping such as"),
        (lambda: REFERENCE.override({5: "bf16"}), "a mapping such as"),
    ],
)
def test_a_precision_of_other_things_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
