"""Checkpoints in FP8, MX, NVFP4 and whole int8: settings of config.json and tensors → weights.

    fp8                   q_proj.weight (FP8), .weight_scale_inv: DeepSeek's blocks; or .weight_scale
    compressed-tensors    float-quantized         .weight (FP8), .weight_scale
                          int-quantized           .weight (int8), .weight_scale, .weight_zero_point
                          nvfp4-pack-quantized    .weight_packed, .weight_scale (E4M3), .weight_global_scale
                          mxfp4-, mxfp6-pack-…    .weight_packed, .weight_scale (E8M0)
                          mxfp8-quantized         .weight (E4M3), .weight_scale (E8M0)
    modelopt              FP8, NVFP4              .weight, .weight_scale, .weight_scale_2

NVFP4's global scale divides in compressed-tensors (`weight_global_scale`) and multiplies in modelopt
(`weight_scale_2`); where the data speak for the other, the file is refused. Every scale multiplies, weight_scale_inv
too. The engines of these files quantise activations as they go, by scales some files hold; here activations are
computed in the precision that is asked for, and those scales are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.models.names import WeightsError
from lepton_ref.models.packed_parts import PartsOfFile, require_known
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.detect_scale import detect_global_scale
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.mx import MX
from lepton_ref.storage.nvfp4_two_level import NVFP4TwoLevel
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.tiled import Tiled

TYPES: Mapping[str, str] = MappingProxyType(
    {"F8_E4M3": "E4M3FN", "F8_E5M2": "E5M2", "F8_E4M3FNUZ": "E4M3FNUZ", "F8_E5M2FNUZ": "E5M2FNUZ"}
)
"""Type of a tensor in safetensors → format of FP8 codes."""

NAIVE = "naive-quantized"
"""The format of compressed-tensors that is one of two others."""

OF_ACTIVATIONS = ("input_scale", "input_global_scale", "output_scale", "k_scale", "v_scale", "q_scale")
"""Tensors of a module that say how engines quantise activations and caches."""

SomeTiled = TypeVar("SomeTiled", bound=Tiled)


def read_fp8(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module whose weight is FP8.

    Raises:
        ConfigError: a setting that is not known.
        WeightsError: a part missing, or parts that contradict each other.
    """
    require_known(
        config,
        ("weight_block_size", "scale_fmt", "fmt"),
        ("activation_scheme", "modules_to_not_convert", "ignored_layers"),
    )
    block = config.raw("weight_block_size", None)
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block)):
        raise config.wrong("weight_block_size", block, "two integers, rows and columns")
    tile = None if block is None else (int(block[0]), int(block[1]))
    return _each(parts, _coded(parts), lambda module: _fp8(parts, module, tile))


