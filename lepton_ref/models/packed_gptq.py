"""GPTQ's and AWQ's checkpoints: settings of config.json and tensors of the file → weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.names import WeightsError
from lepton_ref.models.packed_parts import PartsOfFile, require_known
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.bitstream import unpack
from lepton_ref.storage.detect import ambiguous_zeros, gptq_version
from lepton_ref.storage.gptq import BITS, GPTQ
from lepton_ref.storage.packed import require_words

IDLE = (
    "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "damp_auto_increment",
    "damp_percent", "dataset", "disable_exllama", "do_fuse", "exllama_config", "fuse_max_seq_len", "lm_head",
    "max_input_length", "meta", "model_file_base_name", "model_name_or_path", "model_seqlen",
    "module_name_preceding_first_block", "modules_in_block_to_quantize", "modules_to_fuse", "modules_to_not_convert",
    "mse", "offload_to_disk", "pad_token_id", "quantizer", "static_groups", "tokenizer", "true_sequential",
    "use_cuda_fp16", "use_exllama",
)  # fmt: skip
"""Settings of how the weights were found or are to be multiplied, which change none of their values."""


def read_gptq(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module that has a qweight.

    Raises:
        ConfigError: a setting that is not known, or a GPTQ version that neither config nor data decide.
        WeightsError: a part missing, parts that contradict each other or the config.
    """
    read = ("bits", "group_size", "desc_act", "sym", "checkpoint_format", "format", "dynamic", "pack_dtype")
    require_known(config, (*read, "is_marlin_format"), IDLE)
    bits = config.integer("bits")
    if bits not in BITS:
        raise config.wrong("bits", bits, f"one of {', '.join(map(str, BITS))}")
    config.only("dynamic", {}, {})
    config.only("pack_dtype", "int32", "int32")
    config.only("is_marlin_format", False, False)
    size = config.integer("group_size", None, minimum=-1)
    modules = _modules(config, parts)
    version = _version(config, parts, modules, bits)
    ordered = config.flag("desc_act", False) if config.has("desc_act") else None

    def make(module: str) -> Weight:
        g_idx = parts.optional(f"{module}.g_idx")
        if g_idx is None and ordered:
            raise ValueError("desc_act is true, but there is no g_idx; the inputs' groups are lost")
        weight = GPTQ(
            parts.integers(f"{module}.qweight"), parts.integers(f"{module}.qzeros"), parts.floats(f"{module}.scales"),
            bits=bits, version=version, g_idx=g_idx, group_size=size,
        )  # fmt: skip
        if g_idx is not None and ordered is False and size is not None:
            _require_in_order(weight.groups, size)
        return weight

    return parts.each(modules, make)


def read_awq(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module that has a qweight.

    Raises:
        ConfigError: a setting that is not known, or another layout than gemm's.
        WeightsError: a part missing, parts that contradict each other or the config.
    """
    require_known(config, ("bits", "group_size", "version", "format", "zero_point", "desc_act", "sym"), IDLE)
    config.only("bits", 4, 4)
    config.only("zero_point", True, True)
    config.only("desc_act", False, False)
    for name in ("version", "format"):
        layout = config.text(name, "gemm")
        if layout.lower() != "gemm":
            raise config.wrong(name, layout, "gemm, the only layout of AWQ that is read")
    size = config.integer("group_size", None, minimum=-1)

    def make(module: str) -> Weight:
        weight = AWQ(
            parts.integers(f"{module}.qweight"), parts.integers(f"{module}.qzeros"), parts.floats(f"{module}.scales")
        )
        inputs, groups = weight.shape[1], len(weight.qzeros)
        if size is not None and groups != (1 if size == -1 else -(-inputs // max(1, size))):
            raise ValueError(f"{inputs} inputs have {groups} groups, but group_size is {size}")
        return weight

    return parts.each(_modules(config, parts), make)


def _modules(config: Reader, parts: PartsOfFile) -> list[str]:
    modules = sorted(parts.named(".qweight"))
    if not modules:
        method = config.text("quant_method", config.text("method", None))
        raise WeightsError(f"{parts.where}: quant_method is {method!r}, but no tensor is named …qweight")
    return modules


def _version(config: Reader, parts: PartsOfFile, modules: list[str], bits: int) -> int:
    """1 or 2, from the config or from the zeros of all layers."""
    stated = config.text("checkpoint_format", config.text("format", None))
    symmetric = config.flag("sym", False) if config.has("sym") else None

    def zeros() -> Iterator[NDArray[Any]]:
        for module in modules:
            packed = require_words(f"{module}.qzeros", parts.integers(f"{module}.qzeros"))
            outputs = parts.floats(f"{module}.scales").shape[-1]
            yield unpack(packed, bits, outputs, axis=1)

    try:
        verdict = gptq_version(zeros(), bits, stated=stated, symmetric=symmetric)
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{parts.where}: qzeros: {error}") from error
    if verdict.answer not in (1, 2):
        raise WeightsError(f"{parts.where}: GPTQ version 1 or 2? {verdict.reason}; {verdict.remedy}")
    if verdict.answer == 1 and (count := ambiguous_zeros(zeros(), bits)):
        raise WeightsError(
            f"{parts.where}: {count} stored zeros are {2**bits - 1}, from which engines of GPTQ version 1 make 0, "
            f"{2**bits} or a carry into the next; convert the checkpoint to gptq_v2 with the tool that wrote it"
        )
    return int(verdict.answer)


def _require_in_order(groups: NDArray[np.int64], size: int) -> None:
    inputs = len(groups)
    if not np.array_equal(groups, np.arange(inputs) // (max(1, inputs) if size == -1 else max(1, size))):
        raise ValueError(
            f"desc_act is false, but g_idx is not i // {size}: engines that trust the one read other weights than "
            "engines that trust the other; set desc_act to true if g_idx is right"
        )
