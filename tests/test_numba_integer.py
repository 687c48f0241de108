"""Integer linear layers of the Numba backend: the bits of the op on the NumPy backend, of every kind."""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray
from strategies import Fill, any_numbers, moderate
from test_numba_panels import BLOCKS, affine
from test_numba_panels import blocks as any_scales

from lepton_ref.backends import numba_integer_finish, numba_integer_repair, numba_integer_rows
from lepton_ref.backends.numba_bytes import address, load_f64, store_f64
from lepton_ref.backends.numba_dot import available, chosen
from lepton_ref.backends.numba_integer import integer_linear, linear, quantise_rows, scratch_bytes
from lepton_ref.backends.numba_integer_sums import BACK, ORDER
from lepton_ref.backends.numba_panels import Panels, pack
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import get_precision
from lepton_ref.numerics.lengths import lengths as specified_lengths
from lepton_ref.numerics.operands import scaled_activations
from lepton_ref.ops.linear import linear as specified
from lepton_ref.plain.formats import round_to
from lepton_ref.storage import FORMATS, Dense
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.encoded import as_operand

NUMPY = NumpyBackend()
F32s = NDArray[np.float32]
ACTIVATIONS = ("fp32", "bf16", "fp16")


def bits(x: F32s) -> NDArray[np.uint32]:
    """The numbers' bits; every NaN is one, since it has no sign and no payload."""
    return np.where(np.isnan(x), np.float32(np.nan), x).astype(np.float32).view(np.uint32)


def numbers(seed: int, *shape: int) -> F32s:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blocks(name: str, outputs: int, count: int, seed: int = 0) -> BlockQuantised:
    """Random codes, and scales as weights have them."""
    form, rng = FORMATS[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (outputs, count, form.nbytes), dtype=np.uint8)
    for field in form.fields:
        if field.what == "fp16":
            raw[:, :, field.at : field.at + 2] = rng.uniform(0.003, 0.02, (outputs, count, 1)).astype("<f2").view("u1")
    return BlockQuantised(raw.reshape(outputs, -1), format=form)


def packed(weight: Weight, operands: str = "w8a8") -> Panels:
    panels = pack(weight, operands)
    assert panels is not None
    return panels


def same(x: F32s, weight: Weight, bias: F32s | None = None, *, operands: str = "w8a8", **how: Any) -> int:
    """Compare with the op, but for what is left to repair; returns how many that are."""
    form = how.get("form", 0)
    precision = dataclasses.replace(get_precision(operands), activations=ACTIVATIONS[form])
    got, stuck = linear(x, packed(weight, operands), bias, **how)
    want = specified(x, as_operand(weight, operands), bias, backend=NUMPY, precision=precision)
    left = {(int(place) >> 32, int(place) & 0xFFFFFFFF) for place in stuck}
    different = {tuple(place) for place in np.argwhere(bits(got) != bits(want)).tolist()}
    assert different <= left, f"{sorted(different - left)[:5]}"
    return len(stuck)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("name", BLOCKS)
def test_every_kind_on_every_instruction_set(name: str, isa: str) -> None:
    weight = blocks(name, 41, 2 if FORMATS[name].length == 256 else 3)
    for rows in (1, 2, 4, 7):
        x = numbers(rows, rows, weight.shape[1])
        for form in range(3):
            assert same(x, weight, form=form, isa=chosen(isa)) == 0
        assert same(x, weight, numbers(9, 41), isa=chosen(isa)) == 0


@pytest.mark.parametrize("isa", available())
def test_integers_in_groups_on_every_instruction_set(isa: str) -> None:
    for width, zeros, tile in ((4, True, (1, 32)), (8, True, (1, 96)), (8, False, (41, 96)), (3, True, (1, 64))):
        weight = affine(width, bits=width, signed=True, zeros=zeros, tile=tile, shape=(41, 96))
        for rows in (1, 5):
            assert same(numbers(rows, rows, 96), weight, isa=chosen(isa)) == 0


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 40), st.integers(1, 3), any_numbers(), st.booleans(), st.integers(0, 2),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_numbers(
    name: str, rows: int, outputs: int, count: int, fill: Fill, biased: bool, form: int, seed: int
) -> None:
    weight = any_scales(name, outputs, count, seed)
    same(fill((rows, weight.shape[1])), weight, fill((outputs,)) if biased else None, form=form)


