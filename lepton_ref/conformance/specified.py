"""A case's matrix as the specification reads it: element by element, from the stored bytes.

The engine decodes whole arrays; nothing of that is called here. Dense numbers are `lepton_ref.plain.formats.decode` of
their bits, packed and scaled ones `lepton_ref.plain.packed`. An element of a block is the format's scalar twin, or,
where the closed form itself is multiplied, `CLOSED_FORMS` of the parts whose bits `read` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref.conformance.case import Case
from lepton_ref.interface import HostArray
from lepton_ref.plain import packed
from lepton_ref.plain.formats import decode, get_format, round_to
from lepton_ref.plain.packed import Element
from lepton_ref.storage import FORMATS as BLOCK_FORMATS
from lepton_ref.storage import BlockFormat

Matrix = list[list[float]]
Parts = Mapping[str, float]

DENSE: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"F64": ("fp64", 8), "F32": ("fp32", 4), "F16": ("fp16", 2), "BF16": ("bf16", 2)}
)
"""Storage format → the number format, and its bytes."""

CLOSED_FORMS: Mapping[str, Callable[[Parts], float]] = MappingProxyType(
    {
        "d·q": lambda p: p["d"] * p["q"],
        "d·K[q]": lambda p: p["d"] * p["q"],
        "d·(q − 1)": lambda p: p["d"] * (p["q"] - 1),
        "d·(q − 8)": lambda p: p["d"] * (p["q"] - 8),
        "d·(q − 16)": lambda p: p["d"] * (p["q"] - 16),
        "d·(2q − 1)": lambda p: p["d"] * (2 * p["q"] - 1),
        "d·q + m": lambda p: p["d"] * p["q"] + p["m"],
        "d·sc·q − dmin·m": lambda p: p["d"] * p["sc"] * p["q"] - p["dmin"] * p["m"],
        "d·(sc − 32)·(q − 4)": lambda p: p["d"] * (p["sc"] - 32) * (p["q"] - 4),
        "d·sc·(q − 32)": lambda p: p["d"] * p["sc"] * (p["q"] - 32),
        "d·(s − 32)·K[q]": lambda p: p["d"] * (p["s"] - 32) * p["q"],
        "d·(2s + 1)·(G[q] + δ)": lambda p: p["d"] * (2 * p["s"] + 1) * (p["q"] + p["δ"]),
        "d·(2s + 1)/8·G[q]·sign": lambda p: p["d"] * (2 * p["s"] + 1) / 8 * p["q"] * p["sign"],
        "d·(2s + 1)/4·G[q]·sign": lambda p: p["d"] * (2 * p["s"] + 1) / 4 * p["q"] * p["sign"],
        "d·(2s + 1)·G[q]·sign": lambda p: p["d"] * (2 * p["s"] + 1) * p["q"] * p["sign"],
    }
)
"""A block format's formula → the same in float64, which every one of them is exact in."""


def specified_rows(case: Case, *, rounded: bool, rows: Sequence[int] | None = None) -> Matrix:
    """The case's matrix, or some rows of it, as floats: rounded once to float32, or the closed form in float64."""
    storage, raw = case.options["storage"], case.inputs["w"]
    if storage in DENSE:
        return [_dense(raw[row], storage) for row in _chosen(rows, len(raw))]
    if storage in BLOCK_FORMATS:
        return [_blocks(raw[row].tobytes(), BLOCK_FORMATS[storage], rounded) for row in _chosen(rows, len(raw))]
    (count, width), element = READERS[storage](case, raw, dict(case.options["parts"]))
    which = 0 if rounded else 1
    return [[element(row, column)[which] for column in range(width)] for row in _chosen(rows, count)]


def minima(case: Case) -> Matrix:
    """The fp16 minima of each row's blocks, of a format that has one behind its scale."""
    block = BLOCK_FORMATS[case.options["storage"]]
    at = next(field.at for field in block.fields if field.name == "m")
    rows = case.inputs["w"].reshape(len(case.inputs["w"]), -1, block.nbytes)[:, :, at : at + 2]
    return [[decode(int.from_bytes(raw.tobytes(), "little"), "fp16") for raw in row] for row in rows]


def _chosen(rows: Sequence[int] | None, count: int) -> Sequence[int]:
    return range(count) if rows is None else rows


