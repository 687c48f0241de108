"""Write a model's file with its tensors in other formats: one tensor at a time, complete or not at all.

Each tensor is decoded and encoded in panels of whole rows, so that memory holds a panel for each thread; the bytes lie
in a nameless file beside the target until all are there. A manifest in the file's metadata says where its bytes come
from: see `lepton_ref.compress.manifest`. The same source and recipe give the same bytes, with any number of threads.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

import numpy as np

from lepton_ref.compress.manifest import MANIFEST, manifest
from lepton_ref.compress.recipe import Choice, Recipe, choose, not_run, starved
from lepton_ref.compress.source import Progress, Source, open_source
from lepton_ref.compress.transcode import MAPS, lossless, require_reached
from lepton_ref.files import write_gguf, write_safetensors
from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockQuantised, Dense, Weight, encode
from lepton_ref.storage.encoders import WEIGHTED

if TYPE_CHECKING:
    from lepton_ref.compress.ready import Ready

PANEL = 1 << 20
"""Elements that are encoded at a time by one thread."""

QUANTISATION_VERSION = 2
"""What GGUF's `general.quantization_version` says of the block formats as they are since 2023."""

Importance = Mapping[str, HostArray]
"""Tensor → (columns,) how much the square of an error in each column counts."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: where.
        choices: each tensor's format, and why.
        elements: how many numbers.
        nbytes: how many bytes they take.
        requantised: tensors that were in other blocks before: both errors add up. Blocks whose values another format
            holds exactly (`lepton_ref.compress.transcode`) are mapped, and are not among them.
        unweighted: tensors whose encoder takes importance, and for which none was given though it was for others.
        notes: what the file cannot say.
        starved: tensors in formats that llama.cpp makes with importance alone, made without: columns count alike.
    """

    path: Path
    choices: Mapping[str, Choice]
    elements: int
    nbytes: int
    requantised: tuple[str, ...]
    unweighted: tuple[str, ...]
    notes: tuple[str, ...] = ()
    starved: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Stored bits to a number, scales included."""
        return 8 * self.nbytes / max(1, self.elements)

    def __repr__(self) -> str:
        formats = ", ".join(f"{f} ×{n}" for f, n in Counter(c.format for c in self.choices.values()).most_common())
        return f"Written({str(self.path)!r}, {self.bits_per_weight:.3f} bits per weight: {formats})"


def quantise_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe,
    *,
    importance: Importance | None = None,
    calibration: Mapping[str, Any] | None = None,
    ready: Ready | None = None,
    threads: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    hashing: Progress | None = None,
) -> Written:
    """Write `source` to `target` with its tensors in the formats of the recipe.

    Args:
        source: a .gguf file; a model's folder; a .safetensors file.
        target: a .gguf file; or a .safetensors file, for dense formats alone.
        recipe: which format each tensor gets.
        importance: see `Importance`; the formats that search for scales take it.
        calibration: for the manifest, what the importance was measured on: `Calibration.record()`.
        ready: tensors that are encoded already, such as GPTQ's.
        threads: how many encode at a time.
        overwrite: whether an existing file may be replaced.
        progress: wraps the list of names while it is worked through.
        hashing: the same for the pieces of the source's files, whose SHA-256 the manifest holds.

    Raises:
        FileNotFoundError: no source, or no folder for the target.
        FileExistsError: the target exists and `overwrite` is False.
        FileFormatError: a damaged source.
        ValueError: whatever else does not fit together; the message names the tensor where there is one.
    """
    target = Path(target)
    _check_target(source, target, overwrite=overwrite)
    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads is {threads!r}; give an integer of at least 1")
    read = open_source(source, gguf=target.suffix == ".gguf")
    choices = _choices(read, recipe, target, importance=importance is not None)
    _check_importance(read, importance)
    if calibration is not None and importance is None:
        raise ValueError("a calibration's record without its importance; give both")
    done: Mapping[str, Weight] = {} if ready is None else ready.tensors
    if ready is not None:
        ready.require(read.tensors, {name: choice.format for name, choice in choices.items()})
    with tempfile.TemporaryFile(dir=target.parent) as spool, ThreadPoolExecutor(threads) as pool:
        places: dict[str, tuple[int, int]] = {}
        for name in choices if progress is None else progress(list(choices)):
            weight, format_ = read.tensors[name], choices[name].format
            if name in done or format_ == weight.format:
                continue
            begin = spool.tell()
            for piece in _encoded(name, weight, format_, (importance or {}).get(name), pool, threads):
                spool.write(piece)
            places[name] = (begin, spool.tell())
        spool.flush()
        tensors = {
            name: _view(spool, *places[name], choice.format, read.tensors[name].shape)
            if name in places
            else done.get(name, read.tensors[name])
            for name, choice in choices.items()
        }
        text = manifest(
            read, recipe, tensors, importance=importance, calibration=calibration, ready=ready, hashing=hashing
        )
        _write(target, tensors, read, recipe, text, overwrite=overwrite)
    searched = [n for n, c in choices.items() if c.format in WEIGHTED and n in places]
    return Written(
        path=target,
        choices=choices,
        elements=sum(prod(weight.shape) for weight in tensors.values()),
        nbytes=sum(weight.nbytes for weight in tensors.values()),
        requantised=tuple(
            name
            for name in (*places, *done)
            if read.tensors[name].format in FORMATS
            and choices[name].format not in ("F32", "F64")
            and (name in done or (read.tensors[name].format, choices[name].format) not in MAPS)
        ),
        unweighted=() if importance is None else tuple(name for name in searched if name not in importance),
        notes=(*read.notes, *not_run(choices)),
        starved=tuple(name for name in starved(choices, recipe, importance or ()) if name in places),
    )


def _check_target(source: str | os.PathLike[str], target: Path, *, overwrite: bool) -> None:
    """What is wrong with the target is said before anything is read for nothing."""
    if target.is_dir():
        raise ValueError(f"{target} is a folder; give the path of a file, such as {target / 'model.gguf'}")
    if target.suffix not in (".gguf", ".safetensors"):
        raise ValueError(f"{target}: a file is written as .gguf or .safetensors; end its path in one of them")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder; make it, or choose another place for {target.name}")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give --overwrite to replace it, or choose another name")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise ValueError(f"{target} is the source too, and would be lost; choose another name")


def plan(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe,
    *,
    importance: Importance | None,
    overwrite: bool = False,
) -> dict[str, Choice]:
    """Each tensor's format as `quantise_file` would choose it: what is wrong is said before anything is calibrated.

    Args:
        source: as `quantise_file` takes it.
        target: likewise.
        recipe: likewise.
        importance: arrays of the sizes that it will have, of any numbers.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileNotFoundError, FileExistsError, FileFormatError, ValueError: as `quantise_file`.
    """
    target = Path(target)
    _check_target(source, target, overwrite=overwrite)
    read = open_source(source, gguf=target.suffix == ".gguf")
    choices = _choices(read, recipe, target, importance=importance is not None)
    _check_importance(read, importance)
    return choices


def _choices(read: Source, recipe: Recipe, target: Path, *, importance: bool) -> dict[str, Choice]:
    experts = read.metadata.get(f"{read.architecture}.expert_count", 0)
    if recipe.mixture is not None and experts:
        raise ValueError(f"{read.path} has {experts} experts, for which no mixture is written yet; give a format")
    if recipe.mixture is not None and target.suffix != ".gguf":
        raise ValueError(f"{recipe.mixture} names tensors as GGUF does; end the path of the new file in .gguf")
    shapes = {name: weight.shape for name, weight in read.tensors.items()}
    kept = {name: weight.format for name, weight in read.tensors.items()}
    choices = choose(
        shapes,
        recipe,
        kept=kept,
        sharing=read.sharing,
        architecture=read.architecture,
        importance=importance,
    )
    for name, choice in choices.items():
        if target.suffix != ".gguf" and choice.format not in DENSE_FORMATS:
            raise ValueError(
                f"tensor {name!r} would be {choice.format}, which safetensors does not know; write a .gguf"
            )
    return choices


def _check_importance(read: Source, importance: Importance | None) -> None:
    for name, weights in (importance or {}).items():
        if name in read.tensors and weights.shape != read.tensors[name].shape[-1:]:
            raise ValueError(
                f"importance of {name!r} has shape {weights.shape}, the tensor has {read.tensors[name].shape[-1]} "
                "columns; was it measured on another model?"
            )
    if importance is not None and not any(name in read.tensors for name in importance):
        raise ValueError(f"importance names none of the tensors of {read.path}; was it measured on another model?")


def _encoded(
    name: str, weight: Weight, format_: str, columns: HostArray | None, pool: ThreadPoolExecutor, threads: int
) -> Iterator[bytes]:
    """The bytes of a tensor in order, some panels of rows at a time."""
    weights = columns if format_ in WEIGHTED else None

    def panel(start: int, stop: int) -> bytes:
        if _same_values(weight, format_):
            exact = lossless(weight.format, format_, weight.raw[start:stop])
            if exact is not None:
                return exact.tobytes()
        rows = weight.rows(start, stop)
        raw = encode(format_, rows, **({} if weights is None else {"weights": weights}))
        require_reached(rows, raw, format_)
        return raw.tobytes()

    step = max(1, PANEL // max(1, prod(weight.shape[1:])))
    if len(weight.shape) == 1:
        step = weight.shape[0]
    starts = range(0, weight.shape[0], step)
    try:
        for at in range(0, len(starts), 2 * threads):  # a bounded number of panels in flight
            ends = [(start, min(start + step, weight.shape[0])) for start in starts[at : at + 2 * threads]]
            yield from pool.map(lambda both: panel(*both), ends)
    except ValueError as error:
        raise ValueError(f"tensor {name!r} cannot be stored as {format_}: {error}") from error


def _same_values(weight: Weight, format_: str) -> TypeGuard[BlockQuantised]:
    """Whether there is a map from blocks to blocks of the same values."""
    return isinstance(weight, BlockQuantised) and (weight.format, format_) in MAPS


def _view(spool: IO[bytes], begin: int, end: int, format_: str, shape: tuple[int, ...]) -> Weight:
    """The tensor as it lies in the spool."""
    raw = np.memmap(spool, dtype=np.uint8, mode="r", offset=begin, shape=(end - begin,))
    if format_ in DENSE_FORMATS:
        return Dense(raw.view(DENSE_FORMATS[format_]).reshape(shape), format=format_)
    return BlockQuantised(raw.reshape(*shape[:-1], -1), format=FORMATS[format_])


def _write(
    target: Path, tensors: Mapping[str, Weight], read: Source, recipe: Recipe, text: str, *, overwrite: bool
) -> None:
    every: dict[str, Weight | HostArray] = {**tensors, **read.integers}
    if target.suffix == ".safetensors":
        write_safetensors(target, every, {**read.metadata, MANIFEST: text}, overwrite=overwrite)
        return
    metadata: dict[str, Any] = {**read.metadata}
    types = {**read.metadata_types}
    for key, value in (("general.file_type", recipe.file_type), ("general.quantization_version", QUANTISATION_VERSION)):
        types[key] = "U32"
        metadata[key] = value
    if recipe.file_type is None:
        del metadata["general.file_type"]
    metadata[MANIFEST] = text
    types[MANIFEST] = "STRING"
    write_gguf(target, every, metadata, metadata_types=types, overwrite=overwrite)
