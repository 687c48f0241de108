"""The numbers that GGUF gives to types of tensors and of metadata values.

Source: `enum ggml_type` in ggml.h and `enum gguf_type` in gguf.h of github.com/ggml-org/ggml.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_AXES = 4

TENSOR_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
        10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
        16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
        24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
        34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
        # numbers once used and then withdrawn
        4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
        36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
    }
)  # fmt: skip
"""Number → name of every tensor type that ggml has or had."""

TENSOR_NUMBERS: Mapping[str, int] = MappingProxyType({name: number for number, name in TENSOR_TYPES.items()})

INTEGERS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
)
"""Tensor types that are read as plain arrays, never as weights."""

NUMBERS: Mapping[int, tuple[str, np.dtype[Any]]] = MappingProxyType(
    {
        0: ("U8", np.dtype("u1")),
        1: ("I8", np.dtype("i1")),
        2: ("U16", np.dtype("<u2")),
        3: ("I16", np.dtype("<i2")),
        4: ("U32", np.dtype("<u4")),
        5: ("I32", np.dtype("<i4")),
        6: ("F32", np.dtype("<f4")),
        10: ("U64", np.dtype("<u8")),
        11: ("I64", np.dtype("<i8")),
        12: ("F64", np.dtype("<f8")),
    }
)
"""Number → name and dtype of the metadata types that are plain numbers."""

BOOL, STRING, ARRAY = 7, 8, 9

VALUE_TYPES: Mapping[int, str] = MappingProxyType(
    {number: name for number, (name, _) in NUMBERS.items()} | {BOOL: "BOOL", STRING: "STRING", ARRAY: "ARRAY"}
)
"""Number → name of every metadata type. An array of T is written "[T]" in `TensorFile.metadata_types`."""

VALUE_NUMBERS: Mapping[str, int] = MappingProxyType({name: number for number, name in VALUE_TYPES.items()})
