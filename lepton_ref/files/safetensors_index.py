"""Safetensors in several files: an index in JSON maps every tensor to the shard that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lepton_ref.files.errors import FileFormatError, shown
from lepton_ref.files.json_reading import read_object
from lepton_ref.files.safetensors_read import HEADER_LIMIT, Header, join, read_header
from lepton_ref.files.tensor_file import TensorFile


def _shard_names(index: Mapping[str, Any], *, file: Path) -> dict[str, list[str]]:
    """Shard file → the tensors that the index puts there; every shard is a plain name in the index's own folder."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(file, "weight_map", shown(weight_map), "expected an object: tensor name → shard")
    shards: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard not in ("", ".", "..") and "\0" not in shard
        if not plain or PurePosixPath(shard).name != shard or PureWindowsPath(shard).name != shard:
            remedy = "expected the name of a file in the same folder"
            raise FileFormatError(file, f"weight_map of {shown(name)}", shown(shard), remedy)
        shards.setdefault(shard, []).append(name)
    return shards


def _check_shards(index: Mapping[str, Any], headers: Mapping[str, Header], *, file: Path) -> None:
    """Index and shards say the same: every tensor in the shard that the index names, in no other, bytes in total."""
    wanted: dict[str, str] = index["weight_map"]
    found: dict[str, str] = {}
    total = 0
    for shard, header in headers.items():
        for entry in header.entries:
            name = shown(entry.name)
            if entry.name in found:
                where = f"is in {found[entry.name]} and in {shard}"
                raise FileFormatError(file, f"tensor {name}", where, "expected it in one shard")
            if wanted.get(entry.name) != shard:
                where = f"is in {shard}, the index says {shown(wanted.get(entry.name))}"
                raise FileFormatError(file, f"tensor {name}", where, "fetch the index and all its shards again")
            found[entry.name] = shard
            total += entry.end - entry.begin
    for name, shard in wanted.items():
        if name not in found:
            raise FileFormatError(file, f"tensor {shown(name)}", f"is not in {shown(shard)}", "fetch the shard again")
    metadata = index.get("metadata", {})
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    if said is not None and said != total:
        raise FileFormatError(file, "total_size", shown(said), f"the shards hold {total} bytes; fetch them again")


def read_index(path: Path) -> TensorFile:
    """Open all shards of an index, as one file.

    Raises:
        FileNotFoundError: there is no such index.
        FileFormatError: whatever is wrong with the index, a shard, or what the one says of the other.
    """
    index = read_object(path, limit=HEADER_LIMIT)
    names = sorted(_shard_names(index, file=path))
    for name in names:
        if not (path.parent / name).is_file():
            raise FileFormatError(path, "weight_map", f"names {shown(name)}", "that file is missing; fetch it")
    headers = {name: read_header(path.parent / name) for name in names}
    _check_shards(index, headers, file=path)
    return join(path, list(headers.values()))
