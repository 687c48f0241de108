"""What the packed matrices of a safetensors file or a folder leave open: GPTQ's version, the side of NVFP4's scale.

GPTQ's zeros are stored as z − 1 or as z under the same names: see `lepton_ref.storage.detect`. NVFP4's global scale
multiplies or divides: see `lepton_ref.storage.detect_scale`; its name says which, `weight_scale_2` that it multiplies,
`weight_global_scale` that it divides, and the data may contradict the name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.audit.findings import Finding
from lepton_ref.files import read_folder
from lepton_ref.files.safetensors_read import Entry, Header, read_header
from lepton_ref.models.names import WeightsError
from lepton_ref.models.packed import group
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.storage.bitstream import unpack
from lepton_ref.storage.detect import gptq_version
from lepton_ref.storage.detect_scale import detect_global_scale

SCALES: Mapping[str, str] = {"weight_scale_2": "multiply", "weight_global_scale": "divide"}
"""How the name of NVFP4's global scale ends → what it does by that name."""

CODES = ("weight_packed", "weight")
"""How the name of a matrix of E2M1 numbers ends, two in a byte."""

BITS = (2, 4, 8)
"""Of GPTQ's codes, those that are tried where no config says: whole codes in a word."""


@dataclass(frozen=True)
class _Raw:
    """A tensor's bytes and what the header says of them."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def lint_packed(
    path: str | os.PathLike[str], /, *, progress: Callable[[list[str]], Iterable[str]] | None = None
) -> list[Finding]:
    """What is found in the packed matrices of a file or folder; of a GGUF, which has none, nothing.

    `progress` wraps the list of those that are looked through whole.

    Raises:
        FileNotFoundError: nothing there.
        FileFormatError: a damaged file.
    """
    path = Path(path)
    config: Reader | None = None
    found: list[Finding] = []
    if path.is_dir():
        checkpoint = read_folder(path)
        config = Reader(checkpoint.config, where=str(path / "config.json")).section("quantization_config")
        file = checkpoint.tensors
        others = [*file.integers, *file.refused]
        try:
            grouped = group(config, file.tensors, file.integers, others=others, where=str(path), codes=file.codes)
            if config.fields and set(grouped.tensors) == set(file.tensors):
                found.append(_unpacked(config))
        except (ConfigError, WeightsError) as error:
            found.append(Finding("error", "packed", "", str(error), "the matrices cannot be put together as they are"))
        tensors = _raw([read_header(member) for member in sorted(path.glob("*.safetensors"))])
    elif path.suffix == ".safetensors":
        tensors = _raw([read_header(path)])
    else:
        return []
    return [*found, *_gptq(tensors, config), *_nvfp4(tensors, progress)]


def _unpacked(config: Reader) -> Finding:
    return Finding(
        "error", "unquantised", "", f"quantization_config says {config.raw('quant_method', None)!r}, but no matrix is "
        "packed", "quantise again; whoever wrote the folder saved the weights as they were before",
    )  # fmt: skip


def _raw(headers: list[Header]) -> dict[str, _Raw]:
    def view(header: Header, entry: Entry) -> NDArray[np.uint8]:
        count = entry.end - entry.begin
        if count == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.frombuffer(header.data, dtype=np.uint8, count=count, offset=header.start + entry.begin)

    return {
        entry.name: _Raw(entry.dtype, entry.shape, view(header, entry))
        for header in headers
        for entry in header.entries
    }


def _gptq(tensors: Mapping[str, _Raw], config: Reader | None) -> Iterator[Finding]:
    """One verdict for the file: all its matrices are of one version."""
    modules = [
        name.removesuffix(".qzeros")
        for name, raw in tensors.items()
        if name.endswith(".qzeros") and raw.dtype == "I32" and len(raw.shape) == 2
    ]
    modules = [module for module in modules if f"{module}.scales" in tensors and f"{module}.qweight" in tensors]
    along_inputs = [m for m in modules if tensors[f"{m}.qweight"].shape[-1] == tensors[f"{m}.scales"].shape[-1]]
    if not along_inputs or (config is not None and config.fields and config.raw("quant_method", None) != "gptq"):
        return
    stated: Any = None
    symmetric: Any = None
    bits: Any = None
    if config is not None and config.fields:
        stated = config.raw("checkpoint_format", config.raw("format", None))
        symmetric, bits = config.raw("sym", None), config.raw("bits", None)
    bits = _bits_of(tensors, along_inputs) if bits is None else bits
    remedy = 'say "checkpoint_format": "gptq" (zeros stored as z − 1) or "gptq_v2" (as z) in quantization_config'
    if type(bits) is not int or not 1 <= bits <= 8:
        reason = f"cannot tell the version: how many bits a code has is {bits!r}"
        yield Finding("unknown", "gptq-version", "", reason, "say bits in quantization_config")
        return
    zeros = (_zeros(tensors, module, bits) for module in along_inputs)
    verdict = gptq_version(zeros, bits, stated=stated, symmetric=symmetric if isinstance(symmetric, bool) else None)
    if verdict.answer is None:
        severity = "error" if stated is not None else "unknown"
        yield Finding(
            severity, "gptq-version", "", f"cannot tell version 1 or 2: {verdict.reason}", verdict.remedy or remedy
        )
    elif stated is None:
        reason = f"version {verdict.answer}, because {verdict.reason}; the config does not say so"
        yield Finding("info", "gptq-version", "", reason, remedy)
    elif symmetric is None:
        found = gptq_version((_zeros(tensors, module, bits) for module in along_inputs), bits)
        if found.answer not in (None, verdict.answer):
            reason = f"{verdict.reason}, version {verdict.answer}, but {found.reason}"
            yield Finding("error", "gptq-version", "", reason, remedy)


def _bits_of(tensors: Mapping[str, _Raw], modules: list[str]) -> int | None:
    """The bits of a code where words and outputs of every matrix decide it."""
    possible = {
        bits
        for bits in BITS
        if all(tensors[f"{m}.qzeros"].shape[1] * 32 == tensors[f"{m}.scales"].shape[-1] * bits for m in modules)
    }
    return possible.pop() if len(possible) == 1 else None


def _zeros(tensors: Mapping[str, _Raw], module: str, bits: int) -> NDArray[Any]:
    raw = tensors[f"{module}.qzeros"]
    words = raw.data.view("<u4").reshape(raw.shape)
    return unpack(words, bits, tensors[f"{module}.scales"].shape[-1], axis=1)


def _nvfp4(tensors: Mapping[str, _Raw], progress: Callable[[list[str]], Iterable[str]] | None) -> Iterator[Finding]:
    endings = {
        name: ending
        for name, raw in tensors.items()
        for ending in SCALES
        if name.endswith(f".{ending}") and raw.dtype == "F32" and raw.data.size == 4
    }
    for name in endings if progress is None else progress(list(endings)):
        raw, ending = tensors[name], endings[name]
        module = name.removesuffix(f".{ending}")
        codes = next((tensors[f"{module}.{end}"] for end in CODES if f"{module}.{end}" in tensors), None)
        scales = tensors.get(f"{module}.weight_scale")
        if codes is None or scales is None or (codes.dtype, scales.dtype) != ("U8", "F8_E4M3"):
            continue
        yield from _nvfp4_side(name, SCALES[ending], codes, scales, float(raw.data.view("<f4")[0]))


def _nvfp4_side(name: str, by_name: str, codes: _Raw, scales: _Raw, stored: float) -> Iterator[Finding]:
    try:
        verdict = detect_global_scale(codes.data.reshape(codes.shape), scales.data.reshape(scales.shape), stored)
    except ValueError as error:
        yield Finding("error", "nvfp4-scale", name, str(error), "quantise again")
        return
    if verdict.convention not in (None, by_name):
        reason = f"by its name the global scale is to {by_name}, but {verdict.reason}"
        yield Finding("error", "nvfp4-scale", name, reason, f"store 1/G, {1 / stored:.9g}, under this name")
    elif verdict.convention is None:
        reason = f"cannot tell whether the global scale fits its name, which says {by_name}: {verdict.reason}"
        yield Finding("info", "nvfp4-scale", name, reason, "compare with the model before it was quantised")
