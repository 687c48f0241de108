"""Checkpoints of bitsandbytes, 4 and 8 bits: settings of config.json and tensors of the file → weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lepton_ref.models.names import WeightsError
from lepton_ref.models.packed_parts import PartsOfFile, require_known
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight
from lepton_ref.storage.bnb4 import TABLES, BitsAndBytes4, Nested
from lepton_ref.storage.bnb8 import BitsAndBytes8

IDLE = (
    "_load_in_4bit", "_load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload", "llm_int8_skip_modules", "llm_int8_threshold",
)  # fmt: skip
"""Settings that the file says again for each matrix, or that choose how engines multiply."""

STATE = ".weight.quant_state.bitsandbytes__"
STATE_BYTES = 1 << 16
"""Of one matrix's JSON, at most; it has some 200."""


def read(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """`module.weight` → the weight of each module that has a quant_state or an SCB.

    Raises:
        ConfigError: a setting that is not known.
        WeightsError: a part missing, or parts that contradict each other or the config.
    """
    require_known(config, ("load_in_4bit", "load_in_8bit", "llm_int8_has_fp16_weight"), IDLE)
    config.only("llm_int8_has_fp16_weight", False, False)
    four, eight = config.flag("load_in_4bit", False), config.flag("load_in_8bit", False)
    if four == eight:
        raise config.wrong("load_in_4bit", four, f"{not four}, as load_in_8bit is {eight}")
    if four:
        kinds = {module: kind for kind in TABLES for module in parts.named(STATE + kind)}
        made = parts.each(sorted(kinds), lambda module: _four(parts, module, kinds[module]))
    else:
        made = parts.each(sorted(parts.named(".SCB")), lambda module: _eight(parts, module))
    if not made:
        what = f"…{STATE}nf4 or fp4" if four else "….SCB"
        raise WeightsError(f"{parts.where}: load_in_{4 if four else 8}bit is true, but no tensor is named {what}")
    return made


def _four(parts: PartsOfFile, module: str, kind: str) -> Weight:
    name = f"{module}.weight"
    state = _state(parts, f"{module}{STATE}{kind}")
    if state.text("quant_type") != kind:
        raise ValueError(f"quant_type is {state.text('quant_type')!r} in a quant_state of {kind}")
    table = parts.floats(f"{name}.quant_map")
    if table.format != "F32" or table.array.tobytes() != np.array(TABLES[kind], dtype="<f4").tobytes():
        raise ValueError(f"quant_map is not the table of {kind}, which kernels use whatever the file says")
    shape: Any = state.raw("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int for n in shape):
        raise ValueError(f"shape in quant_state is {str(shape)[:60]}, but must be two integers")
    packed = np.ascontiguousarray(parts.raw(name)).reshape(-1).view(np.uint8)
    common = {"shape": tuple(shape), "kind": kind, "blocksize": state.integer("blocksize")}
    if not state.has("nested_offset"):
        return BitsAndBytes4(packed, parts.floats(f"{name}.absmax"), **common)
    nested = Nested(
        parts.integers(f"{name}.absmax"),
        parts.floats(f"{name}.nested_quant_map"),
        parts.floats(f"{name}.nested_absmax"),
        offset=state.number("nested_offset", positive=False),
        blocksize=state.integer("nested_blocksize"),
    )
    return BitsAndBytes4(packed, None, nested=nested, **common)


def _state(parts: PartsOfFile, name: str) -> Reader:
    """The JSON that bitsandbytes keeps beside a matrix."""
    raw = parts.integers(name)
    if raw.dtype != np.uint8 or raw.size > STATE_BYTES:
        raise ValueError(f"quant_state must be JSON in at most {STATE_BYTES} bytes, got {raw.dtype} {raw.shape}")
    try:
        fields: Any = json.loads(raw.tobytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"quant_state is no JSON: {str(error)[:60]}") from error
    if not isinstance(fields, dict):
        raise ValueError("quant_state must be a JSON object")
    return Reader(fields, where=f"{parts.where}: {name}")


def _eight(parts: PartsOfFile, module: str) -> Weight:
    layout = parts.optional(f"{module}.weight_format")
    if layout is not None and (layout.size != 1 or int(layout.reshape(-1)[0]) != 0):
        raise ValueError(f"weight_format is {layout.tolist()}, but must be 0: rows as they stand, not tiles of a GPU")
    return BitsAndBytes8(parts.integers(f"{module}.weight"), parts.floats(f"{module}.SCB"))
