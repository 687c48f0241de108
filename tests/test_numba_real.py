"""Linear layers of the Numba backend on activations as they are: the bits of the op on the NumPy backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import packed_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Fill, any_numbers, moderate

from lepton_ref.backends.numba_dot import Isa, available
from lepton_ref.backends.numba_panels import KINDS, Panels
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_panels_real import pack_real
from lepton_ref.backends.numba_real_call import linear
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import get_precision
from lepton_ref.ops.linear import linear as specified
from lepton_ref.storage import FORMATS
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.byte_codes import pack as pack_codes
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.scales import Scales

NUMPY = NumpyBackend()
PRECISIONS = ("reference", "bf16", "fp16")
BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
F32s = NDArray[np.float32]


def bits(x: F32s) -> NDArray[np.uint32]:
    """The numbers' bits; every NaN is one, since it has no sign and no payload."""
    return np.where(np.isnan(x), np.float32(np.nan), x).astype(np.float32).view(np.uint32)


def dense(values: F32s, format: str) -> Dense:
    with np.errstate(over="ignore"):
        stored = {"F32": values, "F16": values.astype(np.float16), "BF16": (bits(values) >> 16).astype(np.uint16)}
    return Dense(stored[format], format=format)


def blocks(name: str, outputs: int, width: int, seed: int, *, exact: bool = True) -> BlockQuantised:
    """Random codes; scales of the size that weights have, of few bits where d·q + m is to be a float32."""
    form, rng = FORMATS[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (outputs, width // form.length, form.nbytes), dtype=np.uint8)
    for field in form.fields:
        if field.what == "fp16":
            scale = rng.uniform(0.5, 2.0, (*raw.shape[:2], 1)) / 64
            rough = np.ldexp(np.rint(scale * 1024), -10) if exact else scale
            raw[:, :, field.at : field.at + 2] = rough.astype("<f2").view(np.uint8)
    return BlockQuantised(raw.reshape(outputs, -1), format=form)


def same(x: F32s, weight: Weight, bias: F32s | None = None, *, panels: Panels | None = None, **how: Any) -> int:
    """Compare under every precision, but for what is left to repair; returns how many that are."""
    packed = pack_real(weight) if panels is None else panels
    assert packed is not None
    left = 0
    for form, precision in enumerate(PRECISIONS):
        got, stuck = linear(x, packed, bias, form, **how)
        expected = specified(x, weight, bias, backend=NUMPY, precision=get_precision(precision))
        different = np.argwhere(bits(got) != bits(expected))
        assert {tuple(place) for place in different.tolist()} <= set(stuck), f"{precision}: {different[:5].tolist()}"
        left += len(stuck)
    return left


def numbers(seed: int, shape: tuple[int, ...]) -> F32s:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("format", ["F32", "BF16", "F16"])
@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 70), any_numbers(), st.booleans(), st.integers(1, 2))
def test_dense_weights(
    format: str, rows: int, outputs: int, width: int, fill: Fill, biased: bool, threads: int
) -> None:
    weight, x = dense(fill((outputs, width)), format), fill((rows, width))
    same(x, weight, fill((outputs,)) if biased else None, threads=threads)


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 40), st.integers(1, 3), any_numbers(), st.booleans(), st.integers(0, 2**32 - 1)
)
def test_quantised_weights(name: str, rows: int, outputs: int, count: int, fill: Fill, biased: bool, seed: int) -> None:
    width = count * FORMATS[name].length
    weight = blocks(name, outputs, width, seed)
    same(fill((rows, width)), weight, fill((outputs,)) if biased else None)


def in_groups() -> list[Weight]:
    """Integers of 4 and 8 bits with a scale and a zero point for each group: exact in float32, and not."""
    rng = np.random.default_rng(6)
    made: list[Weight] = [
        GPTQ(**packed_cases.gptq(rng, bits=bits, version=2, outputs=40, inputs=128, groups=2).parts) for bits in (4, 8)
    ]
    made.append(AWQ(**packed_cases.awq(rng, eights=5, inputs=96, groups=3).parts))
    for bits in (4, 8):
        codes, scales = rng.integers(0, 1 << bits, (20, 64)).astype(np.uint8), rng.random((20, 2)) + 0.5
        zeros = rng.integers(0, 1 << bits, (20, 2)).astype(np.uint8)
        made.append(
            Affine(
                pack_codes(codes, bits),
                Scales(scales.astype(np.float16), "F16"),
                zeros,
                bits=bits,
                columns=64,
                tile=(1, 32),
            )
        )
    return made


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("rows", [1, 5])
def test_integers_in_groups(number: int, rows: int) -> None:
    weight = in_groups()[number]
    assert same(numbers(7, (rows, weight.shape[1])), weight, numbers(8, (weight.shape[0],))) == 0


