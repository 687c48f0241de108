"""Folders of compressed-tensors, and of DeepSeek's FP8: the tensors of each matrix, and what config.json says of them.

    compressed-tensors, integers    1 … 8 bits, `pack-quantized`; groups of neighbours, a scale a row or one a matrix;
                                    scales in any format; some matrices or all, in several widths
    compressed-tensors, FP8         E4M3, `float-quantized`; a scale a matrix, a row or a block; some matrices or all
    fp8                             E4M3 with float32 scales of blocks, `weight_scale_inv`

The layouts are those of `lepton_ref.storage.pack_quantized` and `fp8`; what a format cannot say is refused. Source:
compressed-tensors 0.20.0, quantization/quant_args.py and compressors. An order of groups (g_idx) it has no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from lepton_ref.compress.integer_codes import IntegerCodes
from lepton_ref.compress.packing import Matrices, Packing, Tensor, each_of, require, require_some, require_upright
from lepton_ref.files.stored import small_floats
from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, Dense
from lepton_ref.storage.bitstream import pack
from lepton_ref.storage.fp8 import FP8

Scheme: TypeAlias = tuple[int, str, int | None]
"""Bits, strategy, inputs of a group."""

NAME = "compressed-tensors"

VERSION = "0.20.0"
"""Whose packing is written: 3, 5, 6 and 7 bits lie otherwise before 0.18."""


def pack_compressed(matrices: Matrices, /) -> Packing:
    """Tensors and config of compressed-tensors: `float-quantized` where the matrices are FP8, else `pack-quantized`.

    Raises:
        ValueError: what compressed-tensors cannot say; the message names the module.
    """
    require_some(matrices, NAME)
    require_upright(matrices, NAME)
    floats = [module for module, weight in matrices.packed.items() if isinstance(weight, FP8)]
    if not floats:
        return _integers(matrices)
    for module in matrices.packed:
        require(module, module in floats, f"is no FP8, as {floats[0]} is; one format is written: quantise alike")
    return _floats(matrices)


def _integers(matrices: Matrices) -> Packing:
    tensors: dict[str, Tensor] = {}
    groups: dict[Scheme, list[str]] = {}
    asymmetric: set[Scheme] = set()
    for module, c in each_of(matrices):
        require(module, c.in_order, f"has groups in an order of their own; {NAME} knows none: write gptq")
        strategy = "tensor" if c.per_tensor else "channel" if c.zeros.shape[1] == 1 else "group"
        scheme = (c.bits, strategy, c.group_size if strategy == "group" else None)
        groups.setdefault(scheme, []).append(module)
        if not c.symmetric:
            asymmetric.add(scheme)
        scales = c.scales.array[0] if c.per_tensor else c.scales.array
        tensors[f"{module}.weight_packed"] = pack(c.codes, c.bits)
        tensors[f"{module}.weight_shape"] = np.array(c.codes.shape, dtype=np.int64)
        tensors[f"{module}.weight_scale"] = Dense(np.ascontiguousarray(scales), format=c.scales.format)
        tensors[f"{module}.weight_zero_point"] = _signed_zero(c) if c.per_tensor else pack(c.zeros, c.bits, axis=0)
    for scheme, modules in groups.items():
        for module in modules if scheme not in asymmetric else ():
            del tensors[f"{module}.weight_zero_point"]
    settings = [
        (_settings("int", bits, strategy, size, symmetric=(bits, strategy, size) not in asymmetric), modules)
        for (bits, strategy, size), modules in groups.items()
    ]
    told = (
        "transformers 5.23 decodes by one group's settings when it dequantises on loading; leave weights packed there"
    )
    return Packing(tensors, _config("pack-quantized", settings, matrices.dense), (told,) if len(settings) > 1 else ())


def _signed_zero(c: IntegerCodes) -> HostArray:
    """The zero point of a whole matrix, in two's complement."""
    return (c.zeros[0, :1].astype(np.int16) - (1 << (c.bits - 1))).astype(np.int8)


def _floats(matrices: Matrices) -> Packing:
    tensors: dict[str, Tensor] = {}
    groups: dict[tuple[str, tuple[int, int] | None], list[str]] = {}
    for module, weight in _each_fp8(matrices):
        columns = weight.shape[1]
        strategy = {weight.shape: "tensor", (1, columns): "channel"}.get(weight.tile, "block")
        told = f"has FP8 groups of {weight.tile[1]} inputs; {NAME} has a scale a matrix, a row or a block: take one"
        require(module, strategy != "block" or weight.tile[0] > 1, told)
        stored = weight.scales
        told = f"has scales in {stored.format}; {NAME} keeps them as F32, BF16 or F16: quantise with such"
        require(module, stored.format in DENSE_FORMATS, told)
        groups.setdefault((strategy, weight.tile if strategy == "block" else None), []).append(module)
        tensors[f"{module}.weight"] = small_floats("F8_E4M3", weight.codes)
        scale = stored.array.reshape(1) if strategy == "tensor" else stored.array
        tensors[f"{module}.weight_scale"] = Dense(np.ascontiguousarray(scale), format=stored.format)
    first, *others = groups
    for other in others:
        told = f"has a scale a {other[0]}, {groups[first][0]} a {first[0]}, or other blocks; quantise alike"
        raise ValueError(f"{groups[other][0]} {told}")
    block = None if first[1] is None else list(first[1])
    settings = _settings("float", 8, first[0], None, symmetric=True) | {"block_structure": block}
    return Packing(tensors, _config("float-quantized", [(settings, groups[first])], matrices.dense))


def pack_fp8(matrices: Matrices, /) -> Packing:
    """Tensors and config of `quant_method` fp8, as DeepSeek has it.

    Raises:
        ValueError: what it cannot say; the message names the module.
    """
    require_some(matrices, "fp8")
    require_upright(matrices, "fp8")
    tensors: dict[str, Tensor] = {}
    tile: tuple[int, int] | None = None
    for module, weight in _each_fp8(matrices):
        tile = tile or weight.tile
        told = f"has tiles of {weight.tile}, not {tile}; fp8 says them once for all: quantise in equal blocks"
        require(module, weight.tile == tile, told)
        told = f"has scales in {weight.scales.format}; fp8 keeps them as F32: quantise with such"
        require(module, weight.scales.format == "F32", told)
        tensors[f"{module}.weight"] = small_floats("F8_E4M3", weight.codes)
        tensors[f"{module}.weight_scale_inv"] = Dense(weight.scales.array, format="F32")
    config = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": None if tile is None else list(tile),
        "modules_to_not_convert": list(matrices.dense) or None,
    }
    return Packing(tensors, config)


def _each_fp8(matrices: Matrices) -> Iterable[tuple[str, FP8]]:
    for module, weight in matrices.packed.items():
        if not isinstance(weight, FP8) or weight.format != "FP8_E4M3FN":
            raise ValueError(f"{module} is kept as {weight.format}; FP8 in E4M3FN is written: encode it so")
        yield module, weight


def _settings(kind: str, bits: int, strategy: str, size: int | None, *, symmetric: bool) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": size,
        "dynamic": False,
    }


def _config(format: str, groups: list[tuple[dict[str, Any], list[str]]], ignore: Iterable[str]) -> dict[str, Any]:
    """`quantization_config`: (the weights' settings, the modules that have them), and the modules that stay dense."""
    return {
        "quant_method": NAME,
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": ["Linear"] if len(groups) == 1 else modules,
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
            for number, (weights, modules) in enumerate(groups)
        },
        "ignore": list(ignore),
        "version": VERSION,
    }
