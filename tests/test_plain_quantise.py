"""What quantised linear layers multiply: literals, ggml's encoders in NumPy's float32, and the definitions by search."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import quantise
from lepton_ref.plain.formats import FORMATS, decode

INF, NAN = math.inf, math.nan
E4M3 = sorted({number for number in (decode(code, "e4m3fn") for code in range(256)) if number == number})


def hexes(numbers: Sequence[float]) -> list[str]:
    return [float(number).hex() for number in numbers]


def nearest(x: Fraction, numbers: Sequence[float]) -> float:
    """By search; of two that are as near, the one whose place among the numbers from zero up is even."""
    positive = [number for number in numbers if number >= 0]
    size = min(positive, key=lambda number: (abs(abs(x) - Fraction(number)), positive.index(number) % 2))
    return math.copysign(size, x)


def scale(amax: Fraction) -> Fraction:
    """To eleven bits by integers: k·2ᵉ with 2¹⁰ ≤ k < 2¹¹, or e = −149."""
    exponent = -149
    while amax / Fraction(2) ** exponent >= 2**11:
        exponent += 1
    return round(amax / Fraction(2) ** exponent) * Fraction(2) ** exponent


def definition(x: Sequence[float], operands: str) -> list[float]:
    largest, block = (448, len(x)) if operands == "fp8" else (127, 32)
    found = []
    for start in range(0, len(x), block):
        part = x[start : start + block]
        if not all(map(math.isfinite, part)):
            found += [NAN] * len(part)
            continue
        d = scale(Fraction(max(map(abs, part))) / largest)
        for number in part:
            quotient = Fraction(number) / d if d else Fraction(0)
            q = nearest(quotient, E4M3) if operands == "fp8" else float(max(-127, min(127, round(quotient))))
            q = math.copysign(q, number) if operands == "fp8" else q
            found.append(float(d) * q + (0.0 if operands != "fp8" else -0.0))
    return found


def ggml(x: Sequence[float], operands: str) -> list[float]:
    """quantize_row_q8_0_ref, quantize_row_q4_0_ref and their decoding, each step one of NumPy's float32."""
    found = []
    for start in range(0, len(x), 32):
        part = np.array(x[start : start + 32], dtype=np.float32)
        at = int(np.abs(part).argmax())
        d = np.abs(part[at]) / np.float32(127) if operands == "w8a8" else part[at] / np.float32(-8)
        with np.errstate(over="ignore"):
            stored = float(np.float16(d))
        if stored == 0:
            found += [0.0] * len(part)
            continue
        scaled = part * (np.float32(1) / d)
        if operands == "w8a8":
            codes = [math.copysign(math.floor(abs(float(s)) + 0.5), s) + 0.0 for s in scaled]
        else:
            codes = [min(int(s + np.float32(8.5)), 15) - 8 for s in scaled]
        found += [stored * code for code in codes]
    return found


def activations_by_blocks(module: ModuleType) -> None:
    """127 gives a scale of 1, so codes are the numbers to half even; the second block is short, with its own scale."""
    x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 126.5, -127.0, -0.0] + [0.0] * 21 + [5.4, 1.27, 0.005, 0.015]
    for operands in ("w8a8", "w4a8"):
        got = module.activations(x, operands)
        assert hexes(got[:10]) == hexes([127.0, 0.0, 2.0, 2.0, 0.0, -2.0, 0.0, 126.0, -127.0, 0.0])
        assert got[31] == 5.0
        d = 1311 / 2**17  # 1.27/127 = 0.01 is 0.0100021… to eleven bits
        assert hexes(got[32:]) == hexes([127 * d, 0.0, d])
    assert module.activations(x, "stored") == x


def scales_of_eleven_bits(module: ModuleType) -> None:
    """amax = 127·(1 + 2⁻¹¹) is a tie of the scale, and goes to 1; three times as far it goes to 1 + 2·2⁻¹⁰."""
    for amax, d in (
        (127 * (1 + 2**-11), 1.0),
        (127 * (1 + 3 * 2**-11), 1 + 2 * 2**-10),
        (127 * (1 + 2**-10), 1 + 2**-10),
    ):
        assert module.activations([amax, 10.0], "w8a8")[1] == 10 * d
    for amax, d in ((448 * (1 + 2**-11), 1.0), (448 * (1 + 3 * 2**-11), 1 + 2 * 2**-10)):
        assert module.activations([amax, 8.0], "fp8")[1] == 8 * d


