"""The block formats: the scalar twin, the fast decoder and the format's reference package give the same bits."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from block_cases import (
    LAYOUTS,
    UNUSED,
    Blocks,
    all_flipped,
    bits,
    check_values,
    each_format,
    goldens,
    halves,
    moderate,
    random_blocks,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.golden.block_bytes import every
from lepton_ref.storage import FORMATS, BlockFormat, BlockQuantised, decode, encode
from lepton_ref.storage.encoders import ENCODERS


def differences(format: BlockFormat, blocks: Blocks, elements: NDArray[np.int64]) -> int:
    """How many of the elements, one row of them a block, the twin and the fast decoder disagree on."""
    fast = np.take_along_axis(format.values(blocks), elements, axis=1)
    twin = [
        [format.decode_element(block.tobytes(), int(e)) for e in row]
        for block, row in zip(blocks, elements, strict=True)
    ]
    return int((bits(np.array(twin, dtype=np.float32)) != bits(fast)).sum())


def all_elements(format: BlockFormat, count: int) -> NDArray[np.int64]:
    return np.tile(np.arange(format.length), (count, 1))


# --- the same value from everybody ---------------------------------------------------------------------------------


@each_format
def test_values_are_those_of_the_reference_package_or_of_ggmls_struct(format: BlockFormat) -> None:
    assert (f"{format.name}_raw" in goldens()) != (format.name in LAYOUTS)
    assert (f"{format.name}_ggml" in goldens()) != (format.name == "Q8_1"), "ggml decodes all others"
    check_values(format)


@each_format
def test_the_hash_is_of_every_scale_and_every_byte(format: BlockFormat) -> None:
    blocks = every(format.nbytes, halves(format))
    for at in halves(format):
        assert len(np.unique(np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2"))) == 1 << 16
    assert all(len(np.unique(column)) == 256 for column in blocks.T)


@pytest.mark.slow
@each_format
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reference_package_itself_agrees_on_random_bytes(format: BlockFormat, seed: int) -> None:
    theirs = pytest.importorskip("gguf", reason="the gguf package is not installed")
    if format.name in LAYOUTS:
        pytest.skip(f"gguf does not decode {format.name}")
    raw = random_blocks(format, 40, seed)
    with np.errstate(invalid="ignore", over="ignore"):
        want = theirs.quants.dequantize(raw, theirs.GGMLQuantizationType[format.name])
    np.testing.assert_array_equal(bits(format.values(raw)), bits(want))


@each_format
@given(seed=st.integers(0, 2**32 - 1))
def test_twin_and_fast_form_agree_on_random_bytes(format: BlockFormat, seed: int) -> None:
    assert differences(format, random_blocks(format, 2, seed), all_elements(format, 2)) == 0


@each_format
def test_twin_and_fast_form_agree_on_every_scale(format: BlockFormat) -> None:
    rng = np.random.default_rng(1)
    for at in halves(format):  # all 65 536 fp16 numbers: inf, NaN, subnormal, ±0
        blocks = random_blocks(format, 1 << 16, 2)
        blocks[:, at : at + 2] = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
        assert differences(format, blocks, rng.integers(0, format.length, size=(1 << 16, 1))) == 0


@each_format
def test_twin_and_fast_form_agree_on_every_code_byte(format: BlockFormat) -> None:
    blocks = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], format.nbytes, axis=1)
    for some in (blocks, moderate(format, blocks, 0.0123)):
        assert differences(format, some, all_elements(format, 256)) == 0


@each_format
def test_every_bit_of_a_block_matters_to_both_alike(format: BlockFormat) -> None:
    bases = random_blocks(format, 24, 3)
    bases[0] = 0x7F  # NVFP4 asks for the highest bit of a scale here alone
    matters = np.zeros(8 * format.nbytes, dtype=bool)
    for base in moderate(format, bases):
        flipped = all_flipped(base)
        changed = bits(format.values(flipped)) != bits(format.values(base[np.newaxis]))
        new = changed.any(axis=1) & ~matters
        matters |= new
        assert differences(format, flipped[new], changed.argmax(axis=1)[new, np.newaxis]) == 0
    unused = [bit for bit in range(8 * format.nbytes) if bit // 8 in UNUSED.get(format.name, ())]
    assert np.flatnonzero(~matters).tolist() == unused


def planted_bugs() -> list[tuple[str, BlockFormat]]:
    """Decoders that are each wrong in one way that has shipped somewhere."""

    def patched(name: str, change: Callable[[Blocks], Blocks] | None = None, by: float = 0.0) -> BlockFormat:
        right = FORMATS[name]
        return dataclasses.replace(
            right, decode=lambda blocks: right.decode(blocks if change is None else change(blocks)) + np.float32(by)
        )

    def swapped_nibbles(blocks: Blocks, start: int) -> Blocks:
        out = blocks.copy()
        out[:, start:] = (blocks[:, start:] << 4) | (blocks[:, start:] >> 4)
        return out

    def fifth_bits_reversed(blocks: Blocks) -> Blocks:
        out = blocks.copy()
        out[:, 2:6] = blocks[:, 5:1:-1]
        return out

    def no_high_bits(blocks: Blocks) -> Blocks:
        out = blocks.copy()
        out[:, 4:12] &= 63  # the last four groups' upper bits
        return out

    def unsigned_scales(blocks: Blocks) -> Blocks:
        out = blocks.copy()
        out[:, 192:208] &= 127
        return out

    def flushed(blocks: Blocks) -> Blocks:
        d = blocks[:, :2].copy().view("<u2")
        out = blocks.copy()
        out[:, :2] = np.where(d & 0x7C00 == 0, d & 0x8000, d).astype("<u2").view(np.uint8)
        return out

    return [
        ("nibbles swapped", patched("Q4_0", lambda b: swapped_nibbles(b, 2))),
        ("minimum taken with the wrong sign", patched("Q4_1", lambda b: b ^ (np.arange(20) == 3) * np.uint8(128))),
        ("fifth bits reversed", patched("Q5_0", fifth_bits_reversed)),
        ("codes read as unsigned", patched("Q8_0", by=1.0)),
        ("upper scale bits lost", patched("Q4_K", no_high_bits)),
        ("scales without their sign", patched("Q6_K", unsigned_scales)),
        ("subnormal scales flushed", patched("Q8_0", flushed)),
    ]


@pytest.mark.parametrize(("what", "wrong"), planted_bugs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_decoder_is_caught(what: str, wrong: BlockFormat) -> None:
    blocks = random_blocks(wrong, 256, 4)
    assert differences(wrong, blocks, all_elements(wrong, 256)) > 0


# --- the definition -------------------------------------------------------------------------------------------------


def test_literal_blocks() -> None:
    half = lambda value: struct.pack("<e", value)  # noqa: E731 - a name for the line below
    nibbles = bytes([0x80, 0x1F]) + bytes([0x88]) * 14  # codes 0, 15, 8, … and 8, 1, 8, …
    q4_0 = FORMATS["Q4_0"].values(np.frombuffer(half(0.5) + nibbles, dtype=np.uint8))
    assert q4_0.tolist() == [-4.0, 3.5, *[0.0] * 14, 0.0, -3.5, *[0.0] * 14]
    q4_1 = FORMATS["Q4_1"].values(np.frombuffer(half(0.5) + half(-1.0) + nibbles, dtype=np.uint8))
    assert q4_1.tolist() == [-1.0, 6.5, *[3.0] * 14, 3.0, -0.5, *[3.0] * 14]
    q5_0 = FORMATS["Q5_0"].values(np.frombuffer(half(2.0) + bytes([1, 0, 2, 0]) + nibbles, dtype=np.uint8))
    assert q5_0.tolist() == [0.0, -2.0, *[-16.0] * 14, -16.0, 2.0, *[-16.0] * 14]
    q8_0 = FORMATS["Q8_0"].values(np.frombuffer(half(-0.25) + bytes([0x80, 0x7F, 0xFF]) + bytes(29), dtype=np.uint8))
    assert q8_0.tolist() == [32.0, -31.75, 0.25, *[-0.0] * 29]


def test_the_zero_code_of_a_negative_scale_is_minus_zero() -> None:
    raw = np.frombuffer(struct.pack("<e", -1.0) + bytes([0x88]) * 16, dtype=np.uint8)
    assert np.signbit(FORMATS["Q4_0"].values(raw)).all()


def test_the_sum_is_rounded_once_to_nearest_even() -> None:
    d, m = 2.0**-24, 1.0  # the smallest scale beside one: 1 + k·2⁻²⁴ needs 25 bits
    raw = struct.pack("<ee", d, m) + bytes([0x10, 0x32]) + bytes(14)
    value = FORMATS["Q4_1"].values(np.frombuffer(raw, dtype=np.uint8))
    exact = [1 + Fraction(k, 2**24) for k in (0, 2, 1, 3)]
    assert value[[0, 1]].tolist() == [float(exact[0]), float(exact[1])]
    assert value[[16, 17]].tolist() == [1.0, 1.0 + 2.0**-22]  # ties, to even


def test_the_closed_form_is_exact_in_float64() -> None:
    """The proof in blocks.py at its extremes: the largest and the smallest scale in one value."""
    large, small = 65504.0, 2.0**-24
    for d, dmin in ((large, small), (small, large), (large, -large)):
        exact = Fraction(d) * 63 * 15 - Fraction(dmin) * 63
        assert Fraction(d * 63 * 15 - dmin * 63) == exact
        block = struct.pack("<ee", d, dmin) + bytes([63]) * 8 + bytes([0]) * 4 + bytes([0xFF]) * 128
        single = np.float32(float(exact))
        assert FORMATS["Q4_K"].values(np.frombuffer(block, dtype=np.uint8))[0] == single


# --- weights --------------------------------------------------------------------------------------------------------


@each_format
@pytest.mark.parametrize("lead", [(5,), (2, 3)], ids=str)
def test_rows_take_and_decode_agree(format: BlockFormat, lead: tuple[int, ...]) -> None:
    raw = random_blocks(format, 3 * int(np.prod(lead)), 5).reshape(*lead, 3 * format.nbytes)
    weight = BlockQuantised(raw, format=format)
    whole = weight.decode()
    assert weight.shape == whole.shape == (*lead, 3 * format.length)
    assert weight.nbytes == raw.nbytes
    np.testing.assert_array_equal(bits(weight.rows(1, 2)), bits(whole[1:2]))
    index = np.array([1, 0, 1])
    np.testing.assert_array_equal(bits(weight.take(index)), bits(whole[index]))
    np.testing.assert_array_equal(bits(decode(format.name, raw)), bits(whole))


def test_a_vector_is_cut_inside_its_blocks() -> None:
    weight = BlockQuantised(random_blocks(FORMATS["Q8_0"], 2, 6).reshape(-1), format=FORMATS["Q8_0"])
    assert weight.shape == (64,)
    np.testing.assert_array_equal(bits(weight.rows(30, 35)), bits(weight.decode()[30:35]))
    np.testing.assert_array_equal(bits(weight.take(np.array([63, 0]))), bits(weight.decode()[[63, 0]]))


@each_format
def test_bytes_of_any_strides_and_counts_give_the_same_values(format: BlockFormat) -> None:
    raw = random_blocks(format, 24, 7).reshape(4, 6 * format.nbytes)
    part = raw[::2, format.nbytes : 3 * format.nbytes]
    np.testing.assert_array_equal(bits(format.values(part)), bits(format.values(np.ascontiguousarray(part))))
    assert format.values(raw[:0]).shape == (0, 6 * format.length)
    many = random_blocks(format, 70_000 // format.length, 8)  # more than one chunk
    alone = np.stack([format.values(block) for block in many[-3:]])
    np.testing.assert_array_equal(bits(format.values(many)[-3:]), bits(alone))


@each_format
def test_bytes_and_numbers_that_do_not_lie_together(format: BlockFormat) -> None:
    raw = np.random.default_rng(7).integers(0, 256, (3, 2 * format.nbytes), dtype=np.uint8)
    apart = np.repeat(raw, 2, axis=1)[:, ::2]
    for strided in (apart, np.asfortranarray(raw[:, : format.nbytes])):
        expected = format.values(np.ascontiguousarray(strided))
        assert format.values(strided).tobytes() == expected.tobytes()
    if format.name in ENCODERS:
        x = np.random.default_rng(8).standard_normal((2, format.length)).astype(np.float32)
        for strided in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
            assert encode(format.name, strided).tobytes() == encode(format.name, x).tobytes()


def test_bytes_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Q4_0 takes uint8 rows of whole 18-byte blocks, got uint8 \(2, 17\)"):
        BlockQuantised(np.zeros((2, 17), dtype=np.uint8), format=FORMATS["Q4_0"])
    with pytest.raises(ValueError, match="got int8"):
        BlockQuantised(np.zeros((2, 18), dtype=np.int8), format=FORMATS["Q4_0"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole 144-byte blocks"):
        decode("Q4_K", np.zeros(143, dtype=np.uint8))
    with pytest.raises(ValueError, match="unknown storage format 'Q9_9'; known: F64, F32"):
        decode("Q9_9", np.zeros(144, dtype=np.uint8))
    with pytest.raises(ValueError, match="F32 takes uint8 rows of whole 4-byte numbers"):
        decode("F32", np.zeros(7, dtype=np.uint8))


def test_rows_of_a_mapped_file_copy_no_more_than_the_panel(tmp_path: Path) -> None:
    q4_k = FORMATS["Q4_K"]
    raw = random_blocks(q4_k, 4096, 9).reshape(512, -1)  # 4 MiB decoded to the whole of 4 MiB of float32
    raw.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", dtype=np.uint8, mode="r", shape=raw.shape)
    weight = BlockQuantised(mapped, format=q4_k)
    panel = 4 * weight.shape[1] * 8
    weight.rows(0, 8)  # imports and caches first
    tracemalloc.start()
    try:
        weight.rows(100, 108)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the panel itself, its uint8 codes, scales, and one chunk of float32 before it is placed
    assert panel <= peak < 3 * panel
