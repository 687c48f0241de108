"""Folders of bitsandbytes' 4-bit matrices: the tensors of each, and what config.json says of them.

NF4 or FP4, doubly quantised or not; one kind in a folder. The layout is that of `lepton_ref.storage.bnb4`. Source:
bitsandbytes 0.50.2, functional.py (QuantState.as_dict); transformers 5.23, quantizer_bnb_4bit.py.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lepton_ref.compress.packing import Matrices, Packing, Tensor, require, require_some
from lepton_ref.storage import Dense
from lepton_ref.storage.bnb4 import TABLES, BitsAndBytes4


def pack_bitsandbytes(matrices: Matrices, /) -> Packing:
    """Tensors and config of a 4-bit bitsandbytes checkpoint.

    Raises:
        ValueError: matrices that are not kept so, or of several kinds; the message names the module.
    """
    require_some(matrices, "bitsandbytes")
    tensors: dict[str, Tensor] = {}
    first: BitsAndBytes4 | None = None
    straddling = ""
    for module, weight in matrices.packed.items():
        if not isinstance(weight, BitsAndBytes4):
            raise ValueError(f"{module} is kept as {weight.format}; NF4 or FP4 is written: encode it so")
        first = first or weight
        told = f"is {weight.format}, not {first.format}; bitsandbytes says it once for all: quantise alike"
        require(module, weight.format == first.format, told)
        straddling = straddling or (module if weight.shape[1] % weight.blocksize else "")
        tensors |= _tensors(f"{module}.weight", weight)
    assert first is not None, "there is something to pack"
    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": first.kind,
        "bnb_4bit_use_double_quant": first.nested is not None,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": list(matrices.dense) or None,
    }
    told = f"{straddling} has blocks over the ends of rows, which bitsandbytes 0.50 decodes wrongly on CPUs"
    return Packing(tensors, config, (told,) if straddling else ())


def _tensors(name: str, weight: BitsAndBytes4) -> dict[str, Tensor]:
    state: dict[str, Any] = {
        "quant_type": weight.kind,
        "blocksize": weight.blocksize,
        "dtype": "float32",
        "shape": list(weight.shape),
    }
    tensors: dict[str, Tensor] = {
        name: weight.packed.reshape(-1, 1),
        f"{name}.quant_map": Dense(np.array(TABLES[weight.kind], dtype="<f4"), format="F32"),
    }
    if weight.nested is None:
        assert weight.absmax is not None, "a weight has either"
        tensors[f"{name}.absmax"] = weight.absmax
    else:
        nested = weight.nested
        tensors[f"{name}.absmax"] = nested.codes
        tensors[f"{name}.nested_absmax"] = nested.absmax
        tensors[f"{name}.nested_quant_map"] = nested.table
        state |= {"nested_blocksize": nested.blocksize, "nested_dtype": "float32", "nested_offset": nested.offset}
    text = np.frombuffer(json.dumps(state).encode("utf-8"), dtype=np.uint8)
    tensors[f"{name}.quant_state.bitsandbytes__{weight.kind}"] = text
    return tensors