def _dense(row: HostArray, storage: str) -> list[float]:
    name, size = DENSE[storage]
    data = row.tobytes()
    return [decode(int.from_bytes(data[at : at + size], "little"), name) for at in range(0, len(data), size)]


def _blocks(row: bytes, block: BlockFormat, rounded: bool) -> list[float]:
    parts = [row[at : at + block.nbytes] for at in range(0, len(row), block.nbytes)]
    if rounded:
        return [block.decode_element(part, e) for part in parts for e in range(block.length)]
    assert block.read is not None, "every format in the table says which bits an element is made of"
    form = CLOSED_FORMS[block.formula]
    return [
        form({part.name: part.value for part in block.read(bytes_, e)}) for bytes_ in parts for e in range(block.length)
    ]


# --- packed and scaled ------------------------------------------------------------------------------------------------

Reader = Callable[[int, int], Element]
"""(row, column) → the element."""


def _numbers(array: HostArray, name: str | None = None) -> list[list[float]]:
    """A matrix of stored numbers as floats; their format by the dtype unless it is given."""
    name = name or {4: "fp32", 2: "fp16" if array.dtype.kind == "f" else "bf16"}[array.dtype.itemsize]
    flat = array.reshape(len(array), -1)
    return [[decode(int(code), name) for code in row] for row in flat.view(f"u{array.dtype.itemsize}")]


def _words(array: HostArray) -> list[list[int]]:
    words: list[list[int]] = array.tolist()
    return words


