"""Integers of 2 … 8 bits: encoded against a twin in fractions and another program, decoded by fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from scaled_cases import Matrix, Tile, check_weight, each_tile, golden, numbers, same, scale_twin, single

from lepton_ref.plain.formats import round_to
from lepton_ref.storage import affine as decoder
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.byte_codes import pack, unpack
from lepton_ref.storage.encoders import affine as encoder
from lepton_ref.storage.encoders import tile_scales
from lepton_ref.storage.encoders.affine import AffineScheme, encode_affine
from lepton_ref.storage.scales import Per, Scales, tile_of

PER: list[Per] = ["tensor", "channel", 16, 24, (4, 20)]
WIDTHS = range(2, 9)
KINDS = [(True, False), (True, True), (False, False)]
"""Symmetric, full range."""
Interval = Callable[[Matrix], tuple[float, float]]


def own(part: Matrix) -> tuple[float, float]:
    return float(part.min()), float(part.max())


def codes_twin(part: Matrix, scheme: AffineScheme, low: float, high: float) -> tuple[float, int, list[int]]:
    """The scale, the zero point and the signed or unsigned codes of one tile."""
    lo, hi, top = Fraction(low), Fraction(high), 2**scheme.bits - 1
    half = 2 ** (scheme.bits - 1)
    numbers_of = [Fraction(float(n)) for n in part.flat]
    if not scheme.symmetric:
        lo, hi = min(lo, Fraction(0)), max(hi, Fraction(0))
        s = scale_twin((hi - lo) / top, scheme.scale_format)
        z = max(0, min(top, round(-lo / Fraction(s))))
        return s, z, [max(0, min(top, round(n / Fraction(s)) + z)) for n in numbers_of]
    largest = max(abs(lo), abs(hi))
    s = scale_twin(2 * largest / top if scheme.full_range else largest / (half - 1), scheme.scale_format)
    least = -half if scheme.full_range else 1 - half
    return s, 0, [max(least, min(half - 1, round(n / Fraction(s)))) for n in numbers_of]


def signed(weight: Affine) -> list[list[int]]:
    codes = unpack(weight.packed, weight.bits, weight.shape[1]).astype(int)
    if weight.signed:
        codes = np.where(codes >= 1 << (weight.bits - 1), codes - (1 << weight.bits), codes)
    listed: list[list[int]] = codes.tolist()
    return listed


def check(m: ModuleType, x: Matrix, scheme: AffineScheme, interval: Interval = own) -> None:
    tile = tile_of(scheme.per, (x.shape[0], x.shape[1]))
    found = [(r, c, part, *interval(part)) for r, c, part in each_tile(x, tile)]
    ends = None if interval is own else _ends(found)
    weight = m.encode_affine(x, scheme=scheme, interval=ends)
    codes, scales, decoded = np.array(signed(weight)), weight.scales.values(), weight.decode()
    for r, c, part, low, high in found:
        s, z, q = codes_twin(part, scheme, low, high)
        here = np.s_[r * tile[0] : r * tile[0] + part.shape[0], c * tile[1] : c * tile[1] + part.shape[1]]
        assert scales[r, c] == s
        assert (weight.zeros is None) == scheme.symmetric
        assert weight.zeros is None or weight.zeros[r, c] == z
        assert codes[here].ravel().tolist() == q
        assert same(decoded[here].ravel(), [single(Fraction(s) * (n - z)) for n in q])


def _ends(found: list[tuple[int, int, Matrix, float, float]]) -> tuple[Matrix, Matrix]:
    shape = (max(r for r, *_ in found) + 1, max(c for _, c, *_ in found) + 1)
    low, high = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for r, c, _, lo, hi in found:
        low[r, c], high[r, c] = lo, hi
    return low, high


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bits", WIDTHS)
@given(seed=st.integers(0, 2**32 - 1), per=st.sampled_from(PER), scale=st.sampled_from(["F32", "BF16", "F16"]))
def test_scales_zero_points_and_codes_are_the_twins(
    kind: tuple[bool, bool], bits: int, seed: int, per: Per, scale: str
) -> None:
    top = 2.0 ** (bits - 1) - 1
    x = numbers(seed, 26, grid=0.5, top=max(top, 1.0))
    check(encoder, x, AffineScheme(bits, *kind, per=per, scale_format=scale))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), shrink=st.floats(0, 1.5), shift=st.floats(-1, 1))
def test_a_chosen_interval_is_kept_and_clips(kind: tuple[bool, bool], seed: int, shrink: float, shift: float) -> None:
    def interval(part: Matrix) -> tuple[float, float]:
        size = float(np.abs(part).max()) * shrink
        return tuple(sorted(float(np.float32(n)) for n in (-size / 4 + shift * size / 4, size / 4)))  # type: ignore[return-value]

    check(encoder, numbers(seed, 26), AffineScheme(4, *kind, per=16), interval)


@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from(WIDTHS))
def test_zero_is_stored_exactly(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((4, 16)) * 2.0 ** rng.integers(-140, 120) + rng.integers(-3, 4)).astype(np.float32)
    x[:, 3] = 0.0
    weight = encode_affine(x, scheme=AffineScheme(bits, symmetric=False))
    assert weight.zeros is not None
    assert (weight.decode()[:, 3] == 0).all()
    assert [row[3] for row in signed(weight)] == weight.zeros[:, 0].tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from(WIDTHS),
    zero_points=st.sampled_from(["none", "unsigned", "signed"]),
)
def test_random_codes_are_decoded_and_rounded_once(seed: int, bits: int, zero_points: str) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (4, 7), dtype=np.uint8)
    scales = Scales(np.frombuffer(rng.bytes(16), dtype="<f4").reshape(2, 2), "F32")
    least = 0 if zero_points == "unsigned" else -(1 << (bits - 1))
    kind = np.uint8 if zero_points == "unsigned" else np.int8
    zeros = None if zero_points == "none" else rng.integers(least, least + (1 << bits), (2, 2)).astype(kind)
    weight = Affine(pack(codes, bits), scales, zeros, bits=bits, columns=7, tile=(2, 4))
    got, q = weight.decode(), signed(weight)
    for r, c in np.ndindex(4, 7):
        z = 0 if zeros is None else int(zeros[r // 2, c // 4])
        s = float(scales.values()[r // 2, c // 4])
        want = np.nan if np.isinf(s) and q[r][c] == z else s * (q[r][c] - z)
        assert same(got[r, c : c + 1], [round_to(want, "fp32")])
    check_weight(weight)
    assert weight.nbytes == weight.packed.nbytes + 16 + (0 if zero_points == "none" else 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_scales_are_those_of_compressed_tensors(bits: int) -> None:
    """And the codes, but where its float32 quotient is a tie that the exact one is not."""
    stored = golden()
    x: Matrix = stored["x"][5:]  # type: ignore[assignment]
    weight = encode_affine(x, scheme=AffineScheme(bits, symmetric=True, full_range=True))
    assert weight.scales.array.tolist() == stored[f"int{bits}_scales"].tolist()
    different = np.array(signed(weight)) != stored[f"int{bits}_codes"]
    quotient = x / weight.scales.array
    assert (np.abs(quotient - np.trunc(quotient))[different] == 0.5).all()
    for n, s in zip(x[different], np.broadcast_to(weight.scales.array, x.shape)[different], strict=True):
        assert (2 * Fraction(float(n)) / Fraction(float(s))).denominator != 1
    assert different.mean() < 0.01


def test_ties_go_to_the_even_integer_before_the_zero_point_is_added() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.0, 14.0]], dtype=np.float32)
    weight = encode_affine(x, scheme=AffineScheme(4, symmetric=False))
    assert weight.scales.array.tolist() == [[1.0]]
    assert weight.zeros is not None
    assert weight.zeros.tolist() == [[1]]
    assert signed(weight) == [[1, 3, 3, 1, 0, 15]]


def test_what_cannot_be_is_refused() -> None:
    x = np.ones((2, 8), dtype=np.float32)
    plain = AffineScheme(4, symmetric=True)
    one = Scales(np.ones((2, 1), dtype=np.float32), "F32")
    packed = np.zeros((2, 4), dtype=np.uint8)
    tile: Tile = (1, 8)
    lo, hi = np.array([[1.0], [2.0]], dtype=np.float32), np.array([[1.0], [1.0]], dtype=np.float32)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: AffineScheme(1, symmetric=True), "integers of 1 bits; give 2 to 8"),
        (lambda: AffineScheme(4, symmetric=False, full_range=True), "full_range is a choice of symmetric codes"),
        (lambda: AffineScheme(4, symmetric=True, scale_format="E8M0"), "scale_format 'E8M0'; give 'F32'"),
        (lambda: encode_affine(x * np.nan, scheme=plain), "has nan at"),
        (lambda: encode_affine(x, scheme=plain, interval=(lo, hi)), r"lo 2 is above hi 1 in tile \(1, 0\); swap"),
        (lambda: encode_affine(x, scheme=plain, interval=(lo[:, [0, 0]], hi)), r"does not fit \(2, 1\) tiles"),
        (lambda: encode_affine(x, scheme=plain, interval=(lo * np.inf, hi)), "lo has inf"),
        (lambda: Affine(packed, one, None, bits=9, columns=8, tile=tile), "integers of 9 bits"),
        (lambda: Affine(packed, one, None, bits=3, columns=8, tile=tile), "rows of 3 bytes, uint8"),
        (lambda: Affine(packed, one, packed, bits=4, columns=8, tile=tile), "zero points: "),
        (lambda: Affine(packed, one, packed[:, :1] + 16, bits=4, columns=8, tile=tile), "zero point 16 of 4-bit"),
        (lambda: Affine(packed, one, hi, bits=4, columns=8, tile=tile), "zero points are uint8 or int8, got float32"),  # type: ignore[arg-type]
        (
            lambda: Affine(packed, one, np.full((2, 1), -9, dtype=np.int8), bits=4, columns=8, tile=tile),
            "zero point -9 of 4-bit codes; they are -8 … 7",
        ),
    ]
    for wrong, message in refused:
        with pytest.raises(ValueError, match=message):
            wrong()


BUGS = [
    ("zero point off by one", "np.clip(np.rint(-low / s), 0, top)", "np.clip(np.rint(-low / s) - 1, 0, top)"),
    ("clipping missing", "codes = np.clip(q, least, greatest)", "codes = q"),
    ("half away from zero", "q = np.rint(quotient)", "q = np.copysign(np.floor(np.abs(quotient) + 0.5), quotient)"),
    ("the interval does not hold zero", "low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)", "pass"),
    ("restricted range is full", "return 1 - half, half - 1", "return -half, half - 1"),
    ("a group's zero points repeat wrongly", "np.repeat(wide, tile[1], axis=1)", "np.tile(wide, (1, tile[1]))"),
]


def everything(m: ModuleType) -> None:
    for bits, kind, per in product((2, 4, 8), KINDS, PER):
        check(m, numbers(3, 26, grid=0.5, top=2.0 ** (bits - 1) - 1), AffineScheme(bits, *kind, per=per))
    half = AffineScheme(4, symmetric=True, per=16)
    check(m, numbers(3, 26), half, lambda part: (-0.5 * float(np.float32(np.abs(part).max())), 0.0))


@pytest.mark.parametrize(("what", "text", "bug"), BUGS, ids=lambda value: value)
def test_a_wrong_encoder_is_caught(what: str, text: str, bug: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        everything(mutated(encoder, text, bug))


def test_a_scale_that_is_rounded_twice_is_caught() -> None:
    """(high − low)/255 is 2⁻²⁴/255 below the midpoint 2²⁴ + 255 of two float32 numbers; float64 takes it for it."""
    high, low = np.array([[255.0 * (2**24 + 255) - 1]]), np.array([[2.0**-24 - 1]])
    exact = scale_twin((Fraction(high[0, 0]) - Fraction(low[0, 0])) / 255, "F32")
    assert tile_scales.rounded_range(low, high, 255, "F32").tolist() == [[exact]] == [[2.0**24 + 254]]
    wrong = mutated(tile_scales, "found[at] = round_to(exact,", "found[at] = round_to(float(exact),")
    assert wrong.rounded_range(low, high, 255, "F32").tolist() == [[2.0**24 + 256]]


def test_a_wrong_decoder_is_caught() -> None:
    weight = encode_affine(numbers(1, 26), scheme=AffineScheme(4, symmetric=False, per=16))
    for text, bug in (
        ("q -= self._zeros_of(index)", "q -= self._zeros_of(index) + 1"),
        ("tile[1], axis=1)[:, :", "tile[1] - 1, axis=1)[:, :"),
    ):
        wrong = mutated(decoder, text, bug)
        arguments = {"bits": 4, "columns": 26, "tile": (1, 16)}
        try:
            got = wrong.Affine(weight.packed, weight.scales, weight.zeros, **arguments).decode()
        except ValueError:
            continue
        assert not same(got, weight.decode())
