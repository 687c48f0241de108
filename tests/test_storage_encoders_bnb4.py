"""NF4 codes: against the definition in fractions, against bitsandbytes' own, and on what has no code."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import Dense
from lepton_ref.storage.bnb4 import NF4, BitsAndBytes4
from lepton_ref.storage.encoders import bnb4 as page
from lepton_ref.storage.encoders.bnb4 import encode_nf4

TABLE = [Fraction(float(np.float32(value))) for value in NF4]


def codes(weight: BitsAndBytes4) -> list[int]:
    flat = np.stack([weight.packed >> 4, weight.packed & 15], axis=1).reshape(-1)
    count = weight.shape[0] * weight.shape[1]
    assert not flat[count:].any()
    return [int(q) for q in flat[:count]]


def defined(x: NDArray[np.float32], blocksize: int) -> list[int]:
    """The nearest number of the table, the lower of two as near, in fractions."""
    numbers = [Fraction(float(value)) for value in x.reshape(-1)]
    out = []
    for start in range(0, len(numbers), blocksize):
        block = numbers[start : start + blocksize]
        a = max(map(abs, block))
        out += [min(range(16), key=lambda q: (abs(value - a * TABLE[q]), TABLE[q])) if a else 7 for value in block]
    return out


def check(encode: Any, x: NDArray[np.float32], blocksize: int) -> None:
    weight = encode(x, blocksize=blocksize)
    assert isinstance(weight, BitsAndBytes4)
    assert isinstance(weight.absmax, Dense)
    assert codes(weight) == defined(x, blocksize)
    assert (weight.shape, weight.kind, weight.blocksize) == (x.shape, "nf4", blocksize)


def between(a: float) -> NDArray[np.float32]:
    """a, and on both sides of each midpoint of its multiples of the table, the nearest float32 and its neighbours."""
    middles = [float((low + high) / 2 * Fraction(a)) for low, high in pairwise(TABLE)]
    near = np.array(middles, dtype=np.float32)
    return np.concatenate([[a], near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9)), [-0.0]])


def test_what_is_compared_with_is_exact() -> None:
    bits = [abs((low + high).numerator).bit_length() for low, high in pairwise(TABLE)]
    assert max(bits) == 26, "24 more of a block's largest number make 50, of float64's 53"


@pytest.mark.parametrize("a", [1.0, 0.3, 3.0e38, 1e-44, 7.0])
def test_the_nearest_number_of_the_table(a: float) -> None:
    check(encode_nf4, np.resize(between(float(np.float32(a))).astype(np.float32), (2, 32)), 64)


@given(st.integers(0, 2**32), st.sampled_from([(1, 1), (3, 7), (2, 64), (5, 40)]), st.sampled_from([32, 64, 128]))
def test_random_matrices(seed: int, shape: tuple[int, int], blocksize: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32) * np.float32(2.0 ** rng.integers(-20, 20))
    check(encode_nf4, np.where(rng.random(shape) < 0.1, np.float32(0), x), blocksize)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("blocks[here] > a * bound", "blocks[here] >= a * bound"),
        ("(table[:-1] + table[1:]) / 2", "((table[:-1] + table[1:]) / 2).astype(np.float16)"),
        ("codes[absmax == 0] = NF4.index(0.0)", "pass"),
        ("(flat[::2] << np.uint8(4)) | flat[1::2]", "(flat[1::2] << np.uint8(4)) | flat[::2]"),
        ("np.abs(blocks).max(axis=1)", "blocks.max(axis=1)"),
    ],
)
def test_another_code_would_be_found(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug).encode_nf4
    x = np.zeros((3, 64), dtype=np.float32)
    x[0] = np.resize(between(1.0).astype(np.float32), 64)
    x[1] = np.linspace(-1, 0.5, 64)
    halves = np.array([0.5, 1.0, -1.0, -0.5])
    x[0, :4] = halves
    tie = float(TABLE[8] / 2)  # between 0 and the number above it
    x[0, 5] = tie
    assert float(np.float32(tie)) == tie, "a tie is needed"
    with pytest.raises(AssertionError):
        check(wrong, x, 64)


def test_bitsandbytes_finds_the_same() -> None:
    file = np.load(GOLDEN / "storage_packed" / "packed.npz")
    weight = encode_nf4(file["straddling_numbers"])
    assert weight.packed.tobytes() == file["straddling_weight"].tobytes()
    assert weight.absmax is not None
    assert weight.absmax.array.tobytes() == file["straddling_absmax"].tobytes()


def test_what_has_no_code_is_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("blocksize must be one of 32, 64, 128, 256, 512, 1024, 2048, 4096, ")
    ):
        encode_nf4(np.ones((2, 2), dtype=np.float32), blocksize=48)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="only finite numbers have a scale"):
            encode_nf4(np.array([[1.0, bad]], dtype=np.float32))
    with pytest.raises(ValueError, match="float32 does not hold"):
        encode_nf4(np.array([[0.1]]))
    with pytest.raises(ValueError, match="must be a matrix"):
        encode_nf4(np.ones(4, dtype=np.float32))
