"""Rounding on a backend, by + − × alone, against the formats' specification, for every format of activations."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from strict_backend import StrictBackend

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Backend
from lepton_ref.numerics import cast as module
from lepton_ref.numerics.formats import round_array
from lepton_ref.plain.formats import FORMATS, FloatFormat, round_to
from lepton_ref.plain.quantise import SCALE

NUMPY = NumpyBackend()
BACKENDS: tuple[Backend, ...] = (NUMPY, StrictBackend())
SMALL = ("fp32", "bf16", "fp16")
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def form(name: str) -> FloatFormat:
    found = FORMATS[name]
    assert isinstance(found, FloatFormat)
    return found


def around(name: str) -> np.ndarray:
    """Every power of two of the format, its numbers, midpoints and the float64 beside them, at both of its ends."""
    f = form(name)
    powers = np.ldexp(1.0, np.arange(f.emin - f.precision - 3, f.emax + 3))
    steps = np.array([1.0, 1.5, 2.0, 2.5, 3.0, *(2.0**f.precision + np.array([-1.0, -0.5, 1.0, 3.0, 4.5]))])
    points = np.concatenate([np.outer(powers, steps * 2.0**-k).ravel() for k in range(f.precision + 1)])
    points = np.unique(points[points < 2.0**200])
    points = np.concatenate([points, np.nextafter(points, 0.0), np.nextafter(points, np.inf), [0.0]])
    far = [f.largest, 2.0**300, 2.0**301, 1.7976931348623157e308, math.inf]
    points = np.concatenate([points, far])
    return np.concatenate([points, -points, [math.nan]])


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal bits; every NaN is one, since it has no sign and no payload."""
    assert got.dtype == np.float32
    one, other = (np.where(np.isnan(each), np.float32(np.nan), each) for each in (got, want.astype(np.float32)))
    return np.array_equal(one.view(np.uint32), other.view(np.uint32))


def check(m: ModuleType, backend: Backend = NUMPY) -> None:
    """Against the array twin of the specification, everywhere near a number or a midpoint of every binade."""
    for name in SMALL:
        x = around(name)
        with np.errstate(all="ignore"):
            got = backend.to_numpy(m.cast(backend.from_numpy(x), name, backend=backend))
            assert same(got, round_array(x, name)), name
    ends = backend.from_numpy(np.array([math.inf, -math.inf]))
    endless = m.round_bits(ends, precision=11, emin=-139, largest=math.inf, backend=backend)
    assert backend.to_numpy(endless).tolist() == [math.inf, -math.inf]


@each_backend
def test_every_binades_numbers_and_midpoints_round_as_specified(backend: Backend) -> None:
    check(module, backend)


@pytest.mark.parametrize("name", SMALL)
@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_any_number_rounds_as_the_scalar_specification_says(name: str, numbers: list[float]) -> None:
    want = np.array([round_to(number, name) for number in numbers])
    with np.errstate(all="ignore"):
        assert same(module.cast(np.array(numbers), name, backend=NUMPY), want)


def test_known_numbers() -> None:
    """bf16 has 8 bits, fp16 11; fp16's largest is 65504, and 65520 is half a step above it."""
    x = np.array([257.0, 259.0, 1 + 2.0**-9, 2.0**-134, 2049.0, 65519.0, 65520.0, 2.0**-25, 2.0**-25 * 1.001])
    with np.errstate(all="ignore"):
        bf16, fp16 = (module.cast(x, name, backend=NUMPY).tolist() for name in ("bf16", "fp16"))
    assert bf16 == [256.0, 260.0, 1.0, 0.0, 2048.0, 65536.0, 65536.0, 2.0**-25, 2.0**-25]
    assert fp16 == [257.0, 259.0, 1.001953125, 0.0, 2048.0, 65504.0, math.inf, 0.0, 2.0**-24]


def test_float64_is_left_as_it_is_and_float32_arrays_hold_the_rest() -> None:
    x = np.array([1 + 2.0**-52, -0.0])
    assert module.cast(x, "fp64", backend=NUMPY) is x
    with np.errstate(divide="ignore"):
        assert {module.cast(x, name, backend=NUMPY).dtype.name for name in SMALL} == {"float32"}
    assert set(module.ACTIVATIONS) == {*SMALL, "fp64"}


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20), st.sampled_from(["e4m3fn", "e5m2", "scale"]))
def test_any_precision_and_least_exponent(numbers: list[float], name: str) -> None:
    f = SCALE if name == "scale" else form(name)
    largest = math.inf if name == "scale" else f.largest
    with np.errstate(all="ignore"):
        got = module.round_bits(np.array(numbers), precision=f.precision, emin=f.emin, largest=largest, backend=NUMPY)
    want = np.array([round_to(number, f) for number in numbers])
    want = np.where(np.isnan(want), np.copysign(np.inf, numbers), want)  # E4M3FN has no infinity; this has
    assert np.array_equal(got.view(np.uint64), want.view(np.uint64))


def test_a_format_that_is_no_floating_point_is_refused() -> None:
    with pytest.raises(KeyError):
        module.float_format("float32")
    with pytest.raises(AssertionError, match="floating-point"):
        module.float_format("int8")


PLANTED: dict[str, tuple[str, str]] = {
    "the constant is half as large": ("(1.5 * 2.0 ** (52 - precision))", "(1.5 * 2.0 ** (51 - precision))"),
    "subnormals have one bit more": ("least = 2.0 ** (emin + 1)", "least = 2.0**emin"),
    "nothing is subnormal": ("xp.where(above < least, least, above)", "above"),
    "the binade ends at the number itself": ("q = size * 2.0**53", "q = size * 2.0**55"),
    "overflow stays": ("(rounded > largest) | ", ""),
    "the largest overflows": ("(rounded > largest)", "(rounded >= largest)"),
    "an infinity is a large number": (" | (xp.abs(x) == math.inf)", ""),
    "minus zero is zero": (" | ((x == 0) & (1.0 / x < 0))", ""),
    "the clamp swallows NaN": ("xp.where(size > FARTHEST, FARTHEST, size)", "xp.where(size <= FARTHEST, size, FARTHEST)"),
    "by way of float32": ("    form = float_format(format)\n", "    value = xp.astype(xp.astype(value, xp.float32, copy=False), xp.float64)\n    form = float_format(format)\n"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    wrong: Callable[[], ModuleType] = lambda: mutated(module, *PLANTED[bug])  # noqa: E731 - made within the block
    with pytest.raises(AssertionError):
        check(wrong())
