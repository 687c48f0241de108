"""Elements of packed and scaled weights on plain Python numbers, against numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import packed
from lepton_ref.plain.packed import (
    awq_code,
    byte_code,
    code_of,
    eight_bits,
    from_nested,
    from_table,
    gptq_zero,
    high_first,
    int8_row,
    scaled,
    signed,
    two_levels,
)

WORD = 0x76543210
"""Nibble n is n."""


def test_codes_run_from_the_lowest_bit_and_over_the_ends_of_words() -> None:
    assert [code_of([WORD], 4, n) for n in range(8)] == list(range(8))
    assert code_of([-1, 0], 4, 7) == 15
    assert code_of([0, 1 - 2**31], 8, 4) == 1
    assert code_of([0b11 << 30, 0b1], 3, 10) == 0b111
    assert code_of([0, 0b1 << 31, 0b10], 3, 21) == 0b101
    assert [code_of([7, 9], 5, n, aligned=True) for n in (0, 5, 6)] == [7, 0, 9]
    assert [byte_code(b"\x21\x43", 4, n) for n in range(4)] == [1, 2, 3, 4]
    assert [byte_code(b"\x81\x10\x04", 6, n) for n in range(4)] == [1, 2, 1, 1]


@given(bits=st.integers(1, 8), codes=st.lists(st.integers(0, 255), min_size=1, max_size=40), aligned=st.booleans())
def test_codes_are_those_that_were_packed(bits: int, codes: list[int], aligned: bool) -> None:
    """A line of text: each code's bits, the lowest first."""
    codes = [code & (1 << bits) - 1 for code in codes]
    text = [f"{code:0{bits}b}"[::-1] for code in codes]
    each = 32 // bits
    words = ["".join(text[at : at + each]).ljust(32, "0") for at in range(0, len(text), each)] if aligned else text
    line = "".join(words).ljust(-(-len("".join(words)) // 32) * 32, "0")
    numbers = [int(line[at : at + 32][::-1], 2) for at in range(0, len(line), 32)]
    stored = [number - 2**32 if number >= 2**31 else number for number in numbers]
    assert [code_of(stored, bits, n, aligned=aligned) for n in range(len(codes))] == codes


def test_orders_of_nibbles() -> None:
    assert [awq_code([WORD], output) for output in range(8)] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert awq_code([0, -1], 12) == 15
    assert [high_first(b"\xab\xc0", n) for n in range(3)] == [0xA, 0xB, 0xC]


def test_zeros_and_signs() -> None:
    assert [gptq_zero([WORD], 7, bits=4, version=version) for version in (1, 2)] == [8, 7]
    assert [gptq_zero([-1], 3, bits=4, version=version) for version in (1, 2)] == [0, 15]
    assert [signed(code, 4) for code in (0, 7, 8, 15)] == [0, 7, -8, -1]


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (scaled(0.5, -3), (-1.5, -1.5)),
        (scaled(-2.0, 0), (-0.0, -0.0)),
        (scaled(3e38, 2), (math.inf, 6e38)),
        (scaled(1 + 2.0**-23, 3), (3 + 2.0**-21, 3 + 3 * 2.0**-23)),
        (from_table(-0.5, 3.0), (-1.5, -1.5)),
        (int8_row(-128, 127.0), (-128.0, -128.0)),
        (int8_row(1, 1.0), (8454660 * 2.0**-30, 1 / 127)),
        (int8_row(0, 5.0), (0.0, 0.0)),
        (eight_bits(0x7E, "e4m3fn", 0.5), (224.0, 224.0)),
        (eight_bits(0x80, "e5m2", 1.0), (-0.0, -0.0)),
        (two_levels(15, 448.0, 2.0, divides=True), (-1344.0, -1344.0)),
        (two_levels(15, 448.0, 2.0, divides=False), (-5376.0, -5376.0)),
        (two_levels(1, 1.0, 3.0, divides=True), (11184811 * 2.0**-26, 0.5 / 3)),
        # the sum is 2⁻⁷⁰ below the midpoint of two float32 numbers, which float64 rounds it to
        (from_nested(1.0, 1 + 2.0**-23, (1 - 2.0**-23) / 2**24, 1 + 2.0**-23), (1 + 2.0**-23, 1 + 3 * 2.0**-24)),
        (from_nested(0.0, 1.0, -1.0, 0.5), (-0.0, -0.0)),
    ],
)
def test_values_by_hand(got: tuple[float, float], want: tuple[float, float]) -> None:
    """Rounded once to float32, and in float64."""
    assert got == want
    assert [math.copysign(1, x) for x in got] == [math.copysign(1, x) for x in want]


def test_what_is_no_number_stays_so() -> None:
    assert all(math.isnan(x) for x in scaled(math.inf, 0))
    assert two_levels(2, math.nan, 2.0, divides=True)[0] != two_levels(2, 1.0, 2.0, divides=True)[0]
    assert from_nested(-1.0, 1.0, math.inf, 0.0) == (-math.inf, -math.inf)


def test_two_roundings_in_the_place_of_one_would_be_seen() -> None:
    wrong = mutated(
        packed, '    return round_to(exact, "fp32", zero=float64), float64\n', "    return _exact(float64)\n"
    )
    nested = (1.0, 1 + 2.0**-23, (1 - 2.0**-23) / 2**24, 1 + 2.0**-23)
    assert wrong.from_nested(*nested) != from_nested(*nested)