@pytest.mark.parametrize("operands", ["w8a8", "w4a8"])
@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 100), any_numbers(), st.booleans(), st.integers(0, 2))
def test_dense_weights(operands: str, rows: int, outputs: int, width: int, fill: Fill, biased: bool, form: int) -> None:
    weight = Dense(fill((outputs, width)), format="F32")
    same(fill((rows, width)), weight, fill((outputs,)) if biased else None, operands=operands, form=form)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 20), moderate(), st.integers(0, 2**32 - 1))
def test_scales_of_any_bytes(rows: int, outputs: int, fill: Fill, seed: int) -> None:
    for name in ("Q4_1", "Q6_K"):
        raw = np.random.default_rng(seed).integers(0, 256, (outputs, FORMATS[name].nbytes), dtype=np.uint8)
        weight = BlockQuantised(raw, format=FORMATS[name])
        same(fill((rows, weight.shape[1])), weight)


def test_numbers_that_are_none_are_left_and_no_others() -> None:
    weight = blocks("Q8_0", 33, 2)
    weight.raw[7, :2] = np.float16(np.nan).reshape(1).view(np.uint8)
    x = numbers(0, 5, 64)
    x[3, 40] = np.inf
    _, stuck = linear(x, packed(weight))
    left = {(int(place) >> 32, int(place) & 0xFFFFFFFF) for place in stuck}
    assert left == {(3, o) for o in range(33)} | {(r, 7) for r in range(5)}
    assert same(x, weight) == len(left)


def test_rows_of_zeros_have_their_sign() -> None:
    """−0 where every product is −0: +0 times weights below zero, or −0."""
    weight = blocks("Q8_0", 5, 1)
    weight.raw[0, 2:] = 255  # −1
    weight.raw[1, 2:] = 0
    weight.raw[1, 1] |= 0x80  # a scale below 0: all are −0
    weight.raw[2, 2:] = 0
    got, stuck = linear(np.zeros((2, 32), np.float32), packed(weight))
    assert not len(stuck)
    assert np.signbit(got).tolist() == [[True, True, False, False, False]] * 2
    x = np.array([np.zeros(32), np.full(32, -0.0)], dtype=np.float32)
    for bias in (None, np.zeros(5, np.float32), np.full(5, -0.0, np.float32)):
        assert same(x, weight, bias) == 0
    whole = np.concatenate([weight.raw, blocks("Q8_0", 59, 1).raw])  # two whole panels, and a whole tile of rows
    for rows in (4, 6):
        x = np.where(np.arange(rows)[:, None] % 2, numbers(rows, rows, 32), np.float32(-0.0)).astype(np.float32)
        assert same(x, BlockQuantised(whole, format=FORMATS["Q8_0"])) == 0


def test_rows_that_a_tile_leaves_are_finished_and_no_others() -> None:
    """Of eleven rows one has sums that are 0: in the first tile, in the second, in the last, or in two of them."""
    weight = blocks("Q8_0", 64, 1)
    for zero in (0, 5, 7, 10):
        x = numbers(zero, 11, 32)
        x[zero] = -0.0
        assert same(x, weight) == 0
        got, _ = linear(x, packed(weight))
        assert (np.flatnonzero((got == 0).all(axis=1)) == zero).all()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q6_K"])
