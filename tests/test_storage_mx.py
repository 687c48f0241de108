"""MX: decoded as gfloat decodes, encoded as torchao encodes and as a twin in fractions says; the rules as theorems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated
from scaled_cases import Matrix, check_weight, golden, numbers, same

from lepton_ref.plain.formats import encode, exponent_of, get_format, round_to
from lepton_ref.storage import byte_codes
from lepton_ref.storage.byte_codes import pack, unpack
from lepton_ref.storage.encoders import mx as encoder
from lepton_ref.storage.encoders.mx import RULES, encode_mx, shared_exponents
from lepton_ref.storage.mx import ELEMENTS, MX

LARGEST = {"MXFP8_E4M3": 448, "MXFP8_E5M2": 57344, "MXFP6_E3M2": 28, "MXFP6_E2M3": 7.5, "MXFP4": 6, "MXINT8": 127 / 64}
EMAX = {"MXFP8_E4M3": 8, "MXFP8_E5M2": 15, "MXFP6_E3M2": 4, "MXFP6_E2M3": 2, "MXFP4": 2, "MXINT8": 0}
FRACTION = {"MXFP8_E4M3": 3, "MXFP8_E5M2": 2, "MXFP6_E3M2": 2, "MXFP6_E2M3": 3, "MXFP4": 1, "MXINT8": 6}
each_format = pytest.mark.parametrize("format", ELEMENTS)
each_rule = pytest.mark.parametrize("rule", RULES)


def ceiling(exact: Fraction) -> int:
    """⌈log₂⌉."""
    return exponent_of(exact) + (Fraction(2) ** exponent_of(exact) < exact)


def even(amax: Fraction, fraction: int) -> int:
    """⌊log₂⌋ of the number rounded to so many fraction bits, a tie away from zero."""
    unit = Fraction(2) ** (exponent_of(amax) - fraction)
    return exponent_of(math.floor(amax / unit + Fraction(1, 2)) * unit)


def exponent_twin(amax: Fraction, format: str, rule: str) -> int:
    if amax == 0:
        return -127
    exact = {
        "FLOOR": lambda: exponent_of(amax) - EMAX[format],
        "CEIL": lambda: ceiling(amax) - EMAX[format],
        "RCEIL": lambda: ceiling(amax / Fraction(LARGEST[format])),
        "EVEN": lambda: even(amax, FRACTION[format]) - EMAX[format],
    }[rule]()
    return max(-127, min(127, exact))


def code_twin(x: float, e: int, format: str) -> int:
    number, unit = ELEMENTS[format]
    exact = Fraction(x) / Fraction(2) ** e / Fraction(unit)
    rounded = round_to(exact, number, saturate=True, zero=math.copysign(0.0, x))
    return encode(max(rounded, -127.0) if number == "int8" else rounded, number)


def check(m: ModuleType, x: Matrix, format: str, rule: str) -> None:
    weight = m.encode_mx(x, format=format, rule=rule)
    codes = unpack(weight.packed, weight.bits, x.shape[1])
    for row, column in np.ndindex(x.shape[0], x.shape[1] // 32):
        block = [float(n) for n in x[row, 32 * column : 32 * column + 32]]
        e = exponent_twin(max(abs(Fraction(n)) for n in block), format, rule)
        assert weight.exponents.array[row, column] == e + 127, (row, column)
        assert codes[row, 32 * column : 32 * column + 32].tolist() == [code_twin(n, e, format) for n in block]


# --- other programs -------------------------------------------------------------------------------------------------


@each_format
def test_values_are_gfloats(format: str) -> None:
    blocks, values = golden()[f"{format}_blocks"], golden()[f"{format}_values"]
    bits = get_format(ELEMENTS[format][0]).bits
    weight = MX(pack(blocks[:, 1:], bits), blocks[:, :1], format=format)  # type: ignore[arg-type]
    assert same(weight.unrounded(np.arange(40)), values)
    check_weight(weight)


@each_rule
@pytest.mark.parametrize("format", [name for name in ELEMENTS if name != "MXINT8"])
def test_codes_and_scales_are_torchaos(format: str, rule: str) -> None:
    """But in row 8, where amax is one ulp above 1.75 and torchao's RCEIL takes a rounded logarithm."""
    stored = golden()
    x: Matrix = stored["x"]  # type: ignore[assignment]
    weight = encode_mx(x, format=format, rule=rule)
    theirs = stored[f"{format}_{rule}_codes"]
    codes = weight.packed if theirs.shape[1] < 64 else unpack(weight.packed, weight.bits, 64)
    different = (weight.exponents.array != stored[f"{format}_{rule}_scales"]).any(axis=1)
    different |= (codes != theirs).any(axis=1)
    known = rule == "RCEIL" and format in ("MXFP8_E4M3", "MXFP8_E5M2")
    assert np.flatnonzero(different).tolist() == ([8] if known else [])
    if known:
        top = Fraction(float(x[8].max()))
        e = int(stored[f"{format}_{rule}_scales"][8, 0]) - 127
        assert top > LARGEST[format] * Fraction(2) ** e  # theirs clips, which RCEIL promises not to