def _gptq(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, zeros = _words(raw.T), _words(case.inputs["w.zero"])
    scales, bits, version = _numbers(case.inputs["w.scale"]), parts["bits"], parts["version"]
    group = case.inputs["w.group"].tolist() if "w.group" in case.inputs else None
    width = len(raw) * 32 // bits if group is None else len(group)

    def element(row: int, column: int) -> Element:
        g = column // parts["group_size"] if group is None else group[column]
        zero = packed.gptq_zero(zeros[g], row, bits=bits, version=version)
        return packed.scaled(scales[g][row], packed.code_of(lines[row], bits, column) - zero)

    return (len(lines), width), element


def _awq(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, zeros, scales = _words(raw), _words(case.inputs["w.zero"]), _numbers(case.inputs["w.scale"])

    def element(row: int, column: int) -> Element:
        g = column * len(zeros) // len(lines)
        return packed.scaled(scales[g][row], packed.awq_code(lines[column], row) - packed.awq_code(zeros[g], row))

    return (8 * raw.shape[1], len(lines)), element


def _pack_quantized(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, scales, bits, aligned = _words(raw), _numbers(case.inputs["w.scale"]), parts["bits"], parts["aligned"]
    stored = case.inputs.get("w.zero")
    group = case.inputs["w.group"].tolist() if "w.group" in case.inputs else None
    half: int = 1 << (bits - 1)
    plain = stored is not None and stored.dtype == np.int8
    zeros = [] if stored is None else _words(stored.reshape(len(scales), -1) if plain else stored.T)

    def zero(row: int, g: int) -> int:
        if stored is None:
            return 0
        if plain:
            return zeros[row][g]
        return packed.code_of(zeros[g], bits, row, aligned=aligned) - half

    def element(row: int, column: int) -> Element:
        g = column // parts["group_size"] if group is None else group[column]
        r = row if len(scales) > 1 else 0
        u = packed.code_of(lines[row], bits, column, aligned=aligned)
        return packed.scaled(scales[r][g], u - half - zero(r, g))

    return tuple(parts["shape"]), element


def _table(kind: str) -> list[float]:
    if kind == "nf4":
        return [round_to(decode(code, "nf4"), "fp32") for code in range(16)]
    half = [Fraction(n, 192) for n in (0, 1, 128, 192, 64, 96, 32, 48)]
    return [round_to(sign * size, "fp32") for sign in (1, -1) for size in half]


def _bnb4(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    data, table, shape = raw.tobytes(), _table(parts["kind"]), parts["shape"]
    nested = "offset" in parts
    scale = [] if nested else [number for row in _numbers(case.inputs["w.scale"]) for number in row]
    codes = case.inputs["w.scale"].tolist()
    factors, of_codes = ([row[0] for row in _numbers(case.inputs[name])] if nested else [] for name in _NESTED)

    def element(row: int, column: int) -> Element:
        e = row * shape[1] + column
        entry, block = table[packed.high_first(data, e)], e // parts["blocksize"]
        if not nested:
            return packed.from_table(entry, scale[block])
        factor = factors[block // parts["nested"]]
        return packed.from_nested(entry, of_codes[codes[block]], factor, parts["offset"])

    return tuple(shape), element


_NESTED = ("w.factor", "w.table")


def _bnb8(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    codes, scales = raw.tolist(), _numbers(case.inputs["w.scale"])
    return raw.shape, lambda row, column: packed.int8_row(codes[row][column], scales[row][0])


SCALE_NUMBERS: Mapping[str, str] = MappingProxyType(
    {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "E8M0": "e8m0", "E4M3": "e4m3fn"}
)
FP8_NUMBERS: Mapping[str, str] = MappingProxyType(
    {"E4M3FN": "e4m3fn", "E5M2": "e5m2", "E4M3FNUZ": "e4m3fnuz", "E5M2FNUZ": "e5m2fnuz"}
)
MX_NUMBERS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "MXFP8_E4M3": ("e4m3fn", 1.0),
        "MXFP8_E5M2": ("e5m2", 1.0),
        "MXFP6_E3M2": ("e3m2", 1.0),
        "MXFP6_E2M3": ("e2m3", 1.0),
        "MXFP4": ("e2m1", 1.0),
        "MXINT8": ("int8", 2.0**-6),
    }
)


def _fp8(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    codes, (high, wide) = raw.tolist(), parts["tile"]
    scales, name = _numbers(case.inputs["w.scale"], SCALE_NUMBERS[parts["scale"]]), FP8_NUMBERS[parts["format"]]
    return raw.shape, lambda row, column: packed.eight_bits(
        codes[row][column], name, scales[row // high][column // wide]
    )


def _mx(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, scales = [row.tobytes() for row in raw], _numbers(case.inputs["w.scale"], "e8m0")
    name, unit = MX_NUMBERS[parts["format"]]
    bits = get_format(name).bits

    def element(row: int, column: int) -> Element:
        return packed.eight_bits(packed.byte_code(lines[row], bits, column), name, scales[row][column // 32] * unit)

    return (len(raw), 32 * len(scales[0])), element


def _nvfp4(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, scales = [row.tobytes() for row in raw], _numbers(case.inputs["w.scale"], "e4m3fn")
    divides, whole = parts["convention"] == "divide", parts["whole"]

    def element(row: int, column: int) -> Element:
        code = packed.byte_code(lines[row], 4, column)
        return packed.two_levels(code, scales[row][column // 16], whole, divides=divides)

    return (len(raw), parts["columns"]), element


def _affine(case: Case, raw: HostArray, parts: dict[str, Any]) -> tuple[tuple[int, int], Reader]:
    lines, (high, wide), bits = [row.tobytes() for row in raw], parts["tile"], parts["bits"]
    scales = _numbers(case.inputs["w.scale"], SCALE_NUMBERS[parts["scale"]])
    stored = case.inputs.get("w.zero")
    zeros = None if stored is None else stored.tolist()
    unsigned = stored is not None and stored.dtype == np.uint8

    def element(row: int, column: int) -> Element:
        at = row // high, column // wide
        code = packed.byte_code(lines[row], bits, column)
        q = code if unsigned else packed.signed(code, bits)
        return packed.scaled(scales[at[0]][at[1]], q - (0 if zeros is None else zeros[at[0]][at[1]]))

    return (len(raw), parts["columns"]), element


READERS: Mapping[str, Callable[[Case, HostArray, dict[str, Any]], tuple[tuple[int, int], Reader]]] = MappingProxyType(
    {
        "GPTQ": _gptq,
        "AWQ": _awq,
        "PACKED": _pack_quantized,
        "BNB4": _bnb4,
        "BNB8": _bnb8,
        "FP8": _fp8,
        "MX": _mx,
        "NVFP4_TWO_LEVEL": _nvfp4,
        "AFFINE": _affine,
    }
)
"""Option "storage" → the matrix's shape and how an element of it is read."""
