"""Hadamard rotations: orthogonal to the bit where n is 4ᵏ, and a model's same function within proven intervals."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from tiny_models import load

import lepton_ref
from lepton_ref.audit.intervals import block_intervals
from lepton_ref.compress import rotation as page
from lepton_ref.compress.rotation import block_of, fwht, rotate, rotate_stream, rotate_values, signs
from lepton_ref.models.program import Program
from lepton_ref.storage import Dense, Weight

Reals = NDArray[np.float64]
BLOCK = 4
"""1/√4 is exact, so that a rotation of numbers of few bits is."""


def test_the_matrix_by_hand() -> None:
    assert fwht(np.eye(4), 4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    assert fwht(np.eye(4), 2).tolist() == [[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]]
    assert [block_of(width) for width in (1, 6, 24, 576, 1024)] == [1, 2, 8, 64, 1024]
    assert signs(8, 0).tolist() == signs(9, 0)[:8].tolist() != signs(8, 1).tolist()
    assert set(signs(64, 0)) == {-1.0, 1.0}


@given(seed=st.integers(0, 2**32 - 1), block=st.sampled_from([1, 4, 16]))
def test_rotations_are_orthogonal_exactly(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    w, x = rng.integers(-99, 100, (3, 48)).astype(np.float64), rng.integers(-99, 100, 48).astype(np.float64)
    sign = signs(48, seed)
    wide, turned = rotate(w, sign, block=block), rotate(x, sign, block=block)
    np.testing.assert_array_equal(wide @ turned, w @ x)
    assert turned @ turned == x @ x


def test_one_outlier_is_spread_over_its_block() -> None:
    x = np.zeros(32)
    x[5] = 16.0
    assert set(np.abs(rotate(x, signs(32, 0), block=16))) == {0.0, 4.0}


def few_bits(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The same weights rounded to multiples of 2⁻⁶, so that rotated ones are float32 numbers exactly."""
    return {
        name: Dense((np.rint(weight.decode() * 64) / 64).astype(np.float32), format="F32")
        for name, weight in weights.items()
    }


def with_weights(model: lepton_ref.Model, weights: Mapping[str, Weight]) -> lepton_ref.Model:
    return type(model)(
        dataclasses.replace(model.parts, weights=dict(weights)), backend=model.backend, precision=model.precision
    )


def same_function(page: ModuleType, name: str) -> bool:
    """Whether the enclosures of a block's result, turned back, meet; the weights and the entry are exact in both."""
    plain = load(GOLDEN / "tiny" / name, precision="float64")
    plain = with_weights(plain, few_bits(plain.parts.weights))
    turned = with_weights(plain, page.rotate_stream(plain.program, plain.parts.weights, block=BLOCK))
    sign = signs(plain.config.hidden_size, 0)
    ids, result = [[1, 2, 3, 4, 5]], "layers.0.mlp_residual"
    traces = [model.run_with_trace(ids) for model in (plain, turned)]
    np.testing.assert_array_equal(traces[1]["embed"], rotate(traces[0]["embed"], sign, block=BLOCK))
    a, b = (
        block_intervals(model, trace, "layers.0", "fp64")[result]
        for model, trace in zip((plain, turned), traces, strict=True)
    )
    assert a.relative < 2.0**-30  # narrow enough to say something
    matrix = np.abs(rotate(np.eye(len(sign)), sign, block=BLOCK))  # rows |R e_i|
    radius = a.radius @ matrix + b.radius + 2.0**-50 * (np.abs(a.middle) @ matrix)
    return bool((np.abs(rotate(a.middle, sign, block=BLOCK) - b.middle) <= radius).all())


@pytest.mark.parametrize("name", ["llama", "llama_biased", "llama_sharded", "mistral"])
def test_a_rotated_stream_is_the_same_function(name: str) -> None:
    assert same_function(page, name)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("w = rotate(w.T, sign, block=block).T", "pass"),
        ('rotate(w * weights[reads_norm.weights["w"]].decode().astype(np.float64), sign', "rotate(w, sign"),
        ('out[op.weights["w"]] = _f32(np.ones(op.width))', "pass"),
        ("w = rotate(w.T, sign, block=block).T", "w = fwht(w.T, block or 4).T"),
    ],
    ids=["not on the way out", "the norm's weight lost", "the norm's weight twice", "no signs, no root"],
)
def test_a_rotation_in_one_place_alone_is_seen(text: str, bug: str) -> None:
    assert not same_function(mutated(page, text, bug), "llama_biased")


def heads_program(kv_heads: int) -> Program:
    p = Program()
    x = p.embed("embed", 5, 16)
    q, k, v = (p.linear(n, x, 4 * h, bias=True) for n, h in (("q", 4), ("k", kv_heads), ("v", kv_heads)))
    p.linear("o", p.attention("attn", q, k, v, heads=4, kv_heads=kv_heads, scale=0.5), 16)
    return p


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@given(seed=st.integers(0, 2**32 - 1))
def test_rotated_values_meet_their_inverse_exactly(kv_heads: int, seed: int) -> None:
    program = heads_program(kv_heads)
    rng = np.random.default_rng(seed)
    weights: dict[str, Weight] = {
        name: Dense(rng.integers(-9, 10, shape).astype(np.float32), format="F32")
        for name, shape in program.weights.items()
    }
    turned = rotate_values(program, weights, seed=seed)
    assert {name for name in weights if turned[name] is not weights[name]} == {"v.weight", "v.bias", "o.weight"}
    for head in range(4):
        group = head * kv_heads // 4
        of, vf = slice(4 * head, 4 * head + 4), slice(4 * group, 4 * group + 4)
        for name in ("v.weight", "v.bias"):  # attention mixes rows of v with numbers that know nothing of channels
            before, after = (
                some["o.weight"].decode().astype(np.float64)[:, of] @ some[name].decode().astype(np.float64)[vf]
                for some in (weights, turned)
            )
            np.testing.assert_array_equal(after, before)


def stream_of(name: str) -> Callable[[], object]:
    def run() -> object:
        model = load(GOLDEN / "tiny" / name)
        return rotate_stream(model.program, model.parts.weights)

    return run


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: fwht(np.ones(6), 4), "blocks of 4 along 6 channels; give a power of two that divides them"),
    (lambda: fwht(np.ones(6), 3), "blocks of 3 along 6 channels"),
    (lambda: rotate(np.ones(6), np.ones(5)), "signs of shape (5,) for 6 channels"),
    (lambda: block_of(0), "a rotation of width 0"),
    (lambda: signs(3, -1), "seed -1; give an integer"),
    (stream_of("llama_tied"), "embed.weight serves two ops"),
    (stream_of("gpt2"), "layers.0.attn_norm is of kind layer_norm and reads the stream"),
    (stream_of("gemma2"), "is of kind rms_norm and reads the stream; only RMSNorm without offset may"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)
