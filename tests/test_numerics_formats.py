"""Rounding, decoding and encoding of arrays: the specification's bits, and those of NumPy's casts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.numerics import codes, formats, neighbours
from lepton_ref.numerics.formats import decode_array, encode_array, round_array
from lepton_ref.numerics.philox import random_bits
from lepton_ref.plain.formats import (
    FORMATS,
    MODES,
    CodebookFormat,
    FloatFormat,
    Format,
    IntFormat,
    decode,
    encode,
    round_to,
)

Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 5e-324, -5e-324, 1.7976931348623157e308, -(2.0**1023), 1.0, -1.0])


class Case(NamedTuple):
    """What round_array is given; low and bits may be None."""

    x: Floats
    low: Floats | None
    bits: Bits | None


def with_neighbours_of(x: Floats) -> Floats:
    """The numbers, and the float64 numbers on both sides of each."""
    with np.errstate(over="ignore", under="ignore"):
        return np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])


def ends(f: Format) -> Floats:
    """Numbers about both ends of a format."""
    factors = np.array([0.25, 0.5, 0.75, 1.0, 1.01, 1.03, 1.06, 1.25, 1.5, 2.0])
    with np.errstate(over="ignore", under="ignore"):
        near = np.concatenate([f.largest * factors, f.lowest * factors, f.least * factors, -f.least * factors])
    return with_neighbours_of(near)


def of_the_format(rng: np.random.Generator, f: Format, n: int) -> Floats:
    """Numbers of the format and midpoints between neighbours, of every magnitude."""
    numbers = np.array([decode(int(code), f) for code in rng.integers(0, 1 << min(f.bits, 63), n)])
    numbers = numbers[np.isfinite(numbers)]
    with np.errstate(over="ignore"):
        above = np.array([round_to(math.nextafter(number, np.inf), f, mode="up") for number in numbers.tolist()])
    above = np.where(np.isfinite(above), above, numbers)
    return np.concatenate([numbers, numbers / 2 + above / 2])


def parts(rng: np.random.Generator, x: Floats, kind: str) -> Floats | None:
    """The low part of a double-double number."""
    if kind == "none":
        return None
    if kind == "zero":
        return np.zeros_like(x)
    if kind == "tiny":
        return rng.choice([5e-324, -5e-324, 1e-300, -1e-300, 0.0], x.size)
    if kind == "any":
        low = rng.integers(0, 1 << 64, x.size, dtype=np.uint64).view(np.float64)
        huge = rng.choice([1.7976931348623157e308, -1.7976931348623157e308, 2.0**970, -(2.0**1023)], x.size)
        return np.where(np.abs(x) >= 2.0**1000, huge, np.where(np.isfinite(low), low, -1.0))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        low = np.spacing(x) * rng.choice([0.5, -0.5, 0.25, -0.25, 0.49, -0.3], x.size)  # "half": up to half an ulp
    return np.where(np.isfinite(low), low, 2.0**969)


def case(rng: np.random.Generator, f: Format, kind: str, n: int) -> Case:
    """Float64 numbers of every kind, with a low part of one kind, and bits of which the ends are not rare."""
    any_bits = rng.integers(0, 1 << 64, n, dtype=np.uint64).view(np.float64)
    around = of_the_format(rng, f, n)
    x = np.concatenate([any_bits, with_neighbours_of(around), rng.choice(ends(f), 10 * n), SPECIAL])
    x = x[~np.isnan(x)]
    chosen = rng.integers(0, 1 << 64, x.size, dtype=np.uint64)
    extreme = np.array([0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**62, 2**61], dtype=np.uint64)
    bits = np.where(rng.random(x.size) < 0.5, rng.choice(extreme, x.size), chosen)
    return Case(x, parts(rng, x, kind), bits)


def scalar(x: float, low: float | None, f: Format, mode: str, saturate: bool, word: int | None) -> float:
    """The specification's rounding of x + low."""
    chance = None if word is None else Fraction(word, 1 << 64)
    if low is None or not math.isfinite(x) or low == 0:
        return round_to(x, f, mode=mode, saturate=saturate, chance=chance)
    return round_to(Fraction(x) + Fraction(low), f, mode=mode, saturate=saturate, chance=chance)