def test_the_largest_dots(name: str) -> None:
    """All codes at either end, all activations at either end: dots as far from 0 as a kind has them."""
    weight = blocks(name, 32, 2)
    fields = {place for field in FORMATS[name].fields if field.what == "fp16" for place in (field.at, field.at + 1)}
    codes = [place for place in range(FORMATS[name].nbytes) if place not in fields]
    raw = weight.raw.reshape(32, 2, -1)
    raw[:16, :, codes], raw[16:, :, codes] = 0x7F, 0x80
    raw[::2, :, codes] ^= 0xFF
    x = np.full((4, weight.shape[1]), 3.0, np.float32) * np.array([[1], [-1], [1], [-1]], np.float32)
    x[2:, ::2] *= -1
    assert same(x, weight) == 0


def test_the_order_of_sums_is_undone() -> None:
    assert [ORDER[place] for place in BACK] == list(range(16))


def test_ties_are_frequent_and_go_to_even() -> None:
    """Scales of 11 bits make sums of few bits: an exact oracle finds ties among them, and each goes to even."""
    weight, x = blocks("Q4_0", 64, 6, seed=2), numbers(1, 12, 192)
    q, scale = scaled_activations(x.astype(np.float64), "w8a8", backend=NUMPY)
    values = weight.unrounded(np.arange(64))
    got, stuck = linear(x, packed(weight))
    assert not len(stuck)
    ties = 0
    for row, column in np.ndindex(12, 64):
        whole = sum(Fraction(a) * Fraction(b) for a, b in zip((q * scale)[row], values[column], strict=True))
        near = Fraction(float(got[row, column]))
        step = Fraction(float(np.spacing(abs(got[row, column]))))
        assert near == round_to(whole, "fp32")
        ties += 2 * abs(whole - near) == step
    assert ties


def arena_of(x: F32s, panels: Panels, *, at: int, stride: int, y0: int, ystride: int) -> F32s:
    arena = np.full(y0 + len(x) * ystride + 64, 7.0, dtype=np.float32)
    for r, row in enumerate(x):
        arena[at + r * stride : at + r * stride + panels.width] = row
    return arena


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("name", ["Q8_0", "Q5_1"])
def test_shares_offsets_and_strides(name: str, rows: int) -> None:
    """A weight behind another in one arena of bytes; shares of panels; nothing but the share's elements is written."""
    weight, x = blocks(name, 71, 2), numbers(4, rows, 64)
    panels, blocks_ = packed(weight), 2
    data = np.concatenate([np.full(4096, 255, np.uint8), panels.data])
    whole, _ = linear(x, panels, numbers(5, 71))
    y0, ystride = 3 + rows * 70 + 5, 77
    arena = arena_of(x, panels, at=3, stride=70, y0=y0, ystride=ystride)
    q, d = np.zeros(32 * rows * blocks_, np.int8), np.zeros(rows * blocks_)
    sums, lengths = np.zeros(2 * rows * blocks_, np.int32), np.zeros(2 * rows)
    for first in range(rows):
        quantise_rows(arena, 3, 70, first, first + 1, 64, q, d, sums, lengths)
    bias = np.concatenate([np.full(5, np.nan, np.float32), numbers(5, 71)])
    stuck, scratch = np.zeros(4, np.int64), np.full(scratch_bytes(64, rows), 255, np.uint8)
    before = arena.copy()
    for first, last in ((1, 2), (2, 5)):
        integer_linear(
            chosen(), panels.kind, data, 4096, panels.at, q, d, sums, lengths, rows, arena, y0, ystride, first, last,
            71, 64, bias, 5, 0, scratch, stuck,
        )  # fmt: skip
    assert stuck[0] == 0
    for row in range(rows):
        start = y0 + row * ystride
        np.testing.assert_array_equal(bits(arena[start + 16 : start + 71]), bits(whole[row, 16:]))
        before[start + 16 : start + 71] = arena[start + 16 : start + 71]
    np.testing.assert_array_equal(arena, before)


