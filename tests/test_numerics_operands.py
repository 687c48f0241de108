"""Activations as small numbers with scales, on any backend, against the specification."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from strategies import any_numbers
from strict_backend import StrictBackend

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Backend
from lepton_ref.numerics import operands as module
from lepton_ref.plain import quantise

NUMPY = NumpyBackend()
SMALL = ("w8a8", "w4a8", "fp8")
WIDTHS = (1, 2, 31, 32, 33, 64, 70)


def rows(seed: int, width: int) -> np.ndarray:
    """Rows whose blocks are normal, subnormal, zero, huge, or hold a tie of the quotient."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, width)) * np.exp2(rng.integers(-140, 100, (6, 1)))
    x[1] = np.float32(1e-45) * rng.integers(-3, 4, width)
    x[2] = 0.0 * rng.choice([-1, 1], width)
    x[3] = rng.integers(-254, 255, width) / 2  # with amax 127 the scale is 1, and halves are ties
    x[3, 0] = 127.0
    x[4] = rng.integers(-31, 32, width) * 2.0 ** rng.integers(-12, 4, width)  # E4M3's ties, the scale being 1
    x[4, -1] = 448.0
    return x.astype(np.float32)


def check(m: object, backend: Backend = NUMPY) -> None:
    for seed, width in enumerate(WIDTHS):
        assert_as_specified(m, rows(seed, width), backend)


def assert_as_specified(m: object, x: np.ndarray, backend: Backend) -> None:
    for name in SMALL:
        with np.errstate(all="ignore"):
            sent = backend.from_numpy(x.astype(np.float64))
            got = backend.to_numpy(m.activations(sent, name, backend=backend))
        want = np.array([quantise.activations(row, name) for row in x.astype(np.float64).tolist()])
        assert got.dtype == np.float64
        assert np.array_equal(np.isnan(got), np.isnan(want)), name
        kept = ~np.isnan(want)
        assert np.array_equal(got[kept].view(np.uint64), want[kept].view(np.uint64)), name


@pytest.mark.parametrize("backend", [NUMPY, StrictBackend()], ids=lambda backend: backend.name)
def test_blocks_of_every_kind_are_encoded_as_specified(backend: Backend) -> None:
    check(module, backend)


@given(any_numbers(), st.sampled_from(WIDTHS))
def test_any_row_is_encoded_as_specified(fill: object, width: int) -> None:
    assert_as_specified(module, fill((3, width)), NUMPY)


@given(any_numbers(), st.sampled_from(WIDTHS), st.sampled_from(SMALL))
def test_the_numbers_are_small_and_their_scales_short(fill: object, width: int, name: str) -> None:
    with np.errstate(all="ignore"):
        q, scale = module.scaled_activations(fill((3, width)).astype(np.float64), name, backend=NUMPY)
        product = q * scale
    assert q.shape == product.shape == (3, width)
    assert scale.shape == ((3, 1) if name == "fp8" else (3, width))
    finite = np.isfinite(product)
    assert (np.abs(q[finite]) <= (448 if name == "fp8" else 127)).all()
    mantissa = np.frexp(scale[np.isfinite(scale)])[0] * 2.0**module.SCALE_BITS
    assert (mantissa == np.rint(mantissa)).all()
    assert (product.astype(np.float32) == product)[finite & (np.abs(product) >= 2.0**-126)].all()


def test_a_block_known_by_hand() -> None:
    """amax 127 gives a scale of 1: halves go to the even integer. A second block, of 254, has a scale of 2."""
    x = np.zeros((1, 40))
    x[0, :4], x[0, 32:35] = [127.0, 0.5, 1.5, -2.5], [254.0, 3.0, -1.0]
    q, scale = module.scaled_activations(x, "w8a8", backend=NUMPY)
    assert q[0, :4].tolist() == [127.0, 0.0, 2.0, -2.0]
    assert q[0, 32:35].tolist() == [127.0, 2.0, 0.0]
    assert scale[0, [0, 31, 32, 39]].tolist() == [1.0, 1.0, 2.0, 2.0]
    q, scale = module.scaled_activations(np.array([[448.0, 17.0, 19.0, -1.0]]), "fp8", backend=NUMPY)
    assert q.tolist() == [[448.0, 16.0, 20.0, -1.0]]
    assert scale.tolist() == [[1.0]]


def test_stored_activations_stay_themselves() -> None:
    x = np.ones((2, 3))
    assert module.activations(x, "stored", backend=NUMPY) is x


PLANTED: dict[str, tuple[str, str]] = {
    "blocks of 16": ("BLOCK = 32", "BLOCK = 16"),
    "int8 down to -128": ("INT8_LARGEST, E4M3_LARGEST = 127.0, 448.0", "INT8_LARGEST, E4M3_LARGEST = 128.0, 448.0"),
    "E4M3 up to 240": ("INT8_LARGEST, E4M3_LARGEST = 127.0, 448.0", "INT8_LARGEST, E4M3_LARGEST = 127.0, 240.0"),
    "a scale of 12 bits": ("SCALE_BITS = 11", "SCALE_BITS = 12"),
    "a scale of 24 bits": ("SCALE_BITS = 11", "SCALE_BITS = 24"),
    "scales below the least keep their bits": ("SCALE_LEAST = -139", "SCALE_LEAST = -160"),
    "a block of zeros is NaN": ("xp.where(scale == 0.0, 0.0 * x, x / scale)", "x / scale"),
    "E4M3 with three significant bits": ("precision=4, emin=-6", "precision=3, emin=-6"),
    "E4M3 without subnormals": ("precision=4, emin=-6", "precision=4, emin=-9"),
    "the rest of a row shares the last block's scale": ("if whole < width:", "if whole < width and not whole:"),
    "integers half away from zero": ("return (quotient + INTEGER) - INTEGER, scale", "return xp.where(quotient < 0, -1.0, 1.0) * ((xp.abs(quotient) * (1 + 2.0**-50) + INTEGER) - INTEGER), scale"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    wrong = mutated(module, *PLANTED[bug])
    with pytest.raises((AssertionError, ValueError)):
        check(wrong)
