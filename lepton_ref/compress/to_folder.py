"""Write a model's folder with some of its matrices quantised, as the packages of a format write and load it.

The matrices become the format's packed tensors (`lepton_ref.compress.packing_gptq` and its like), config.json
says so in `quantization_config`, and all else that the folder holds goes along as it is. Weights that were changed but
not quantised, such as the norms that AWQ folds scales into, are stored as they are given: what is loaded again is what
was given, to the bit. A folder that is packed already can be written in another format.

The folder is written beside its name, read back, compared with what was given, and only then renamed. A manifest in the
safetensors' metadata says where its bytes come from: the version, the SHA-256 of each source file, what the caller
records of method and calibration, and the SHA-256 of each tensor. It holds no dates, names or places: the same weights
give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_ref import __version__
from lepton_ref.compress.folder_plan import Plan, plan
from lepton_ref.compress.manifest import MANIFEST, digest
from lepton_ref.compress.packing import Matrices, Packing, Tensor
from lepton_ref.compress.packing_bitsandbytes import pack_bitsandbytes
from lepton_ref.compress.packing_compressed import pack_compressed, pack_fp8
from lepton_ref.compress.packing_gptq import pack_awq_folder, pack_gptq
from lepton_ref.compress.source import Source
from lepton_ref.files import read_safetensors, write_safetensors
from lepton_ref.files.model_folder import copy_companions, replacing_folder, require_place
from lepton_ref.files.stored import Stored, small_floats, stored
from lepton_ref.models.packed import group
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight

FORMATS: Mapping[str, Callable[[Matrices], Packing]] = MappingProxyType(
    {
        "gptq": lambda matrices: pack_gptq(matrices, version=1),
        "gptq_v2": lambda matrices: pack_gptq(matrices, version=2),
        "awq": pack_awq_folder,
        "compressed-tensors": pack_compressed,
        "fp8": pack_fp8,
        "bitsandbytes": pack_bitsandbytes,
    }
)
"""A folder's format → what packs matrices for it."""

OLD = ("config.json", "quantize_config.json", "quant_config.json")
"""Files that are written anew, and those in which AutoGPTQ and AutoAWQ said once more how a folder was packed."""

PANEL = 1 << 20
"""Elements that are compared at a time."""


@dataclass(frozen=True)
class WrittenFolder:
    """What was written.

    Attributes:
        path: where.
        format: one of `FORMATS`.
        packed: the modules whose matrices are packed.
        dense: the linear layers that stay dense.
        elements: how many numbers the model has.
        nbytes: how many bytes they take.
        notes: what readers of the format may not do.
    """

    path: Path
    format: str
    packed: tuple[str, ...]
    dense: tuple[str, ...]
    elements: int
    nbytes: int
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """8·bytes/elements."""
        return 8 * self.nbytes / max(1, self.elements)


