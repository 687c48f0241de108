"""Drawn matrices in several arrays: packed integers, small floats with scales, integers in tiles.

Codes are random bits, but for those of FP8 and MXFP8 that are no numbers; scales are `draws_stored.scales`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.draws_stored import Recipe, Stored, scales
from lepton_ref.conformance.numbers import Generator, held


def _words(rng: Generator, *shape: int) -> NDArray[np.int32]:
    return rng.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)


def _float_scales(rng: Generator, shape: tuple[int, ...], kind: str, format: str | None = None) -> NDArray[Any]:
    return scales(rng, shape, kind, format or str(rng.choice(["F16", "BF16", "F32"])))


def gptq(bits: int | None = None, version: int | None = None) -> Recipe:
    """Two or three groups, in order or in the order of the activations."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        b = bits or int(rng.choice([2, 3, 8]))
        v = version or int(rng.integers(1, 3))
        width, groups = 64, int(rng.integers(2, 4))
        inputs = {
            "w": _words(rng, width * b // 32, rows),
            "w.zero": _words(rng, groups, -(-rows * b // 32)),
            "w.scale": _float_scales(rng, (groups, rows), kind),
        }
        if rng.random() < 0.5:
            inputs["w.group"] = rng.integers(0, groups, width).astype(np.int32)
        return Stored("GPTQ", (rows, width), inputs, {"bits": b, "version": v, "group_size": -(-width // groups)})

    return draw


def awq(rng: Generator, rows: int, kind: str) -> Stored:
    """Eight outputs, since a word holds eight."""
    width, groups = 32, 2
    inputs = {
        "w": _words(rng, width, 1),
        "w.zero": _words(rng, groups, 1),
        "w.scale": _float_scales(rng, (groups, 8), kind),
    }
    return Stored("AWQ", (8, width), inputs, {})


def pack_quantized(bits: int | None = None) -> Recipe:
    """Scales of groups, rows or the whole, zeros of three kinds, dense streams or whole codes in a word."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        b, width = bits or int(rng.choice([1, 2, 3, 5, 6, 7, 8])), 40
        aligned, per = bool(rng.integers(0, 2)), int(rng.integers(0, 3))
        shape = ((rows, 2), (rows,), (1,))[per]

        def words(count: int) -> int:
            return -(-count // (32 // b)) if aligned else -(-count * b // 32)

        inputs: dict[str, NDArray[Any]] = {
            "w": _words(rng, rows, words(width)),
            "w.scale": _float_scales(rng, shape, kind),
        }
        zeros = int(rng.integers(0, 3))
        if zeros == 1 and per < 2:
            inputs["w.zero"] = _words(rng, words(rows), 2 if per == 0 else 1)
        elif zeros > 0:
            inputs["w.zero"] = rng.integers(-(2 ** (b - 1)), 2 ** (b - 1), shape).astype(np.int8)
        if per == 0 and rng.random() < 0.5:
            inputs["w.group"] = rng.integers(0, 2, width).astype(np.int32)
        size = width // 2 if per == 0 else width
        parts = {"shape": [rows, width], "bits": b, "group_size": size, "aligned": aligned}
        return Stored("PACKED", (rows, width), inputs, parts)

    return draw


def bnb4(kind_of_code: str, *, nested: bool) -> Recipe:
    """Blocks of 32 that run on over the ends of rows, or fit into them."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        width = int(rng.choice([40, 64]))
        count = -(-rows * width // 32)
        inputs: dict[str, NDArray[Any]] = {"w": rng.integers(0, 256, (-(-rows * width // 2), 1)).astype(np.uint8)}
        parts: dict[str, Any] = {"shape": [rows, width], "kind": kind_of_code, "blocksize": 32}
        if not nested:
            inputs["w.scale"] = np.abs(scales(rng, (count,), kind, "F32"))
            return Stored("BNB4", (rows, width), inputs, parts)
        inputs["w.scale"] = rng.integers(0, 256, count).astype(np.uint8)
        inputs["w.table"] = held(np.sort(rng.uniform(-1, 1, 256)), "fp32")
        inputs["w.factor"] = scales(rng, (-(-count // 2),), kind, "F32")
        offset = float(np.float32(rng.uniform(0, 1)))
        return Stored("BNB4", (rows, width), inputs, {**parts, "offset": offset, "nested": 2})

    return draw


def bnb8(rng: Generator, rows: int, kind: str) -> Stored:
    """A scale a row."""
    inputs: dict[str, NDArray[Any]] = {
        "w": rng.integers(-128, 128, (rows, 35)).astype(np.int8),
        "w.scale": np.abs(scales(rng, (rows,), kind, "F32")),
    }
    return Stored("BNB8", (rows, 35), inputs, {})


# --- small floats and integers in tiles -------------------------------------------------------------------------------

WIDTH = 40


def _tile(rng: Generator, rows: int) -> tuple[list[int], tuple[int, int]]:
    """A tensor, a row, a group of 16 or a block of 2 × 16, and how many there are below and beside one another."""
    high, wide = ((rows, WIDTH), (1, WIDTH), (1, 16), (2, 16))[int(rng.integers(0, 4))]
    return [high, wide], (-(-rows // high), -(-WIDTH // wide))


def fp8(*formats: str) -> Recipe:
    """Any codes that are numbers, of one of these formats."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        name = str(rng.choice(formats))
        tile, count = _tile(rng, rows)
        scale = str(rng.choice(["F32", "BF16", "F16", "E8M0"]))
        codes = rng.integers(0, 0x7C if name == "E5M2" else 0x7F, (rows, WIDTH))
        signs = np.where(codes == 0, 0, rng.choice([0, 128], codes.shape))  # 0x80 is NaN in the FNUZ formats
        inputs = {"w": (codes | signs).astype(np.uint8), "w.scale": scales(rng, count, kind, scale)}
        return Stored("FP8", (rows, WIDTH), inputs, {"format": name, "tile": tile, "scale": scale})

    return draw


def mx(*formats: str) -> Recipe:
    """Two blocks a row, of one of these formats."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        name = str(rng.choice(formats))
        bits = 4 if name == "MXFP4" else 6 if name.startswith("MXFP6") else 8
        raw = rng.integers(0, 256, (rows, 8 * bits)).astype(np.uint8)
        if name in ("MXFP8_E4M3", "MXFP8_E5M2"):
            raw = np.where(raw & 0x7F > (0x7E if name == "MXFP8_E4M3" else 0x7B), raw & 0x80, raw)
        return Stored("MX", (rows, 64), {"w": raw, "w.scale": scales(rng, (rows, 2), kind, "E8M0")}, {"format": name})

    return draw


def nvfp4(convention: str) -> Recipe:
    """Groups of 16, the last of them smaller."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        inputs = {
            "w": rng.integers(0, 256, (rows, WIDTH // 2)).astype(np.uint8),
            "w.scale": scales(rng, (rows, 3), kind, "E4M3"),
        }
        whole = float(np.float32(np.exp2(rng.uniform(-12, 12))))
        parts = {"whole": whole, "convention": convention, "columns": WIDTH}
        return Stored("NVFP4_TWO_LEVEL", (rows, WIDTH), inputs, parts)

    return draw


def affine(*widths: int, zeros: bool) -> Recipe:
    """Codes of one of these widths, with zero points among unsigned or signed codes, or without."""

    def draw(rng: Generator, rows: int, kind: str) -> Stored:
        b = int(rng.choice(widths))
        tile, count = _tile(rng, rows)
        scale = str(rng.choice(["F32", "BF16", "F16"]))
        inputs: dict[str, NDArray[Any]] = {
            "w": rng.integers(0, 256, (rows, -(-WIDTH * b // 8))).astype(np.uint8),
            "w.scale": scales(rng, count, kind, scale),
        }
        if zeros:
            least, dtype = (0, np.uint8) if rng.random() < 0.5 else (-(2 ** (b - 1)), np.int8)
            inputs["w.zero"] = rng.integers(least, least + 2**b, count).astype(dtype)
        parts = {"bits": b, "columns": WIDTH, "tile": tile, "scale": scale}
        return Stored("AFFINE", (rows, WIDTH), inputs, parts)

    return draw
