"""The Numba backend's residual, norms, RoPE, activations and soft cap give the ops' bits, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BACKEND, FORMS, PRECISIONS, Arena, caught, mutant, numbers, same_bits, seeds, stuck_list

from lepton_ref import ops
from lepton_ref.backends import numba_activation, numba_norm, numba_residual, numba_rope
from lepton_ref.ops.rope_frequencies import Rope
from lepton_ref.ops.rope_tables import rope_tables

forms = st.sampled_from(range(3))
widths = st.sampled_from([1, 5, 15, 16, 17, 32, 48, 67])
specials = st.sampled_from([0.0, 0.0, 0.2])


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


# --- residual ---


def check_add(module: Any, seed: int, width: int, form: int, special: float = 0.0) -> None:
    x, f = numbers(seed, 5, width, special=special), numbers(seed + 1, 5, width, spread=9.0, special=special)
    f = np.where(np.abs(f) > 2.0**15, x, f)  # fp16 has no more
    arena = Arena(x, f, np.ones_like(x))
    module.add(arena.memory, arena.starts[0], width, arena.starts[1], width, arena.starts[2], width, width, 1, 4, form)
    y = arena.part(2)
    assert (y[[0, 4]] == 1).all()
    same_bits(y[1:4], ops.add(x[None, 1:4], f[None, 1:4], backend=BACKEND, precision=PRECISIONS[form]), stuck_list(0))


@given(seed=seeds, width=widths, form=forms, special=specials)
def test_add(seed: int, width: int, form: int, special: float) -> None:
    check_add(numba_residual, seed, width, form, special)


@pytest.mark.parametrize("form", [1, 2])
def test_a_sum_between_a_midpoint_and_its_neighbour_goes_the_right_way(form: int) -> None:
    step = 2.0 ** -(8 if form == 1 else 11)
    x = np.array([[1 + step, 1 + step, 1 + step, 1 + 3 * step]], dtype=np.float32)
    f = np.array([[0, 2.0**-70, -(2.0**-70), -(2.0**-70)]], dtype=np.float32)
    arena = Arena(x, f, np.zeros_like(x))
    numba_residual.add(arena.memory, arena.starts[0], 4, arena.starts[1], 4, arena.starts[2], 4, 4, 0, 1, form)
    assert arena.part(2)[0].tolist() == [1, 1 + 2 * step, 1, 1 + 2 * step]


def test_a_planted_bug_of_add_is_seen() -> None:
    text = "store_columns(F, out, round_to(odd(s, lost), form), count)"
    wrong = mutant(numba_residual, text, text.replace("count", "16"))
    caught(lambda: check_add(wrong, 0, 17, 1))


# --- norms ---


def check_rms(module: Any, seed: int, heads: int, width: int, form: int, offset: float, special: float = 0.0) -> None:
    x, w = numbers(seed, 4, heads * width, special=special), numbers(seed + 1, width, special=special / 8)
    arena, stuck = Arena(x, w, np.zeros_like(x)), stuck_list()
    start, full = arena.starts, heads * width
    module.rms_norm(
        arena.memory, start[0], full, arena.memory, start[1], start[2], full, heads, width, 1e-5, offset, 0, 4, form,
        stuck,
    )  # fmt: skip
    expected = ops.rms_norm(
        x.reshape(1, 4, heads, width), w, eps=1e-5, offset=offset, backend=BACKEND, precision=PRECISIONS[form]
    )
    same_bits(arena.part(2), np.asarray(expected).reshape(4, full), stuck, most=None if special else 0)


@given(seed=seeds, heads=st.integers(1, 3), width=widths, form=forms, offset=st.sampled_from([0.0, 1.0]),
       special=specials)  # fmt: skip
def test_rms_norm(seed: int, heads: int, width: int, form: int, offset: float, special: float) -> None:
    check_rms(numba_norm, seed, heads, width, form, offset, special)


def test_a_planted_bug_of_rms_norm_is_seen() -> None:
    text = "math.sqrt(_squares(F, at, width) / width + eps)"
    wrong = mutant(numba_norm, f"root = {text}", f"root = np.float64(np.float32({text}))")
    caught(lambda: check_rms(wrong, 0, 1, 64, 0, 0.0))


def test_the_second_stage_of_rms_norm_decides_what_the_first_leaves_open() -> None:
    """With a first bound a million times too large, all elements go the second way, and none further."""
    wide = mutant(numba_norm, "(U * (1 + 2.0**-20))\n    for row", "2.0**-20\n    for row")
    for seed in range(3):
        check_rms(wide, seed, 2, 67, seed, 1.0)


def check_layer(module: Any, seed: int, width: int, form: int, bias: bool, special: float = 0.0) -> None:
    x, w, b = numbers(seed, 4, width, special=special), numbers(seed + 1, width), numbers(seed + 2, width)
    arena, stuck = Arena(x, w, b, np.zeros_like(x)), stuck_list()
    start = arena.starts
    module.layer_norm(
        arena.memory, start[0], width, arena.memory, start[1], start[2] if bias else -1, start[3], width, width, 1e-5,
        0, 4, form, stuck,
    )  # fmt: skip
    expected = ops.layer_norm(x[None], w, b if bias else None, eps=1e-5, backend=BACKEND, precision=PRECISIONS[form])
    same_bits(arena.part(3), expected, stuck, most=None if special or width < 2 else 1)


@given(seed=seeds, width=widths, form=forms, bias=st.booleans(), special=specials)
def test_layer_norm(seed: int, width: int, form: int, bias: bool, special: float) -> None:
    check_layer(numba_norm, seed, width, form, bias, special)


def test_a_planted_bug_of_layer_norm_is_seen() -> None:
    wrong = mutant(numba_norm, "bias = load_columns(V, b + k, width - k)", "bias = load_columns(V, b, width - k)")
    caught(lambda: check_layer(wrong, 0, 67, 0, True))


# --- RoPE ---


def check_rope(
    module: Any, seed: int, width: int, rotary: int, form: int, interleaved: bool, special: float = 0.0, **kind: Any
) -> None:
    x = numbers(seed, 1, 4, 3, width, special=special)
    x[0, 0, 0, ::3] = 0.0
    positions = np.array([[0, 1, 77, 100_000]])
    tables = rope_tables(positions, Rope(theta=1e4, width=rotary, interleaved=interleaved, **kind), backend=BACKEND)
    pairs = (tables.cos_pair.high, tables.sin_pair.high, tables.cos_pair.low, tables.sin_pair.low)
    held = np.concatenate([np.zeros(3), *(part.ravel() for part in pairs)])
    arena, stuck, full = Arena(x, np.zeros_like(x)), stuck_list(), 3 * width
    module.rope(
        arena.memory, arena.starts[0], full, arena.starts[1], full, 3, width, rotary, int(interleaved), tables.factor,
        held, 3, 4 * rotary // 2, 0, 4, form, stuck,
    )  # fmt: skip
    expected = ops.rope(x, tables, backend=BACKEND, precision=PRECISIONS[form])
    same_bits(arena.part(1).reshape(4, full), expected.reshape(4, full), stuck, most=None if special or kind else 0)


@given(seed=seeds, width=st.sampled_from([4, 20, 64]), part=st.sampled_from([1, 2]), form=forms,
       interleaved=st.booleans(), special=specials)  # fmt: skip
def test_rope(seed: int, width: int, part: int, form: int, interleaved: bool, special: float) -> None:
    check_rope(numba_rope, seed, width, width // part, form, interleaved, special)


def test_rope_with_an_attention_factor() -> None:
    for form in range(3):
        check_rope(numba_rope, form, 64, 32, form, False, kind="yarn", factor=4.0, original_length=64)


def test_planted_bugs_of_rope_are_seen() -> None:
    wrong = mutant(numba_rope, "out + 2 * j, 2, 1, half - j", "out + 2 * j, 2, 1, 16")
    caught(lambda: check_rope(wrong, 0, 20, 12, 0, True))
    second = mutant(numba_rope, "other * sign,", "other,", U=2.0**-30)
    caught(lambda: check_rope(second, 0, 20, 12, 0, False))


def test_the_second_stage_of_rope_decides_what_the_first_leaves_open() -> None:
    wide = mutant(numba_rope, "U = 2.0**-53", "U = 2.0**-30")
    for form in range(3):
        check_rope(wide, form, 64, 64, form, form == 1)


# --- activations ---


def check_activation(
    module: Any, kind: str, seed: int, width: int, form: int, special: float = 0.0, spread: float = 1.0, most: int = 0
) -> None:
    x, up = numbers(seed, 3, width, special=special, spread=spread), numbers(seed + 1, 3, width, special=special)
    number, precision = numba_activation.KINDS[kind], PRECISIONS[form]
    for gate in (False, True):
        arena, stuck = Arena(x, up, np.zeros_like(x)), stuck_list()
        a, b, y = arena.starts
        if gate:
            module.gated(arena.memory, number, a, width, b, width, y, width, width, 0, 3, form, stuck)
            expected = ops.gated(x[None], up[None], kind=kind, backend=BACKEND, precision=precision)
        else:
            module.activate(arena.memory, number, a, width, y, width, width, 0, 3, form, stuck)
            expected = ops.activate(x[None], kind=kind, backend=BACKEND, precision=precision)
        same_bits(arena.part(2), expected, stuck, most=None if special else most)


@pytest.mark.parametrize("kind", numba_activation.KINDS)
@settings(max_examples=20)
@given(seed=seeds, width=widths, form=forms, special=specials, spread=st.sampled_from([1.0, 4.0]))
def test_activations(kind: str, seed: int, width: int, form: int, special: float, spread: float) -> None:
    check_activation(numba_activation, kind, seed, width, form, special, spread, most=0 if spread == 1 else 3 * width)


WIDE = ("UNIT = 2.0**-53 *", "UNIT = 2.0**-33 *")
"""A first bound a million times too large: all elements go the second way."""


def test_the_second_stage_of_activations_decides_what_the_first_leaves_open() -> None:
    wide = mutant(numba_activation, *WIDE)
    for form, kind in enumerate(["silu", "gelu_tanh", "quick_gelu", "sigmoid"]):
        check_activation(wide, kind, form, 67, form % 3)


def test_planted_bugs_of_activations_are_seen() -> None:
    first = mutant(numba_activation, "0.044715, 1.702", "0.0447150001, 1.702")
    caught(lambda: check_activation(first, "gelu_tanh", 0, 67, 0))
    caught(
        lambda: check_activation(
            mutant(
                numba_activation,
                "gates, ups, out = g + row * g_stride, u + row * u_stride",
                "gates, ups, out = g + row * g_stride, u",
            ),
            "relu",
            0,
            67,
            0,
        )
    )
    text = "times(times(times((splat_f64(CUBE), splat_f64(CUBE_LOW)), x), x), x)"
    second = mutant(numba_activation, text, text.replace("CUBE)", "0.0447150001)"), UNIT=2.0**-33)
    caught(lambda: check_activation(second, "gelu_tanh", 0, 67, 0))


def check_softcap(module: Any, seed: int, width: int, form: int, cap: float, special: float = 0.0) -> None:
    x = numbers(seed, 3, width, spread=3.0, special=special)
    arena, stuck = Arena(x, np.zeros_like(x)), stuck_list()
    module.softcap(arena.memory, arena.starts[0], width, arena.starts[1], width, width, cap, 0, 3, form, stuck)
    expected = ops.softcap(x[None], cap=cap, backend=BACKEND, precision=PRECISIONS[form])
    same_bits(arena.part(1), expected, stuck, most=None if special else 2)


@given(seed=seeds, width=widths, form=forms, cap=st.sampled_from([0.7, 30.0, 50.0]), special=specials)
def test_softcap(seed: int, width: int, form: int, cap: float, special: float) -> None:
    check_softcap(numba_activation, seed, width, form, cap, special)


def test_a_planted_bug_of_the_soft_cap_is_seen() -> None:
    wrong = mutant(numba_activation, "by, relative = splat_f64(cap)", "by, relative = splat_f64(cap * (1 + 2.0**-20))")
    caught(lambda: check_softcap(wrong, 0, 67, 0, 30.0))


def test_formats_have_the_numbers_that_kernels_take() -> None:
    from lepton_ref.backends.numba_rounding import FORMATS

    assert {form: number for number, form in enumerate(FORMS)} == FORMATS
    assert list(numba_activation.KINDS) == list(ops.activation.ACTIVATIONS)