def test_what_keeps_its_integers() -> None:
    """Every format whose elements are float32 by themselves; others become float32 where an element is rounded."""
    kinds = {name: _packed(blocks(name, 16, FORMATS[name].length, 9)).kind for name in BLOCKS}
    assert kinds == {name: KINDS[name] for name in BLOCKS}
    assert [_packed(weight).kind for weight in in_groups()[3:]] == [KINDS["INT4"], KINDS["INT8"]]
    rough = blocks("Q4_1", 16, 32, 9)
    rough.raw[5, :4] = np.array([1.0, 2.0**-24], dtype="<f2").view(np.uint8)
    assert _packed(rough).kind == F32
    assert _packed(blocks("Q2_K", 16, 256, 9)).kind == F32
    assert pack_real(Dense(np.zeros((2, 2)), format="F64")) is None


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=10)
@given(st.integers(1, 5), st.integers(1, 20), moderate(), st.integers(0, 2**32 - 1))
def test_blocks_of_any_bytes(name: str, rows: int, outputs: int, fill: Fill, seed: int) -> None:
    form = FORMATS[name]
    raw = np.random.default_rng(seed).integers(0, 256, (outputs, form.nbytes), dtype=np.uint8)
    same(fill((rows, form.length)), BlockQuantised(raw, format=form))


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("rows", [1, 7])
def test_every_instruction_set(isa: str, rows: int) -> None:
    for weight in (dense(numbers(1, (37, 64)), "F32"), blocks("Q8_0", 37, 64, 1), blocks("Q4_1", 37, 64, 1)):
        assert same(numbers(2, (rows, 64)), weight, numbers(3, (37,)), isa=Isa(isa)) == 0


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
@pytest.mark.parametrize("rows", [1, 150])
def test_wide_layers_of_usual_numbers_leave_nothing(name: str, rows: int) -> None:
    weight = dense(numbers(4, (48, 576)), "F32") if name == "F32" else blocks("Q8_0", 48, 576, 4)
    assert same(numbers(5, (rows, 576)), weight) == 0


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
def test_rows_of_zeros_have_their_sign(name: str) -> None:
    weight = dense(np.zeros((5, 32), np.float32), "F32") if name == "F32" else blocks("Q8_0", 5, 32, 0)
    if isinstance(weight, BlockQuantised):
        weight.raw[2:4, 2:] = 0
        weight.raw[3, :2] = (0, 0x80)  # a scale of −0
    for sign in (1.0, -1.0):
        x = np.array([np.full(32, sign), np.zeros(32) * sign], dtype=np.float32)
        assert same(x, weight) == 0


def test_zeros_of_one_sign_behind_others() -> None:
    """A sum of −0 alone up to the last column, which decides; and a NaN beside zeros."""
    w = np.full((4, 160), -1.0, dtype=np.float32)
    w[1, 159], w[2, 40], w[3, 0] = 1.0, 1.0, np.nan
    for x in (np.zeros((2, 160), np.float32), np.full((1, 160), -1.0, np.float32)):
        assert same(x, dense(w, "F32")) == 0
    assert same(np.ones((1, 160), np.float32), dense(np.copysign(np.zeros_like(w), w), "F32")) == 0


def test_ties_go_to_the_even_neighbour() -> None:
    """1 + 2⁻²⁴, 1 + 3·2⁻²⁴, and both a little off, as sums of products."""
    tiny = 2.0**-70
    x = np.array([[1.0, 2.0**-24, tiny]], dtype=np.float32)
    w = np.array([[1, 1, 0], [1, 3, 0], [1, 1, 1], [1, 1, -1], [-1, -1, -1]], dtype=np.float32)
    got, stuck = linear(x, _packed(dense(w, "F32")))
    assert not stuck
    up = np.float32(1 + 2.0**-23)
    assert got.tolist() == [[1.0, np.float32(1 + 2.0**-22), up, 1.0, -up]]


def _packed(weight: Weight) -> Panels:
    panels = pack_real(weight)
    assert panels is not None
    return panels
