"""Number formats on Python numbers, against gfloat, ml_dtypes and a rounding that searches a list of all codes."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from fractions import Fraction
from functools import cache
from itertools import pairwise
from types import ModuleType

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat import formats as peers
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import formats, records
from lepton_ref.plain.formats import (
    FORMATS,
    MODES,
    CodebookFormat,
    FloatFormat,
    Format,
    IntFormat,
    decode,
    encode,
    get_format,
    round_to,
)

GFLOAT = {
    "fp64": peers.format_info_binary64,
    "fp32": peers.format_info_binary32,
    "fp16": peers.format_info_binary16,
    "bf16": peers.format_info_bfloat16,
    "e5m2": peers.format_info_ocp_e5m2,
    "e4m3fn": peers.format_info_ocp_e4m3,
    "e3m2": peers.format_info_ocp_e3m2,
    "e2m3": peers.format_info_ocp_e2m3,
    "e2m1": peers.format_info_ocp_e2m1,
    "e8m0": peers.format_info_ocp_e8m0,
}
ML_DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
GFLOAT_MODES = {
    "even": gfloat.RoundMode.TiesToEven,
    "away": gfloat.RoundMode.TiesToAway,
    "zero": gfloat.RoundMode.TowardZero,
    "up": gfloat.RoundMode.TowardPositive,
    "down": gfloat.RoundMode.TowardNegative,
}
SMALL = [name for name, f in FORMATS.items() if f.bits <= 8]


def same(a: float, b: float) -> bool:
    """Equal bits, all NaN being one."""
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


def finite(name: str) -> list[float]:
    """Every number of a format in rising order, −0 left out."""
    numbers = {decode(code, name) for code in range(1 << get_format(name).bits)}
    return sorted(number + 0.0 for number in numbers if math.isfinite(number))


@cache
def telling(name: str) -> list[float]:
    """Every number of a small format, every midpoint, the float64 numbers beside them, and what lies outside."""
    numbers = finite(name)
    middles = [(a + b) / 2 for a, b in pairwise(numbers)]
    step = numbers[-1] - numbers[-2]
    outside = [numbers[-1] + step / 2, numbers[-1] + step, numbers[-1] * 2, numbers[0] - step / 2, numbers[0] * 2]
    points = [*numbers, *middles, *outside]
    beside = [math.nextafter(point, towards) for point in points for towards in (-math.inf, math.inf)]
    return [*points, *beside, -0.0, math.inf, -math.inf, 1e300, -1e300, 5e-324, -5e-324]


LITERALS = [  # largest, least, and for floats the least normal number
    ("fp32", 3.4028234663852886e38, 1.401298464324817e-45, 2.0**-126),
    ("tf32", (2 - 2.0**-10) * 2.0**127, 2.0**-136, 2.0**-126),
    ("bf16", 3.3895313892515355e38, 2.0**-133, 2.0**-126),
    ("fp16", 65504.0, 2.0**-24, 2.0**-14),
    ("e5m2", 57344.0, 2.0**-16, 2.0**-14),
    ("e4m3fn", 448.0, 2.0**-9, 2.0**-6),
    ("e5m2fnuz", 57344.0, 2.0**-17, 2.0**-15),
    ("e4m3fnuz", 240.0, 2.0**-10, 2.0**-7),
    ("e3m2", 28.0, 0.0625, 0.25),
    ("e2m3", 7.5, 0.125, 1.0),
    ("e2m1", 6.0, 0.5, 1.0),
    ("e8m0", 2.0**127, 2.0**-127, 2.0**-127),
]


def the_ends_are_right(m: ModuleType) -> None:
    for name, largest, least, normal in LITERALS:
        f = m.FORMATS[name]
        assert (f.largest, f.least, 2.0**f.emin) == (largest, least, normal), name
        assert f.lowest == (-largest if f.signed else least), name
        assert 2.0**f.emax <= f.largest < 2.0 ** (f.emax + 1), name


def test_the_ends_of_the_formats() -> None:
    the_ends_are_right(records)


def test_the_lists() -> None:
    assert finite("e2m1") == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert finite("int2") == [-2, -1, 0, 1]
    assert finite("int8") == list(range(-128, 128))
    nf4 = finite("nf4")
    assert len(nf4) == 16
    assert (nf4[1], nf4[7], nf4[8], nf4[14]) == (-0.6961928009986877, 0.0, 0.07958029955625534, 0.7229568362236023)
    assert all(float(np.float32(number)) == number for number in nf4)
    assert [f.least for f in FORMATS.values() if not isinstance(f, FloatFormat)] == [nf4[8]] + [1.0] * 7
    assert [f.bits for f in FORMATS.values()] == [64, 32, 19, 16, 16, 8, 8, 8, 8, 6, 6, 4, 8, 4, 8, 7, 6, 5, 4, 3, 2]


def codes_stand_for_what_peers_say(m: ModuleType) -> None:
    for name, dtype in ML_DTYPES.items():
        bits = m.FORMATS[name].bits
        codes = np.arange(1 << bits).astype(np.uint16 if bits > 8 else np.uint8)
        with np.errstate(invalid="ignore"):
            wanted = codes.view(dtype).astype(np.float64)
        assert all(same(m.decode(code, name), float(value)) for code, value in enumerate(wanted)), name
    for name, info in GFLOAT.items():
        codes = range(1 << info.k) if info.k <= 16 else spread_codes(info.k)
        assert all(same(m.decode(code, name), gfloat.decode_float(info, code).fval) for code in codes), name


def spread_codes(bits: int) -> Iterator[int]:
    """Two thousand codes of a wide format, among them its ends."""
    for field in range(0, 1 << bits, 1 << bits - 9):
        yield from (field, field + 1, (field - 1) % (1 << bits), field ^ 0x5555)


def test_codes_stand_for_what_gfloat_and_ml_dtypes_say() -> None:
    codes_stand_for_what_peers_say(records)


def no_nan_has_a_sign(m: ModuleType) -> None:
    for name, f in FORMATS.items():
        if isinstance(f, FloatFormat):
            values = [m.decode(code, name) for code in (range(1 << f.bits) if f.bits <= 8 else spread_codes(f.bits))]
            nans = [value for value in values if math.isnan(value)]
            assert all(math.copysign(1, nan) > 0 for nan in nans), name
            assert (nans == []) == (f.nans == "none"), name


def test_no_nan_has_a_sign() -> None:
    no_nan_has_a_sign(records)


def test_integers_and_fp16_stand_for_what_numpy_says() -> None:
    assert [decode(code, "int8") for code in range(256)] == list(np.arange(256).astype(np.uint8).view(np.int8))
    assert [decode(code, "int4") for code in range(16)] == [*range(8), *range(-8, 0)]
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    assert all(same(decode(code, "fp16"), float(value)) for code, value in enumerate(halves))


def codes_come_back(m: ModuleType) -> None:
    for name, f in FORMATS.items():
        for code in range(1 << f.bits) if f.bits <= 16 else spread_codes(f.bits):
            value = decode(code, f)
            if not math.isnan(value):
                assert m.encode(value, f) == code, (name, code)
    nans = {name: m.encode(math.nan, name) for name in ("fp32", "bf16", "fp16", "e5m2", "e4m3fn", "e4m3fnuz", "e8m0")}
    quiet = {"fp32": 0x7FC00000, "bf16": 0x7FC0, "fp16": 0x7E00, "e5m2": 0x7E}
    assert nans == quiet | {"e4m3fn": 0x7F, "e4m3fnuz": 0x80, "e8m0": 0xFF}


def test_encoding_undoes_decoding() -> None:
    codes_come_back(formats)


Pairs = list[tuple[float, int]]


@cache
def listed(name: str) -> tuple[Pairs, list[Fraction], dict[float, float]]:
    """The (number, code) pairs in rising order without −0, the numbers as fractions, and each zero by its sign."""
    numbers = [(decode(code, name), code) for code in range(1 << FORMATS[name].bits)]
    pairs = sorted((value, code) for value, code in numbers if math.isfinite(value))
    zeros = {math.copysign(1, value): value for value, _ in pairs if value == 0}
    pairs = [(value, code) for value, code in pairs if not (value == 0 and math.copysign(1, value) < 0)]
    return pairs, [Fraction(value) for value, _ in pairs], zeros


def searched(x: Fraction, negative: bool, name: str, mode: str, saturate: bool, chance: Fraction | None) -> float:
    """A finite number to a small format by searching all its codes: an oracle that knows no exponents."""
    pairs, values, zeros = listed(name)
    if name == "e8m0" and (x <= 0 or x < values[0]):
        return pairs[0][0] if x > 0 or saturate else math.nan
    if x == 0:
        return zeros.get(-1.0 if negative else 1.0, 0.0)
    at = bisect_left(values, x)
    if not values[0] <= x <= values[-1]:
        chosen = beyond(x, FORMATS[name], mode, saturate, chance)
    elif x == values[at]:
        chosen = pairs[at][0]
    else:
        near, far = (at - 1, at) if x > 0 else (at, at - 1)
        odd = pairs[near][1] % 2 == 1
        goes = towards(abs((x - values[near]) / (values[far] - values[near])), odd, x < 0, mode, chance)
        chosen = pairs[far if goes else near][0]
    return zeros.get(-1.0 if negative else 1.0, 0.0) if chosen == 0 else chosen


def towards(fraction: Fraction, near_is_odd: bool, negative: bool, mode: str, chance: Fraction | None) -> bool:
    """Whether the number farther from zero is chosen, by a table of the modes."""
    nearest = fraction > Fraction(1, 2)
    tie = fraction == Fraction(1, 2)
    return {
        "even": nearest or (tie and near_is_odd),
        "away": nearest or tie,
        "zero": False,
        "up": not negative,
        "down": negative,
        "odd": not near_is_odd,
        "stochastic": chance is not None and chance < fraction,
    }[mode]


def beyond(x: Fraction, f: Format, mode: str, saturate: bool, chance: Fraction | None) -> float:
    """A number outside the format: against the number that would come next, whose code would be one more."""
    pairs, values, _ = listed(f.name)
    largest, code = pairs[-1] if x > 0 else pairs[0]
    if saturate or not isinstance(f, FloatFormat) or f.nans == "none":
        return largest
    last, before = (values[-1], values[-2]) if x > 0 else (values[0], values[1])
    following = last * 2 if f.precision == 1 else last + (last - before)
    fraction = min((x - last) / (following - last), Fraction(1))
    if mode in ("up", "down", "zero", "odd"):
        goes = towards(Fraction(1, 3), code % 2 == 1, x < 0, mode, None)
    else:
        goes = fraction == 1 or towards(fraction, code % 2 == 1, x < 0, mode, chance)
    return (math.copysign(math.inf, x) if f.infinities else math.nan) if goes else largest


def small_formats_round_as_a_search_does(m: ModuleType, names: list[str], stride: int = 1) -> None:
    for name in names:
        for value in [*telling(name)[::stride], -0.0]:
            if not math.isfinite(value):
                continue
            for mode in MODES:
                for chance in CHANCES if mode == "stochastic" else (None,):
                    for saturate in (False, True):
                        got = m.round_to(value, name, mode=mode, saturate=saturate, chance=chance)
                        negative = math.copysign(1, value) < 0
                        want = searched(Fraction(value), negative, name, mode, saturate, chance)
                        assert same(got, want), (name, mode, value, saturate, chance, got, want)


CHANCES = [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(2**64 - 1, 2**64)]


@pytest.mark.parametrize("name", SMALL)
def test_every_midpoint_and_its_neighbours_round_as_a_search_does(name: str) -> None:
    small_formats_round_as_a_search_does(formats, [name])


def by_gfloat(name: str, value: float, mode: gfloat.RoundMode, saturate: bool) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(gfloat.round_ndarray(GFLOAT[name], np.array([value]), mode, saturate)[0])


def rounding_is_gfloats(m: ModuleType, name: str, value: float) -> None:
    for mode, theirs in GFLOAT_MODES.items():
        for saturate in (False, True):
            limited = saturate or name in ("e3m2", "e2m3", "e2m1")  # gfloat raises where these overflow
            want = by_gfloat(name, value, theirs, limited)
            assert same(m.round_to(value, name, mode=mode, saturate=saturate), want), (name, mode, saturate, value)


@pytest.mark.parametrize("name", [name for name in GFLOAT if name != "e8m0"])
def test_rounding_is_gfloats(name: str) -> None:
    @given(st.floats(allow_nan=False), st.integers(-40, 40), st.floats(-1e6, 1e6))
    def check(any_value: float, exponent: int, moderate: float) -> None:
        for value in (any_value, math.ldexp(moderate, exponent)):
            rounding_is_gfloats(formats, name, value)

    check()
    for value in telling(name) if name in SMALL else [0.0, -0.0, math.inf, -math.inf, FORMATS[name].largest * 1.0001]:
        rounding_is_gfloats(formats, name, value)


def test_gfloats_scalar_away_is_no_oracle_beside_a_tie() -> None:
    """It asks whether fraction + 0.5 ≥ 1 in float64, where that sum is rounded; its array form asks fraction ≥ 0.5."""
    below, info = math.nextafter(0.5, 0.0), GFLOAT["e5m2"]
    value, away = below * FORMATS["e5m2"].least, gfloat.RoundMode.TiesToAway
    assert gfloat.round_float(info, value, away) == FORMATS["e5m2"].least
    assert gfloat.round_ndarray(info, np.array([value]), away)[0] == 0.0 == round_to(value, "e5m2", mode="away")


@given(st.floats(2.0**-126, 2.0**127), st.sampled_from(list(GFLOAT_MODES)))
def test_powers_of_two_are_gfloats(value: float, mode: str) -> None:
    want = by_gfloat("e8m0", value, GFLOAT_MODES[mode], False)
    assert same(round_to(value, "e8m0", mode=mode), want)


@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_from_float32_ml_dtypes_rounds_once(name: str) -> None:
    f = FORMATS[name]
    ties = {1.5 * 2.0**exponent for exponent in range(-127, 128)} if name == "e8m0" else set()
    points = telling(name) if name in SMALL else np.random.default_rng(5).standard_normal(3000).tolist()
    with np.errstate(over="ignore"):
        x = np.array(points, dtype=np.float32)
    for value in x.astype(np.float64).tolist():
        if value in ties or (name == "e8m0" and value == 0):  # ml_dtypes takes 1.5·2ᵉ up whatever e is, and 0 to 2⁻¹²⁷
            continue
        if math.isinf(value) and f.name in ("e3m2", "e2m3", "e2m1"):
            continue
        with np.errstate(all="ignore"):
            want = float(np.float32(value).astype(ML_DTYPES[name]))
        assert same(round_to(value, name), want), value


def test_from_float64_ml_dtypes_rounds_twice() -> None:
    value = 1 + 2.0**-8 + 2.0**-30  # above the middle of 1 and 1 + 2⁻⁷, and in float32 on it
    assert float(np.float64(value).astype(ml_dtypes.bfloat16)) == 1.0
    assert round_to(value, "bf16") == 1 + 2.0**-7


@pytest.mark.parametrize(
    ("value", "name", "result"),
    [
        (464.0, "e4m3fn", 448.0),  # the middle of 448 and 480, which would be next
        (math.nextafter(464.0, 500.0), "e4m3fn", math.nan),
        (61440.0, "e5m2", math.inf),
        (math.nextafter(61440.0, 0.0), "e5m2", 57344.0),
        (65520.0, "fp16", math.inf),
        (-7.6, "e2m1", -6.0),
        (2.5, "e2m1", 2.0),
        (3.5, "e2m1", 4.0),
        (0.25, "e2m1", 0.0),
        (-0.25, "e2m1", -0.0),
        (2.5, "int8", 2.0),
        (3.5, "int8", 4.0),
        (1000.0, "int8", 127.0),
        (-1000.0, "int8", -128.0),
        (-0.4, "int8", 0.0),
        (-0.0, "e4m3fnuz", 0.0),
        (-1e-9, "e4m3fnuz", 0.0),
        (0.0, "e8m0", math.nan),
        (-1.0, "e8m0", math.nan),
        (1e-300, "e8m0", 2.0**-127),
        (math.inf, "e8m0", math.nan),
        (math.inf, "e4m3fn", math.nan),
        (math.inf, "e2m1", 6.0),
        (-math.inf, "nf4", -1.0),
        (0.04, "nf4", 0.07958029955625534),
        (Fraction(1, 3), "fp64", 1 / 3),
        (10**400, "fp64", math.inf),
    ],
)
def test_literals(value: float | Fraction | int, name: str, result: float) -> None:
    assert same(round_to(value, name), result)


def test_saturation_takes_infinity_to_the_largest_number() -> None:
    results = {name: round_to(-math.inf, name, saturate=True) for name in ("fp16", "e4m3fn", "e4m3fnuz", "e8m0")}
    assert results == {"fp16": -65504.0, "e4m3fn": -448.0, "e4m3fnuz": -240.0, "e8m0": 2.0**-127}


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_rational_zero_has_the_sign_it_is_given(zero: float) -> None:
    assert same(round_to(Fraction(0), "fp32", zero=zero), zero)
    assert same(round_to(Fraction(0), "int8", zero=zero), 0.0)


@given(st.fractions(), st.integers(-1080, 1020), st.sampled_from(["fp64", "fp32", "bf16", "e4m3fn"]))
def test_fractions_round_to_the_nearest(fraction: Fraction, exponent: int, name: str) -> None:
    """No number of the format is nearer; equally near ones have the odd code."""
    value = fraction * Fraction(2) ** exponent
    got = round_to(value, name, saturate=True)
    code = encode(abs(got), name)
    for other in (code - 1, code + 1):
        if 0 <= other <= encode(FORMATS[name].largest, name):
            error = abs(abs(value) - Fraction(abs(got)))
            distance = abs(abs(value) - Fraction(decode(other, name)))
            assert error < distance or (error == distance and code % 2 == 0)


def odd_then_even_is_once(m: ModuleType, value: float) -> None:
    for wide, narrow in (("fp32", "fp16"), ("fp32", "bf16"), ("tf32", "bf16"), ("fp16", "e4m3fn"), ("fp16", "e5m2")):
        assert same(m.round_to(m.round_to(value, wide, mode="odd"), narrow), round_to(value, narrow)), (wide, narrow)


@given(st.floats(allow_nan=False), st.floats(-1e5, 1e5))
def test_rounding_to_odd_first_changes_nothing(any_value: float, moderate: float) -> None:
    odd_then_even_is_once(formats, any_value)
    odd_then_even_is_once(formats, moderate)


def the_mean_of_all_chances_is_the_value(m: ModuleType) -> None:
    for name, start in (("fp16", 1.0), ("e4m3fn", -2.0), ("int4", 3.0), ("nf4", 0.0), ("nf4", -1.0), ("e8m0", 2.0)):
        end = Fraction(round_to(math.nextafter(start, math.inf), name, mode="up"))
        for part in range(1, 16):
            value = Fraction(start) + (end - Fraction(start)) * part / 16
            drawn = [m.round_to(value, name, mode="stochastic", chance=Fraction(k, 16)) for k in range(16)]
            assert sum(map(Fraction, drawn)) / 16 == value, (name, value)


def test_the_mean_of_all_chances_is_the_value() -> None:
    the_mean_of_all_chances_is_the_value(formats)


@given(st.integers(-4095, 4095), st.integers(0, 255))
def test_stochastic_rounding_is_gfloats(steps: int, word: int) -> None:
    """gfloat rounds away where fraction + word·2⁻⁸ ≥ 1; of multiples of 2⁻⁸ that is ours with the word turned round."""
    value = steps * 2.0**-8
    mode = gfloat.RoundMode.StochasticFastest
    want = gfloat.round_float(GFLOAT["e2m3"], value, mode, True, word, 8)
    if abs(value) <= 2:  # where the spacing is 1/8 or less, 2⁻⁸ divides every fraction
        assert same(round_to(value, "e2m3", mode="stochastic", chance=Fraction(255 - word, 256)), want)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_number_of_the_format_stays(name: str) -> None:
    f = FORMATS[name]
    for code in range(1 << f.bits) if f.bits <= 8 else spread_codes(f.bits):
        value = decode(code, f)
        for mode in MODES if math.isfinite(value) else ():
            chance = Fraction(0) if mode == "stochastic" else None
            assert same(round_to(value, f, mode=mode, chance=chance), value)


def test_nan_is_one_or_refused() -> None:
    for name, f in FORMATS.items():
        if isinstance(f, FloatFormat) and f.nans != "none":
            assert math.isnan(round_to(math.nan, name))
        else:
            with pytest.raises(ValueError, match=f"nan has no code in {name}; replace it"):
                round_to(math.nan, name)
            with pytest.raises(ValueError, match=f"nan has no code in {name}; replace it"):
                encode(math.nan, name)


def test_records_are_frozen_and_found_by_name() -> None:
    assert get_format("bf16") is FORMATS["bf16"]
    assert get_format(FORMATS["nf4"]) is FORMATS["nf4"]
    with pytest.raises(FrozenInstanceError):
        FORMATS["bf16"].name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        FORMATS["x"] = FORMATS["bf16"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["float33", None, 4, "FP32", ""])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown number format .*; known: fp64, fp32"):
        get_format(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nans": "some"}, "nans 'some' of x; give 'ieee', 'all_ones', 'negative_zero' or 'none'"),
        ({"infinities": False}, "infinities False with nans 'ieee' of x; 'ieee' has both"),
        ({"exponent_bits": 12}, "x has fields of 12 and 3 bits; give 1 to 11 and 0 to 52"),
        ({"mantissa_bits": 53}, "x has fields of 4 and 53 bits; give 1 to 11 and 0 to 52"),
        ({"signed": False}, r"x: give a sign, subnormals and a mantissa, or none of them \(powers of two\)"),
        ({"bias": 1100}, r"x reaches from 2\^-1099 to 2\^-1086; float64 must hold its numbers"),
        ({"exponent_bits": 11}, "float64 must hold its numbers"),
    ],
)
def test_a_float_format_that_is_none_is_refused(options: dict[str, object], message: str) -> None:
    fields = {"exponent_bits": 4, "mantissa_bits": 3, "bias": 7, "infinities": True, "nans": "ieee"} | options
    with pytest.raises(ValueError, match=message):
        FloatFormat("x", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0), (-1.0, 0.0, 0.0, 1.0), (-1.0, 0.0, math.inf), ()])
def test_a_codebook_that_is_none_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: \(.*\); list finite numbers in rising order, 0\.0 not at an end"):
        CodebookFormat("x", values)


def test_a_codebook_without_exact_middles_is_refused() -> None:
    with pytest.raises(ValueError, match="float64 must hold the sums and differences of neighbours"):
        CodebookFormat("x", (-1.0, 0.0, 1e-30, 1.0))


def test_integers_of_one_bit_are_refused() -> None:
    with pytest.raises(ValueError, match="x has 1 bits; give 2 to 32"):
        IntFormat("x", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "nearest"}, "unknown rounding mode 'nearest'; known: even, away"),
        ({"mode": "stochastic"}, "a chance belongs to 'stochastic', which needs one"),
        ({"chance": Fraction(1, 2)}, "a chance belongs to 'stochastic', which needs one"),
        ({"mode": "stochastic", "chance": Fraction(1)}, r"chance 1; give a number of \[0, 1\)"),
        ({"mode": "stochastic", "chance": Fraction(-1, 2)}, r"chance -1/2; give a number of \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_to(1.0, "fp32", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "name"), [(-1, "fp16"), (1 << 16, "fp16"), (16, "nf4"), (4, "int2")])
def test_a_code_out_of_range_is_refused(code: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"code {code} of {name}; its codes are 0 … "):
        decode(code, name)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *(
            (0.3, "e2m1"),
            (8.0, "e2m1"),
            (math.inf, "e4m3fn"),
            (-0.0, "e4m3fnuz"),
            (480.0, "e4m3fn"),
            (2.0**-25, "fp16"),
        ),
        *((0.0, "e8m0"), (-1.0, "e8m0"), (3.0, "e8m0"), (128.0, "int8"), (0.5, "int8"), (-0.0, "int8"), (0.5, "nf4")),
        *((65536.0, "fp16"), (1e300, "fp32"), (math.inf, "int4"), (-math.inf, "e8m0"), (1 + 2.0**-11, "tf32")),
    ],
)
def test_what_has_no_code_is_refused(value: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"is no number of {name}; round it to the format first"):
        encode(value, name)


def everything(m: ModuleType) -> None:
    """Every check of rounding that takes a module, on fewer formats."""
    assert m.round_to(Fraction(2, 3), "fp64") == 2 / 3  # IEEE division rounds once, too
    for value in (math.inf, -math.inf, 7.3e4, -1e9):
        rounding_is_gfloats(m, "fp16", value)
    odd_then_even_is_once(m, 1 + 2.0**-8 + 2.0**-30)
    the_mean_of_all_chances_is_the_value(m)
    assert same(m.round_to(Fraction(0), "fp32", zero=-0.0), -0.0)
    small_formats_round_as_a_search_does(m, ["e2m1", "nf4", "int3"])
    small_formats_round_as_a_search_does(m, ["e4m3fn", "e8m0", "e5m2", "e4m3fnuz"], stride=11)


BUGS: list[tuple[ModuleType, Callable[[ModuleType], None], str, str]] = [
    (formats, everything, "(fraction == half and odd)", "(fraction == half and not odd)"),
    (formats, everything, "(fraction == half and odd)", "fraction == half"),
    (formats, everything, "return fraction >= half", "return fraction > half"),
    (formats, everything, 'negative == (mode == "down")', 'negative == (mode == "up")'),
    (formats, everything, "return not odd\n", "return odd\n"),
    (formats, everything, "return fraction > chance", "return fraction >= chance"),
    (formats, everything, "magnitude.numerator.bit_length() - ", "1 + magnitude.numerator.bit_length() - "),
    (formats, everything, "(exponent_of(magnitude) + f.bias) % 2", "exponent_of(magnitude) % 2"),
    (formats, everything, 'f.nans == "none" and not f.infinities', "not f.infinities"),
    (formats, everything, "saturate or turns_back(mode, negative, f)", "saturate"),
    (formats, everything, "f.largest_code % 2 == 1", "True"),
    (formats, everything, 'negative == (mode == "up")', 'negative == (mode == "down")'),
    (formats, everything, "if exact > 0 or saturate else nan_of(f)", ""),
    (formats, everything, "bisect_right(sizes, magnitude) - 1", "max(bisect_right(sizes, magnitude) - 2, 0)"),
    (formats, everything, "else exponent - 1", "else exponent"),
    (formats, everything, "f.lowest if negative else f.largest\n", "f.largest\n"),
    (formats, everything, "if negative and (size > 0 or signed_zero)", "if negative"),
    (formats, codes_come_back, "- f.emin - int(not f.subnormals)", "- f.emin"),
    (formats, codes_come_back, "1 << f.mantissa_bits - 1 if", "0 if"),
    (records, the_ends_are_right, 'int(self.nans == "all_ones")', "0"),
    (records, the_ends_are_right, "return -self.largest if self.signed else self.least", "return -self.largest"),
    (records, codes_stand_for_what_peers_say, "if field == 0 and f.subnormals", "if field == 0"),
    (records, codes_stand_for_what_peers_say, "math.inf if magnitude == top else math.nan", "math.nan"),
    (records, codes_stand_for_what_peers_say, 'f.nans == "negative_zero" and negative', 'f.nans == "x" and negative'),
    (records, no_nan_has_a_sign, "if negative and not math.isnan(size)", "if negative"),
]


@pytest.mark.parametrize(("original", "check", "text", "bug"), BUGS)
def test_a_planted_bug_is_found(original: ModuleType, check: Callable[[ModuleType], None], text: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(mutated(original, text, bug))


def test_the_checks_pass_without_a_bug() -> None:
    everything(formats)
