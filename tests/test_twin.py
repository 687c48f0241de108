"""The plain-Python twin of a whole forward pass gives the engine's bits: every family, every option, special values."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_models import VOCABULARY, drawn, twin
from golden_cases import names
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.numerics import PRECISIONS
from lepton_ref.plain import forward as plain_forward
from lepton_ref.plain import ops as plain_ops

EXACT = ("reference", "bf16", "fp16", "fp8", "w8a8", "w4a8")

precisions = st.sampled_from(EXACT).map(PRECISIONS.__getitem__)
prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4)
shares = st.sampled_from([0.0, 0.0, 0.002, 0.02])


def first_difference(name: str, precision: str, ids: list[int], seed: int, specials: float) -> str | None:
    """The first op whose bits differ, or None."""
    model = drawn(name, PRECISIONS[precision], seed=seed, specials=specials)
    given_ids: NDArray[np.int64] = np.array([ids])
    ours, theirs = model.run_with_trace(given_ids), twin(model, given_ids)
    assert list(ours) == list(theirs)
    for op in ours:
        a, b = ours[op][0], theirs[op]
        if a.shape != b.shape or not np.array_equal(a.view(np.uint32), b.view(np.uint32)):
            return op
    return None


@pytest.mark.parametrize("name", names())
@settings(max_examples=3)
@given(precision=precisions, ids=prompts, seed=st.integers(0, 2**32 - 1), specials=shares)
def test_the_twin_agrees_bit_for_bit(name: str, precision: object, ids: list[int], seed: int, specials: float) -> None:
    assert first_difference(name, precision.name, ids, seed, specials) is None  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
@settings(max_examples=40)
@given(precision=precisions, ids=prompts, seed=st.integers(0, 2**32 - 1), specials=shares)
def test_the_twin_agrees_on_many(name: str, precision: object, ids: list[int], seed: int, specials: float) -> None:
    assert first_difference(name, precision.name, ids, seed, specials) is None  # type: ignore[attr-defined]


def test_the_twin_would_see_a_second_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op of the twin that is rounded to bfloat16 before float32 is found where it stands."""
    once = plain_ops.rounded

    def twice(value: plain_ops.Value, form: str) -> float:
        return once(once(value, "bf16"), form)

    assert first_difference("llama", "reference", [1, 2, 3], 0, 0.0) is None
    monkeypatch.setattr(plain_forward.ops, "rounded", twice)
    assert first_difference("llama", "reference", [1, 2, 3], 0, 0.0) == "embed"
