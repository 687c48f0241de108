"""Numbers of which float64 decides nothing take at most a hundred times as long as ordinary ones."""

from __future__ import annotations

import sys

import pytest
from adversarial_speed import HEADER, Row, ordinary, rows
from adversaries import ADVERSARIES

MOST = 100


@pytest.mark.slow
def test_no_adversary_makes_an_op_take_more_than_a_hundred_times_as_long() -> None:
    found = list(rows(most=MOST))
    sys.stdout.write("\n".join([HEADER, *map(str, found)]) + "\n")
    assert {row.name for row in found} >= {name for name, given in ADVERSARIES.items() if given.all_of_them}
    assert [str(row) for row in found if row.ratio > MOST] == []


def test_a_row_is_measured_on_data_that_are_ambiguous_throughout() -> None:
    (row,) = rows(("linear, zeros",))
    assert row.elements == row.ambiguous == 4096
    assert row.ratio > 1
    assert not list(rows(("softmax, gaps",)))


def test_ordinary_numbers_have_the_same_shapes_and_masks() -> None:
    hard = ADVERSARIES["attention, one key"].draw(3)
    usual = ordinary(hard)
    assert [a.shape for a in hard.inputs] == [a.shape for a in usual.inputs]
    assert (hard.inputs[3] == usual.inputs[3]).all()
    assert not (hard.inputs[0] == usual.inputs[0]).any()


def test_a_ratio_is_what_it_says() -> None:
    assert Row("", 1, 1, 0, ordinary=0.5, adversarial=1.0).ratio == 2
