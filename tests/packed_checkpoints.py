"""The tiny Llama with its matrices packed, in a folder as each format's tools write it; and the same decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import packed_cases as cases
from numpy.typing import NDArray
from tiny_models import Stored, changed, f32

from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.bnb4 import TABLES, BitsAndBytes4, Nested
from lepton_ref.storage.bnb8 import BitsAndBytes8
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.pack_quantized import PackQuantized

Parts = dict[str, Stored]
Packer = Callable[[np.random.Generator, str, tuple[int, int]], tuple[Weight, Parts] | None]
"""(numbers, module, (O, I)) -> the weight and the tensors of a file that hold it, or None where it stays dense."""


def stored(value: Any) -> Stored:
    """A tensor for the file."""
    if isinstance(value, Dense):
        return value.format, value.shape, value.array.tobytes()
    name = {"i": "I", "u": "U", "f": "F"}[value.dtype.kind]
    return f"{name}{8 * value.dtype.itemsize}", value.shape, value.tobytes()


def softened(scales: Dense) -> Dense:
    """Scales of a model that does not overflow."""
    return cases.dense(scales.decode() / 32, scales.format)


def gptq_packer(bits: int, version: int, order: str, *, symmetric: bool = False) -> Packer:
    def pack(rng: np.random.Generator, module: str, shape: tuple[int, int]) -> tuple[Weight, Parts]:
        case = cases.gptq(
            rng, bits=bits, version=version, outputs=shape[0], inputs=shape[1], groups=shape[1] // 8, order=order
        )
        case.parts["scales"] = softened(case.parts["scales"])
        middle = 2 ** (bits - 1) - (version == 1)
        codes = rng.integers(0, 2**bits - 1, (shape[1] // 8, shape[0]))  # never the ambiguous 2^b − 1
        codes = np.full_like(codes, middle) if symmetric else codes
        case.parts["qzeros"] = cases.pack_along(codes, bits, 1)
        names = ("qweight", "qzeros", "scales", *(["g_idx"] if order != "none" else []))
        return GPTQ(**case.parts), {f"{module}.{name}": stored(case.parts[name]) for name in names}

    return pack


def awq_packer(rng: np.random.Generator, module: str, shape: tuple[int, int]) -> tuple[Weight, Parts] | None:
    if shape[0] % 8:
        return None
    case = cases.awq(rng, eights=shape[0] // 8, inputs=shape[1], groups=shape[1] // 8)
    case.parts["scales"] = softened(case.parts["scales"])
    return AWQ(**case.parts), {f"{module}.{name}": stored(value) for name, value in case.parts.items()}


def compressed_packer(bits: int, groups: int, zeros: str, order: str = "none", *, aligned: bool = False) -> Packer:
    """groups: 8 inputs each for 8, one a row for 1, one for the whole matrix for 0."""

    def pack(rng: np.random.Generator, module: str, shape: tuple[int, int]) -> tuple[Weight, Parts]:
        count = shape[1] // 8 if groups == 8 else groups
        case = cases.compressed(
            rng, bits=bits, outputs=shape[0], inputs=shape[1], groups=count, zeros=zeros, order=order, format="F32",
            aligned=aligned,
        )  # fmt: skip
        case.parts["scale"] = softened(case.parts["scale"])
        names = {"packed": "weight_packed", "scale": "weight_scale", "zero_point": "weight_zero_point"}
        names |= {"g_idx": "weight_g_idx"}
        parts = {f"{module}.{names[key]}": stored(case.parts[key]) for key in names if case.parts[key] is not None}
        return PackQuantized(**case.parts), {**parts, f"{module}.weight_shape": stored(np.array(shape))}

    return pack


def bnb4_packer(kind: str, *, nested: bool, storage: str = "U8") -> Packer:
    def pack(rng: np.random.Generator, module: str, shape: tuple[int, int]) -> tuple[Weight, Parts]:
        count = shape[0] * shape[1]
        packed = rng.integers(0, 256, (count // 2, 1)).astype(np.uint8)
        if storage != "U8":
            packed &= 0xBF  # no exponent of all ones: a signalling NaN of a float may not survive a copy
        blocks = -(-count // 64)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
        parts = {f"{module}.weight": ({"U8": "U8", "BF16": "BF16"}[storage], packed.shape, packed.tobytes())}
        if storage == "BF16":
            parts = {f"{module}.weight": ("BF16", (count // 4, 1), packed.tobytes())}
        parts[f"{module}.weight.quant_map"] = stored(np.array(TABLES[kind], dtype="<f4"))
        if nested:
            codes = rng.integers(0, 256, blocks).astype(np.uint8)
            table, absmax = np.linspace(-1, 1, 256, dtype="<f4"), rng.uniform(0, 0.1, -(-blocks // 256)).astype("<f4")
            offset = float(np.float32(rng.uniform(0, 0.1)))
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            inner = Nested(codes, Dense(table, format="F32"), Dense(absmax, format="F32"), offset=offset)
            weight = BitsAndBytes4(packed, None, shape=shape, kind=kind, nested=inner)
            parts[f"{module}.weight.absmax"] = stored(codes)
            parts[f"{module}.weight.nested_quant_map"] = stored(table)
            parts[f"{module}.weight.nested_absmax"] = stored(absmax)
        else:
            scale = rng.uniform(0, 0.2, blocks).astype("<f4")
            weight = BitsAndBytes4(packed, Dense(scale, format="F32"), shape=shape, kind=kind)
            parts[f"{module}.weight.absmax"] = stored(scale)
        text = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
        parts[f"{module}.weight.quant_state.bitsandbytes__{kind}"] = stored(text)
        return weight, parts

    return pack


def bnb8_packer(rng: np.random.Generator, module: str, shape: tuple[int, int]) -> tuple[Weight, Parts]:
    codes = rng.integers(-128, 128, shape).astype(np.int8)
    scb = rng.uniform(0, 0.3, shape[0]).astype("<f4")
    layout: NDArray[np.uint8] = np.zeros((), dtype=np.uint8)
    parts = {f"{module}.weight": stored(codes), f"{module}.SCB": stored(scb), f"{module}.weight_format": stored(layout)}
    return BitsAndBytes8(codes, Dense(scb, format="F32")), parts


def write(
    folder: Path,
    pack: Packer,
    config: Mapping[str, Any],
    *,
    name: str = "llama",
    change: Callable[[Parts], Parts] = lambda parts: parts,
) -> tuple[Path, Path]:
    """The folder with packed matrices, and one beside it with what they decode to."""
    made: dict[str, Weight] = {}

    def packed(tensors: Parts) -> Parts:
        rng = np.random.default_rng(11)
        out: Parts = {}
        for tensor, (dtype, shape, raw) in tensors.items():
            module = tensor.removesuffix(".weight")
            found = pack(rng, module, (shape[0], shape[1])) if module.endswith("proj") else None
            if found is None:
                out[tensor] = dtype, shape, raw
            else:
                made[tensor] = found[0]
                out |= found[1]
        return change(out)

    one = changed(folder / "packed", name, config={"quantization_config": dict(config)}, tensors=packed)
    decoded = {tensor: f32(weight.decode()) for tensor, weight in made.items()}
    return one, changed(folder / "dense", name, tensors=lambda tensors: {**tensors, **decoded})
