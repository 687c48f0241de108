"""Formats of small integers times scales in the kinds of other formats: what is stored, what is multiplied."""

from __future__ import annotations

import numpy as np
import pytest
from block_cases import random_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import caught
from planted import mutated
from test_numba_integer import same as same_integers
from test_numba_panels import assert_holds, bits, blocks, check_lengths, decoded
from test_numba_real import numbers
from test_numba_real import same as same_reals

from lepton_ref.backends import numba_panels_integers
from lepton_ref.backends.numba_chunks import pack_in_memory
from lepton_ref.backends.numba_dot import Isa, available
from lepton_ref.backends.numba_panels import KINDS, Panels, pack
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_panels_integers import SCALES
from lepton_ref.backends.numba_panels_real import pack_real
from lepton_ref.storage import FORMATS
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.mx import MX

KIND = {
    **{"IQ4_NL": "Q8_0", "IQ4_XS": "INT8", "MXFP4": "Q5_0", "Q3_K": "Q6_K"},
    **dict.fromkeys(("Q1_0", "Q2_0", "TQ1_0", "TQ2_0"), "Q4_0"),
}
LARGEST = {
    **{"IQ4_NL": 1.95, "IQ4_XS": 2.4, "MXFP4": 1.4, "Q3_K": 2.0},
    **{"Q1_0": 4.1, "Q2_0": 2.1, "TQ1_0": 2.8, "TQ2_0": 2.3},
}
"""Format → how much larger a panel may be than what is stored."""


def usual(name: str, outputs: int, count: int, seed: int = 0) -> BlockQuantised:
    """Scales as weights have them."""
    weight = blocks(name, outputs, count, seed)
    if name == "MXFP4":
        weight.raw[:, ::17] = weight.raw[:, ::17] % 16 + 112
    return weight


@pytest.mark.parametrize("name", SCALES)
@settings(max_examples=25)
@given(st.integers(1, 35), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_elements_of_any_bytes(name: str, outputs: int, count: int, seed: int) -> None:
    raw = random_blocks(FORMATS[name], outputs * count, seed)
    assert_holds(BlockQuantised(raw.reshape(outputs, -1), format=FORMATS[name]))


@pytest.mark.parametrize("name", SCALES)
def test_kind_size_and_lengths(name: str) -> None:
    weight = usual(name, 192, 1024 // FORMATS[name].length)
    panels = assert_holds(weight)
    assert panels.kind == KINDS[KIND[name]]
    assert panels.nbytes <= LARGEST[name] * weight.nbytes
    check_lengths(weight, panels)
    pieces = pack_in_memory(weight, pack)
    assert pieces is not None
    assert np.array_equal(decoded(pieces), decoded(panels))


@pytest.mark.parametrize("isa", available())
def test_every_format_on_every_instruction_set(isa: str) -> None:
    for name in SCALES:
        weight = usual(name, 21, 256 // FORMATS[name].length)
        for rows in (1, 4):
            x = numbers(rows, (rows, 256))
            assert same_integers(x, weight, isa=Isa(isa)) == 0
            assert same_reals(x, weight, panels=_stored(weight, KIND[name]), isa=Isa(isa)) == 0


def _stored(weight: BlockQuantised | MX, kind: str) -> Panels:
    panels = pack_real(weight)
    assert panels is not None
    assert panels.kind == KINDS[kind]
    return panels


def test_mxfp4_of_exponents_that_fp16_has_not() -> None:
    """Blocks of zeros alone count for nothing; one that overflows float32 is multiplied by as it decodes."""
    weight = usual("MXFP4", 5, 2)
    weight.raw[3, :17] = [0, *[0x80] * 16]
    assert assert_holds(weight).kind == KINDS["Q5_0"]
    for exponent, kind in ((103, "INT8"), (104, "Q5_0"), (143, "Q5_0"), (144, "INT8"), (254, "INT8")):
        weight.raw[4, 17] = exponent
        assert assert_holds(weight).kind == KINDS[kind]
    panels = pack_real(weight)
    assert panels is not None
    assert panels.kind == F32


def test_mxint8() -> None:
    draw = np.random.default_rng(0)
    weight = MX(draw.integers(0, 256, (20, 96), dtype=np.uint8), draw.integers(0, 255, (20, 3), dtype=np.uint8),
                format="MXINT8")  # fmt: skip
    assert assert_holds(weight).kind == KINDS["INT8"]
    weight.exponents.array[...] = 120
    assert same_reals(numbers(1, (2, 96)), weight, panels=_stored(weight, "INT8")) == 0
    assert same_integers(numbers(1, (2, 96)), weight) == 0


@pytest.mark.parametrize(
    ("name", "text", "bug"),
    [
        ("Q3_K", '(96, 8 * b"\\x11" + 4 * b"\\xaa")', '(96, 8 * b"\\x11" + 4 * b"\\xab")'),
        ("Q3_K", "- np.uint8(32)", "- np.uint8(31)"),
        ("IQ4_XS", "- np.int8(32)", "- np.int8(31)"),
        ("IQ4_NL", "_moved(integers_of(name, raw), 128))", "_moved(integers_of(name, raw), 127))"),
        ("MXFP4", "fifth_bits(code >> 4)", "fifth_bits(code >> 3)"),
        ("TQ1_0", "np.repeat(_half(raw, SCALES[name][0][0])", "np.repeat(_half(raw, 0)"),
    ],
)
def test_planted_bugs_are_seen(name: str, text: str, bug: str) -> None:
    weight = usual(name, 20, 2)
    wrong = mutated(numba_panels_integers, text, bug).pack_integers(weight)

    def check() -> None:
        assert np.array_equal(bits(decoded(wrong)), bits(weight.unrounded(np.arange(20))))

    caught(check)
