"""Packed integer checkpoints as the packages of their formats write them, and what these decode them to.

Needs, beside the other peers and without their dependencies: auto-gptq 0.7.1, autoawq 0.2.9, compressed-tensors 0.20.0
(with loguru and psutil) and bitsandbytes 0.50.2. Of the first two single files are run, since the packages as a whole
ask for old versions of others.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SEED = 4
PACKAGES = ("auto-gptq", "autoawq", "compressed-tensors", "bitsandbytes")
OUTPUTS, INPUTS, GROUP = 32, 32, 8


def file_of(package: str, path: str) -> ModuleType:
    """One file of an installed package, run by itself."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{package} is not installed: pip install --no-deps it first")
    spec = importlib.util.spec_from_file_location(
        f"{package}_one_file", Path(found.submodule_search_locations[0]) / path
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gptq(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """AutoGPTQ's own packing of asymmetric groups in a shuffled order, and what its layer multiplies by."""
    import torch

    layer_class = file_of("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    for bits in (2, 3, 4, 8):
        linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
        groups = rng.permutation(INPUTS) // GROUP
        scales = (rng.uniform(0.5, 2.0, (OUTPUTS, INPUTS // GROUP)) / 2**bits).astype(np.float32)
        zeros = rng.integers(1, 2**bits, scales.shape).astype(np.float32)
        codes = rng.integers(0, 2**bits, (OUTPUTS, INPUTS))
        linear.weight.data = torch.from_numpy(scales[:, groups] * (codes - zeros[:, groups]).astype(np.float32))
        layer = layer_class(bits, GROUP, INPUTS, OUTPUTS, False, weight_dtype=torch.float32)
        layer.pack(linear, torch.from_numpy(scales), torch.from_numpy(zeros), torch.from_numpy(groups.astype(np.int32)))
        name = f"gptq{bits}"
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            yield f"{name}_{part}", getattr(layer, part).numpy()
        with torch.no_grad():
            yield f"{name}_value", layer(torch.eye(INPUTS)).T.contiguous().numpy()


def awq(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Random words, and AutoAWQ's decoding of them in float16."""
    import torch

    dequantise = file_of("awq", "utils/packing_utils.py").dequantize_gemm
    words = [rng.integers(-(2**31), 2**31, (rows, OUTPUTS // 8), dtype=np.int32) for rows in (INPUTS, INPUTS // GROUP)]
    scales = rng.uniform(-2.0, 2.0, (INPUTS // GROUP, OUTPUTS)).astype(np.float16)
    yield from (("awq_qweight", words[0]), ("awq_qzeros", words[1]), ("awq_scales", scales))
    value = dequantise(torch.from_numpy(words[0]), torch.from_numpy(words[1]), torch.from_numpy(scales), 4, GROUP)
    yield "awq_value", value.T.contiguous().numpy()


def compressed(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """compressed-tensors' own packing and unpacking, float32 scales."""
    import torch
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    outputs, inputs = 9, 85  # no whole number of words, and one that tells the dense packing from the older one
    for bits in range(1, 9):
        kinds = [("group", 17), ("group_asymmetric", 17), ("channel_asymmetric", None), ("tensor", None)]
        for kind, size in kinds if bits == 3 else kinds[:2]:
            strategy, _, asymmetric = kind.partition("_")
            args = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=size, symmetric=not asymmetric)
            scheme = QuantizationScheme(targets=["Linear"], weights=args)
            groups = {"group": (outputs, 5), "channel": (outputs, 1), "tensor": (1,)}[strategy]
            half = 2 ** (bits - 1)
            state: dict[str, Any] = {
                "weight": torch.from_numpy(rng.normal(size=(outputs, inputs)).astype(np.float32)),
                "weight_scale": torch.from_numpy((rng.uniform(1.0, 3.0, groups) / half).astype(np.float32)),
            }
            if asymmetric:
                state["weight_zero_point"] = torch.from_numpy(rng.integers(-half, half, groups).astype(np.int8))
            packed = PackedQuantizationCompressor.compress(state, scheme)
            value = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
            for part in (
                "weight_packed",
                "weight_scale",
                "weight_shape",
                *(["weight_zero_point"] if asymmetric else []),
            ):
                yield f"pack{bits}_{kind}_{part}", packed[part].numpy()
            yield f"pack{bits}_{kind}_value", value.numpy()[-4:]


def bitsandbytes(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The package's own blocks, simple and nested, and its int8 rows, decoded to float32."""
    import bitsandbytes.functional as bnb
    import torch

    sizes = [((2, 128), 64), ((7, 45), 64), ((2, 256), 128)]
    cases = [(kind, *size, nested) for kind in ("nf4", "fp4") for size in sizes for nested in (False, True)]
    for kind, shape, size, nested in [*cases, ("nf4", (260, 32), 32, True)]:  # the last has two scales of scales
        weight = torch.from_numpy(rng.normal(size=shape).astype(np.float32) * 0.1)
        packed, state = bnb.quantize_4bit(weight, blocksize=size, compress_statistics=nested, quant_type=kind)
        name = f"{kind}_{shape[0]}x{shape[1]}_{'nested' if nested else 'simple'}"
        yield f"{name}_weight", packed.numpy()
        for part, value in state.as_dict(packed=True).items():
            yield f"{name}_{part.split('.')[0]}", value.numpy()
        yield f"{name}_value", bnb.dequantize_4bit(packed, state).numpy()[-12:]
    # here bitsandbytes' own decoder on CPUs is wrong, so the numbers stand in the place of their values
    weight = torch.from_numpy(rng.normal(size=(4, 96)).astype(np.float32))
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    yield from (("straddling_weight", packed.numpy()), ("straddling_absmax", state.absmax.numpy()))
    yield "straddling_numbers", weight.numpy()
    weight = torch.from_numpy(rng.normal(size=(4, 40)).astype(np.float16))
    codes, scales, _ = bnb.int8_vectorwise_quant(weight)
    yield from (("int8_weight", codes.numpy()), ("int8_SCB", scales.numpy()))
    yield "int8_value", bnb.int8_vectorwise_dequant(codes, scales).numpy()


def make_packed_goldens(folder: Path) -> dict[str, Any]:
    """Write packed.npz: for each case the tensors as a file has them and NAME_value, (O, I) or its last rows."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    arrays = {name: array for make in (gptq, awq, compressed, bitsandbytes) for name, array in make(rng)}
    np.savez_compressed(folder / "packed.npz", **arrays)
    return {"packages": {name: importlib.metadata.version(name) for name in PACKAGES}}


GROUPS = [
    (
        "storage_packed",
        "matrices of GPTQ, AWQ, compressed-tensors pack-quantized and bitsandbytes, and their values",
        "numbers from numpy.random.default_rng; packed and decoded by the formats' own packages",
        make_packed_goldens,
        SEED,
    )
]
