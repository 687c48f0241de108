"""Small fields out of bytes, and the one rounding of the scalar twins."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.storage.bits import half, halves, nibble, nibbles, pairs, to_float32


def test_fields_come_lowest_first() -> None:
    packed = np.array([[0xE4, 0x1B], [0x0F, 0xF0]], dtype=np.uint8)
    assert pairs(packed).tolist() == [[[0, 3], [1, 2], [2, 1], [3, 0]], [[3, 0], [3, 0], [0, 3], [0, 3]]]
    assert nibbles(packed).tolist() == [[[4, 11], [14, 1]], [[15, 0], [0, 15]]]
    assert [nibble(0xE4, 0), nibble(0xE4, 1)] == [4, 14]


@given(raw=st.binary(min_size=3, max_size=3))
def test_fp16_numbers_are_read_alike(raw: bytes) -> None:
    alone, together = half(raw, 1), float(halves(np.frombuffer(raw, dtype=np.uint8)[np.newaxis], 1)[0, 0])
    assert alone == together or (math.isnan(alone) and math.isnan(together))


@given(value=st.floats())
def test_numbers_are_rounded_once_to_float32(value: float) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        want = float(np.float32(value))
    got = to_float32(value)
    assert math.isnan(got) if math.isnan(value) else (got, math.copysign(1, got)) == (want, math.copysign(1, want))


def test_what_is_beyond_float32_is_infinite_from_the_midpoint_on() -> None:
    largest, midpoint = (2 - 2.0**-23) * 2.0**127, (2 - 2.0**-24) * 2.0**127
    assert to_float32(math.nextafter(midpoint, 0)) == largest
    assert [to_float32(midpoint), to_float32(-midpoint)] == [math.inf, -math.inf]
