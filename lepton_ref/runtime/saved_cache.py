"""Caches in files: one safetensors file each, which only the model that made it reads, and only as it was written.

    sequences.B.ids                  (n), the tokens
    sequences.B.layers.L.keys.P      (G, m, ·), part P of the keys of the latest m tokens, all that the next query sees
    sequences.B.layers.L.values.P    the same of the values

The metadata name the model (a digest of its program and weights), the precision (a digest too), how vectors are kept,
capacity and RoPE's length, and hold a digest of all of this and of every tensor. Where keys and values lay, and how the
prompt was cut into chunks, is not in the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.files import FileFormatError, read_safetensors, write_safetensors
from lepton_ref.files.errors import shown
from lepton_ref.interface import HostArray
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.cache_state import first_seen
from lepton_ref.runtime.find import as_path
from lepton_ref.runtime.fingerprint import arithmetic
from lepton_ref.runtime.kv_codec import Codec, zeros
from lepton_ref.storage import Dense

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model

FORMAT = "lepton_ref.cache.1"

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "model": "the cache is another model's; load that one, or read the prompt again",
        "precision": "the cache was made under another precision; load the model under it, or read the prompt again",
        "arithmetic": "the precision of that name was another, or the backend was; read the prompt again",
        "rope_length": "RoPE took another length; read the prompt again",
    }
)
"""Field of the metadata that disagrees → what to do."""


def save(cache: KVCache, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a cache down, complete or not at all.

    Args:
        cache: of a model that is still there.
        path: the file.
        overwrite: whether a file there may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: something is there and `overwrite` is False.
        ValueError: tokens whose ids or positions only the caller knows, sequences of several capacities, or a model
            that is gone.
        TypeError: a path that is no path.
    """
    target = as_path(path)
    model: Any = None if cache.owner is None else cache.owner()
    if model is None:
        raise ValueError("the cache's model is gone, so nothing could read the file; keep the model until then")
    if None in cache.ids:
        raise ValueError("the cache holds tokens whose ids or positions only the caller knows; leave position_ids out")
    if len({(state.capacity, state.rope_length) for state in cache.states}) > 1:
        raise ValueError("the cache's sequences have several capacities; save them one by one")
    tensors: dict[str, HostArray] = {}
    for b, ids in enumerate(cache.ids):
        tensors[f"sequences.{b}.ids"] = np.array(ids, dtype=np.int64)
        for layer, spec in enumerate(cache.layers):
            first, parts = cache.held(layer, b)
            kept = [part[:, first_seen(len(ids or ()), spec.window) - first :] for part in parts]
            names = _names(b, layer, cache.codec)
            tensors |= {name: np.ascontiguousarray(part) for name, part in zip(names, kept, strict=True) if part.size}
    about = {**_of_model(model), **_of_cache(cache)}
    write_safetensors(target, tensors, {**about, "digest": _digest(about, tensors)}, overwrite=overwrite)
    return target


def load_cache(model: Model, path: str | os.PathLike[str], /, *, paged: bool = False) -> KVCache:
    """A cache that goes on where the saved one stood.

    Args:
        model: the model that made it, under the same precision.
        path: the file.
        paged: whether keys and values are to lie in blocks; how they lay before does not matter.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: a damaged file, one that is no cache's, or the cache of another model or precision.
        TypeError: a path that is no path.
    """
    source = as_path(path)
    if source.is_dir():
        raise FileFormatError(source, "file", "a folder", "give the file that cache.save wrote")
    file = read_safetensors(source)
    tensors: dict[str, HostArray] = {name: w.array for name, w in file.tensors.items() if isinstance(w, Dense)}
    tensors |= file.integers
    about = dict(file.metadata)
    digest = about.pop("digest", None)
    if about.get("format") != FORMAT:
        raise FileFormatError(source, "format", shown(about.get("format")), f"expected {FORMAT}, as cache.save writes")
    if digest != _digest(about, tensors):
        raise FileFormatError(source, "digest", shown(digest), "the file is damaged; read the prompt again")
    _agree(source, about, _of_model(model))
    batch = sum(name.endswith(".ids") for name in tensors)
    capacity = about.get("capacity", "")
    if capacity != "none" and not (capacity.isdecimal() and len(capacity) < 19):
        raise FileFormatError(source, "capacity", shown(capacity), "expected a number of slots, or none")
    try:
        cache = model.new_cache(
            batch, None if capacity == "none" else int(capacity), kv_cache=about.get("kv_cache", ""), paged=paged
        )
        _agree(source, about, _of_cache(cache))
        ids = [_ids(tensors, b, model.config.vocab_size) for b in range(batch)]
        parts = [
            [_parts(tensors, b, layer, spec, cache.codec, len(row)) for b, row in enumerate(ids)]
            for layer, spec in enumerate(cache.layers)
        ]
        cache.fill(ids, parts)
    except FileFormatError:
        raise
    except ValueError as error:  # only a file whose digest was made to agree comes so far
        raise FileFormatError(source, "cache", str(error), "the file is damaged; read the prompt again") from error
    return cache


def _of_model(model: Model) -> dict[str, str]:
    p = model.precision
    return {
        "format": FORMAT,
        "model": model.fingerprint,
        "precision": p.name,
        "arithmetic": arithmetic(p, model.backend),
    }


def _of_cache(cache: KVCache) -> dict[str, str]:
    capacity = "none" if cache.capacity is None else str(cache.capacity)
    return {"kv_cache": cache.codec.name, "capacity": capacity, "rope_length": str(cache.rope_length)}


def _agree(source: Path, about: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for field, value in wanted.items():
        if about.get(field) != value:
            found = f"{shown(about.get(field))}, not {shown(value)}"
            raise FileFormatError(source, field, found, REMEDIES.get(field, "the file is damaged"))


def _digest(about: Mapping[str, str], tensors: Mapping[str, HostArray]) -> str:
    seen = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        seen.update(repr((name, array.dtype.name, array.shape)).encode())
        seen.update(array.view(np.uint8).data)
    return seen.hexdigest()


def _names(b: int, layer: int, codec: Codec) -> list[str]:
    """The parts of keys and values, in the order of a store's."""
    return [
        f"sequences.{b}.layers.{layer}.{what}.{p}" for what in ("keys", "values") for p in range(len(codec.parts(1)))
    ]


def _ids(tensors: Mapping[str, HostArray], b: int, vocab_size: int) -> list[int]:
    ids = tensors.get(f"sequences.{b}.ids")
    if ids is None or ids.dtype != np.int64 or ids.ndim != 1 or ((ids < 0) | (ids >= vocab_size)).any():
        raise ValueError(f"sequences.{b}.ids is not a list of ids of the model's vocabulary")
    found: list[int] = ids.tolist()
    return found


def _parts(
    tensors: Mapping[str, HostArray], b: int, layer: int, spec: KeyValueLayer, codec: Codec, count: int
) -> list[HostArray]:
    kept = count - first_seen(count, spec.window)
    wanted = zeros(codec, (spec.heads, kept), spec.width)
    found = []
    for name, like in zip(_names(b, layer, codec), wanted, strict=True):
        array = tensors.get(name, like if like.size == 0 else None)
        if array is None or array.dtype != like.dtype or array.shape != like.shape:
            shape = "none" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"{name} is {shape}, not {like.dtype} {like.shape}")
        found.append(array)
    return found