def test_a_full_list_of_the_stuck_counts_on() -> None:
    weight, x = blocks("Q8_0", 20, 1), np.full((1, 32), np.nan, np.float32)
    panels = packed(weight)
    arena = np.concatenate([x[0], np.zeros(20, np.float32)])
    q, d, sums, lengths = np.zeros(32, np.int8), np.zeros(1), np.zeros(2, np.int32), np.zeros(2)
    quantise_rows(arena, 0, 32, 0, 1, 32, q, d, sums, lengths)
    stuck = np.zeros(4, np.int64)
    integer_linear(
        chosen(), 0, panels.data, 0, panels.at, q, d, sums, lengths, 1, arena, 32, 20, 0, 2, 20, 32, arena[:0], -1, 0,
        np.zeros(64, np.uint8), stuck,
    )  # fmt: skip
    assert stuck.tolist() == [20, 0, 1, 2]


def lengths_among_others(special: float, number: int, quantise: Any = quantise_rows) -> Any:
    """The two lengths of each of five rows, of which one holds nothing else."""
    x = numbers(0, 5, 32)
    x[number] = special
    lengths = np.zeros((5, 2))
    q, d, sums = np.zeros(160, np.int8), np.zeros(5), np.zeros(10, np.int32)
    quantise(np.append(x.ravel(), np.zeros(16, np.float32)), 0, 32, 0, 5, 32, q, d, sums, lengths.reshape(-1))
    return lengths


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_a_row_that_is_no_number_is_the_longest_wherever_it_stands(special: float) -> None:
    for number in range(5):
        lengths = lengths_among_others(special, number)
        assert (lengths[number] == np.inf).all()
        assert np.isfinite(np.delete(lengths, number, axis=0)).all()


def test_a_length_that_is_nan_would_be_seen() -> None:
    wrong = _uncached(numba_integer_rows, " if length < np.inf else np.inf", "")
    assert np.isnan(lengths_among_others(np.nan, 2, wrong.quantise_rows)[2, 1])


def test_bad_input() -> None:
    panels = packed(blocks("Q8_0", 4, 1))
    with pytest.raises(ValueError, match=r"x must be float32 of shape \(M, 32\), got float64 \(1, 32\)"):
        linear(np.zeros((1, 32)), panels)
    with pytest.raises(ValueError, match=r"x must be float32 of shape \(M, 32\), got float32 \(2, 33\)"):
        linear(np.zeros((2, 33), np.float32), panels)


