"""NVFP4 with two levels of scales: decoded as another program decodes, encoded as a twin says, conventions apart."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from scaled_cases import Matrix, check_weight, golden, numbers, same, single

from lepton_ref.plain.formats import decode, encode, round_to
from lepton_ref.storage import byte_codes, detect_scale
from lepton_ref.storage import nvfp4_two_level as decoder
from lepton_ref.storage.byte_codes import unpack
from lepton_ref.storage.detect_scale import detect_global_scale
from lepton_ref.storage.encoders import nvfp4_two_level as encoder
from lepton_ref.storage.encoders.nvfp4_two_level import encode_nvfp4
from lepton_ref.storage.nvfp4_two_level import CONVENTIONS, NVFP4TwoLevel

each_convention = pytest.mark.parametrize("convention", CONVENTIONS)
LARGEST_FLOAT32 = 3.4028234663852886e38


def twin(x: Matrix, convention: str) -> tuple[float, list[list[int]], list[list[int]]]:
    """G, the codes of the scales and those of the numbers."""
    exact = [[Fraction(float(n)) for n in row] for row in x]
    largest = max(abs(n) for row in exact for n in row)
    g = 1.0
    if largest:
        ideal = Fraction(2688) / largest if convention == "divide" else largest / 2688
        g = max(round_to(ideal, "fp32", saturate=True), 2.0**-149)
    by = Fraction(g) if convention == "divide" else 1 / Fraction(g)
    scales, codes = [], []
    for row, stored in zip(exact, x, strict=True):
        groups = [row[at : at + 16] for at in range(0, len(row), 16)]
        s = [round_to(max(map(abs, group)) * by / 6, "e4m3fn", saturate=True) for group in groups]
        scales.append([encode(value, "e4m3fn") for value in s])
        line = []
        for at, n in enumerate(row):
            quotient = n * by / Fraction(s[at // 16]) if s[at // 16] else Fraction(0)
            zero = -0.0 if np.signbit(stored[at]) else 0.0
            line.append(encode(round_to(quotient, "e2m1", saturate=True, zero=zero), "e2m1"))
        codes.append(line)
    return g, scales, codes


def check(m: ModuleType, x: Matrix, convention: str) -> None:
    weight = m.encode_nvfp4(x, convention=convention)
    g, scales, codes = twin(x, convention)
    assert weight.global_scale == g
    assert weight.scales.array.tolist() == scales
    assert unpack(weight.packed, 4, x.shape[1]).tolist() == codes


def matrices(seed: int) -> list[Matrix]:
    """Of ordinary size, wide within the matrix, with an odd rest, zero, tiny and huge."""
    x = numbers(seed, 48)
    ordinary = np.delete(x, 4, axis=0)
    return [ordinary, x, ordinary[:, :35], 0 * ordinary, x[3:4], x[4:5], numbers(seed)[2:3] * np.float32(2.0**-7)]


@each_convention
@given(seed=st.integers(0, 2**32 - 1))
def test_scales_and_codes_are_the_twins(convention: str, seed: int) -> None:
    for x in matrices(seed):
        check(encoder, x, convention)
        check_small(encode_nvfp4(x, convention=convention))


def check_small(weight: NVFP4TwoLevel) -> None:
    if weight.shape[0] >= 3:
        check_weight(weight)
    assert weight.nbytes == weight.packed.nbytes + weight.scales.nbytes + 4


@each_convention
@given(seed=st.integers(0, 2**32 - 1), g=st.floats(2.0**-149, LARGEST_FLOAT32, width=32))
def test_the_closed_form_is_rounded_once(convention: str, seed: int, g: float) -> None:
    rng = np.random.default_rng(seed)
    packed = rng.integers(0, 256, (3, 12), dtype=np.uint8)
    scales = rng.integers(0, 256, (3, 2), dtype=np.uint8)
    got = NVFP4TwoLevel(packed, scales, g, convention=convention).decode()
    for (r, c), code in np.ndenumerate(unpack(packed, 4, 24)):
        s, q = decode(int(scales[r, c // 16]), "e4m3fn"), decode(int(code), "e2m1")
        if np.isnan(s):
            assert np.isnan(got[r, c])
        elif s * q == 0:
            assert same(got[r, c : c + 1], [s * q])
        else:
            exact = Fraction(s) * Fraction(q) * (Fraction(g) if convention == "multiply" else 1 / Fraction(g))
            assert same(got[r, c : c + 1], [single(exact) if single(exact) else s * q * 0.0])


def test_values_are_those_of_compressed_tensors() -> None:
    stored = golden()
    weight = NVFP4TwoLevel(stored["nvfp4_packed"], stored["nvfp4_scales"], 2.0**14, convention="divide")  # type: ignore[arg-type]
    assert same(weight.decode(), stored["nvfp4_values"])
    inverse = NVFP4TwoLevel(stored["nvfp4_packed"], stored["nvfp4_scales"], 2.0**-14, convention="multiply")  # type: ignore[arg-type]
    assert same(inverse.decode(), stored["nvfp4_values"])


# --- the convention -------------------------------------------------------------------------------------------------


@each_convention
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-9, 3))
def test_the_convention_is_found_from_the_data(convention: str, seed: int, size: float) -> None:
    x = (np.random.default_rng(seed).standard_normal((8, 64)) * 2.0**size).astype(np.float32)
    weight = encode_nvfp4(x, convention=convention)
    verdict = detect_global_scale(weight.packed, weight.scales.array, weight.global_scale)
    assert verdict.convention == convention
    assert f"only the {'former' if convention == 'multiply' else 'latter'} is plausible" in verdict.reason
    largest = verdict.if_multiplied if convention == "multiply" else verdict.if_divided
    assert largest == float(np.abs(weight.unrounded(np.arange(8))).max())


def test_what_the_data_do_not_say_is_not_guessed() -> None:
    packed, scales = np.full((1, 8), 0x77, dtype=np.uint8), np.full((1, 1), 0x38, dtype=np.uint8)  # 6 times 1
    assert detect_global_scale(packed, scales, 1.0).convention is None
    assert "both are plausible" in detect_global_scale(packed, scales, 1.0).reason
    assert "neither is plausible" in detect_global_scale(packed, np.full((1, 1), 0x7E, dtype=np.uint8), 1.0).reason
    zero = detect_global_scale(0 * packed, scales, 1.0)
    assert (zero.convention, zero.reason) == (None, "the row with the largest scale is zero under both conventions")
    nan = detect_global_scale(packed, np.full((1, 1), 0x7F, dtype=np.uint8), 1.0)
    assert nan.convention is None


def test_an_inverted_verdict_is_caught() -> None:
    wrong = mutated(detect_scale, "multiplied, divided = largest,", "divided, multiplied = largest,")
    weight = encode_nvfp4(np.ones((1, 16), dtype=np.float32), convention="divide")
    arguments = (weight.packed, weight.scales.array, weight.global_scale)
    assert detect_global_scale(*arguments).convention == "divide"
    assert wrong.detect_global_scale(*arguments).convention == "multiply"


# --- what must fail -------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    x = np.ones((2, 32), dtype=np.float32)
    packed, scales = np.zeros((2, 16), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: encode_nvfp4(x, convention="inverse"), "unknown convention 'inverse'"),
        (lambda: encode_nvfp4(x * np.inf, convention="divide"), "has inf at"),
        (lambda: encode_nvfp4(x, convention="divide", global_scale=0.0), "global scale 0.0; give a float32"),
        (lambda: encode_nvfp4(x, convention="divide", global_scale=0.1), "global scale 0.1"),
        (lambda: NVFP4TwoLevel(packed, scales, 1.0, convention=""), "say whether the global scale is to 'multiply'"),
        (lambda: NVFP4TwoLevel(packed, scales, -1.0, convention="divide"), "global scale -1.0"),
        (lambda: NVFP4TwoLevel(packed, scales, np.nan, convention="divide"), "global scale nan"),
        (lambda: NVFP4TwoLevel(packed, scales[:, :1], 1.0, convention="divide"), r"has \(2, 2\) of them"),
        (lambda: NVFP4TwoLevel(packed, scales, 1.0, convention="divide", columns=30), "30 elements take 15 bytes"),
        (lambda: NVFP4TwoLevel(x, scales, 1.0, convention="divide"), "a matrix of uint8"),  # type: ignore[arg-type]
    ]
    for wrong, message in refused:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_a_shared_global_scale_is_kept() -> None:
    x = np.ones((2, 32), dtype=np.float32)
    weight = encode_nvfp4(x, convention="multiply", global_scale=2.0**-10)
    assert weight.global_scale == 2.0**-10
    assert same(weight.decode(), 6 * 176.0 * 2.0**-10 * x)  # 1024/6 = 170.7 is nearest 176 in E4M3; 1024/176 → 6
    assert encode_nvfp4(x * 9, convention="multiply", global_scale=2.0**-12).decode().max() == 448 * 6 * 2.0**-12


BUGS = [
    ("inverted global scale", 'LARGEST / amax if convention == "divide"', 'amax / LARGEST if convention == "divide"'),
    ("codes from the unrounded scale", "np.where(wide > 0, wide, 1.0), g,", "np.where(wide > 0, wide * 1.01, 1.0), g,"),
    ("clipping missing", "return round_array(quotient, number, saturate=True)", "return round_array(quotient, number)"),
    ("no G in the codes", "x * g / divisor if", "x / divisor if"),
    ("signs of zero lost", "np.copysign(0.0, some)", "0.0"),
    ("a float64 global scale", 'round_array(exact, "fp32", saturate=True)[0]', "exact[0]"),
]


def everything(m: ModuleType) -> None:
    for convention in CONVENTIONS:
        for x in matrices(5):
            check(m, x, convention)
        check(m, np.array([[3.0e38] + [1e-30] * 20, [-1e-44] * 21], dtype=np.float32), convention)
    beyond = m.encode_nvfp4(np.full((1, 16), 9, dtype=np.float32), convention="multiply", global_scale=2.0**-12)
    assert (beyond.decode() == 448 * 6 * 2.0**-12).all()


@pytest.mark.parametrize(("what", "text", "bug"), BUGS, ids=lambda value: value)
def test_a_wrong_encoder_is_caught(what: str, text: str, bug: str) -> None:
    everything(encoder)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, ValueError)):
        everything(mutated(encoder, text, bug))


def test_a_wrong_decoder_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = golden()
    arguments = (stored["nvfp4_packed"], stored["nvfp4_scales"], 2.0**14)
    inverted = mutated(
        decoder, 'if self.convention == "multiply" else sq /', 'if self.convention != "multiply" else sq /'
    )
    assert not same(inverted.NVFP4TwoLevel(*arguments, convention="divide").decode(), stored["nvfp4_values"])
    nibbles = mutated(byte_codes, "np.bitwise_and(packed, np.uint8(15), out", "np.right_shift(packed, np.uint8(4), out")
    monkeypatch.setattr(decoder, "unpack", nibbles.unpack)
    assert not same(decoder.NVFP4TwoLevel(*arguments, convention="divide").decode(), stored["nvfp4_values"])  # type: ignore[arg-type]