def test_six_bits_are_packed_as_compressed_tensors_packs_them() -> None:
    lattice = golden()["fp6_lattice"]
    codes = np.array([[encode(float(n), "e2m3") for n in row] for row in lattice], dtype=np.uint8)
    assert pack(codes, 6).tolist() == golden()["fp6_packed"].tolist()


# --- the twin -------------------------------------------------------------------------------------------------------


@each_format
@each_rule
@settings(max_examples=20)  # of 576 numbers each
@given(seed=st.integers(0, 2**32 - 1))
def test_scales_and_codes_are_the_twins(format: str, rule: str, seed: int) -> None:
    largest = LARGEST[format]
    x = numbers(seed, grid=largest / 32, top=largest)
    x[4] /= 2.0  # FLOOR's scale of what is just below 2¹²⁸ is 2¹²⁷ in MXINT8; larger numbers are in the next test
    check(encoder, x, format, rule)
    weight = encode_mx(x, format=format, rule=rule)
    assert weight.nbytes == weight.packed.nbytes + weight.exponents.nbytes
    assert weight.packed.shape[1] * 8 == 64 * weight.bits


@each_format
@each_rule
@given(amax=st.floats(2.0**-149, 3.4028234663852886e38, width=32))
def test_the_shared_exponent_is_the_rules(format: str, rule: str, amax: float) -> None:
    got = shared_exponents(np.array([amax]), format=format, rule=rule)
    assert got.tolist() == [exponent_twin(Fraction(amax), format, rule)]


@each_format
@each_rule
def test_zeros_nan_and_infinities(format: str, rule: str) -> None:
    x = np.zeros((4, 32), dtype=np.float32)
    x[1] = -0.0
    x[2, 5], x[2, 6] = np.nan, 3.0
    x[3, 7] = -np.inf
    weight = encode_mx(x, format=format, rule=rule)
    assert weight.exponents.array.ravel().tolist() == [0, 0, 255, 255]
    decoded = weight.decode()
    assert same(decoded[0], np.zeros(32))
    assert same(decoded[1], np.full(32, 0.0 if format == "MXINT8" else -0.0))
    assert np.isnan(decoded[2:]).all()


# --- theorems -------------------------------------------------------------------------------------------------------


def clipped(amax: float, format: str, rule: str) -> bool:
    e = int(shared_exponents(np.array([amax]), format=format, rule=rule)[0])
    return Fraction(amax) > Fraction(LARGEST[format]) * Fraction(2) ** e


@each_format
@given(amax=st.floats(2.0**-100, 2.0**100, width=32))
def test_floor_clips_where_rceil_does_not(format: str, amax: float) -> None:
    floor, rceil = (int(shared_exponents(np.array([amax]), format=format, rule=r)[0]) for r in ("FLOOR", "RCEIL"))
    assert not clipped(amax, format, "RCEIL")
    assert rceil - floor == int(clipped(amax, format, "FLOOR"))
    assert clipped(amax, format, "FLOOR") == (
        amax / 2.0 ** math.floor(math.log2(amax)) > LARGEST[format] / 2 ** EMAX[format]
    )


def test_floor_clips_fp4_in_the_upper_half_of_each_binade() -> None:
    amax = (1 + np.arange(1024) / 1024).astype(np.float32)
    assert sum(clipped(float(a), "MXFP4", "FLOOR") for a in amax) == 511  # above 1.5 of [1, 2)
    assert not any(clipped(float(a), "MXFP4", rule) for a in amax for rule in ("CEIL", "RCEIL"))


def test_the_ties_of_e2m1_go_to_the_even_code() -> None:
    """FACTS: ≤ .25 → 0, < .75 → .5, ≤ 1.25 → 1, < 1.75 → 1.5, ≤ 2.5 → 2, < 3.5 → 3, ≤ 5 → 4."""
    ties = {0.25: 0.0, 0.75: 1.0, 1.25: 1.0, 1.75: 2.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0}
    x = np.zeros((1, 32), dtype=np.float32)
    x[0, 0] = 6.0
    for at, tie in enumerate(ties):
        x[0, 1 + 3 * at] = tie
        x[0, 2 + 3 * at] = np.nextafter(np.float32(tie), np.float32(0))
        x[0, 3 + 3 * at] = np.nextafter(np.float32(tie), np.float32(9))
    levels = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    decoded = encode_mx(x, format="MXFP4", rule="FLOOR").decode()[0]
    for at, (tie, to) in enumerate(ties.items()):
        below, above = levels[at], levels[at + 1]
        assert decoded[1 + 3 * at : 4 + 3 * at].tolist() == [to, below, above], tie


