"""`lepton_ref.load`: from a folder or a .gguf to a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_ref import registry
from lepton_ref.files import FileFormatError, read_folder, read_gguf
from lepton_ref.interface import Backend
from lepton_ref.models import FAMILIES, GGUF_FAMILIES, Family
from lepton_ref.models.names import bind
from lepton_ref.models.packed import group
from lepton_ref.models.plausible import naming, require_plausible
from lepton_ref.models.reader import Reader
from lepton_ref.numerics import Precision, get_precision
from lepton_ref.runtime.find import as_path, find
from lepton_ref.runtime.memory import keep
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.operands import kept_dtype, operands
from lepton_ref.runtime.packing import PackPlace
from lepton_ref.runtime.parts import Parts


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | Backend = "numpy",
    precision: str | Precision = "reference",
    keep_decoded: str | bool = "auto",
    threads: int | None = None,
    kv_cache: str = "dense",
    pack: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a model. Weights stay memory-mapped; each is decoded when it is used.

    Args:
        path: a folder with config.json and safetensors, a .gguf file, or "package:NAME" for the one in a distribution.
        backend: by name, or an object that keeps `lepton_ref.interface.Backend`.
        precision: by name, or a record; see `lepton_ref.numerics.PRECISIONS`.
        keep_decoded: whether matrices stay decoded after their first use: True, False, or "auto", which keeps them
            where that takes at most half of the available memory.
        threads: how many threads BLAS and a backend's own kernels may use; None is their own choice.
        kv_cache: how the model's caches keep keys and values: "dense", as they are, or as small numbers with scales,
            "int8", "int4" or "fp8" ("int8-64" in groups of 64); see `lepton_ref.runtime.kv_formats`.
        pack: where a backend that packs matrices, such as "numba", keeps them packed in a file from one start to the
            next: "user", the user's folder for caches; "beside", next to the model; or a folder. None keeps them in
            memory alone. See `lepton_ref.runtime.packing`.

    Raises:
        FileNotFoundError: nothing at the path, or at that of pack.
        FileFormatError: a file that is damaged or not what it claims.
        ConfigError: a family or a setting that is not supported, or a config that contradicts itself.
        WeightsError: a tensor missing, left over, or of the wrong shape.
        ValueError: an empty path, an unknown backend, precision, kv_cache or choice, or pack for a backend that does
            not pack.
        TypeError: a path that is no path, threads that is no integer, or a backend that does not keep the interface.
        ImportError: threads is given and threadpoolctl is absent, or the backend's own library is.
    """
    chosen = registry.get(backend)
    how = get_precision(precision)
    where = find(path) if isinstance(path, str) else as_path(path)
    if not where.exists():
        raise FileNotFoundError(f"{where}: no such file or folder; give a folder with config.json or a .gguf file")
    place = None if pack is None else PackPlace.of(pack, where, backend=chosen)
    parts = _from_folder(where) if where.is_dir() else _from_gguf(where)
    used = operands(parts.program, parts.weights, how)
    kept = keep(used, keep_decoded, backend=chosen, dtype=kept_dtype(parts.program, how))
    parts = replace(parts, weights={**parts.weights, **kept})
    return Model(parts, backend=chosen, precision=how, threads=threads, kv_cache=kv_cache, pack=place)


def _from_folder(path: Path) -> Parts:
    checkpoint = read_folder(path)
    file = checkpoint.tensors
    fields = Reader(checkpoint.config, where=str(path / "config.json"))
    family = FAMILIES.get(fields.text("model_type"))
    if family is None:
        raise fields.wrong("model_type", fields.text("model_type"), f"one of {', '.join(FAMILIES)}")
    architecture = _architecture(fields, family)
    others = [*file.integers, *file.refused]
    packed = fields.section("quantization_config")
    grouped = group(packed, file.tensors, file.integers, others=others, where=str(path), codes=file.codes)
    require_plausible(fields, grouped.tensors)
    with naming(fields.where):
        config = family.read(fields)
    head = family.architectures[architecture]
    program = family.program(config, head)
    weights = bind(
        program,
        family.names,
        grouped.tensors,
        others=grouped.others,
        spare=grouped.spare,
        config=config,
        where=str(path),
    )
    return Parts(path, architecture, head, config, program, weights, file, checkpoint.config)


def _architecture(fields: Reader, family: Family) -> str:
    listed: Any = fields.raw("architectures", None)
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], str):
        raise fields.wrong("architectures", listed, f"a list of one of {', '.join(family.architectures)}")
    if listed[0] not in family.architectures:
        raise fields.wrong("architectures", listed[0], f"one of {', '.join(family.architectures)}")
    return listed[0]


def _from_gguf(path: Path) -> Parts:
    if path.suffix in (".safetensors", ".json"):
        remedy = "give the folder that holds config.json beside it"
        raise FileFormatError(path, "path", f"is one file of a model ({path.suffix})", remedy)
    file = read_gguf(path)
    name = file.metadata.get("general.architecture")
    family = GGUF_FAMILIES.get(name) if isinstance(name, str) else None
    if family is None or family.gguf is None:
        raise Reader(file.metadata, where=str(path)).wrong(
            "general.architecture", name, f"one of {', '.join(GGUF_FAMILIES)}"
        )
    fields = Reader(file.metadata, where=str(path), prefix=f"{name}.")
    require_plausible(fields, file.tensors)
    with naming(fields.where):
        config = family.gguf.read(fields, file.tensors)
    head = "causal_lm" if "causal_lm" in family.architectures.values() else "base"
    program = family.program(config, head)
    weights = bind(program, family.gguf.names, file.tensors, others=[*file.integers], config=config, where=str(path))
    return Parts(path, family.gguf.architecture, head, config, program, weights, file, file.metadata)