def wanted(given: Case, f: Format, mode: str, saturate: bool) -> Floats:
    lows = [None] * given.x.size if given.low is None else given.low.tolist()
    words = given.bits.tolist() if mode == "stochastic" and given.bits is not None else [None] * given.x.size
    rows = zip(given.x.tolist(), lows, words, strict=True)
    return np.array([scalar(x, low, f, mode, saturate, word) for x, low, word in rows])


def same(got: Floats, want: Floats) -> bool:
    """Equal bits: NaN, too, must be the one NaN, which the specification gives."""
    return bool(np.array_equal(got.view(np.uint64), want.view(np.uint64)))


def round_case(m: ModuleType, given: Case, f: Format, mode: str, saturate: bool) -> Floats:
    bits = given.bits if mode == "stochastic" else None
    return m.round_array(given.x, f, mode=mode, saturate=saturate, low=given.low, bits=bits)  # type: ignore[no-any-return]


KINDS = ("none", "zero", "tiny", "half", "any")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", list(FORMATS))
def test_arrays_round_as_the_specification(name: str, mode: str) -> None:
    """Drawn by Hypothesis: float64 bits, numbers and midpoints of the format, low parts."""
    f = FORMATS[name]

    @given(st.integers(0, 1 << 32), st.sampled_from(KINDS), st.booleans(), st.floats(allow_nan=False))
    def check(seed: int, kind: str, saturate: bool, extra: float) -> None:
        drawn = case(np.random.default_rng(seed), f, kind, 2)
        drawn.x[0] = extra
        assert same(round_case(formats, drawn, f, mode, saturate), wanted(drawn, f, mode, saturate))

    check()


@cache
def telling(name: str) -> Floats:
    """Every number of a format of at most 8 bits, every midpoint, and the float64 numbers beside them."""
    numbers = sorted({decode(code, name) for code in range(1 << FORMATS[name].bits)} - {math.nan, math.inf, -math.inf})
    numbers = [number for number in numbers if math.isfinite(number)]
    points = np.array([*numbers, *((a + b) / 2 for a, b in pairwise(numbers))])
    return np.concatenate([with_neighbours_of(points), ends(FORMATS[name])])


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if f.bits <= 8])
def test_every_midpoint_and_its_neighbours_round_as_the_specification(name: str) -> None:
    x = telling(name)
    for mode in MODES:
        for word in (0, 1 << 62, 1 << 63, (1 << 64) - 1) if mode == "stochastic" else (0,):
            given = Case(x, None, np.full(x.shape, word, dtype=np.uint64))
            assert same(
                round_case(formats, given, FORMATS[name], mode, False), wanted(given, FORMATS[name], mode, False)
            )


