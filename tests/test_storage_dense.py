"""Dense weights and views of rows: exact values, panels of bounded size, nothing copied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.storage import Dense, RowView, decode
from lepton_ref.storage.base import PANEL_BYTES


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    stored = np.array([0x3F80, 0xC000, 0x7F80, 0x0001, 0x8000, 0x4049], dtype=np.uint16)
    value = Dense(stored, format="BF16").decode()
    assert value.dtype == np.float32
    assert value.tolist() == [1.0, -2.0, np.inf, 2.0**-133, 0.0, 3.140625]
    assert np.signbit(value[4])


@given(st.binary(min_size=48, max_size=48), st.sampled_from(["F16", "F32", "F64"]))
def test_dense_values_are_the_stored_numbers(raw: bytes, format: str) -> None:
    stored = np.frombuffer(raw, dtype={"F16": "<f2", "F32": "<f4", "F64": "<f8"}[format]).reshape(3, -1)
    value = Dense(stored, format=format).decode()
    assert value.dtype == (np.float64 if format == "F64" else np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs in the expected value's own conversion
        np.testing.assert_array_equal(value.astype(np.float64), stored.astype(np.float64))
    np.testing.assert_array_equal(decode(format, np.frombuffer(raw, dtype=np.uint8)), value.reshape(-1))


@pytest.mark.parametrize(("format", "bits"), [("F16", 0x7C01), ("BF16", 0x7F81)])
def test_a_signalling_nan_warns_nobody(format: str, bits: int) -> None:
    stored = np.array([[bits]], dtype=np.uint16)
    weight = Dense(stored.view(np.float16) if format == "F16" else stored, format=format)
    (panel,) = weight.panels(backend=NumpyBackend())
    assert np.isnan(panel.rows).all()


def test_float32_is_not_copied() -> None:
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(Dense(stored, format="F32").rows(0, 1), stored)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown dense format 'F8'; known: F64, F32, F16, BF16"):
        Dense(np.zeros(3), format="F8")
    with pytest.raises(ValueError, match="format BF16 is stored as uint16, got an array of float32"):
        Dense(np.zeros(3, dtype=np.float32), format="BF16")
    with pytest.raises(ValueError, match="a scalar; reshape it"):
        Dense(np.float32(3).reshape(()), format="F32")


@given(st.lists(st.integers(0, 4), max_size=8))
def test_a_view_shows_the_chosen_rows(index: list[int]) -> None:
    base = Dense(np.arange(20, dtype=np.float32).reshape(5, 4), format="F32")
    view = RowView(base, np.array(index, dtype=np.int64))
    expected = base.decode()[index]
    assert view.shape == expected.shape
    np.testing.assert_array_equal(view.decode(), expected)
    np.testing.assert_array_equal(view.rows(1, 3), expected[1:3])
    if index:
        np.testing.assert_array_equal(view.take(np.array([len(index) - 1, 0])), expected[[-1, 0]])


@pytest.mark.parametrize("index", [[5], [-1], [[0, 1]]], ids=str)
def test_a_view_outside_its_base_is_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="leaves a weight of 5 rows"):
        RowView(Dense(np.zeros((5, 4)), format="F64"), np.array(index))


@pytest.mark.parametrize("shape", [(7, 300_000), (1, 2_000_000), (0, 3), (5000, 0)], ids=str)
def test_panels_cover_the_rows_once_and_stay_small(shape: tuple[int, int]) -> None:
    weight = Dense(np.random.default_rng(0).random(shape, dtype=np.float32), format="F32")
    panels = list(weight.panels(backend=NumpyBackend()))
    assert [panel.start for panel in panels] == [0, *[panel.stop for panel in panels]][: len(panels)]
    assert all(panel.rows.nbytes <= PANEL_BYTES or len(panel.rows) == 1 for panel in panels)
    assert all(panel.rows.dtype == np.float64 for panel in panels)
    whole = np.concatenate([panel.rows for panel in panels]) if panels else np.zeros(shape)
    np.testing.assert_array_equal(whole, weight.decode())