# --- packing --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_rows_are_streams_of_bits(width: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << width, (2, count), dtype=np.uint8)
    packed = pack(codes, width)
    for row, stored in zip(codes, packed, strict=True):
        number = sum(int(code) << width * at for at, code in enumerate(row))
        assert stored.tobytes() == number.to_bytes(byte_codes.row_bytes(count, width), "little")
    assert unpack(packed, width, count).tolist() == codes.tolist()
    for at in range(count):
        where = byte_codes.bits_of(0, at, width)
        read = [bits.of(packed[0].tobytes()) for bits in where]
        shifts = [sum(bits.width for bits in where[:n]) for n in range(len(where))]
        assert sum(code << shift for code, shift in zip(read, shifts, strict=True)) == codes[0, at]


# --- what must fail -------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    x = np.ones((2, 64), dtype=np.float32)
    byte = np.zeros((2, 32), dtype=np.uint8)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: encode_mx(x, format="MXFP5", rule="FLOOR"), "unknown MX format 'MXFP5'; known: MXFP8_E4M3"),
        (lambda: encode_mx(x, format="MXFP4", rule="floor"), "unknown rule for the shared scale 'floor'; known: FLOOR"),
        (lambda: encode_mx(x[:, :40], format="MXFP4", rule="FLOOR"), r"whole blocks of 32, got \(2, 40\); pad"),
        (lambda: encode_mx(x[0], format="MXFP4", rule="FLOOR"), "a matrix"),
        (lambda: MX(byte, byte[:, :1], format="MXFP4"), "are 16 bytes of elements, got 32"),
        (lambda: MX(x, byte[:, :1], format="MXFP4"), "elements are a matrix of uint8"),  # type: ignore[arg-type]
        (lambda: MX(byte, byte[:1, :1], format="MXINT8"), r"has \(2, 1\) of them, got scales \(1, 1\)"),
        (lambda: MX(byte, byte[:, :1], format="MXFP9"), "unknown MX format 'MXFP9'"),
        (lambda: pack(byte + 16, 4), "code 16 does not fit 4 bits"),
        (lambda: pack(byte, 9), "codes of 9 bits"),
        (lambda: unpack(byte, 6, 4), "4 codes of 6 bits take 3 bytes a row, got 32"),
        (lambda: pack(x, 4), "codes are uint8"),  # type: ignore[arg-type]
    ]
    for wrong, message in refused:
        with pytest.raises(ValueError, match=message):
            wrong()


BUGS = [
    ("FLOOR for CEIL", "exponent - (significand == 0.5)", "exponent - 1"),
    ("RCEIL not strict", "significand > top", "significand >= top"),
    ("clipping missing", "saturate=True", "saturate=False"),
    ("EVEN rounds elsewhere", "-(fraction + 1))", "-fraction)"),
    ("−128 used", "rounded = np.maximum(rounded, -127.0)", "pass"),
    ("bias off by one", "e + 127, 255", "e + 128, 255"),
    ("inverted scale", "np.ldexp(blocks, -e", "np.ldexp(blocks, e"),
]


def everything(m: ModuleType) -> None:
    for name, rule in itertools.product(ELEMENTS, RULES):
        x = numbers(11, grid=LARGEST[name] / 32, top=LARGEST[name])
        x[5, :32], x[5, 0] = 0.5, LARGEST[name]
        x[6, :32] = -2.0 + 2.0**-8
        check(m, x, name, rule)


@pytest.mark.parametrize(("what", "text", "bug"), BUGS, ids=lambda value: value)
def test_a_wrong_encoder_is_caught(what: str, text: str, bug: str) -> None:
    everything(encoder)
    with pytest.raises((AssertionError, ValueError)):
        everything(mutated(encoder, text, bug))


def test_swapped_nibbles_are_caught() -> None:
    wrong = mutated(byte_codes, "np.bitwise_and(packed, np.uint8(15), out", "np.right_shift(packed, np.uint8(4), out")
    codes = np.arange(16, dtype=np.uint8)[np.newaxis]
    assert wrong.unpack(pack(codes, 4), 4, 16).tolist() != codes.tolist()
