"""How weights look: the facts are right, little is decoded, nothing of a name reaches HTML unescaped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.storage import FORMATS, BlockQuantised, Dense, Weight
from lepton_ref.storage.show import SAMPLE, array_html, array_text, histogram, human, sample_rows


def test_a_weight_says_its_format_shape_bytes_range_and_histogram() -> None:
    weight = Dense(np.array([[-1.0, 0.0], [0.5, 3.0]], dtype=np.float32), format="F32")
    assert repr(weight) == "F32 (2, 2), 16 bytes, -1 … 3, █   █ █        █"
    assert weight._repr_html_() == (
        "<table><tr><th>F32</th><td><code>(2, 2)</code></td><td><code>16 bytes</code></td>"
        "<td><code>-1 … 3</code></td><td><code>█   █ █        █</code></td></tr></table>"
    )


def test_what_cannot_be_drawn_is_said_in_words() -> None:
    assert repr(Dense(np.zeros((0, 3)), format="F64")) == "F64 (0, 3), 0 bytes"
    odd = Dense(np.array([np.nan, np.inf, 1.0]), format="F64")
    assert repr(odd) == "F64 (3,), 24 bytes, 1 … 1, █, 2 of 3 not finite"
    assert array_text(np.array(True)) == "bool (), 1 bytes, 1 … 1, █"
    assert "<code>0 … 9</code>" in array_html(np.arange(10))


def test_only_a_bounded_sample_is_decoded() -> None:
    class Counting(Weight):
        """A weight of a terabyte that counts what it decodes."""

        format, shape, nbytes, decoded = "<b>", (1 << 28, 1 << 10), 1 << 40, 0

        def rows(self, start: int, stop: int, /) -> NDArray[np.float32]:
            raise AssertionError("rows are taken, not read in sequence")

        def take(self, index: NDArray[np.int64], /) -> NDArray[np.float32]:
            assert index[0] == 0
            assert index[-1] == self.shape[0] - 1
            self.decoded += len(index) * self.shape[1]
            return np.ones((len(index), self.shape[1]), dtype=np.float32)

    weight = Counting()
    assert repr(weight) == "<b> (268435456, 1024), 1.0 TiB, 1 … 1, █, 65536 elements sampled"
    assert weight.decoded == SAMPLE
    assert "<th>&lt;b&gt;</th>" in weight._repr_html_()


def test_a_row_beyond_the_sample_is_not_decoded() -> None:
    weight = BlockQuantised(np.zeros((1, 34 * 4096), dtype=np.uint8), format=FORMATS["Q8_0"])
    assert repr(weight) == "Q8_0 (1, 131072), 136.0 KiB, 0 elements sampled"


@pytest.mark.parametrize("shape", [(1, 5, 49152), (1, 262144), (262144,), (65536,), (0, 3), ()])
def test_an_array_in_memory_is_looked_at_all_over(shape: tuple[int, ...]) -> None:
    """Also where one row is larger than the sample: logits of one text are a single row."""
    array = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    text = array_text(array)
    assert (" … " in text) == (array.size > 0)
    seen = -(-array.size // max(1, -(-array.size // SAMPLE)))
    assert seen <= SAMPLE
    assert (f"{seen} elements sampled" in text) == (seen < array.size)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_the_histogram_shows_every_place_that_holds_a_value(values: list[float]) -> None:
    array = np.array(values)
    bars = histogram(array)
    if array.min() == array.max():
        assert bars == "█"
    else:
        assert len(bars) == 16
        assert bars[0] != " "
        assert bars[-1] != " "
        assert "█" in bars
        assert 2 <= sum(bar != " " for bar in bars) <= len(set(values))


@given(st.integers(0, 1 << 40), st.lists(st.integers(0, 1 << 20), max_size=2))
def test_the_sample_stays_within_its_bound(rows: int, rest: list[int]) -> None:
    chosen = sample_rows((rows, *rest))
    assert len(chosen) * int(np.prod(rest, dtype=object)) <= SAMPLE
    assert len(chosen) <= min(rows, SAMPLE)
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 50, "1024.0 TiB")]
)
def test_sizes_are_given_in_a_unit_that_fits(nbytes: int, text: str) -> None:
    assert human(nbytes) == text