def subnormal_scales(module: ModuleType) -> None:
    """The least scale is float32's 2⁻¹⁴⁹: there codes would exceed 127, and are cut; below half of it all is zero."""
    unit = 2.0**-149
    assert module.activations([190 * unit, -190 * unit, 3 * unit], "w8a8") == [127 * unit, -127 * unit, 3 * unit]
    assert hexes(module.activations([63 * unit, -1 * unit], "w8a8")) == hexes([0.0, 0.0])
    assert hexes(module.activations([200 * unit, -1 * unit], "fp8")) == hexes([0.0, -0.0])


def fp8_by_rows(module: ModuleType) -> None:
    """One scale for 40 numbers; E4M3's ties go to even, 2⁻¹⁰ of the scale to 0, and the largest saturates."""
    x = [448.0, 17.0, 19.0, -17.0, 2.0**-10, 3 * 2.0**-10, -(2.0**-10), -0.0] + [1.0] * 32
    assert hexes(module.activations(x, "fp8")[:9]) == hexes([448.0, 16.0, 20.0, -16.0, 0.0, 2.0**-8, -0.0, -0.0, 1.0])
    assert module.weights(x, "fp8") == module.activations(x, "fp8")
    down = 448 * (1 + 2**-11)  # its scale is 1, its quotient above 448
    assert module.activations([down], "fp8") == [448.0]


def q8_0(module: ModuleType) -> None:
    """Half away from zero; d = amax/127 is kept as fp16, but the codes are made from the unrounded one."""
    assert module.weights([127.0, 0.5, -0.5, 1.5, 2.5, 0.49], "w8a8") == [127.0, 1.0, -1.0, 2.0, 3.0, 0.0]
    third = 127 / 3
    x = [float(np.float32(third)), 0.5]
    assert module.weights(x, "w8a8") == [127 * float(np.float16(1 / 3)), 2 * float(np.float16(1 / 3))]


def q4_0(module: ModuleType) -> None:
    """d = m/−8 has the opposite sign of the largest number m, the first of its size; +8 does not fit and becomes 7."""
    assert module.weights([-8.0, 8.0, 0.5, -0.5, 0.49, 7.5, 1.0], "w4a8") == [-8.0, 7.0, 1.0, 0.0, 0.0, 7.0, 1.0]
    assert module.weights([8.0, -8.0, 0.5, 1.0], "w4a8") == [8.0, -7.0, 0.0, 1.0]


def special_blocks(module: ModuleType) -> None:
    for encode in (module.activations, module.weights):
        for operands in ("w8a8", "w4a8", "fp8"):
            assert hexes(encode([0.0] * 3, operands)) == hexes([0.0] * 3)
            assert encode([], operands) == []
            for bad in (NAN, INF, -INF):
                got = encode([1.0] * 31 + [bad] + [127.0] * 4, operands)
                assert all(map(math.isnan, got[:32]))
                assert all(map(math.isnan, got[32:])) == (operands == "fp8")
    assert hexes(module.activations([-0.0, 0.0], "w8a8")) == hexes([0.0, 0.0])
    assert hexes(module.weights([-1e-30, 1e-30], "w8a8")) == hexes([0.0, 0.0])  # d is 0 as an fp16
    assert hexes(module.weights([-1e-45, 1e-45], "w4a8")) == hexes([0.0, 0.0])  # 1/d would be infinite
    assert module.weights([1e8, 0.0], "w8a8")[0] == INF  # and this d infinite


CHECKS = [activations_by_blocks, scales_of_eleven_bits, subnormal_scales, fp8_by_rows, q8_0, q4_0, special_blocks]


@pytest.mark.parametrize("check", CHECKS)
def test_quantised_numbers(check: Callable[[ModuleType], None]) -> None:
    check(quantise)