def read_compressed(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module, in one of `FORMATS`.

    Raises:
        ConfigError: a setting that is not known, or groups that differ in their weights.
        WeightsError: a part missing, or parts that contradict each other.
    """
    name = config.text("format")
    config.only("transform_config", {}, {})
    config.section("sparsity_config").only("format", "dense", "dense")
    groups = config.section("config_groups")
    schemes = [groups.section(group).section("weights") for group in groups.fields]
    if not schemes or any(scheme.fields != schemes[0].fields for scheme in schemes):
        raise config.wrong("config_groups", list(groups.fields), "groups of equal weights, at least one")
    scheme = schemes[0]
    if name == NAIVE:
        name = "int-quantized" if scheme.text("type", "int") == "int" else "float-quantized"
    ending, make = FORMATS[name]
    if ending == ".weight":
        modules = _coded(parts) if name != "int-quantized" else _with(parts, ".weight")
    else:
        modules = _with(parts, ending)
    return _each(parts, modules, lambda module: make(parts, module, scheme))


def read_modelopt(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module, in FP8 or NVFP4.

    Raises:
        ConfigError: another algorithm.
        WeightsError: a part missing, or parts that contradict each other.
    """
    algorithm = config.text("quant_algo")
    if algorithm == "FP8":
        return _each(parts, _coded(parts), lambda module: _fp8(parts, module, None))
    if algorithm != "NVFP4":
        raise config.wrong("quant_algo", algorithm, "FP8 or NVFP4")
    modules = [module for module in _with(parts, ".weight") if parts.has(f"{module}.weight_scale_2")]
    return _each(parts, modules, lambda module: _nvfp4(parts, module, "weight", "weight_scale_2", "multiply"))


def _each(parts: PartsOfFile, modules: list[str], make: Callable[[str], Weight]) -> dict[str, Weight]:
    if not modules:
        raise WeightsError(f"{parts.where}: quantization_config names a format that no tensor of the file has")
    made = parts.each(modules, make)
    for module in modules:
        parts.used.update(f"{module}.{name}" for name in OF_ACTIVATIONS if parts.has(f"{module}.{name}"))
        heads = module.rpartition(".")[0]
        parts.used.update(f"{heads}.{name}" for name in OF_ACTIVATIONS if parts.has(f"{heads}.{name}"))
    return made


def _coded(parts: PartsOfFile) -> list[str]:
    """The modules whose weight is FP8."""
    return sorted(
        n.removesuffix(".weight") for n, (kind, _) in parts.codes.items() if kind in TYPES and n.endswith(".weight")
    )


def _with(parts: PartsOfFile, ending: str) -> list[str]:
    """The modules that have integers of this name."""
    return sorted(module for module in parts.named(ending) if parts.is_integer(f"{module}{ending}"))


def _named(weight: SomeTiled, **tensors: str) -> SomeTiled:
    weight.tensors = MappingProxyType(tensors)
    return weight


def _scales(parts: PartsOfFile, name: str) -> Scales:
    """Scales in two axes: floats, E8M0, or E8M0 as plain bytes."""
    if parts.codes.get(name, ("", None))[0] == "F8_E8M0":
        return Scales(_matrix(parts.bytes_of(name)), "E8M0")
    if parts.is_integer(name):
        return Scales(_matrix(parts.integers(name)), "E8M0")
    stored = parts.floats(name)
    return Scales(_matrix(stored.array), stored.format)


def _matrix(array: HostArray) -> HostArray:
    return array if array.ndim == 2 else array.reshape(-1, 1)


def _tile(scales: Scales, shape: tuple[int, ...], tile: tuple[int, int] | None) -> tuple[int, int]:
    """The tile that the config says; else a tensor's, a row's or a group's, as the number of scales says."""
    if tile is not None:
        return tile
    rows, columns = scales.array.shape
    if (rows, columns) == (1, 1):
        return max(1, shape[0]), max(1, shape[1])
    if rows == shape[0] and columns and shape[1] % columns == 0:
        return 1, shape[1] // columns
    raise ValueError(f"scales {scales.array.shape} of a weight {shape}; there is no block size in the config")


def _fp8(parts: PartsOfFile, module: str, tile: tuple[int, int] | None) -> Weight:
    kind = parts.codes[f"{module}.weight"][0]
    codes = parts.bytes_of(f"{module}.weight")
    scale = "weight_scale_inv" if parts.has(f"{module}.weight_scale_inv") else "weight_scale"
    scales = _scales(parts, f"{module}.{scale}")
    weight = FP8(codes, scales, format=TYPES[kind], tile=_tile(scales, codes.shape, tile))
    return _named(weight, s=scale, q="weight")


def _float(parts: PartsOfFile, module: str, scheme: Reader) -> Weight:
    scheme.only("type", "float", "float")
    scheme.only("num_bits", 8, 8)
    block = scheme.raw("block_structure", None)
    if scheme.text("strategy", None) != "block":
        return _fp8(parts, module, None)
    if not isinstance(block, list) or len(block) != 2 or any(type(n) is not int for n in block):
        raise scheme.wrong("block_structure", block, "two integers, rows and columns")
    return _fp8(parts, module, (int(block[0]), int(block[1])))


def _int8(parts: PartsOfFile, module: str, scheme: Reader) -> Weight:
    scheme.only("type", "int", "int")
    scheme.only("num_bits", 8, 8)
    codes = parts.integers(f"{module}.weight")
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise ValueError(f"weight is {codes.dtype} {codes.shape}; a matrix of int8 is read")
    scales, zeros = _scales(parts, f"{module}.weight_scale"), None
    if parts.has(f"{module}.weight_zero_point"):
        stored = _matrix(parts.integers(f"{module}.weight_zero_point")).astype(np.int64)
        if stored.size and (stored.min() < -128 or stored.max() > 127):
            raise ValueError(f"weight_zero_point reaches from {stored.min()} to {stored.max()}; int8 holds −128 … 127")
        zeros = stored.astype(np.int8)
    tile = _tile(scales, codes.shape, None)
    return Affine(codes.view(np.uint8), scales, zeros, bits=8, columns=codes.shape[1], tile=tile)


def _mx(format: str, elements: str) -> Callable[[PartsOfFile, str, Reader], Weight]:
    def make(parts: PartsOfFile, module: str, scheme: Reader) -> Weight:
        scheme.only("type", "float", "float")
        scheme.only("group_size", 32, 32)
        name = f"{module}.{elements}"
        packed = parts.bytes_of(name) if name in parts.codes else parts.integers(name)
        scales = _scales(parts, f"{module}.weight_scale")
        if scales.format != "E8M0":
            raise ValueError(f"weight_scale is {scales.format}; {format} has E8M0 scales, a byte each")
        return _named(MX(packed, scales.array, format=format), s="weight_scale", q=elements)

    return make


def _nvfp4(parts: PartsOfFile, module: str, elements: str, global_scale: str, convention: str) -> Weight:
    packed = parts.integers(f"{module}.{elements}")
    scales = parts.bytes_of(f"{module}.weight_scale")
    stored: Dense = parts.floats(f"{module}.{global_scale}")
    if stored.array.size != 1:
        raise ValueError(f"{global_scale} has {stored.array.size} numbers, one is read")
    g = float(stored.decode().reshape(-1)[0])
    verdict = detect_global_scale(packed, scales, g)
    if verdict.convention not in (None, convention):
        raise ValueError(f"{global_scale} is to {convention}, but {verdict.reason}; the file was written inverted")
    weight = NVFP4TwoLevel(packed, scales, g, convention=convention)
    return _named(weight, G=global_scale, s="weight_scale", q=elements)


def _nvfp4_compressed(parts: PartsOfFile, module: str, scheme: Reader) -> Weight:
    scheme.only("type", "float", "float")
    return _nvfp4(parts, module, "weight_packed", "weight_global_scale", "divide")


FORMATS: Mapping[str, tuple[str, Callable[[PartsOfFile, str, Reader], Weight]]] = MappingProxyType(
    {
        "float-quantized": (".weight", _float),
        "int-quantized": (".weight", _int8),
        "mxfp8-quantized": (".weight", _mx("MXFP8_E4M3", "weight")),
        "mxfp6-pack-quantized": (".weight_packed", _mx("MXFP6_E2M3", "weight_packed")),
        "mxfp4-pack-quantized": (".weight_packed", _mx("MXFP4", "weight_packed")),
        "nvfp4-pack-quantized": (".weight_packed", _nvfp4_compressed),
    }
)
"""`format` of compressed-tensors → how the tensor with the elements ends, and what makes a module's weight."""
