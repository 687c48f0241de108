"""Checkpoints of compressed-tensors in the format pack-quantized: settings of config.json and tensors → weights."""

from __future__ import annotations

import re
from typing import Any

from lepton_ref.models.names import WeightsError
from lepton_ref.models.packed_parts import PartsOfFile, require_known
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight
from lepton_ref.storage.detect import alignment
from lepton_ref.storage.pack_quantized import PackQuantized

IDLE = ("global_compression_ratio", "ignore", "quantization_status")
READ = ("config_groups", "format", "kv_cache_scheme", "sparsity_config", "transform_config", "version")
IDLE_OF_WEIGHTS = ("actorder", "dynamic", "observer", "observer_kwargs", "scale_dtype", "zp_dtype")
READ_OF_WEIGHTS = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure")
STRATEGIES = ("group", "channel", "tensor")
WITHOUT_GAPS = (0, 18)
"""The first version of compressed-tensors that packs codes across words; before, each word had whole codes."""


def read(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module that has a weight_packed.

    Raises:
        ConfigError: a setting that is not known, another format, quantised activations or caches.
        WeightsError: a part missing, parts that contradict each other or the config.
    """
    require_known(config, READ, IDLE)
    config.only("format", "pack-quantized", None)
    config.only("kv_cache_scheme", {}, {})
    config.only("transform_config", {}, {})
    config.section("sparsity_config").only("format", "dense", "dense")
    schemes = _schemes(config)
    modules = sorted(parts.named(".weight_packed"))
    if not modules:
        raise WeightsError(f"{parts.where}: format is 'pack-quantized', but no tensor is named …weight_packed")
    aligned = _aligned(config)
    return parts.each(modules, lambda module: _weight(_of(schemes, module), parts, f"{module}.weight", aligned))


def _aligned(config: Reader) -> bool | None:
    """What the version that wrote the file says of its words, for shapes that do not say it."""
    version = re.match(r"(\d{1,9})\.(\d{1,9})\.", config.text("version", ""))
    return None if version is None else (int(version[1]), int(version[2])) < WITHOUT_GAPS


def _schemes(config: Reader) -> list[tuple[list[str], Reader]]:
    """The targets and the weights' settings of each group."""
    groups = config.section("config_groups")
    found = []
    for name in groups.fields:
        group = groups.section(name)
        require_known(group, ("targets", "weights", "input_activations", "output_activations", "format"), ())
        group.only("input_activations", {}, {})
        group.only("output_activations", {}, {})
        group.only("format", "pack-quantized", "pack-quantized")
        targets: Any = group.raw("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise group.wrong("targets", targets, "a list of strings")
        weights = group.section("weights")
        require_known(weights, READ_OF_WEIGHTS, IDLE_OF_WEIGHTS)
        weights.only("type", "int", "int")
        weights.only("block_structure", None, None)
        weights.only("dynamic", False, False)
        if weights.text("strategy", "tensor") not in STRATEGIES:
            raise weights.wrong("strategy", weights.text("strategy"), f"one of {', '.join(STRATEGIES)}")
        found.append((targets, weights))
    if not found:
        raise config.wrong("config_groups", groups.fields, "at least one group")
    return found


def _of(schemes: list[tuple[list[str], Reader]], module: str) -> Reader:
    """The settings of a module: those that name it, else those of all linear layers."""
    if all(weights.fields == schemes[0][1].fields for _, weights in schemes):
        return schemes[0][1]
    if any(target.startswith("re:") for targets, _ in schemes for target in targets):
        raise ValueError("config_groups differ and name modules by patterns; write the modules' names out")
    for wanted in (module, "Linear"):
        found = [weights for targets, weights in schemes if wanted in targets]
        if len(found) > 1:
            raise ValueError(f"{len(found)} config_groups name {wanted!r}; leave one")
        if found:
            return found[0]
    raise ValueError("no group of config_groups names it or 'Linear'")


def _weight(scheme: Reader, parts: PartsOfFile, name: str, aligned: bool | None) -> Weight:
    bits = scheme.integer("num_bits")
    strategy = scheme.text("strategy", "tensor")
    size = scheme.integer("group_size", None) if strategy == "group" else None
    shape = parts.integers(f"{name}_shape")
    if shape.shape != (2,):
        raise ValueError(f"weight_shape must be two integers, got {shape.dtype} {shape.shape}")
    zero = None if scheme.flag("symmetric", True) else parts.integers(f"{name}_zero_point")
    g_idx = parts.optional(f"{name}_g_idx")
    scale, packed = parts.floats(f"{name}_scale"), parts.integers(f"{name}_packed")
    if packed.ndim != 2 or alignment(packed.shape[1], int(shape[1]), bits).answer is not None:
        aligned = None  # the number of words decides
    weight = PackQuantized(
        packed, scale, shape=(int(shape[0]), int(shape[1])), bits=bits,
        zero_point=zero, g_idx=g_idx, group_size=size, aligned=aligned,
    )  # fmt: skip
    rows, groups = weight.stored_scales.shape
    fits = {"tensor": (rows, groups) == (1, 1), "channel": groups == 1 and rows == weight.shape[0], "group": True}
    if not fits[strategy] or (strategy == "group" and rows != weight.shape[0]):
        raise ValueError(f"weight_scale {scale.shape} is not one scale a {strategy}, as the strategy says")
    return weight
