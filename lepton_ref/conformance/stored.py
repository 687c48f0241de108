"""A case's matrix as the engine holds it: any storage class, made of the case's arrays and options.

Input "w" holds the codes, inputs "w.scale", "w.zero", "w.group", "w.factor" and "w.table" what goes with them; option
"storage" is a dense or a block format, or a key of `PACKED`, and option "parts" what its constructor is told. Floats of
two bytes are fp16; bfloat16 is held as uint16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from lepton_ref.conformance.case import Case
from lepton_ref.interface import HostArray
from lepton_ref.storage import FORMATS as BLOCK_FORMATS
from lepton_ref.storage import BlockQuantised, Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.bnb4 import BitsAndBytes4, Nested
from lepton_ref.storage.bnb8 import BitsAndBytes8
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.mx import MX
from lepton_ref.storage.nvfp4_two_level import NVFP4TwoLevel
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.scales import Scales

DENSE_OF: Mapping[str, str] = MappingProxyType({"<f4": "F32", "<f2": "F16", "<u2": "BF16"})
"""The dtype of stored numbers → their format."""


def stored_weight(case: Case) -> Weight:
    """The case's matrix as it lies in memory.

    Raises:
        KeyError: an array or an option that is missing: a damaged capsule, since none is drawn.
        ValueError: what the storage class refuses.
    """
    raw, storage = case.inputs["w"], case.options["storage"]
    if storage in BLOCK_FORMATS:
        return BlockQuantised(raw, format=BLOCK_FORMATS[storage])
    if storage in PACKED:
        return PACKED[storage](case, raw, dict(case.options["parts"]))
    return Dense(raw, format=storage)


def _dense(array: HostArray) -> Dense:
    return Dense(array, format=DENSE_OF.get(array.dtype.newbyteorder("<").str, str(array.dtype)))


def _scales(case: Case, parts: dict[str, Any]) -> Scales:
    return Scales(case.inputs["w.scale"], parts.pop("scale"))


def _gptq(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return GPTQ(raw, case.inputs["w.zero"], _dense(case.inputs["w.scale"]), g_idx=case.inputs.get("w.group"), **parts)


def _awq(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return AWQ(raw, case.inputs["w.zero"], _dense(case.inputs["w.scale"]), **parts)


def _pack_quantized(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    zero, group = (case.inputs.get(name) for name in ("w.zero", "w.group"))
    shape = tuple(parts.pop("shape"))
    return PackQuantized(raw, _dense(case.inputs["w.scale"]), shape=shape, zero_point=zero, g_idx=group, **parts)


def _bnb4(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    shape, scale = tuple(parts.pop("shape")), case.inputs["w.scale"]
    if "offset" not in parts:
        return BitsAndBytes4(raw, _dense(scale), shape=shape, **parts)
    table, factor = (_dense(case.inputs[name]) for name in ("w.table", "w.factor"))
    nested = Nested(scale, table, factor, offset=parts.pop("offset"), blocksize=parts.pop("nested"))
    return BitsAndBytes4(raw, None, shape=shape, nested=nested, **parts)


def _bnb8(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return BitsAndBytes8(raw, _dense(case.inputs["w.scale"]), **parts)


def _fp8(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return FP8(raw, _scales(case, parts), format=parts["format"], tile=tuple(parts["tile"]))


def _mx(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return MX(raw, case.inputs["w.scale"], **parts)


def _nvfp4(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    return NVFP4TwoLevel(raw, case.inputs["w.scale"], parts.pop("whole"), **parts)


def _affine(case: Case, raw: NDArray[Any], parts: dict[str, Any]) -> Weight:
    scales, tile = _scales(case, parts), tuple(parts.pop("tile"))
    return Affine(raw, scales, case.inputs.get("w.zero"), tile=tile, **parts)


PACKED: Mapping[str, Callable[[Case, NDArray[Any], dict[str, Any]], Weight]] = MappingProxyType(
    {
        "GPTQ": _gptq,
        "AWQ": _awq,
        "PACKED": _pack_quantized,
        "BNB4": _bnb4,
        "BNB8": _bnb8,
        "FP8": _fp8,
        "MX": _mx,
        "NVFP4_TWO_LEVEL": _nvfp4,
        "AFFINE": _affine,
    }
)
"""Option "storage" → its class, from a case's arrays and its option "parts"."""


def outputs(case: Case) -> int:
    """How many rows the case's matrix has."""
    return stored_weight(case).shape[0]