BUGS = {
    "blocks of 16": ("BLOCK = 32", "BLOCK = 16", activations_by_blocks),
    "ties away from zero": ('max(round_to(quotient, "int8"), -127.0)', 'max(round_to(quotient, "int8", mode="away"), -127.0)', activations_by_blocks),
    "codes are cut": ('max(round_to(quotient, "int8"), -127.0)', 'max(round_to(quotient, "int8", mode="zero"), -127.0)', activations_by_blocks),
    "a scale of 128": ("INT8_LARGEST = 127", "INT8_LARGEST = 128", activations_by_blocks),
    "signs of zero in integers": ("d * code(quotient, math.copysign(0.0, number))", "math.copysign(1.0, number) * abs(d * code(quotient, math.copysign(0.0, number)))", activations_by_blocks),
    "a scale of twelve bits": ("mantissa_bits=10, bias=140", "mantissa_bits=11, bias=139", scales_of_eleven_bits),
    "a scale of ten bits": ("mantissa_bits=10, bias=140", "mantissa_bits=9, bias=141", scales_of_eleven_bits),
    "the scale's ties go away from zero": ("/ largest, SCALE)", "/ largest, SCALE, mode=\"away\")", scales_of_eleven_bits),
    "the scale's range is tf32's": ("bias=140", "bias=127", subnormal_scales),
    "-128 is a code": ('max(round_to(quotient, "int8"), -127.0)', 'round_to(quotient, "int8")', subnormal_scales),
    "fp8 by blocks": ('"fp8": _healthy(fp8_row)}\n)\n"""Operands → how a row of activations', '"fp8": _in_blocks(fp8_row)}\n)\n"""Operands → how a row of activations', special_blocks),
    "fp8 with 240": ("E4M3_LARGEST = 448", "E4M3_LARGEST = 240", fp8_by_rows),
    "fp8 with E5M2": ('round_to(quotient, "e4m3fn"', 'round_to(quotient, "e5m2"', fp8_by_rows),
    "fp8 does not saturate": (', "e4m3fn", saturate=True, zero=zero)', ', "e3m2", saturate=False, zero=zero)', fp8_by_rows),
    "fp8 loses the sign of zero": ("saturate=True, zero=zero)", "saturate=True)", fp8_by_rows),
    "Q8_0's ties go to even": ('round_to(scaled, "int8", mode="away")', 'round_to(scaled, "int8")', q8_0),
    "Q8_0's scale stays float32": ('stored = round_to(d, "fp16")', "stored = d", q8_0),
    "Q4_0 takes the size of the largest": ("Fraction(max(x, key=abs)) / -8", "Fraction(max(map(abs, x))) / -8", q4_0),
    "Q4_0's scale is positive": ("Fraction(max(x, key=abs)) / -8", "Fraction(max(x, key=abs)) / 8", q4_0),
    "Q4_0 overflows to 16": (", 15) - 8)", ", 16) - 8)", q4_0),
    "Q4_0 rounds to nearest even": ("math.floor(_float32(scaled + Fraction(17, 2)))", "round(scaled + 8)", q4_0),
    "a NaN strikes itself alone": ("encode(x) if all(map(math.isfinite, x)) else [math.nan] * len(x)", "[math.nan if not math.isfinite(a) else 1.0 for a in x] if not all(map(math.isfinite, x)) else encode(x)", special_blocks),
    "a NaN in one block strikes the row": ("for y in one(x[start : start + BLOCK])", "for y in (one(x[start : start + BLOCK]) if all(map(math.isfinite, x)) else [math.nan] * len(x[start : start + BLOCK]))", special_blocks),
    "a scale of zero is divided by": ("if d > 0 else Fraction(0)", "if d >= 0 else Fraction(0)", special_blocks),
    "an fp16 scale of zero is used": ("if stored == 0:", "if False:", special_blocks),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ArithmeticError, ValueError)):
        check(mutated(quantise, text, replacement))


numbers = st.one_of(
    st.floats(width=32),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 63.5, 126.5, 127.0, 2.0**-149, INF, NAN]),
)
rows = st.one_of(
    st.lists(numbers, min_size=1, max_size=70), st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40)
)


@given(rows, st.sampled_from(["w8a8", "w4a8", "fp8"]))
def test_activations_are_their_definition(x: list[float], operands: str) -> None:
    assert hexes(quantise.activations(x, operands)) == hexes(definition(x, operands))


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=70),
    st.sampled_from(["w8a8", "w4a8"]),
    st.integers(-150, 120),
)
def test_weights_are_ggmls(w: list[float], operands: str, exponent: int) -> None:
    scaled = [float(np.float32(value * 2.0**exponent)) for value in w]
    assert hexes(quantise.weights(scaled, operands)) == hexes(ggml(scaled, operands))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_products_of_quantised_numbers_are_exact(x: list[float]) -> None:
    """The product d·q has 11 + 7 bits, and d_w·q_w as many: a product of two has 36, and float64 holds it."""
    for operands in ("w8a8", "fp8"):
        for a in quantise.activations(x, operands):
            size = abs(a)
            significand = int(math.frexp(size)[0] * 2**53)
            assert significand % 2 ** (53 - 18) == 0


def test_the_scale_holds_what_float32_does() -> None:
    assert quantise.SCALE.least == 2.0**-149
    assert quantise.SCALE.largest > FORMATS["fp32"].largest
    assert quantise.SCALE.precision == 11


def test_unknown_operands_are_refused_in_one_line() -> None:
    for encode in (quantise.activations, quantise.weights):
        with pytest.raises(ValueError, match=r"^unknown operands 'int3'; known: stored, w8a8, w4a8, fp8, ggml$"):
            encode([1.0], "int3")
