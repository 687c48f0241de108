"""Codes of blocks apart from their scales: by hand, against each format's `read`, and planted mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import FORMATS
from lepton_ref.storage import block_codes as page
from lepton_ref.storage.block_codes import CODED, code_of, codes, lines, with_codes

Bytes = NDArray[np.uint8]

each = pytest.mark.parametrize("name", CODED)


def drawn(name: str, seed: int, rows: int = 2, blocks: int = 2) -> Bytes:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, blocks * FORMATS[name].nbytes), dtype=np.uint8)


def test_one_block_by_hand() -> None:
    # d = 1, element 0 has the low and element 16 the high nibble of the first byte
    raw = np.array([0x00, 0x3C, 0xA5, *[0] * 15], dtype=np.uint8)
    found = codes("Q4_0", raw)
    assert (found[0], found[16], found[1]) == (5, 10, 0)
    found[:] = 0
    found[1], found[31] = 3, 15
    assert with_codes("Q4_0", raw, found).tolist() == [0x00, 0x3C, 0, 3, *[0] * 13, 0xF0]
    s, m = lines("Q4_0", raw)
    assert (s == 1).all()
    assert (m == -8).all()
    assert code_of("Q8_0").levels.tolist() == [*range(128), *range(-128, 0)]
    assert code_of("IQ4_NL").levels[:2].tolist() == [-127, -104]


def codes_are_what_read_says(page: ModuleType, name: str, seed: int) -> bool:
    raw, length, nbytes = drawn(name, seed), FORMATS[name].length, FORMATS[name].nbytes
    found = page.codes(name, raw)
    read = FORMATS[name].read
    assert read is not None
    said = [
        [next(p.code for p in read(row[at : at + nbytes].tobytes(), e) if p.name == "q") for e in range(length)]
        for row in raw
        for at in range(0, len(row), nbytes)
    ]
    return np.array_equal(found, np.array(said).reshape(found.shape)) and np.array_equal(
        page.with_codes(name, raw, found), raw
    )


@each
def test_codes_are_what_read_says(name: str) -> None:
    assert codes_are_what_read_says(page, name, 0)


@each
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_come_back_and_nothing_else_changes(name: str, seed: int) -> None:
    raw = drawn(name, seed)
    chosen = np.random.default_rng(seed).integers(0, 2 ** code_of(name).bits, codes(name, raw).shape, dtype=np.uint8)
    made = with_codes(name, raw, chosen)
    np.testing.assert_array_equal(codes(name, made), chosen)
    np.testing.assert_array_equal(with_codes(name, made, codes(name, raw)), raw)


def decodes_on_a_line(page: ModuleType, name: str, seed: int) -> bool:
    """The closed form of any codes is s·L[q] + m, exactly, wherever all are finite."""
    raw = drawn(name, seed)
    s, m = page.lines(name, raw)
    chosen = np.random.default_rng(seed).integers(0, 2 ** code_of(name).bits, s.shape, dtype=np.uint8)
    closed = FORMATS[name].values(with_codes(name, raw, chosen), rounded=False).astype(np.float64)
    finite = np.isfinite(s) & np.isfinite(m) & np.isfinite(closed)
    with np.errstate(invalid="ignore"):
        return bool((s * code_of(name).levels[chosen] + m == closed)[finite].all() and finite.any())


@each
@given(seed=st.integers(0, 2**32 - 1))
def test_any_code_lies_on_the_line(name: str, seed: int) -> None:
    assert decodes_on_a_line(page, name, seed)


@each
def test_no_rows_and_more_axes_are_rows_too(name: str) -> None:
    nbytes, length = FORMATS[name].nbytes, FORMATS[name].length
    assert codes(name, np.zeros((0, nbytes), dtype=np.uint8)).shape == (0, length)
    raw = drawn(name, 1, rows=6)
    more = raw.reshape(2, 3, -1)
    np.testing.assert_array_equal(codes(name, more).reshape(6, -1), codes(name, raw))
    np.testing.assert_array_equal(lines(name, more)[0].reshape(6, -1), lines(name, raw)[0])


def test_many_blocks_are_worked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = drawn("Q5_0", 1, rows=7, blocks=3)
    whole = codes("Q5_0", raw)
    monkeypatch.setattr(page, "AT_ONCE", 4)
    np.testing.assert_array_equal(codes("Q5_0", raw), whole)
    np.testing.assert_array_equal(with_codes("Q5_0", raw, whole), raw)


BLOCK = np.zeros(18, dtype=np.uint8)
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: codes("IQ3_S", BLOCK), "'IQ3_S' has no code of its own for each element; those that have: Q1_0"),
    (lambda: codes("TQ1_0", BLOCK), "'TQ1_0' has no code"),
    (lambda: codes("Q4_0", BLOCK[:17]), "Q4_0 takes uint8 rows of whole 18-byte blocks, got uint8 (17,)"),
    (lambda: lines("Q4_0", BLOCK.astype(np.int8)), "got int8 (18,)"),
    (lambda: with_codes("Q4_0", BLOCK, np.zeros(31, dtype=np.uint8)), "codes of uint8 (31,); give uint8 (32,)"),
    (lambda: with_codes("Q4_0", BLOCK, np.zeros(32, dtype=np.int64)), "codes of int64 (32,)"),
    (lambda: with_codes("Q4_0", BLOCK, np.full(32, 16, dtype=np.uint8)), "a code of 16; those of Q4_0 are 0 to 15"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_bits_in_the_wrong_place_are_seen() -> None:
    wrong = mutated(page, "spread[:, places] << np.uint8(bit)", "spread[:, places] << np.uint8(code.bits - 1 - bit)")
    assert codes_are_what_read_says(page, "Q6_K", 3)
    assert not codes_are_what_read_says(wrong, "Q6_K", 3)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("s = (second - first) / (code.levels[far] - code.levels[near])", "s = second - first"),
        ("first - s * code.levels[near]", "first"),
    ],
)
def test_a_line_that_is_wrong_is_seen(text: str, bug: str) -> None:
    assert decodes_on_a_line(page, "IQ4_NL", 3)
    assert not decodes_on_a_line(mutated(page, text, bug), "IQ4_NL", 3)
