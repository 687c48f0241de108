"""What other programs make of MX, NVFP4, FP8 and small integers: codes and scales of numbers, values of random bytes.

torchao encodes the MX formats under its four rules; gfloat decodes random blocks of all six; ml_dtypes gives the number
of every FP8 code; compressed-tensors packs 6-bit elements, decodes NVFP4 and finds the scales of symmetric integers.
NVFP4's global scale is a power of two here: both programs multiply scales in float32 first, which is exact only then.

A matrix as compressed-tensors' own compressors store it in each of its formats lies beside: FORMAT.safetensors, what
config.json says of it as FORMAT.json, and the values as FORMAT_values.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SEED = 5
MX = ("MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4")
RULES = ("FLOOR", "CEIL", "RCEIL", "EVEN")
FP8 = {
    "E4M3FN": "float8_e4m3fn",
    "E5M2": "float8_e5m2",
    "E4M3FNUZ": "float8_e4m3fnuz",
    "E5M2FNUZ": "float8_e5m2fnuz",
}
MULTIPLIER = 2.0**-14
STORED = {
    "nvfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    "float-quantized": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "int-quantized": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    "mxfp8-quantized": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32},
    "mxfp6-pack-quantized": {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32},
    "mxfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
}
"""Formats of compressed-tensors, and what their configs say of the weights."""


def numbers() -> np.ndarray:
    """(24, 64) float32: ordinary rows, tiny ones, zeros, ties of every format, and amax beside each rule's steps."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((24, 64)) * np.exp2(rng.integers(-10, 10, (24, 1)))
    x[0] = 0.0
    x[1] *= 2.0**-90
    x[2] = np.arange(64) - 32
    x[3] = rng.integers(-24, 25, 64) / 4
    x[4] = rng.integers(-64, 65, 64) / 8
    edges = [1.0, 1.25, 1.5, 1.75, 1.875, 1.9375, 1.96875, 2.0]
    for row, edge in enumerate(edges):
        x[5 + row] = rng.uniform(-0.9, 0.9, 64) * edge
        x[5 + row, ::32] = edge
        x[5 + row, 1::32] = np.nextafter(np.float32(edge), np.float32(row % 2 * 4)) if row % 2 else -edge
    return x.astype(np.float32)


def mx_codes(x: np.ndarray) -> dict[str, np.ndarray]:
    """FORMAT_RULE_scales and FORMAT_RULE_codes, by torchao; 4-bit codes are two a byte."""
    import torch
    from torchao.prototype.mx_formats import mx_tensor

    types = (
        torch.float8_e4m3fn, torch.float8_e5m2, mx_tensor.DTYPE_FP6_E3M2, mx_tensor.DTYPE_FP6_E2M3,
        torch.float4_e2m1fn_x2,
    )  # fmt: skip
    found = {}
    for name, kind in zip(MX, types, strict=True):
        for rule in RULES:
            mode = mx_tensor.ScaleCalculationMode[rule]
            scales, codes = mx_tensor.to_mx(torch.from_numpy(x), kind, 32, mode)
            found[f"{name}_{rule}_scales"] = scales.view(torch.uint8).numpy().reshape(len(x), -1)
            found[f"{name}_{rule}_codes"] = codes.view(torch.uint8).numpy().reshape(len(x), -1)
    return found


