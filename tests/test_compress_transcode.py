"""Transcoding: every lossless pair over every code and every scale, certificates that hold, planted mistakes."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.compress import transcode as page
from lepton_ref.compress.transcode import MAPS, lossless, transcode
from lepton_ref.storage import FORMATS, decode, encode

PAIRS = sorted(MAPS)
MINIMA = {("Q4_0", "Q4_1"), ("Q5_0", "Q5_1")}
"""Pairs that make a minimum: finite scales up to a limit, and zeros without a sign."""


def bits(values: NDArray[Any], *, signed_zeros: bool = True) -> NDArray[Any]:
    values = values if signed_zeros else values + np.float32(0)
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def every_code(source: str) -> NDArray[np.uint8]:
    """Blocks whose bytes behind the scale are each byte there is, and random ones."""
    nbytes = FORMATS[source].nbytes
    same = np.repeat(np.arange(256, dtype=np.uint8)[:, None], nbytes, axis=1)
    mixed = np.random.default_rng(0).integers(0, 256, (256, nbytes), dtype=np.uint8)
    found = np.concatenate([same, mixed])
    found[:, :2] = np.array([0.3], "<f2").view(np.uint8)
    if source == "Q4_1":
        found[:, 2:4] = np.array([-0.7], "<f2").view(np.uint8)
    return found


def every_scale(source: str) -> NDArray[np.uint8]:
    """All 65 536 fp16 numbers as scales of random codes."""
    blocks = np.random.default_rng(1).integers(0, 256, (1 << 16, FORMATS[source].nbytes), dtype=np.uint8)
    blocks[:, :2] = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    return blocks


def check_pair(source: str, target: str, blocks: NDArray[np.uint8], page: Any = page) -> None:
    made = page.lossless(source, target, blocks)
    assert made is not None
    signed = (source, target) not in MINIMA
    a, b = (bits(decode(name, raw), signed_zeros=signed) for name, raw in ((source, blocks), (target, made)))
    assert np.array_equal(a, b)
    exact = [FORMATS[n].values(r, rounded=False) for n, r in ((source, blocks), (target, made))]
    assert np.array_equal(exact[0], exact[1], equal_nan=True)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_code(source: str, target: str) -> None:
    check_pair(source, target, every_code(source))


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair not in MINIMA])
def test_every_scale(source: str, target: str) -> None:
    check_pair(source, target, every_scale(source))


@pytest.mark.parametrize(("source", "target"), sorted(MINIMA))
def test_every_scale_that_has_a_minimum_and_none_that_has_not(source: str, target: str) -> None:
    blocks = every_scale(source)
    limit = 65504 / {"Q4_0": 8, "Q5_0": 16}[source]
    d = blocks[:, :2].copy().view("<f2").astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        good = np.abs(d) <= limit
    check_pair(source, target, blocks[good])
    assert int((~good).sum()) > 2000
    for block in blocks[~good][::97]:
        assert lossless(source, target, block[None]) is None


@pytest.mark.parametrize("source", ["F16", "BF16"])
def test_every_small_float_is_a_float32(source: str) -> None:
    raw = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(1, -1)
    for target in ("F32", "F64"):
        made, certificate = transcode(source, target, raw)
        assert certificate.lossless
        a, b = decode(source, raw), decode(target, made)
        with np.errstate(invalid="ignore"):
            assert np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True)
        assert np.array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("source", sorted(FORMATS))
def test_every_block_format_becomes_float32(source: str) -> None:
    raw = np.random.default_rng(2).integers(0, 256, (16, FORMATS[source].nbytes), dtype=np.uint8)
    made, certificate = transcode(source, "F32", raw)
    assert certificate.lossless
    assert np.array_equal(bits(decode("F32", made)), bits(decode(source, raw)))


def test_shapes_and_the_same_format() -> None:
    raw = np.random.default_rng(3).integers(0, 60, (2, 3, 54), dtype=np.uint8)
    made, certificate = transcode("Q4_0", "Q8_0", raw)
    assert (made.shape, str(certificate)) == ((2, 3, 102), "Q4_0 → Q8_0: lossless")
    again, certificate = transcode("Q4_0", "Q4_0", raw)
    assert np.array_equal(again, raw)
    assert again is not raw
    assert certificate.lossless


# --- with loss --------------------------------------------------------------------------------------------------------


def check_certificate(values: NDArray[np.float32], target: str) -> None:
    raw = encode("F32", values)
    made, certificate = transcode("F32", target, raw)
    error = np.abs(decode(target, made).astype(np.float64) - values).max()
    assert error <= certificate.largest <= max(error * (1 + 2.0**-52), 5e-324)
    assert not certificate.lossless
    if certificate.bound is not None:
        assert certificate.largest <= certificate.bound * (1 + 2.0**-52)
        assert "proven" in str(certificate)


@pytest.mark.parametrize("target", ["Q8_0", "Q4_0", "F16", "BF16", "Q4_1"])
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 12))
def test_certificates_hold(target: str, seed: int, power: int) -> None:
    values = np.random.default_rng(seed).standard_normal((2, 64)) * 2.0**power
    check_certificate(values.astype(np.float32), target)


def test_a_certificate_by_hand() -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, :2] = [127, 0.5]  # d = 1, 0.5 is a tie that goes away from zero
    made, certificate = transcode("F32", "Q8_0", encode("F32", values))
    assert made[0, 2:4].tolist() == [127, 1]
    assert (certificate.largest, certificate.lossless) == (math.nextafter(0.5, 1), False)
    assert certificate.bound is not None
    assert 0.5 < certificate.bound < 0.5625
    assert str(certificate).startswith("F32 → Q8_0: |Δ| ≤ 0.5 measured, proven ≤ 0.56")


def is_reached(module: ModuleType, target: str, digits: int) -> bool:
    """Of a tie at the foot of a binade, 1 + u, and of one among subnormals the error is the bound, or (1 + u) below."""
    u, least = 2.0**-digits, {"F16": 2.0**-25, "BF16": 2.0**-134}[target]
    found = [
        module.transcode("F32", target, encode("F32", np.array([[x, 0.0]], np.float32)))[1] for x in (1 + u, least)
    ]
    return [one.bound for one in found] == [(1 + u) * u, least] and [one.largest for one in found] == [
        math.nextafter(u, 1),
        math.nextafter(least, 1),
    ]


@pytest.mark.parametrize(("target", "digits"), [("F16", 11), ("BF16", 8)])
def test_the_bound_of_rounding_is_reached(target: str, digits: int) -> None:
    assert is_reached(page, target, digits)
    power = f"2.0**-{digits}, 2.0**-{25 if target == 'F16' else 134})"
    wrong = mutated(page, f"max(amax * {power}", "float('inf')")
    assert not is_reached(wrong, target, digits)


# --- bad input and planted mistakes -----------------------------------------------------------------------------------


def test_bad_input() -> None:
    raw = np.zeros((1, 18), np.uint8)
    with pytest.raises(ValueError, match="unknown storage format 'Q9'"):
        transcode("Q9", "Q8_0", raw)
    with pytest.raises(ValueError, match="there is no encoder of 'Q9'"):
        transcode("Q4_0", "Q9", raw)
    with pytest.raises(ValueError, match=r"Q4_0 takes rows of whole 18-byte blocks, got \(1, 17\)"):
        lossless("Q4_0", "Q8_0", raw[:, :17])
    assert lossless("Q4_0", "Q6_K", raw) is None


@pytest.mark.parametrize(
    ("source", "target", "text", "bug"),
    [
        ("Q4_0", "Q5_0", "+ np.uint8(8))", "+ np.uint8(7))"),
        ("Q4_0", "Q8_0", "_codes_4(b[:, 2:]).astype(np.int16) - 8", "_codes_4(b[:, 2:]).astype(np.int16) - 7"),
        ("Q5_0", "Q8_0", "| high << 4", "| high << 3"),
        ("Q4_1", "Q5_1", "low[:, :16] | low[:, 16:] << 4", "low[:, 16:] | low[:, :16] << 4"),
        ("Q4_0", "Q4_1", "m = -times * d", "m = times * d"),
    ],
)
def test_a_mistaken_map_is_found(source: str, target: str, text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check_pair(source, target, every_code(source), mutated(page, text, bug))
