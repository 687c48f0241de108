"""Panels of quantised weights hold what the storage formats say, element by element, and bound their rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import packed_cases
import pytest
from block_cases import finite, random_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from strategies import Fill, any_numbers

from lepton_ref.backends import numba_panels_blocks, numba_panels_groups, numba_panels_k, numba_panels_lengths
from lepton_ref.backends.numba_memory import ALIGNED
from lepton_ref.backends.numba_panels import KINDS, Panels, pack
from lepton_ref.backends.numba_panels_read import decode_row
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.storage import FORMATS, Dense
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.byte_codes import pack as packed_codes
from lepton_ref.storage.encoded import Encoded, Unrounded, as_operand
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.kept import Kept
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.scales import scales_of
from lepton_ref.storage.views import RowView

Reals = NDArray[np.float64]
BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


def bits(x: Reals) -> NDArray[np.uint64]:
    return np.where(np.isnan(x), np.nan, x).view(np.uint64)


def decoded(panels: Panels) -> Reals:
    out = np.empty((panels.outputs, panels.width))
    for row in range(panels.outputs):
        decode_row(panels.kind, panels.data, 0, panels.at, row, panels.width, out[row])
    return out


def blocks(name: str, outputs: int, count: int, seed: int = 0) -> BlockQuantised:
    """Any bytes whose scales are finite."""
    form = FORMATS[name]
    raw = finite(form, random_blocks(form, outputs * count, seed))
    return BlockQuantised(raw.reshape(outputs, -1), format=form)


def assert_holds(weight: Weight, operands: str = "w8a8") -> Panels:
    panels = pack(weight, operands)
    assert panels is not None
    wanted = weight if isinstance(weight, Encoded | Unrounded) else as_operand(weight, operands)
    np.testing.assert_array_equal(bits(decoded(panels)), bits(wanted.operand(np.arange(weight.shape[0]))))
    return panels


def lengths(panels: Panels) -> tuple[Reals, Reals]:
    both = panels.data[panels.at[4] : panels.at[4] + 128 * panels.panels].view(np.float32).reshape(-1, 2, 16)
    flat = both.transpose(1, 0, 2).reshape(2, -1)[:, : panels.outputs].astype(np.float64)
    return flat[0], flat[1]


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=25)
@given(st.integers(1, 35), st.integers(1, 3), st.integers(0, 2**32 - 1), st.booleans())
def test_the_elements_of_ggml_blocks(name: str, outputs: int, count: int, seed: int, any_bytes: bool) -> None:
    weight = blocks(name, outputs, count, seed)
    if any_bytes:
        weight = BlockQuantised(random_blocks(FORMATS[name], outputs * count, seed).reshape(outputs, -1),
                                format=FORMATS[name])  # fmt: skip
    assert assert_holds(weight).kind == KINDS[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_panel_takes_about_what_the_file_takes(name: str) -> None:
    weight = blocks(name, 64, 2048 // FORMATS[name].length)
    panels = assert_holds(weight)
    assert panels.nbytes <= 1.12 * weight.nbytes
    assert panels.data.ctypes.data % ALIGNED == 0
    assert not (panels.at[:5] % ALIGNED).any()


@pytest.mark.parametrize("operands", ["w8a8", "w4a8"])
@settings(max_examples=40)
@given(st.integers(1, 35), st.integers(1, 100), any_numbers())
def test_dense_weights_as_they_are_encoded(operands: str, outputs: int, width: int, fill: Fill) -> None:
    assert_holds(Dense(fill((outputs, width)), format="F32"), operands)


def affine(seed: int, *, bits: int, signed: bool, zeros: bool, tile: tuple[int, int], shape: tuple[int, int]) -> Affine:
    rng = np.random.default_rng(seed)
    count = (-(-shape[0] // tile[0]), -(-shape[1] // tile[1]))
    least = -(1 << (bits - 1)) if signed else 0
    zero = rng.integers(least, least + (1 << bits), count) if zeros or not signed else None
    return Affine(
        packed_codes(rng.integers(0, 1 << bits, shape).astype(np.uint8), bits),
        scales_of(rng.uniform(-1, 1, count).astype(np.float32).astype(np.float64), "F32"),
        None if zero is None else zero.astype(np.int8 if signed else np.uint8),
        bits=bits, columns=shape[1], tile=tile,
    )  # fmt: skip


def in_groups() -> Iterator[Weight]:
    """One of every format, of 4 bits and of 8."""
    rng = np.random.default_rng(5)
    for width in (2, 3, 4, 8):
        for version in (1, 2):
            yield GPTQ(**packed_cases.gptq(rng, bits=width, version=version, outputs=40, inputs=128, groups=2).parts)
    yield AWQ(**packed_cases.awq(rng, eights=5, inputs=96, groups=3).parts)
    for width, zeros, groups in ((4, "none", 2), (4, "packed", 2), (8, "int8", 1), (5, "packed", 4), (4, "none", 0)):
        yield PackQuantized(
            **packed_cases.compressed(rng, bits=width, outputs=21, inputs=128, groups=groups, zeros=zeros).parts
        )
    for signed, zeros in ((True, False), (True, True), (False, True)):
        for width, tile in ((4, (1, 32)), (8, (1, 64)), (3, (21, 160)), (6, (4, 96)), (8, (1, 160))):
            yield affine(width, bits=width, signed=signed, zeros=zeros, tile=tile, shape=(21, 160))


@pytest.mark.parametrize("number", range(len(list(in_groups()))))
def test_integers_in_groups(number: int) -> None:
    weight = list(in_groups())[number]
    panels = assert_holds(weight)
    assert panels.kind in (KINDS["INT8"], KINDS["INT4"])
    assert_holds(RowView(weight, np.array([3, 0, 20, 3])))


def test_rows_in_another_order_and_kept_weights() -> None:
    weight = blocks("Q5_1", 40, 2)
    turned = RowView(weight, np.arange(40)[::-1].copy())
    np.testing.assert_array_equal(decoded(assert_holds(turned)), decoded(assert_holds(weight))[::-1])
    kept = Kept(as_operand(weight, "w8a8"), backend=NumpyBackend(), room=np.full(weight.shape, 7.0))
    panels = pack(kept)
    assert panels is not None
    np.testing.assert_array_equal(decoded(panels), weight.unrounded(np.arange(40)))
    assert (kept.room == 7.0).all(), "packing decodes nothing"


def test_what_has_no_kind() -> None:
    rng = np.random.default_rng(0)
    act = packed_cases.gptq(rng, bits=4, version=2, outputs=8, inputs=128, groups=2, order="act")
    odd = affine(0, bits=4, signed=True, zeros=False, tile=(1, 48), shape=(4, 96))
    fp8 = Encoded(Dense(np.ones((3, 32), np.float32), format="F32"), encoding="fp8")
    for weight in (blocks("Q2_K", 4, 1), blocks("NVFP4", 4, 1), GPTQ(**act.parts), odd, fp8):
        assert pack(weight) is None


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="operands 'stored' have no integer panels; give 'w8a8' or 'w4a8'"):
        pack(blocks("Q8_0", 4, 1), "stored")
    with pytest.raises(ValueError, match="panels are those of a matrix"):
        pack(Dense(np.ones(32, np.float32), format="F32"))


def every() -> Iterator[Weight]:
    yield from (blocks(name, 40, 2, seed=3) for name in BLOCKS)
    yield from list(in_groups())[::3]
    yield Encoded(Dense(np.random.default_rng(0).standard_normal((40, 70)).astype(np.float32), format="F32"),
                  encoding="Q8_0")  # fmt: skip


def check_lengths(weight: Weight, panels: Panels) -> None:
    """At least ‖w‖, not much more where there is no minimum; and all elements are multiples of the grain."""
    index = np.arange(weight.shape[0])
    values = (weight if isinstance(weight, Encoded) else as_operand(weight, "w8a8")).operand(index)
    length, grains = lengths(panels)
    exactly = np.array([math.sqrt(math.fsum(x * x for x in row)) for row in values.tolist()])
    assert (length >= exactly).all()
    has_minimum = panels.kind in {KINDS[name] for name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")}
    assert has_minimum or (length <= exactly * (1 + 2e-6)).all()
    some = length > 0
    grain = 2.0 ** np.ceil(np.log2(length[some] / grains[some]) - 1e-3)  # a power of two but for two roundings upwards
    assert (np.abs(length[some] / grains[some] / grain - 1) < 1e-5).all()
    multiples = values[some] / grain[:, None]
    assert (multiples == np.rint(multiples)).all()


def test_lengths_bound_rows_and_grains_divide_them() -> None:
    for weight in every():
        panels = pack(weight)
        assert panels is not None
        check_lengths(weight, panels)


def test_packing_takes_no_instruction_set_for_its_own() -> None:
    """A backend that is told to keep to one has panels of the same making."""
    assert pack(blocks("Q8_0", 5, 2, 0)) is not None
    assert {signature[0].isa for signature in numba_panels_lengths._row_lengths.signatures} == {"plain"}


def test_lengths_that_are_too_short_or_grains_too_coarse_are_seen() -> None:
    weight = blocks("Q4_0", 20, 3)
    for number, factor in ((0, 0.9), (1, 0.25)):
        panels = pack(weight)
        assert panels is not None
        data = panels.data.copy()
        both = data[panels.at[4] : panels.at[4] + 128 * panels.panels].view(np.float32).reshape(-1, 2, 16)
        both[:, number] *= np.float32(factor)
        with pytest.raises(AssertionError):
            check_lengths(weight, dataclasses.replace(panels, data=data))


def test_a_row_of_zeros_has_no_length_and_one_that_is_no_number_an_infinite_one() -> None:
    weight = blocks("Q8_0", 3, 2)
    weight.raw[0] = 0
    weight.raw[1, :2] = np.float16(np.inf).reshape(1).view(np.uint8)
    panels = pack(weight)
    assert panels is not None
    length, grains = lengths(panels)
    assert length[0] == grains[0] == 0
    assert np.isinf(length[1])
    assert np.isfinite(length[2])


@pytest.mark.parametrize(
    ("module", "text", "bug", "name"),
    [
        (numba_panels_blocks, "raw[:, :, 2:] ^ np.uint8(0x80)", "raw[:, :, 2:]", "Q8_0"),
        (numba_panels_blocks, "np.moveaxis(panels, 1, 3)", "np.moveaxis(panels, 1, 4)", "Q5_0"),
        (
            numba_panels_blocks,
            "rows.reshape(-1, ROWS, *rows.shape[1:]), 1, -1",
            "rows.reshape(ROWS, -1, *rows.shape[1:]), 0, -1",
            "Q4_1",
        ),
        (numba_panels_k, "<< np.uint8(2 * n)", "<< np.uint8(6 - 2 * n)", "Q6_K"),
        (numba_panels_k, "blocks[:, 4:16]), axis=-1", "blocks[:, 4:16])[::-1], axis=-1", "Q4_K"),
    ],
)
def test_planted_bugs_of_packing_are_seen(module: ModuleType, text: str, bug: str, name: str) -> None:
    wrong = mutated(module, text, bug)
    weight = blocks(name, 20, 2)
    panels = (wrong.pack_k if module is numba_panels_k else wrong.pack_blocks)(weight)
    assert not np.array_equal(bits(decoded(panels)), bits(weight.unrounded(np.arange(20))))


def test_a_planted_bug_of_groups_is_seen() -> None:
    wrong = mutated(numba_panels_groups, "return code, zero + middle,", "return code, zero,")
    weight = affine(0, bits=4, signed=True, zeros=True, tile=(1, 32), shape=(8, 64))
    assert not np.array_equal(decoded(wrong.pack_groups(weight)), weight.unrounded(np.arange(8)))