def write_folder(
    model: Any,
    weights: Mapping[str, Weight],
    target: str | os.PathLike[str],
    /,
    *,
    format: str,
    record: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> WrittenFolder:
    """Write a model with these weights in place of its own to a folder, complete or not at all.

    Args:
        model: a `lepton_ref.Model` that was read from a folder.
        weights: name in the program → the weight, as `lepton_ref.compress.layers.quantise_layers` gives them: integers
            with scales or FP8, (O, I), for matrices that linear layers alone read; dense for any other.
        target: the folder.
        format: one of `FORMATS`.
        record: what the manifest is to say of how the weights were found, such as method, grid and calibration: JSON,
            without dates, names or places.
        overwrite: whether a model's folder there may be replaced. Files in it whose names are not a model's stay.

    Raises:
        FileExistsError: the target exists and `overwrite` is False, or it is no model's folder.
        ValueError: an unknown format, a model that was not read from a folder, a weight that the model or the format
            does not have; the message names it.
    """
    target = Path(target)
    require_target(target, format, overwrite=overwrite)
    if model.parts.file.kind != "safetensors":
        raise ValueError(f"{model.parts.path} is a GGUF, which has no config.json; give the model's folder")
    _require_json(record)
    found = plan(model.parts, weights)
    packing = FORMATS[format](found.matrices)
    tensors: dict[str, Tensor] = {**found.others, **packing.tensors}
    config = {key: value for key, value in model.parts.fields.items() if key != "quantization_config"}
    config["quantization_config"] = packing.config
    manifest = _manifest(model.parts.path, format, record, tensors)
    metadata = {"format": "pt", **model.parts.file.metadata, MANIFEST: manifest}
    with replacing_folder(target, overwrite=overwrite) as fresh:
        write_safetensors(fresh / "model.safetensors", tensors, metadata)
        (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_companions(model.parts.path, fresh, but=OLD)
        _require_same(fresh, config, found, tensors)
    return WrittenFolder(
        path=target,
        format=format,
        packed=tuple(found.matrices.packed),
        dense=found.matrices.dense,
        elements=found.elements,
        nbytes=sum(_stored(name, tensor).nbytes for name, tensor in tensors.items()),
        notes=packing.notes,
    )


def require_target(target: Path, format: str, /, *, overwrite: bool) -> None:
    """A folder of this format can be written there: said before anything is computed for nothing.

    Raises:
        FileExistsError: it is there and `overwrite` is False, or it is no model's folder.
        ValueError: an unknown format, or the path of a file.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format of folders {format!r}; known: {', '.join(FORMATS)}")
    if target.suffix in (".gguf", ".safetensors"):
        raise ValueError(f"{target}: {format} is a folder's format; give a path that does not end in {target.suffix}")
    require_place(target, overwrite=overwrite)


def _require_json(record: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"record is no JSON: {error}; give texts, numbers, lists and mappings") from error


def _manifest(path: Path, format: str, record: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> str:
    files = (path / "config.json", *sorted(path.glob("*.safetensors")))
    found = {name: _stored(name, tensors[name]) for name in sorted(tensors)}
    text = {
        "lepton_ref": __version__,
        "source": {"sha256": Source(path, files, {}).digests()},
        "format": format,
        "record": dict(record or {}),
        "tensors": {name: {"format": one.format, "sha256": digest(one.pieces())} for name, one in found.items()},
    }
    return json.dumps(text, ensure_ascii=True, separators=(",", ":"))


def _stored(name: str, tensor: Tensor) -> Stored:
    return tensor if isinstance(tensor, Stored) else stored(name, tensor)


def _bytes(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    """A tensor's type, shape and the SHA-256 of its bytes; a scalar is read as one number."""
    found = _stored(name, tensor)
    return found.format, found.shape or (1,), digest(found.pieces())


def _require_same(folder: Path, config: Mapping[str, Any], found: Plan, tensors: Mapping[str, Tensor]) -> None:
    """What is read from the folder is what was given: every tensor's bytes, and what the packed ones decode to.

    Raises:
        RuntimeError: it is not: an error of this package.
    """
    file = read_safetensors(folder)
    codes = {name: small_floats(kind, array) for name, (kind, array) in file.codes.items()}
    written: dict[str, Tensor] = {**file.tensors, **file.integers, **codes}
    for name in sorted({*written, *tensors}):
        if name not in written or name not in tensors or _bytes(name, written[name]) != _bytes(name, tensors[name]):
            raise RuntimeError(f"{name}: what was written is not what was given; report this, and how it came")
    settings = Reader(config, where=str(folder)).section("quantization_config")
    others = [*file.integers, *file.refused]
    read = group(settings, file.tensors, file.integers, others=others, where=str(folder), codes=file.codes).tensors
    for module, weight in found.matrices.packed.items():
        again = read[f"{module}.weight"]
        step = max(1, PANEL // max(1, weight.shape[1]))
        for start in range(0, weight.shape[0], step):
            rows = np.arange(start, min(start + step, weight.shape[0]))
            if again.shape != weight.shape or again.unrounded(rows).tobytes() != weight.unrounded(rows).tobytes():
                raise RuntimeError(f"{module}: what was written decodes to other numbers; report this, and how it came")
