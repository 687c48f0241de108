"""Folders of GPTQ's and AWQ's checkpoints: the tensors of each matrix, and what config.json says of them.

    gptq, gptq_v2    2, 3, 4, 8 bits; equal groups of inputs in any order (g_idx); scales in float16; every matrix of
                     the layers, and the head or not. Version 1 cannot say a zero point of 0
    awq              4 bits; groups of neighbours; outputs in eights; scales in float16; matrices of layers alone

The layouts are those of `lepton_ref.storage.gptq` and `awq`. What a format, or the packages that read it, cannot say is
refused. Sources of the limits: AutoGPTQ 0.7.1, which sizes tensors by ⌊I/32⌋·b; GPTQModel 7.7, models/loader.py and
nn_modules/qlinear; AutoAWQ 0.2.9, modules/linear/gemm.py; transformers 5.23, quantizer_awq.py, which leaves the head
dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_ref.compress.integer_codes import IntegerCodes
from lepton_ref.compress.packing import (
    Matrices,
    Packing,
    Tensor,
    each_of,
    require,
    require_layers,
    require_some,
    require_upright,
)
from lepton_ref.storage import Dense
from lepton_ref.storage.awq import BITS as AWQ_BITS
from lepton_ref.storage.awq import pack_awq
from lepton_ref.storage.bitstream import WORD, pack
from lepton_ref.storage.gptq import BITS

HEAD = "lm_head"


def pack_gptq(matrices: Matrices, /, *, version: int) -> Packing:
    """Tensors and config of a GPTQ checkpoint, version 1 (z − 1 is stored) or 2 (z is).

    Raises:
        ValueError: what GPTQ cannot say; the message names the module.
    """
    name = "gptq" if version == 1 else "gptq_v2"
    require_some(matrices, name)
    require_layers(matrices, name, others=(HEAD,))
    for module in matrices.dense:
        told = f"stays dense; {name} packs every matrix of the layers: quantise it too, or take compressed-tensors"
        require(module, module not in matrices.layers, told)
    tensors: dict[str, Tensor] = {}
    seen: dict[str, _Seen] = {}
    for module, c in each_of(matrices):
        require(module, c.bits in BITS, f"has {c.bits} bits; {name} has 2, 3, 4 or 8")
        for count, what in ((c.codes.shape[1], "inputs"), (c.codes.shape[0], "outputs")):
            told = f"has {count} {what} of {c.bits} bits, no whole words of {WORD}; take other bits"
            require(module, count * c.bits % WORD == 0, told)
        lost = version == 1 and bool((c.zeros == 0).any())
        require(module, not lost, "has zero points of 0, of which engines of gptq make 0 or 2^b; write gptq_v2")
        tensors[f"{module}.qweight"] = pack(c.codes.T, c.bits, axis=0)
        tensors[f"{module}.qzeros"] = pack(c.zeros.T - np.uint8(version == 1), c.bits, axis=1)
        tensors[f"{module}.scales"] = _float16(name, module, c)
        tensors[f"{module}.g_idx"] = c.groups.astype(np.int32)
        seen[module] = _Seen.of(c)
    bits, size = _common(name, seen)
    symmetric = all(one.symmetric for one in seen.values())
    config = {
        "quant_method": "gptq",
        "checkpoint_format": name,
        "bits": bits,
        "group_size": size,
        "desc_act": not all(one.in_order for one in seen.values()),
        "sym": symmetric,
        "lm_head": HEAD in matrices.packed,
    }
    told = "GPTQModel reads version 1 with zero points only where it wrote it itself; it reads gptq_v2 of all"
    return Packing(tensors, config, (told,) if version == 1 and not symmetric else ())


def pack_awq_folder(matrices: Matrices, /) -> Packing:
    """Tensors and config of an AWQ checkpoint, version gemm.

    Raises:
        ValueError: what AWQ cannot say; the message names the module.
    """
    require_some(matrices, "awq")
    require_layers(matrices, "awq")
    require_upright(matrices, "awq")
    tensors: dict[str, Tensor] = {}
    seen: dict[str, _Seen] = {}
    for module, c in each_of(matrices):
        require(module, c.bits == AWQ_BITS, f"has {c.bits} bits; awq has {AWQ_BITS}")
        require(module, len(c.codes) % 8 == 0, f"has {len(c.codes)} outputs; awq packs them in eights")
        require(module, c.in_order, "has groups in an order of their own; awq knows none: write gptq")
        tensors[f"{module}.qweight"] = pack_awq(c.codes.T)
        tensors[f"{module}.qzeros"] = pack_awq(c.zeros.T)
        tensors[f"{module}.scales"] = _float16("awq", module, c)
        seen[module] = _Seen.of(c)
    bits, size = _common("awq", seen)
    config = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": bits,
        "group_size": size,
        "zero_point": True,
        "modules_to_not_convert": list(matrices.dense) or None,
    }
    return Packing(tensors, config)


@dataclass(frozen=True)
class _Seen:
    """What a config says once for all matrices."""

    bits: int
    inputs: int
    size: int
    symmetric: bool
    in_order: bool

    @classmethod
    def of(cls, c: IntegerCodes) -> _Seen:
        return cls(c.bits, c.codes.shape[1], c.group_size, c.symmetric, c.in_order)


def _common(format: str, seen: dict[str, _Seen]) -> tuple[int, int]:
    """The bits and the group size of all; −1 where each has a scale a row."""
    first, one = next(iter(seen.items()))
    for module, other in seen.items():
        told = f"has {other.bits} bits, {first} has {one.bits}; {format} says them once for all: quantise alike"
        require(module, other.bits == one.bits, told)
    grouped = [(module, other.size) for module, other in seen.items() if other.size < other.inputs]
    if not grouped:
        return one.bits, -1
    first, size = grouped[0]
    for module, other in seen.items():
        told = f"has groups of {other.size}, {first} has {size}; {format} says them once for all: quantise alike"
        require(module, other.size == size, told)
    return one.bits, size


def _float16(format: str, module: str, c: IntegerCodes) -> Dense:
    """The scales (G, O)."""
    told = f"has scales in {c.scales.format}; engines of {format} hold them in float16: quantise with fp16 scales"
    require(module, c.scales.format == "F16", told)
    return Dense(np.ascontiguousarray(c.scales.array.T), format="F16")