def check_rows(module: ModuleType, x: F32s) -> None:
    """The numbers and scales of the specification, their sums, and lengths that bound the rows."""
    rows, width = x.shape
    count = -(-width // 32)
    q, d = np.full(32 * rows * count, 9, np.int8), np.zeros(rows * count)
    sums, lengths = np.zeros(2 * rows * count, np.int32), np.zeros(2 * rows)
    module.quantise_rows(np.ascontiguousarray(x).reshape(-1), 0, width, 0, rows, width, q, d, sums, lengths)
    with np.errstate(all="ignore"):
        codes, scales = scaled_activations(x.astype(np.float64), "w8a8", backend=NUMPY)
        sizes = specified_lengths(codes * scales, backend=NUMPY)[:, 0]
    codes = np.where(np.isfinite(codes * scales), codes, 0.0)
    filled = np.zeros((rows, 32 * count))
    filled[:, :width] = codes
    np.testing.assert_array_equal(q.reshape(rows, -1), filled)
    np.testing.assert_array_equal(d.reshape(rows, count), scales[:, ::32])
    np.testing.assert_array_equal(sums.reshape(rows, -1), filled.reshape(rows, -1, 16).sum(axis=2))
    length, grains = lengths.reshape(rows, 2).T
    usual = (sizes > 0) & np.isfinite(sizes)
    np.testing.assert_array_equal(length[~usual], sizes[~usual])
    for row in np.flatnonzero(usual):
        squares = sum(Fraction(value) ** 2 for value in (codes * scales)[row].tolist())
        assert squares <= Fraction(float(length[row])) ** 2 <= squares * (1 + Fraction(1, 10**6)) ** 2
    grain = length[usual] / grains[usual]  # a power of two, by which a division is exact
    assert (np.frexp(grain)[0] == 0.5).all()
    multiples = scales[usual] / grain[:, None]
    assert (multiples == np.rint(multiples)).all()


@settings(max_examples=120)
@given(st.integers(1, 4), st.integers(1, 100), any_numbers())
def test_activations(rows: int, width: int, fill: Fill) -> None:
    check_rows(numba_integer_rows, fill((rows, width)))


def half_way(seed: int) -> F32s:
    """Blocks whose quotients are midpoints, whose scales are ties of 11 bits, and whose scales are subnormal."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(-254, 255, (9, 32)) / 2).astype(np.float32)
    x[:, 0] = 127
    x[3:5, 0] = 127 * np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11])
    x[5:] *= np.float32(2.0**-141)
    return x


def check_all_rows(module: ModuleType) -> None:
    for x in (half_way(0), half_way(1), np.full((2, 33), 180 * 2.0**-149, np.float32), numbers(0, 2, 40)):
        check_rows(module, x)
    x = np.zeros((126, 32), np.float32)
    x[:, 0], x[:, 1] = 127, np.arange(126) + 0.5
    for step in range(1025, 2048, 13):  # a midpoint in each row, and a scale whose inverse is rounded
        check_rows(module, x * np.float32(step / 1024))


def test_midpoints_and_the_smallest_scales() -> None:
    check_all_rows(numba_integer_rows)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("- 1 + ((bits >> DROPPED) & 1)", "+ ((bits >> DROPPED) & 1)"),
        ("return (quotient + COARSE) - COARSE", "return quotient"),
        ("some_at(place, left)", "some_at(place, left + 1)"),
        ("near > most, most, near", "near > most, near, near"),
        ("np.float32(0.5 - 2.0**-16)", "np.float32(0.5)"),
        (") - 2048", ") - 2047"),
    ],
)
def test_planted_bugs_of_activations_are_seen(text: str, bug: str) -> None:
    wrong = _uncached(numba_integer_rows, text, bug)
    with pytest.raises(AssertionError):
        check_all_rows(wrong)


def _uncached(module: ModuleType, text: str, bug: str) -> ModuleType:
    """As `mutated`; what has no file cannot be cached."""
    import inspect

    source = inspect.getsource(module)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times; the bug has no place there"
    wrong = ModuleType(module.__name__)
    exec(compile(source.replace(text, bug).replace(", cache=True", ""), "<mutated>", "exec"), wrong.__dict__)
    return wrong


@functools.cache
def summing(module: ModuleType) -> Any:
    """The sum of an array by the module's functions."""
    add, odd = module.add_exactly, module.to_odd_double

    @njit
    def go(terms: Any) -> Any:
        words = np.zeros(70, dtype=np.int64)
        for term in terms:
            add(words, term)
        return odd(words)

    return go


def check_exact_sum(module: ModuleType, terms: list[float]) -> None:
    """The exact sum where a float64 holds it, else the neighbour whose last bit is 1."""
    whole = sum((Fraction(term) for term in terms), Fraction(0))
    got = float(summing(module)(np.array(terms, dtype=np.float64)))
    assert np.isfinite(got)
    if Fraction(got) == whole:
        return
    other = np.nextafter(got, np.inf if whole > Fraction(got) else -np.inf)
    assert min(got, other) < whole < max(got, other)
    assert np.float64(got).view(np.int64) & 1


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(FINITE, st.sampled_from([1.0, -1.0, 2.0**-1074, -(2.0**52), 2.0**-53])), max_size=12))
def test_sums_that_lose_nothing(terms: list[float]) -> None:
    check_exact_sum(numba_integer_repair, terms)


