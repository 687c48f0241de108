"""Embedding from panels: the op's bits for every kind, factor and format, and an id that has no row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import caught, mutant
from test_numba_integer import blocks

from lepton_ref import ops
from lepton_ref.backends import numba_embed
from lepton_ref.backends.numba_panels import pack
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import get_precision

KINDS = ("Q8_0", "Q4_0", "Q5_0", "Q6_K")
FACTORS = (1.0, -1.0, 24.0, 640**0.5, 1e-20)
FORMS = ("reference", "bf16", "fp16")


def check(name: str, seed: int, scale: float, form: int, module: Any = numba_embed, raw: Any = None) -> None:
    """Rows of a table against the op."""
    table = blocks(name, 37, 2 if name == "Q6_K" else 3, seed)
    if raw is not None:
        raw(table.raw)
    ids = np.random.default_rng(seed).integers(0, 37, 5)
    panels = pack(table, "w8a8")
    assert panels is not None
    assert panels.kind in numba_embed.SERVED
    width, count = panels.width, len(ids)
    arena = np.full(count * width, np.nan, dtype=np.float32)
    module.embed(panels.kind, panels.data, panels.at, ids, 0, width, scale, arena, 0, 0, count, form)
    with np.errstate(all="ignore"):
        want = ops.embed(ids[None], table, scale=scale, backend=NumpyBackend(), precision=get_precision(FORMS[form]))[0]
    got = arena.reshape(count, width)
    assert np.array_equal(got.view(np.uint32), np.asarray(want).view(np.uint32))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from(FACTORS), form=st.integers(0, 2))
def test_rows_are_the_ops(name: str, seed: int, scale: float, form: int) -> None:
    check(name, seed, scale, form)


def test_what_is_not_finite_is_the_ops() -> None:
    def spoil(raw: Any) -> None:
        raw[:, :2], raw[:, 34:36] = (np.array([scale], dtype="<f2").view("u1") for scale in (np.nan, -np.inf))

    for form in range(3):
        check("Q8_0", 1, 1.5, form, raw=spoil)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("index, out = I[ids + row]", "index, out = I[ids]"),
        (", splat_f64(scale))", ", splat_f64(1.0))"),
        ("round_to(odd(product, lost), form)", "round_to(product, 0)"),
    ],
)
def test_planted_bugs_are_seen(text: str, bug: str) -> None:
    wrong = mutant(numba_embed, text, bug)
    caught(lambda: check("Q8_0", 2, 640**0.5, 1, wrong))


def test_factors_whose_products_could_underflow_are_the_ops() -> None:
    assert numba_embed.usual(1.0)
    assert numba_embed.usual(-(640**0.5))
    assert not any(numba_embed.usual(scale) for scale in (0.0, 1e-40, -1e40, float("nan"), float("inf")))
