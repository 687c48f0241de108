"""The roundings that RMSNorm's kernel counts are at least those that its sum of squares has."""

from __future__ import annotations

import inspect
import re
from fractions import Fraction

import numpy as np
import pytest

from lepton_ref.backends import numba_norm


def error_in_units(width: int) -> float:
    """How far the kernel's sum lies from the exact one, in units of 2⁻⁵³, where each addition behind 1 rounds up."""
    x = np.zeros(width + 16, dtype=np.float32)
    least = np.nextafter(np.float32(2.0**-26.5), np.float32(1))
    while Fraction(float(least)) ** 2 <= Fraction(1, 2**53):
        least = np.nextafter(least, np.float32(1))
    start = width - width % 32
    x[start] = 1.0
    x[start + 1 : width] = least
    exact = sum(Fraction(float(value)) ** 2 for value in x[:width])
    return float((Fraction(float(numba_norm._squares(x, 0, width))) / exact - 1) * 2**53)


def counted(width: int) -> float:
    """What the kernel counts, from its own source."""
    source = inspect.getsource(numba_norm.rms_norm)
    found = re.search(r"roundings = (.*)\n", source)
    assert found is not None
    terms = re.fullmatch(r"width // (\d+) \+ width % (\d+) \+ ([\d.]+)", found.group(1))
    assert terms is not None, "the count has another form; read it here too"
    step, rest, more = terms.groups()
    return width // int(step) + width % int(rest) + float(more)


@pytest.mark.parametrize("width", [1, 15, 16, 31, 33, 48, 63, 95])
def test_no_rounding_is_forgotten(width: int) -> None:
    assert error_in_units(width) <= counted(width)


def test_the_example_is_a_hard_one() -> None:
    assert error_in_units(31) > 31 // 16 + 31 % 16 + 5
