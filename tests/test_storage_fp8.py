"""FP8 with scales: decoded against another program and by fractions, encoded against a scalar twin."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from scaled_cases import Matrix, check_weight, each_tile, golden, numbers, same, scale_twin, single

from lepton_ref.plain.formats import decode, encode, get_format, round_to
from lepton_ref.storage import fp8 as decoder
from lepton_ref.storage import scales as scales_module
from lepton_ref.storage.encoders import fp8 as encoder
from lepton_ref.storage.encoders import tile_scales
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.fp8 import FORMATS, FP8
from lepton_ref.storage.scales import Per, Scales, scales_of, tile_of

PER: list[Per] = ["tensor", "channel", 16, 24, (4, 20), (128, 128)]
SCALES = ("F32", "BF16", "F16", "E8M0")
each_format = pytest.mark.parametrize("format", FORMATS)


def twin(x: Matrix, scheme: FP8Scheme) -> tuple[list[list[float]], list[list[int]], list[list[float]]]:
    """Scales, codes and float32 values, one number at a time."""
    number = FORMATS[scheme.format]
    tile = tile_of(scheme.per, (x.shape[0], x.shape[1]))
    codes = np.zeros(x.shape, dtype=np.int64)
    values = np.zeros(x.shape)
    scales: dict[tuple[int, int], float] = {}
    for r, c, part in each_tile(x, tile):
        largest = Fraction(get_format(number).largest)
        s = scale_twin(max(abs(Fraction(float(n))) for n in part.flat) / largest, scheme.scale_format)
        scales[r, c] = s
        for (i, j), n in np.ndenumerate(part):
            zero = -0.0 if np.signbit(n) else 0.0
            q = round_to(Fraction(float(n)) / Fraction(s), number, saturate=True, zero=zero)
            at = (r * tile[0] + i, c * tile[1] + j)
            codes[at] = encode(q, number)
            values[at] = single(Fraction(s) * Fraction(q)) if q != 0 else q
    rows, columns = max(r for r, _ in scales) + 1, max(c for _, c in scales) + 1
    return [[scales[r, c] for c in range(columns)] for r in range(rows)], codes.tolist(), values.tolist()


def check(m: ModuleType, x: Matrix, scheme: FP8Scheme) -> None:
    weight = m.encode_fp8(x, scheme=scheme)
    scales, codes, values = twin(x, scheme)
    assert weight.scales.values().tolist() == scales
    assert weight.codes.tolist() == codes
    assert same(weight.decode(), values)


@each_format
def test_every_code_is_what_ml_dtypes_says(format: str) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    weight = FP8(codes, Scales(np.ones((1, 1), dtype=np.float32), "F32"), format=format, tile=(1, 256))
    assert same(weight.decode()[0], golden()[f"{format}_numbers"])


@each_format
@given(seed=st.integers(0, 2**32 - 1), per=st.sampled_from(PER), scale=st.sampled_from(SCALES))
def test_codes_and_scales_are_the_twins(format: str, seed: int, per: Per, scale: str) -> None:
    largest = get_format(FORMATS[format]).largest
    check(encoder, numbers(seed, 52, grid=largest / 32, top=largest), FP8Scheme(format, per, scale))


@each_format
@pytest.mark.parametrize("scale", SCALES)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_codes_and_scales_are_multiplied_and_rounded_once(format: str, scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    dtype = scales_module.FORMATS[scale][0]
    stored = np.frombuffer(rng.bytes(6 * dtype.itemsize), dtype=dtype).reshape(3, 2)
    weight = FP8(codes, Scales(stored, scale), format=format, tile=(2, 4))
    got = weight.decode()
    for r, c in np.ndindex(5, 7):
        s = float(weight.scales.values()[r // 2, c // 4])
        q = decode(int(codes[r, c]), FORMATS[format])
        assert same(got[r, c : c + 1], [round_to(s * q, "fp32")])  # 28 bits: exact in float64
    check_weight(weight)


def test_the_last_blocks_of_a_matrix_may_be_small() -> None:
    x = np.ones((130, 257), dtype=np.float32)
    x[129, 256] = 448.0
    weight = encode_fp8(x, scheme=FP8Scheme(per=(128, 128)))
    assert weight.scales.array.shape == (2, 3)
    assert weight.scales.array.tolist()[1] == [np.float32(1 / 448), np.float32(1 / 448), 1.0]
    assert weight.decode()[129, 256] == 448.0
    assert weight.nbytes == 130 * 257 + 6 * 4
    with pytest.raises(ValueError, match=r"has \(2, 3\) of them, got scales \(1, 2\); the last tiles"):
        FP8(weight.codes, Scales(np.ones((1, 2), dtype=np.float32), "F32"), format="E4M3FN", tile=(128, 128))


def test_given_scales_are_kept_and_clip() -> None:
    x = np.array([[1000.0, -1000.0, 0.5]], dtype=np.float32)
    weight = encode_fp8(x, scheme=FP8Scheme(), scales=scales_of(np.ones((1, 1)), "BF16"))
    assert weight.decode().tolist() == [[448.0, -448.0, 0.5]]
    assert weight.scales.format == "BF16"


def test_what_cannot_be_is_refused() -> None:
    x = np.ones((2, 4), dtype=np.float32)
    one = Scales(np.ones((1, 1), dtype=np.float32), "F32")
    for wrong, message in (
        (lambda: encode_fp8(x, scheme=FP8Scheme("E4M3")), "unknown FP8 format 'E4M3'; known: E4M3FN"),
        (lambda: encode_fp8(x, scheme=FP8Scheme(per=0)), "granularity 0; give 'tensor'"),
        (lambda: encode_fp8(x, scheme=FP8Scheme(per="row")), "granularity 'row'"),
        (lambda: encode_fp8(x, scheme=FP8Scheme(scale_format="F64")), "unknown format of scales 'F64'"),
        (lambda: encode_fp8(x[0], scheme=FP8Scheme()), r"a matrix \(O, I\) of numbers"),
        (lambda: encode_fp8(x * np.nan, scheme=FP8Scheme()), r"has nan at \(0, 0\); only finite"),
        (lambda: encode_fp8(x * np.inf, scheme=FP8Scheme()), "has inf at"),
        (lambda: encode_fp8(x + 1e-9 * x.astype(float), scheme=FP8Scheme()), "float32 does not hold"),
        (lambda: encode_fp8(x, scheme=FP8Scheme(), scales=one), r"takes scales \(2, 1\), got \(1, 1\)"),
        (
            lambda: encode_fp8(x, scheme=FP8Scheme(per="tensor"), scales=Scales(one.array * 0, "F32")),
            "scale 0; give finite",
        ),
        (lambda: FP8(x, one, format="E4M3FN", tile=(2, 4)), "a matrix of uint8, got float32"),  # type: ignore[arg-type]
        (lambda: FP8(x.astype(np.uint8), one, format="E3M4", tile=(2, 4)), "unknown FP8 format 'E3M4'"),
        (lambda: FP8(x.astype(np.uint8), one, format="E5M2", tile=(0, 4)), "tiles of"),
        (lambda: Scales(x.astype(np.float64), "F32"), "F32 scales are float32 with two axes"),
        (lambda: Scales(x, "F8"), "unknown format of scales 'F8'"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()  # type: ignore[no-untyped-call]


ENCODER_BUGS = [
    ("clipping missing", "round_array(quotient, number, saturate=True)", "round_array(quotient, number)"),
    ("inverted scale", "/ scales.spread(rows, tile, x.shape[1])", "* scales.spread(rows, tile, x.shape[1])"),
    (
        "toward zero",
        "round_array(quotient, number, saturate=True)",
        'round_array(quotient, number, mode="zero", saturate=True)',
    ),
]


def everything(m: ModuleType) -> None:
    for name, number in FORMATS.items():
        largest = get_format(number).largest
        for scale in SCALES:
            check(m, numbers(3, 52, grid=largest / 32, top=largest), FP8Scheme(name, (4, 20), scale))


@pytest.mark.parametrize(("what", "text", "bug"), ENCODER_BUGS, ids=lambda value: value)
def test_a_wrong_encoder_is_caught(what: str, text: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        everything(mutated(encoder, text, bug))


def test_a_scale_rounded_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(
        tile_scales,
        "quotient = np.where(extremes > 0, extremes / largest, 1.0)\n",
        "quotient = np.where(extremes > 0, extremes / largest, 1.0) * 0.999\n",
    )
    monkeypatch.setattr(encoder, "rounded_scales", wrong.rounded_scales)
    with pytest.raises(AssertionError):
        everything(encoder)


def test_a_dropped_ragged_block_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = scales_module.tiles
    for module in (scales_module, tile_scales, decoder):
        if hasattr(module, "tiles"):
            monkeypatch.setattr(module, "tiles", lambda shape, tile: (shape[0] // tile[0], shape[1] // tile[1]))
    with pytest.raises(ValueError, match="takes scales"):
        everything(encoder)
    assert original((9, 52), (4, 20)) == (3, 3)
