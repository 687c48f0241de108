"""Weights of numbers of 8 bits or less with scales, in panels of a byte an element: the bits of the NumPy backend."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import kernel_cases
import numpy as np
import pytest
from drawn_models import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from strategies import Fill, any_numbers
from test_numba_real import bits, same
from test_numba_store import Place
from test_numba_store import same as same_panels

from lepton_ref import ops
from lepton_ref.backends import numba_op_linear, numba_panels_scaled, numba_real_dense
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_chunks import SCALED, layout_of
from lepton_ref.backends.numba_dot import Isa, available
from lepton_ref.backends.numba_panels import Panels
from lepton_ref.backends.numba_panels_dense import E4M3, F32
from lepton_ref.backends.numba_panels_real import pack_real, pack_unrounded
from lepton_ref.backends.numba_panels_scaled import pack_scaled
from lepton_ref.backends.numba_store import stored_panels
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.conformance.observed import Observed
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.model import Model
from lepton_ref.storage import FORMATS as BLOCKS
from lepton_ref.storage.base import Weight
from lepton_ref.storage.blocks import BlockQuantised
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.encoded import Encoded, as_operand
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.fp8 import FORMATS, FP8
from lepton_ref.storage.kept import Kept, join
from lepton_ref.storage.mx import ELEMENTS, MX
from lepton_ref.storage.nvfp4_two_level import CONVENTIONS, NVFP4TwoLevel
from lepton_ref.storage.scales import Scales, tiles
from lepton_ref.storage.views import RowView

NUMPY = NumpyBackend()
PLACELESS = {
    **{"E4M3FN": (0x7F, 0xFF), "E4M3FNUZ": (0x80,), "E5M2": ()},
    "E5M2FNUZ": (1, 3, 5, 7, 0x81, 0x83, 0x85, 0x87),
}
"""Codes that no panel has: E4M3's NaN, and odd multiples of 2⁻¹⁷, which is half of fp16's least number of two bits."""


def fp8(format: str, codes: NDArray[np.uint8], tile: tuple[int, int], seed: int = 0, scales: str = "F32") -> FP8:
    """With scales of 24 bits, so that decoding rounds."""
    shape = tiles((codes.shape[0], codes.shape[1]), tile)
    numbers = (np.random.default_rng(seed).standard_normal(shape) / 100).astype(np.float32)
    stored: Any = {"F32": numbers, "F16": numbers.astype("<f2"), "BF16": (numbers.view(np.uint32) >> 16).astype("<u2")}
    return FP8(codes, Scales(stored[scales], scales), format=format, tile=tile)


def any_codes(seed: int, shape: tuple[int, int], without: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    allowed = np.array([code for code in range(256) if code not in without], dtype=np.uint8)
    return np.random.default_rng(seed).choice(allowed, shape)


def mx(format: str, outputs: int, blocks: int, seed: int) -> MX:
    rng = np.random.default_rng(seed)
    width = {"MXFP4": 16, "MXFP6_E3M2": 24, "MXFP6_E2M3": 24}.get(format, 32)
    packed = rng.integers(0, 256, (outputs, width * blocks), dtype=np.uint8)
    if format == "MXFP8_E4M3":
        packed &= 0xFE  # no NaN
    return MX(packed, rng.integers(100, 140, (outputs, blocks), dtype=np.uint8), format=format)


def nvfp4(outputs: int, seed: int, *, convention: str) -> NVFP4TwoLevel:
    rng = np.random.default_rng(seed)
    packed, scales = rng.integers(0, 256, (outputs, 20), dtype=np.uint8), rng.integers(0, 0x7F, (outputs, 3))
    return NVFP4TwoLevel(packed, scales.astype(np.uint8), float(np.float32(rng.random())), convention=convention)


TILES = ((128, 128), (1, 300), (300, 300), (3, 4), (7, 20))
"""Among them DeepSeek's, a row's and a tensor's; the last column's group is smaller."""


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25)
@given(
    st.integers(1, 8), st.integers(1, 40), st.integers(1, 150), st.sampled_from(TILES),
    st.sampled_from(("F32", "F16", "BF16")), any_numbers(), st.booleans(), st.integers(1, 2), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_fp8(
    format: str, rows: int, outputs: int, width: int, tile: tuple[int, int], scales: str, fill: Fill, biased: bool,
    threads: int, seed: int,
) -> None:  # fmt: skip
    """Any codes, the infinities and NaN of E5M2 among them, and scales whose products with them are rounded."""
    weight = fp8(format, any_codes(seed, (outputs, width), PLACELESS[format]), tile, seed, scales)
    panels = pack_scaled(weight)
    assert panels is not None
    same(fill((rows, width)), weight, fill((outputs,)) if biased else None, panels=panels, threads=threads)


def small() -> list[Weight]:
    """One of every other format that is numbers of 8 bits or less."""
    made: list[Weight] = [mx(name, 21, 3, 1) for name in ELEMENTS if name != "MXINT8"]
    codes = any_codes(2, (21, 70), PLACELESS["E4M3FN"])
    turned = RowView(fp8("E4M3FN", codes, (4, 32)), np.arange(21)[::-1].copy())
    raw = np.random.default_rng(4).integers(0, 0x7F, (21, 72), dtype=np.uint8)
    both = [nvfp4(21, 3, convention=convention) for convention in CONVENTIONS]
    return [*made, *both, turned, BlockQuantised(raw, format=BLOCKS["NVFP4"])]


def test_every_format_on_every_instruction_set() -> None:
    for weight in small():
        panels = pack_real(weight)
        assert panels is not None
        assert panels.kind in SCALED, weight.format
        for isa in available():
            for rows in (1, 4):
                x = kernel_cases.numbers(rows, rows, weight.shape[1])
                left = same(x, weight, panels=panels, isa=Isa(isa))
                assert left == 0 or weight.format == "OCP_MXFP8_E5M2", weight.format  # which has NaN and infinities


def unpacked(panels: Panels, dense_unpack: Any) -> NDArray[np.float32]:
    """(O, I), by a kernel."""
    width = panels.width
    out = np.empty(panels.panels * width * 32)
    for panel in range(panels.panels):
        dense_unpack(panels.kind, panels.data, 0, panels.at, panel, width, 0, width, out, panel * width * 32)
    columns = out.reshape(-1, width, 32)[:, :, :16].transpose(0, 2, 1)
    return columns.reshape(-1, width)[: panels.outputs].astype(np.float32)


def check_unpacked(weight: Weight, panels: Panels | None, dense_unpack: Any) -> None:
    assert panels is not None
    assert np.array_equal(bits(unpacked(panels, dense_unpack)), bits(weight.rows(0, weight.shape[0])))


@pytest.mark.parametrize("format", FORMATS)
def test_every_code_has_its_value_or_no_place(format: str) -> None:
    every = np.arange(256, dtype=np.uint8)
    placed = every[~np.isin(every, PLACELESS[format])]
    for tile in ((1, 4), (256, 1)):
        weight = fp8(format, placed[:, np.newaxis], tile)
        check_unpacked(weight, pack_scaled(weight), numba_real_dense.dense_unpack)
    for code in PLACELESS[format]:
        weight = fp8(format, np.array([[code, placed[0]]], dtype=np.uint8), (1, 2))
        assert pack_scaled(weight) is None
        check_unpacked(weight, pack_real(weight), numba_real_dense.dense_unpack)


def test_a_panel_takes_a_byte_an_element() -> None:
    panels = pack_real(fp8("E4M3FN", any_codes(0, (512, 512), (0x7F, 0xFF)), (128, 128)))
    assert panels is not None
    assert panels.nbytes <= 1.04 * 512 * 512
    layout = layout_of(panels, 512)
    assert layout is not None
    assert (layout.nbytes, layout.at.tolist()) == (panels.data.size, panels.at.tolist())


def test_a_file_keeps_panels_of_bytes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    weights: dict[tuple[str, str], Weight] = {(str(number), "stored"): weight for number, weight in enumerate(small())}
    for _ in range(2):
        for wanted, panels in stored_panels(weights, lambda weight, _: pack_real(weight), place).items():
            same_panels(panels, pack_scaled(weights[wanted]))
    assert (place.made, place.opened) == (1, 1)


def on(backend: Any, precision: str) -> Model:
    """A model whose matrices are FP8."""
    model = drawn("llama", PRECISIONS["reference"], seed=3, specials=0.0)
    weights = dict(model.parts.weights)
    for op in model.program.ops:
        if op.kind == "linear":
            dense = weights[op.weights["w"]]
            weights[op.weights["w"]] = encode_fp8(dense.decode(), scheme=FP8Scheme(per=(16, 16)))
    parts = dataclasses.replace(model.parts, weights=weights)
    return Model(parts, backend=backend, precision=PRECISIONS[precision], threads=1)


@pytest.mark.parametrize(("precision", "by"), [("reference", "kernel"), ("bf16", "kernel"), ("fp8", "op")])
def test_whole_models(precision: str, by: str) -> None:
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    models = [on(backend, precision) for backend in (NumbaBackend(), NUMPY)]
    got, want = (model.forward(ids) for model in models)
    assert np.array_equal(bits(got), bits(want))
    rows = [row for row in models[0].coverage().rows if row[0] == "linear"]
    assert {(row[1], row[3]) for row in rows} == {("FP8_E4M3FN", by)}


def test_what_has_no_panels_of_bytes() -> None:
    """Groups that are no fours, and a scale that is no float32 with its power of two."""
    codes = any_codes(0, (5, 30), (0x7F, 0xFF))
    large = fp8("E4M3FN", codes, (5, 30))
    large.scales.array[...] = 3e38
    for weight in (fp8("E4M3FN", codes, (1, 6)), large):
        assert pack_scaled(weight) is None
        packed = pack_real(weight)
        assert packed is not None
        assert packed.kind == F32


def mixed(outputs: int, width: int, fill: Fill, seed: int) -> list[Weight]:
    """Weights that are multiplied as float32 numbers under precisions that scale activations, and one that is not."""
    codes = any_codes(seed, (outputs, width), PLACELESS["E4M3FN"])
    dense = Dense(fill((outputs, width)), format="F32")
    return [dense, fp8("E4M3FN", codes, (4, 8), seed, "BF16"), fp8("E4M3FN", codes, (4, 8), seed)]


def both(x: NDArray[np.float32], weight: Weight, bias: NDArray[np.float32] | None, precision: str) -> int:
    """The op has the same bits on both backends; whether a kernel gave them."""
    how, watched = PRECISIONS[precision], Observed(NumbaBackend())
    operand = as_operand(weight, how.operands)
    got, want = (np.asarray(ops.linear(x, operand, bias, backend=on, precision=how)) for on in (watched, NUMPY))
    assert np.array_equal(bits(got), bits(want)), f"{precision}, {weight.format}"
    return sum(use.ran for use in watched.uses.values())


@settings(max_examples=25)
@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 70), any_numbers(), st.booleans(), st.integers(0, 2**32 - 1)
)
def test_scaled_activations(rows: int, outputs: int, width: int, fill: Fill, biased: bool, seed: int) -> None:
    x, bias = fill((rows, width)), fill((outputs,)) if biased else None
    for weight in mixed(outputs, width, fill, seed):
        for precision in ("fp8", "w8a8", "w4a8"):
            both(x, weight, bias, precision)


def test_a_kernel_multiplies_scaled_activations() -> None:
    """By numbers of 8 bits wherever float32 has what is multiplied; a scale of 24 bits times a code it has not."""
    x, dense = kernel_cases.numbers(1, 2, 64), Dense(kernel_cases.numbers(2, 20, 64), format="F32")
    codes = any_codes(3, (20, 64), PLACELESS["E4M3FN"])
    encoded = pack_unrounded(Encoded(dense, encoding="fp8"))
    assert encoded is not None
    assert encoded.kind == E4M3
    for scales, ran in (("BF16", 1), ("F32", 0)):
        weight = fp8("E4M3FN", codes, (4, 8), 0, scales)
        assert both(x, weight, None, "fp8") == 1
        assert both(x, weight, None, "w8a8") == ran
    for precision in ("fp8", "w8a8", "w4a8"):
        assert both(x, dense, x[0, :20], precision) == 1


def test_parts_of_a_joined_weight_multiply_each_by_what_is_theirs() -> None:
    """Integers by integers, and numbers of 8 bits by the same as float32."""
    x, found = kernel_cases.numbers(5, 3, 64), []
    narrow = fp8("E4M3FN", any_codes(3, (20, 64), PLACELESS["E4M3FN"]), (20, 64), 0, "BF16")
    operands = [as_operand(weight, "w8a8") for weight in (narrow, Dense(narrow.decode(), format="F32"))]
    kernel = NumbaBackend().kernels["linear", Kept]
    for call in (kernel, ops.linear):
        room = np.empty(2 * 20 * 64)
        halves = [room[: 20 * 64].reshape(20, 64), room[20 * 64 :].reshape(20, 64)]
        joined = join([Kept(w, backend=NUMPY, room=half) for w, half in zip(operands, halves, strict=True)])
        assert joined is not None
        found.append(np.asarray(call(x, joined, backend=NUMPY, precision=PRECISIONS["w8a8"])))
    assert np.array_equal(bits(found[0]), bits(found[1]))
    assert not np.array_equal(found[0][:, :20], found[0][:, 20:])


def test_activations_that_are_not_scaled_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_op_linear, "activations", lambda x, *_, **__: x)
    x, dense = kernel_cases.numbers(1, 2, 64), Dense(kernel_cases.numbers(2, 20, 64), format="F32")
    kernel_cases.caught(lambda: both(x, dense, None, "fp8"))


BUGS = (
    ("splat_i16(mask)", "splat_i16(np.int16(-1))"),
    ("end = min(last, (start // shared + 1) * shared)", "end = last"),
)


def test_planted_bugs_are_seen() -> None:
    """Of the kernel, and of packing."""
    weight = fp8("E4M3FN", any_codes(3, (20, 40), (0x7F, 0xFF)), (4, 8))
    check_unpacked(weight, pack_scaled(weight), numba_real_dense.dense_unpack)
    for text, bug in BUGS:
        wrong = kernel_cases.mutant(numba_real_dense, text, bug)
        kernel_cases.caught(partial(check_unpacked, weight, pack_scaled(weight), wrong.dense_unpack))
    divided = nvfp4(21, 3, convention="divide")
    panels = mutated(numba_panels_scaled, "OVER if source.divides else TIMES", "TIMES").pack_scaled(divided)
    kernel_cases.caught(partial(check_unpacked, divided, panels, numba_real_dense.dense_unpack))
    for text, bug in (("scales(index) * unit", "scales(index)"), ("i // base.tile[0]", "0 * i")):
        panels = mutated(numba_panels_scaled, text, bug).pack_scaled(weight)
        kernel_cases.caught(partial(check_unpacked, weight, panels, numba_real_dense.dense_unpack))
