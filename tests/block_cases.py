"""Blocks of every format for the tests of storage: any bytes, or any bytes but scales that are numbers."""

from __future__ import annotations

import functools
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from numpy.typing import NDArray

from lepton_ref.golden.block_bytes import every
from lepton_ref.storage import FORMATS, BlockFormat

Blocks = NDArray[np.uint8]

each_format = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)

GOLDENS: tuple[Path, ...] = (
    GOLDEN / "storage" / "blocks.npz", GOLDEN / "storage_iq" / "blocks.npz", GOLDEN / "storage_ggml" / "every.npz",
)  # fmt: skip

LAYOUTS = {
    "Q8_1": np.dtype([("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)]),
    "Q8_K": np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)]),
    "Q1_0": np.dtype([("d", "<f2"), ("qs", "<u8", 2)]),
    "Q2_0": np.dtype([("d", "<f2"), ("qs", "<u8", 2)]),
}
"""The C structs of ggml, of the formats that the package gguf does not decode."""

UNUSED = {"Q8_1": range(2, 4), "Q8_K": range(260, 292)}
"""Format → bytes that no value depends on: sums of codes, which integer dot products use."""


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bits, every NaN made the same one."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


@functools.cache
def goldens() -> dict[str, NDArray[Any]]:
    """NAME_raw and NAME_value, and hashes NAME_every and NAME_ggml: see golden/storage_goldens.py and its siblings."""
    arrays: dict[str, NDArray[Any]] = {}
    for path in GOLDENS:
        with np.load(path, allow_pickle=False) as golden:
            arrays |= {name: golden[name] for name in golden.files}
    return arrays


def from_the_struct(name: str, raw: Blocks) -> NDArray[np.float64]:
    """The values by the struct: codes of one or two bits come off 64-bit words from below; of Q1_0 they mean ±1."""
    block = raw.view(LAYOUTS[name])[:, 0]
    codes = block["qs"].astype(np.int64)
    if name in ("Q1_0", "Q2_0"):
        width = int(name[1])
        taken = (block["qs"][:, :, np.newaxis] >> np.arange(0, 64, width, dtype=np.uint64)) % np.uint64(2**width)
        codes = np.array({1: [-1, 1], 2: [-1, 0, 1, 2]}[width])[taken.reshape(len(raw), -1).astype(np.intp)]
    return np.asarray(block["d"].astype(np.float64)[:, np.newaxis] * codes)


def hashed(format: BlockFormat) -> bytes:
    """SHA-256 of the values of every fp16 scale and every byte."""
    return hashlib.sha256(bits(format.values(every(format.nbytes, halves(format)))).tobytes()).digest()


def check_values(format: BlockFormat) -> None:
    """The values are gguf's, ggml's in C and, where gguf has none, the C struct's, of all that there is of them."""
    name = format.name
    if name in LAYOUTS:
        assert LAYOUTS[name].itemsize == format.nbytes
        raw = every(format.nbytes, halves(format))[::9]
        with np.errstate(invalid="ignore", over="ignore"):
            value = from_the_struct(name, raw).astype(np.float32)
    else:
        raw, value = goldens()[f"{name}_raw"], goldens()[f"{name}_value"]
        assert raw.shape[0] == value.shape[0] >= 6
    np.testing.assert_array_equal(bits(format.values(raw)), bits(value))
    expected = {goldens()[key].tobytes() for key in (f"{name}_every", f"{name}_ggml") if key in goldens()}
    assert not expected or expected == {hashed(format)}


def halves(format: BlockFormat) -> tuple[int, ...]:
    """Where its fp16 numbers stand in a block."""
    return tuple(field.at for field in format.fields if field.what == "fp16")


def random_blocks(format: BlockFormat, count: int, seed: int) -> Blocks:
    """`(count, bytes)` any bytes."""
    return np.random.default_rng(seed).integers(0, 256, size=(count, format.nbytes), dtype=np.uint8)


def moderate(format: BlockFormat, blocks: Blocks, value: float = -1.5) -> Blocks:
    """The blocks with this number at every scale that is a number of its own; codes stay."""
    out = blocks.copy()
    for field in format.fields:
        if field.what in ("fp16", "fp32"):
            number = struct.pack("<e" if field.what == "fp16" else "<f", value)
            out[:, field.at : field.at + field.nbytes] = np.frombuffer(number, dtype=np.uint8)
    return out


def finite(format: BlockFormat, blocks: Blocks) -> Blocks:
    """The blocks with one bit cleared in every exponent of ones, and the greatest E8M0 scale in the first block."""
    out = blocks.copy()
    for field in format.fields:
        if field.what in ("fp16", "fp32"):
            out[:, field.at + field.nbytes - 1] &= 0xFB if field.what == "fp16" else 0xBF
        if field.what.startswith("E8M0"):
            out[0, field.at] = 255
    if format.name == "IQ1_M":  # the highest of four pieces of d lies in the highest four bits of the last byte
        out[:, -1] &= 0xBF
    return out


def all_flipped(block: Blocks) -> Blocks:
    """`(bytes,) -> (8·bytes, bytes)` the block with each of its bits flipped: bit b is bit b mod 8 of byte b div 8."""
    out = np.repeat(block[np.newaxis], 8 * len(block), axis=0)
    bit = np.arange(len(out))
    out[bit, bit // 8] ^= (1 << (bit % 8)).astype(np.uint8)
    return out