def casts_are_numpys(m: ModuleType) -> None:
    """NumPy casts float64 to float16 and to float32 with one rounding; all halves and midpoints between them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    points = np.concatenate([halves, halves + np.append(np.diff(halves), 32.0) / 2])
    points = with_neighbours_of(points)
    rng = np.random.default_rng(3)
    singles = rng.integers(0, 0x7F800000, 20000, dtype=np.uint32).view(np.float32).astype(np.float64)
    wide = singles * (
        1 + rng.choice([0, 1, 2, 3], singles.size) * 2.0**-25 + rng.choice([0, 1], singles.size) * 2.0**-50
    )
    for x, dtype, name in (
        (points, np.float16, "fp16"),
        (wide, np.float32, "fp32"),
        (points * 2.0**-130, np.float32, "fp32"),
    ):
        for signed in (x, -x):
            with np.errstate(over="ignore", under="ignore"):
                assert same(m.round_array(signed, name), signed.astype(dtype).astype(np.float64)), name


def test_fp16_and_fp32_are_numpys_casts() -> None:
    casts_are_numpys(formats)


LITERALS = [  # x, low, format, mode, result
    (1 + 2.0**-24, 2.0**-80, "fp32", "even", 1 + 2.0**-23),  # the low part decides the tie
    (1 + 2.0**-24, -(2.0**-80), "fp32", "even", 1.0),
    (1 + 3 * 2.0**-24, -(2.0**-80), "fp32", "even", 1 + 2.0**-23),
    (1.0, -(2.0**-80), "fp32", "zero", 1 - 2.0**-24),  # below 1 the spacing is half of that above
    (1.0, -(2.0**-80), "fp32", "odd", 1 - 2.0**-24),
    (1.0, 5e-324, "e4m3fn", "up", 1.125),
    (-1.0, 5e-324, "e4m3fn", "zero", -0.9375),
    (1.0, 2.0**-53, "fp64", "even", 1.0),
    (1 + 2.0**-52, 2.0**-53, "fp64", "even", 1 + 2.0**-51),
    (1.0, 2.0**-53 + 2.0**-105, "fp64", "even", 1 + 2.0**-52),
    (0.0, -(2.0**-80), "fp16", "even", -0.0),
    (-0.0, 0.0, "fp16", "even", -0.0),  # a zero keeps the sign of x
    (1.0, -1.0, "fp16", "even", 0.0),  # an exact zero is that of the sum
    (np.inf, np.nan, "fp32", "even", np.inf),  # what a two-sum of infinities leaves beside them
    (65520.0, -1e-9, "fp16", "even", 65504.0),
    (65519.0, 1.0, "fp16", "even", np.inf),
    (1.7976931348623157e308, 2.0**970, "fp64", "even", np.inf),
    (1.7976931348623157e308, 2.0**970, "fp64", "zero", 1.7976931348623157e308),
    (1.7976931348623157e308, 1.7976931348623157e308, "fp16", "down", 65504.0),
]


@pytest.mark.parametrize(("x", "low", "name", "mode", "result"), LITERALS)
def test_literals_of_pairs(x: float, low: float, name: str, mode: str, result: float) -> None:
    got = round_array(np.array([x]), name, mode=mode, low=np.array([low]))
    assert same(got, np.array([result]))


@given(st.floats(-1e30, 1e30), st.floats(-1, 1), st.sampled_from(["fp32", "tf32", "bf16", "fp64"]))
def test_a_pair_rounds_to_the_nearest_by_distances(high: float, part: float, name: str) -> None:
    """No neighbour is nearer to high + low: an oracle of distances, in fractions."""
    low = part * math.ulp(high) / 2
    exact = Fraction(high) + Fraction(low)
    got = float(round_array(np.array([high]), name, low=np.array([low]))[0])
    code = encode(abs(got), name)
    error = abs(abs(exact) - Fraction(abs(got)))
    for other in (code - 1, code + 1):
        distance = abs(abs(exact) - Fraction(decode(other, name))) if other >= 0 else error + 1
        assert error < distance or (error == distance and code % 2 == 0)


def codes_are_the_specifications(m: ModuleType) -> None:
    for name, f in FORMATS.items():
        every = (
            np.arange(1 << f.bits)
            if f.bits <= 16
            else np.random.default_rng(1).integers(0, 1 << 63, 2000) >> 63 - f.bits
        )
        values = m.decode_array(every, name)
        assert same(values, np.array([decode(int(code), f) for code in every])), name
        found = np.isfinite(values) | np.isinf(values)
        assert np.array_equal(m.encode_array(values[found], name), every[found]), name
        if not found.all():
            assert np.unique(m.encode_array(values[~found], name)).tolist() == [encode(np.nan, f)], name


def test_codes_are_the_specifications() -> None:
    codes_are_the_specifications(codes)
    sizes = {name: encode_array(np.ones(1), name).dtype for name in ("nf4", "e4m3fn", "fp16", "tf32", "fp32", "fp64")}
    assert sizes == {"nf4": "u1", "e4m3fn": "u1", "fp16": "u2", "tf32": "u4", "fp32": "u4", "fp64": "u8"}
    assert decode_array(np.array([0x80, 0x7F, 0x81], dtype=np.uint8), "int8").tolist() == [-128.0, 127.0, -127.0]


def test_fp64_codes_are_the_bits() -> None:
    values = np.array([1.0, -0.0, np.inf, -5e-324, 1e308])
    assert np.array_equal(encode_array(values, "fp64"), values.view(np.uint64))
    assert same(decode_array(values.view(np.uint64), "fp64"), values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 5), (9000, 3)])
def test_shapes_are_kept_and_blocks_do_not_show(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    x = np.asarray(x)
    for mode in ("even", "zero"):
        got = round_array(x, "fp16", mode=mode)
        assert got.shape == shape
        flat = [float(round_array(np.array([value]), "fp16", mode=mode)[0]) for value in x.ravel()[-40:].tolist()]
        assert got.ravel()[-40:].tolist() == flat
    assert encode_array(round_array(x, "fp16"), "fp16").shape == shape


def test_what_is_not_contiguous_rounds_alike_and_nothing_is_written_over() -> None:
    x = np.random.default_rng(0).standard_normal((40, 30))
    kept = x.copy()
    low = x * 2.0**-60
    for mode in ("even", "odd"):
        whole = round_array(x, "bf16", mode=mode, low=low)
        assert same(round_array(x.T, "bf16", mode=mode, low=low.T), np.ascontiguousarray(whole.T))
        assert same(
            round_array(x[::2, 1::3], "bf16", mode=mode),
            np.ascontiguousarray(round_array(x, "bf16", mode=mode)[::2, 1::3]),
        )
    assert same(x, kept)
    assert round_array(x, "fp64") is not x


def test_a_stochastic_rounding_depends_on_its_seed_and_counter_alone() -> None:
    x = np.random.default_rng(0).standard_normal(500)
    features, steps = np.arange(500, dtype=np.uint64), np.array(3, dtype=np.uint64)
    whole = round_array(x, "e4m3fn", mode="stochastic", bits=random_bits(7, features, steps))
    order = np.random.default_rng(1).permutation(500)
    mixed = round_array(x[order], "e4m3fn", mode="stochastic", bits=random_bits(7, features[order], steps))
    assert same(mixed, whole[order])
    assert not same(round_array(x, "e4m3fn", mode="stochastic", bits=random_bits(8, features, steps)), whole)


@pytest.mark.parametrize(
    ("payload", "name"), [(p, n) for p in (0xFFF8000000000001, 0x7FF0000000000001) for n in ("fp64", "bf16", "e8m0")]
)
def test_a_nan_loses_its_sign_and_payload(payload: int, name: str) -> None:
    x = np.array([payload], dtype=np.uint64).view(np.float64)
    for mode in ("even", "up"):
        assert round_array(x, name, mode=mode).view(np.uint64)[0] == 0x7FF8000000000000


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if not isinstance(f, FloatFormat) or f.nans == "none"])
def test_nan_is_refused_where_the_format_has_none(name: str) -> None:
    for mode in ("even", "zero"):
        with pytest.raises(ValueError, match=f"nan has no code in {name}; replace it before rounding"):
            round_array(np.array([1.0, np.nan]), name, mode=mode)
    with pytest.raises(ValueError, match=f"nan has no code in {name}"):
        encode_array(np.array([1.0, np.nan]), name)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.ones(2, np.float32), {}, TypeError, "x is float32; give a NumPy array of float64"),
        ([1.0], {}, TypeError, "x is list; give a NumPy array of float64"),
        (np.ones(2, ">f8"), {}, TypeError, "x is >f8; give"),
        (np.ones(2), {"low": np.ones(2, np.float32)}, TypeError, "low is float32"),
        (np.ones(2), {"low": np.ones(3)}, ValueError, r"low has shape \(3,\), x has \(2,\); give equal shapes"),
        (np.ones(2), {"mode": "floor"}, ValueError, "unknown rounding mode 'floor'; known: even"),
        (np.ones(2), {"mode": "stochastic"}, ValueError, "bits belong to 'stochastic', which needs them"),
        (np.ones(2), {"bits": np.ones(2, np.uint64)}, ValueError, "bits belong to 'stochastic', which needs them"),
        (np.ones(2), {"mode": "stochastic", "bits": np.ones(2, np.int64)}, TypeError, "bits is int64; give"),
        (np.ones(2), {"mode": "stochastic", "bits": np.ones(1, np.uint64)}, ValueError, r"bits has shape \(1,\)"),
    ],
)
def test_bad_input_is_refused(x: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        round_array(x, "fp32", **options)


def test_bad_codes_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown number format 'fp8'; known: fp64"):
        round_array(np.ones(1), "fp8")
    with pytest.raises(TypeError, match="codes are float64; give a NumPy array of integers"):
        decode_array(np.ones(1), "fp16")
    with pytest.raises(ValueError, match="code 16 of nf4; its codes are 0 … 15"):
        decode_array(np.array([3, 16]), "nf4")
    with pytest.raises(ValueError, match="code -1 of fp64; its codes"):
        decode_array(np.array([-1]), "fp64")
    with pytest.raises(TypeError, match="values are float32; give a NumPy array of float64"):
        encode_array(np.ones(1, np.float32), "fp16")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((0.3, "e2m1"), (8.0, "e2m1"), (np.inf, "e4m3fn"), (-0.0, "e4m3fnuz"), (480.0, "e4m3fn"), (1e-8, "fp16")),
        *((0.0, "e8m0"), (-1.0, "e8m0"), (3.0, "e8m0"), (128.0, "int8"), (0.5, "int8"), (-0.0, "int8"), (0.5, "nf4")),
        *((65536.0, "fp16"), (1e300, "fp32"), (np.inf, "int4"), (-np.inf, "e8m0"), (2.0, "nf4"), (-3.0, "int2")),
    ],
)
def test_what_has_no_code_is_refused(value: float, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{value!r} is no number of {name}; round it to the format first")):
        encode_array(np.array([1.0, value]), name)


@pytest.mark.parametrize(
    "f",
    [
        FloatFormat("wide_exponent", 11, 20, 1023, infinities=True, nans="ieee"),
        FloatFormat("wide_mantissa", 8, 51, 127, infinities=True, nans="ieee"),
        FloatFormat("widest_added", 8, 50, 127, infinities=True, nans="ieee"),
        FloatFormat("e3m4", 3, 4, 3, infinities=True, nans="ieee"),
        IntFormat("int32", 32),
        CodebookFormat("thirds", (-3.0, -1.0, 0.0, 0.25, 1.0, 4.0)),
    ],
    ids=lambda f: f.name,
)
def test_formats_of_ones_own_round_as_the_specification(f: Format) -> None:
    for kind in KINDS:
        given = (
            case(np.random.default_rng(2), f, kind, 20) if not isinstance(f, CodebookFormat) else codebook_case(kind)
        )
        for mode in MODES:
            assert same(round_case(formats, given, f, mode, False), wanted(given, f, mode, False)), (kind, mode)


def codebook_case(kind: str) -> Case:
    """Numbers about those of a list of six, which has two codes more than numbers."""
    rng = np.random.default_rng(2)
    x = with_neighbours_of(np.array([-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.125, 0.25, 0.625, 1.0, 2.5, 4.0, 5.0]))
    return Case(x, parts(rng, x, kind), rng.integers(0, 1 << 64, x.size, dtype=np.uint64))


@cache
def fixed(name: str, kind: str) -> Case:
    return case(np.random.default_rng(11), FORMATS[name], kind, 8)


@cache
def fixed_results(name: str, kind: str, mode: str, saturate: bool) -> Floats:
    return wanted(fixed(name, kind), FORMATS[name], mode, saturate)


def everything(m: ModuleType) -> None:
    """The comparison with the specification, on numbers that are the same each time."""
    for name in ("e2m1", "fp64", "fp16", "e4m3fn", "e5m2fnuz", "int4", "nf4", "e8m0", "bf16"):
        for kind in KINDS:
            for mode in MODES:
                for saturate in (False, True):
                    got = round_case(m, fixed(name, kind), FORMATS[name], mode, saturate)
                    assert same(got, fixed_results(name, kind, mode, saturate)), (name, kind, mode, saturate)
        tame = np.abs(fixed(name, "none").x) < 1  # a block without anything that overflows takes a shorter way
        got = m.round_array(fixed(name, "none").x[tame], name)
        assert same(got, fixed_results(name, "none", "even", False)[tame]), name


def with_bug(text: str, bug: str) -> ModuleType:
    """The module of formats, with a bug in the module of neighbours that it uses."""
    broken, whole = mutated(neighbours, text, bug), mutated(formats, "_BLOCK = 1 << 13", "_BLOCK = 1 << 13")
    whole.__dict__.update(by_steps=broken.by_steps, from_list=broken.from_list)
    return whole


def test_the_checks_pass_without_a_bug() -> None:
    everything(formats)
    everything(with_bug("_LEAST = 5e-324", "_LEAST = 5e-324"))


IN_FORMATS = [
    ("1.5 * 2.0 ** (52 - f.mantissa_bits)", "1.5 * 2.0 ** (53 - f.mantissa_bits)"),
    ("1.5 * 2.0 ** (52 - f.mantissa_bits)", "1.0 * 2.0 ** (52 - f.mantissa_bits)"),
    ("np.clip(large, 2.0**f.emin,", "np.clip(large, 2.0 ** (f.emin + 1),"),
    ("np.copysign(out, x, out=out)", "pass"),
    ("saturate or turns_back(mode, sign, f)", "saturate"),
    ("largest = -f.lowest if sign else f.largest", "largest = f.largest * 2"),
    ("overflowed(sign, f, saturate)\n", "overflowed(not sign, f, saturate)\n"),
    ("result += 0.0", "pass"),
    ("f.least if saturate else np.nan", "np.nan"),
    ("np.where((low == 0) | ~np.isfinite(x), x, x + low)", "x + low"),
    ("lack = (x - (high - part)) + (low - part)", "lack = low - part"),
    ("(np.abs(x) >= 2.0**1023) |", "(np.abs(x) >= np.inf) &"),
    ("low = np.where(negative, -low, low)", "low = np.abs(low)"),
]
IN_NEIGHBOURS = [
    ("(side > 0) | ((side == 0) & odd)", "side >= 0"),
    ("(side > 0) | ((side == 0) & odd)", "side > 0"),
    ("np.asarray(side >= 0)", "np.asarray(side > 0)"),
    ("return ~negative\n", "return negative\n"),
    ("return ~odd\n", "return odd\n"),
    ("np.where((low < 0) & (size == leading), leading / 2, leading)", "leading"),
    ("np.where((rest == 0) & (low != 0), np.copysign(_LEAST, low), rest)", "rest"),
    ("borrow = (rest < 0) & (fraction == 0)", "borrow = (rest < 0) & (fraction == 2)"),
    ("inexact = (fraction != 0) | (rest != 0)", "inexact = fraction != 0"),
    ("np.sign((fraction - 0.5) + rest)", "np.sign(fraction - 0.5)"),
    ("bits <= ceiling - np.uint64(1)", "bits <= ceiling"),
    ("np.where(scaled == np.floor(scaled), above, np.uint64(0))", "np.uint64(0)"),
    ("np.maximum(leading, 2.0**f.emin)", "leading"),
    ("after -= (after >= 0) & (size == numbers[after]) & (low < 0)", "pass"),
    ("np.where(size == middle, np.sign(low), np.sign(size - middle))", "np.sign(size - middle)"),
    ("out = (after >= last) | (", "out = ("),
    ("np.append(values, 2 * values[-1]), np.append(codes % 2 == 1, True)", "values, codes % 2 == 1"),
    ("np.flatnonzero(values <= 0)[::-1] if negative", "np.flatnonzero(values >= 0) if negative"),
    ("out = np.asarray(passed > chance)", "out = np.asarray(passed < chance)"),
    ("np.abs(passed - chance) < 2.0**-48", "np.abs(passed - chance) < 0"),
]
IN_CODES = [
    ("np.where(sizes == 0, f.emin,", "np.where(sizes == -1, f.emin,"),
    ("numbers[magnitudes > f.largest_code] = np.nan", "pass"),
    ("numbers[magnitudes == f.largest_code + 1] = np.inf", "pass"),
    ("(signed >> f.bits - 1) << f.bits", "(signed >> f.bits - 1) << f.bits - 1"),
    ("- int(not f.subnormals)", ""),
    ("numbers[np.isnan(numbers)] = np.nan", "numbers[np.isnan(numbers)] = -np.nan"),
    ("codes[missing] = encode(np.nan, f)", "pass"),
]


@pytest.mark.parametrize(("text", "bug"), IN_FORMATS)
def test_a_bug_planted_in_formats_is_found(text: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        everything(mutated(formats, text, bug))


@pytest.mark.parametrize(("text", "bug"), IN_NEIGHBOURS)
def test_a_bug_planted_in_neighbours_is_found(text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        everything(with_bug(text, bug))


@pytest.mark.parametrize(("text", "bug"), IN_CODES)
def test_a_bug_planted_in_codes_is_found(text: str, bug: str) -> None:
    check: Callable[[ModuleType], None] = codes_are_the_specifications
    with pytest.raises((AssertionError, ValueError)):
        check(mutated(codes, text, bug))


def test_a_bug_planted_in_the_addition_is_found_by_numpys_casts() -> None:
    with pytest.raises(AssertionError):
        casts_are_numpys(mutated(formats, "np.add(x, large, out=out)", "np.add(x.astype(np.float32), large, out=out)"))