def mx_values(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """FORMAT_blocks, (40, 33) random codes with the scale first, and FORMAT_values, (40, 32) float64, by gfloat."""
    from gfloat import BlockFormatInfo, decode_block, formats

    found = {}
    records = {
        "MXFP8_E4M3": formats.format_info_mxfp8_e4m3, "MXFP8_E5M2": formats.format_info_mxfp8_e5m2,
        "MXFP6_E3M2": formats.format_info_mxfp6_e3m2, "MXFP6_E2M3": formats.format_info_mxfp6_e2m3,
        "MXFP4": formats.format_info_mxfp4_e2m1, "MXINT8": formats.format_info_mxint8,
    }  # fmt: skip
    for name, record in records.items():
        assert isinstance(record, BlockFormatInfo)
        codes = rng.integers(0, 1 << record.etype.k, (40, 32), dtype=np.uint8)
        scale = rng.integers(0, 256, (40, 1), dtype=np.uint8)
        scale[:3, 0] = 0, 254, 255
        blocks = np.concatenate([scale, codes], axis=1)
        found[f"{name}_blocks"] = blocks
        found[f"{name}_values"] = np.array([list(decode_block(record, map(int, row))) for row in blocks])
    return found


def fp8_values() -> dict[str, np.ndarray]:
    """FORMAT_numbers, (256,) float32, by ml_dtypes."""
    import ml_dtypes

    codes = np.arange(256, dtype=np.uint8)
    return {f"{name}_numbers": codes.view(getattr(ml_dtypes, kind)).astype(np.float32) for name, kind in FP8.items()}


def compressed_tensors(x: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """FP6 packing, NVFP4 values with a dividing global scale, and scales and codes of symmetric integers."""
    import torch
    from compressed_tensors.compressors.mxfp6.helpers import pack_fp6_to_uint8
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationArgs, dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    lattice = (rng.integers(-60, 61, (6, 32)) // 4 * 0.5).astype(np.float32)
    packed = rng.integers(0, 256, (6, 32), dtype=np.uint8)
    scales = rng.integers(0, 127, (6, 4), dtype=np.uint8)
    g = torch.tensor([1 / MULTIPLIER], dtype=torch.float32)
    values = dequantize(
        unpack_fp4_from_uint8(torch.from_numpy(packed), 6, 64, dtype=torch.float32),
        torch.from_numpy(scales).view(torch.float8_e4m3fn).to(torch.float32),
        args=QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16),
        global_scale=g, dtype=torch.float32,
    )  # fmt: skip
    found = {
        "fp6_lattice": lattice, "fp6_packed": pack_fp6_to_uint8(torch.from_numpy(lattice)).numpy(),
        "nvfp4_packed": packed, "nvfp4_scales": scales, "nvfp4_values": values.numpy(),
    }  # fmt: skip
    for bits in (4, 8):
        args = QuantizationArgs(num_bits=bits, type="int", strategy="channel", symmetric=True)
        rows = torch.from_numpy(x[5:])
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        scale, zero = calculate_qparams(low, high, args)
        found[f"int{bits}_scales"] = scale.numpy()
        found[f"int{bits}_codes"] = quantize(rows, scale, zero, args, dtype=torch.int8).numpy()
    return found


def stored_matrix(name: str, folder: Path, rng: np.random.Generator) -> np.ndarray:
    """Write a matrix (24, 64) as compressed-tensors stores it, and return its values by compressed-tensors."""
    import torch
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, dequantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    from safetensors.torch import save_file

    settings: dict[str, Any] = dict(STORED[name])
    if name.startswith("mx"):
        settings["scale_dtype"] = torch.uint8
    args = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    x = torch.from_numpy(rng.standard_normal((24, 64)).astype(np.float32) / 40).clamp(-0.16, 0.16)
    x[5, 7] = 2688 * MULTIPLIER
    blocks = x.reshape(24, -1, settings.get("group_size", 64))
    g = generate_gparam(x.amin(), x.amax()) if name.startswith("nvfp4") else None
    scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args, global_scale=g)
    state = {"weight": x, "weight_scale": scale, "weight_zero_point": zero}
    if g is not None:
        state["weight_global_scale"] = g
    compressor = BaseCompressor.get_value_from_registry(name)
    stored = {key: value.detach().contiguous() for key, value in compressor.compress(state, scheme).items()}
    save_file({f"proj.{key}": value for key, value in stored.items()}, folder / f"{name}.safetensors")
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=name, ignore=["lm_head"])
    (folder / f"{name}.json").write_text(json.dumps(json.loads(config.model_dump_json()), indent=1) + "\n")
    if g is None:
        return compressor.decompress(dict(stored), scheme)["weight"].detach().float().numpy()
    elements = unpack_fp4_from_uint8(stored["weight_packed"], 24, 64, dtype=torch.float32)  # by itself in bfloat16
    wide = stored["weight_scale"].to(torch.float32)
    return dequantize(elements, wide, args=args, global_scale=g, dtype=torch.float32).numpy()


def make_scaled_goldens(folder: Path) -> dict[str, Any]:
    """Write scaled.npz."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    x = numbers()
    arrays = {"x": x, **mx_codes(x), **mx_values(rng), **fp8_values(), **compressed_tensors(x, rng)}
    arrays |= {f"{name}_values": stored_matrix(name, folder, rng) for name in STORED}
    np.savez_compressed(folder / "scaled.npz", **arrays)
    return {name: version(name) for name in ("torchao", "gfloat", "ml_dtypes", "compressed-tensors")}


GROUPS = [
    (
        "storage_scaled",
        "numbers in the MX formats under four rules, NVFP4, FP8 and symmetric integers, and values of random bytes",
        "numpy.random.default_rng; torchao, gfloat, ml_dtypes, compressed-tensors",
        make_scaled_goldens,
        SEED,
    )
]