def check_some_sums(module: ModuleType) -> None:
    for terms in ([1.0, 2.0**-80], [-1.0, 2.0**-1074], [3.0, -(2.0**-30), 2.0**31 + 0.5]):
        check_exact_sum(module, terms)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("mantissa | (lost != 0)", "mantissa"),
        ("if carry(sum_) < 0:", "if carry(sum_) > 0:"),
        ("(low >> 32) + (high & MASK)", "(high & MASK)"),
    ],
)
def test_planted_bugs_of_the_exact_sum_are_seen(text: str, bug: str) -> None:
    wrong = _uncached(numba_integer_repair, text, bug)
    with pytest.raises(AssertionError):
        check_some_sums(wrong)


def check_finish(module: ModuleType, seed: int) -> None:
    """Whatever the exact value within the bound, an element that is closed is its rounding; biases are added."""
    rng = np.random.default_rng(seed)
    go = jitted(module)
    length = np.full(32, 1.0, np.float32)
    length[16:] = np.where(rng.random(16) < 0.5, 2.0**40, 2.0**60)  # in grains: sums that are exact, and that are not
    far = length.copy()
    far[16:] = 2.0**60
    for form, precision in enumerate((24, 8, 11)):
        middle = np.ldexp(rng.integers(2 ** (precision - 1), 2**precision, 16) + 0.5, -precision)
        value = middle * rng.choice([1.0, -1.0], 16) + rng.choice([0.0, 2.0**-42, -(2.0**-42), 2.0**-39], 16)
        tiny = np.where(rng.random(16) < 0.5, 2.0**-60, 0.0).astype(np.float32)
        for bias, grains, lengths in (
            (tiny, 1.0, length),
            (None, 1.0, length),
            (None, 1.0, far),
            (None, 2.0**-30, far),
        ):
            out = np.zeros(16, np.float32)
            some = tiny if bias is None else bias
            opened = go(value, UNIT, grains, lengths, some, bias is not None, out, form)
            for i in range(16):
                error = Fraction(0 if grains * float(lengths[16 + i]) < 2.0**52 else UNIT)
                centre = Fraction(value[i]) + (0 if bias is None else Fraction(float(bias[i])))
                ends = {round_to(centre + sign * error, ACTIVATIONS[form]) for sign in (-1, 0, 1)}
                if not opened >> i & 1:
                    assert ends == {Fraction(float(out[i]))}


UNIT = 2.0**-40


def jitted(module: ModuleType) -> Any:
    """`finish` for sixteen values in an array."""
    finish, reach = module.finish, module.reach_of

    @njit
    def go(value: Any, unit: Any, grains: Any, length: Any, bias: Any, biased: Any, out: Any, form: Any) -> Any:
        far = address(length)
        place = address(bias) if biased else np.int64(0)
        return finish(load_f64(value, 0), unit, 1.0, grains, far, reach(far), place, address(out), 16, form)

    return go


def test_what_is_closed_is_right_and_most_is_closed() -> None:
    for seed in range(5):
        check_finish(numba_integer_finish, seed)
    value = np.full(16, 1.0 + 2.0**-30)
    length = np.concatenate([np.ones(16), np.full(16, 2.0**60)]).astype(np.float32)
    assert jitted(numba_integer_finish)(value, UNIT, 1.0, length, length, False, length.copy(), 0) == 0


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("splat_f64(length * unit)", "splat_f64(0.0 * unit)"),
        ("EXACT = 2.0**52", "EXACT = 2.0**70"),
        ("near = select(rest == nothing, nothing,", "near = select(rest == rest, nothing,"),
        ("low = rounded(value - bound, form)", "low = rounded(value, 0)"),
    ],
)
def test_planted_bugs_of_finishing_are_seen(text: str, bug: str) -> None:
    wrong = _uncached(numba_integer_finish, text, bug)
    with pytest.raises(AssertionError):
        check_finish(wrong, 0)


def test_stored_sums_are_loaded_as_they_were() -> None:
    @njit
    def go(a: Any, b: Any) -> None:
        store_f64(b, 8, load_f64(a, 0))

    out = np.zeros(32)
    go(np.arange(16.0), out)
    assert out[8:24].tolist() == list(range(16))
