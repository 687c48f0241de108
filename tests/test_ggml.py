"""Precision ggml: the blocks of activations that ggml multiplies by, and what a linear layer makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref import ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, Precision, ggml_blocks
from lepton_ref.plain import ggml
from lepton_ref.storage import FORMATS, BlockQuantised, Dense
from lepton_ref.storage.encoded import WithMinima, ggml_operand

BACKEND = NumpyBackend()
GGML = PRECISIONS["ggml"]
KINDS = ("Q8_0", "Q4_1", "Q6_K", "F16", "BF16", "F32")
"""A weight's format of each kind of activations."""

Numbers = np.ndarray[Any, np.dtype[np.float32]]


def rows(kind: int, seed: int) -> Numbers:
    """(3, 256) of one kind: ordinary, of all sizes, ties of codes, zeros, tiny, huge, special."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 256))
    with np.errstate(over="ignore"):
        x = [
            lambda: x,
            lambda: x * np.exp2(rng.integers(-40, 40, (3, 256))),
            lambda: rng.integers(-254, 255, (3, 256)) / 2.0 * 2.0 ** rng.integers(-10, 10),
            lambda: x * (rng.random((3, 256)) < 0.1),
            lambda: x * 2.0 ** rng.integers(-150, -100),
            lambda: x * 2.0 ** rng.integers(10, 126),
            lambda: np.where(rng.random((3, 256)) < 0.01, rng.choice([np.inf, -np.inf, np.nan]), x),
        ][kind]()
    return np.asarray(x, dtype=np.float32)


def same(a: Any, b: Any) -> bool:
    """Equal bits; every NaN is one."""
    one, other = (np.asarray(each, dtype=np.float64) for each in (a, b))
    return bool((np.isnan(one) == np.isnan(other)).all()) and bool(
        (np.nan_to_num(one, nan=0.0).view("u8") == np.nan_to_num(other, nan=0.0).view("u8")).all()
    )


def check(module: Any) -> None:
    for name in KINDS:
        for kind in range(7):
            x = rows(kind, 0)
            with np.errstate(all="ignore"):
                got = module.ggml_activations(x.astype(np.float64), name, backend=BACKEND)
            for row, numbers in zip(got, x.tolist(), strict=True):
                assert same(row + 0.0, np.array(ggml.activations(numbers, name)) + 0.0), (name, kind)  # −0 is 0 here


def test_arrays_are_what_the_specification_says() -> None:
    check(ggml_blocks)


@given(st.sampled_from(KINDS), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_any_rows(format: str, kind: int, seed: int) -> None:
    x = rows(kind, seed)
    with np.errstate(all="ignore"):
        got = ggml_blocks.ggml_activations(x.astype(np.float64), format, backend=BACKEND)
    assert same(got + 0.0, np.array([ggml.activations(row, format) for row in x.tolist()]) + 0.0)


BUGS: dict[str, tuple[str, str]] = {
    "half to even": ("xp.where(size - even == 0.5, even + 1.0, even)", "even"),
    "1/d of the stored d": ("_inverse(exact, backend)", "_inverse(_to(exact, 'fp16', backend), backend)"),
    "d is not stored as fp16": ('_to(exact, "fp16", backend), 0.0 * exact)', "exact, 0.0 * exact)"),
    "s of the stored d": ("_to(exact * total", "_to(d * total"),
    "s is float32": ('s = _to(_to(exact * total, "fp32", backend), "fp16", backend)', "s = exact * total"),
    "blocks of 32 for Q8_K": ("length = LENGTHS[blocks]", "length = 32"),
    "bf16 for fp16": ('"fp16" if blocks == "F16" else "bf16"', '"bf16"'),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_planted_mistakes_are_caught(bug: str) -> None:
    broken = mutated(ggml_blocks, *BUGS[bug])
    with pytest.raises(AssertionError):
        check(broken)


def test_literals() -> None:
    x = [127.0, 0.5, 1.5, -0.5, *[0.0] * 28]
    assert ggml.activations(x, "Q4_0")[:4] == [127.0, 1.0, 2.0, -1.0]  # half away from zero
    assert ggml.activations(x, "Q4_1")[32:] == [0.0]  # 129 is an fp16 number
    k = ggml.activations([*x, *[0.0] * 224], "Q4_K")
    assert k[:4] == [127.0, 0.0, 2.0, 0.0]  # half to even
    assert ggml.activations([1 + 2.0**-11, 3.0], "F16") == [1.0, 3.0]
    assert ggml.activations([1 + 2.0**-11], "F32") == [1 + 2.0**-11]


def test_a_minimum_multiplies_the_rounded_sum() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 2, 64)).astype(np.float32)
    raw = rng.integers(0, 256, (5, 2 * 20), dtype=np.uint8)
    raw.reshape(5, 2, 20)[:, :, :4] = rng.standard_normal((5, 2, 2)).astype("<f2").view(np.uint8).reshape(5, 2, 4)
    weight = BlockQuantised(raw, format=FORMATS["Q4_1"])
    wrapped = ggml_operand(weight)
    assert isinstance(wrapped, WithMinima)
    assert wrapped.operand_width == 66
    got = ops.linear(x, wrapped, backend=BACKEND, precision=GGML)
    blocks = raw.reshape(5, 2, 20)
    for t in range(2):
        row = ggml.activations(x[0, t].tolist(), "Q8_0")
        sums = [s - 0.0 for s in ggml.activations(x[0, t].tolist(), "Q4_1")[64:]]
        for o in range(5):
            total = Fraction(0)
            for j in range(2):
                d, m = (float(v) for v in blocks[o, j, :4].view("<f2"))
                q = [blocks[o, j, 4 + e % 16] >> 4 * (e // 16) & 15 for e in range(32)]
                values = row[32 * j : 32 * j + 32]
                total += sum(Fraction(d) * int(a) * Fraction(b) for a, b in zip(q, values, strict=True))
                s = Fraction(sums[j]) + sum(map(Fraction, values))  # what Q8_1 keeps
                assert float(np.float16(float(s))) == s
                total += Fraction(m) * s
            assert got[0, t, o] == np.float32(float(total)), "far from a midpoint of float32"


def test_attention_takes_fp16() -> None:
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((1, 3, 2, 4)).astype(np.float32) for _ in range(3))
    mask = np.tril(np.ones((1, 3, 3), dtype=bool))
    got = ops.attention(q, k, v, mask, scale=0.5, backend=BACKEND, precision=GGML)
    halves = [a.astype(np.float16).astype(np.float32) for a in (q, k, v)]
    want = ops.attention(*halves, mask, scale=0.5, backend=BACKEND, precision=PRECISIONS["reference"])
    assert got.tobytes() == want.tobytes()
    assert (
        got.tobytes()
        != ops.attention(q, k, v, mask, scale=0.5, backend=BACKEND, precision=PRECISIONS["reference"]).tobytes()
    )


def test_bad_input() -> None:
    def refused(call: Callable[[], object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call()

    refused(lambda: ggml.activations([0.0] * 31, "Q4_0"), "whole blocks of 32, got 31")
    refused(lambda: ggml.activations([0.0], "Q9"), "weights in 'Q9'")
    refused(lambda: ggml_blocks.ggml_activations(np.zeros((1, 40)), "Q4_K", backend=BACKEND), "blocks of 256, got 40")
    refused(lambda: ggml_blocks.ggml_activations(np.zeros((1, 40)), "XYZ", backend=BACKEND), "'XYZ'")
    refused(lambda: Precision("p", operands="ggml", accumulate="float32", proven=False), "ggml's blocks")
    refused(lambda: Precision("p", attended="fp12"), "unknown attended 'fp12'")
    refused(
        lambda: Dense(np.zeros((2, 2), dtype=np.float32), format="F32").blocks(np.array([0])), "not stored in blocks"
    )


def test_infinities_and_nan_stay_in_their_block() -> None:
    x = np.ones((1, 64), dtype=np.float64)
    x[0, 3] = np.inf
    got = ggml_blocks.ggml_activations(x, "Q8_0", backend=BACKEND)
    assert np.isnan(got[0, :32]).all()
    assert np.array_equal(got[0, 32:], [float(np.float16(np.float32(1) / np.float32(127))) * 127] * 32)
    assert math.isnan(ggml.activations([math.nan] + [1.0] * 31, "Q8_0")[5])
