"""Write a model down again: its tensors' bytes as they are stored, with config and tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lepton_ref.files import write_gguf, write_safetensors
from lepton_ref.interface import HostArray
from lepton_ref.runtime.find import as_path
from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Weight

COMPANIONS = (".jinja", ".json", ".model", ".txt")
"""How the files end that belong to a model beside its config and weights: tokenizer, templates, poolings, limits."""

PAPERS = ("LICENSE", "NOTICE", "README")
"""How the files begin that go with a model wherever it goes."""

STEPS = "[0-9]_*"
"""Folders of the steps that sentence-transformers puts behind a model, such as 1_Pooling."""


def save(parts: Parts, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the model to `path`, complete or not at all; tensors keep their stored bytes.

    Args:
        parts: the model's.
        path: a folder for a model that was read from a folder, a .gguf file for one read from GGUF.
        overwrite: whether a model there may be replaced. Files in its folder that belong to no model stay.

    Returns:
        The path.

    Raises:
        FileExistsError: something is there and `overwrite` is False.
        TypeError: a path that is no path.
        ValueError: an empty path, or a folder asked of a GGUF model or the other way round.
    """
    target = as_path(path)
    if parts.file.kind == "gguf" and target.suffix != ".gguf":
        raise ValueError(f"{target}: this model was read from GGUF and is saved as GGUF; end the path in .gguf")
    if parts.file.kind != "gguf" and target.suffix == ".gguf":
        raise ValueError(f"{target}: this model was read from a folder and is saved as one; give a folder's path")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True")
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Weight | HostArray] = {**parts.file.tensors, **parts.file.integers}
    if parts.file.kind == "gguf":
        plain = {key: value for key, value in parts.fields.items() if not key.startswith("split.")}
        write_gguf(target, tensors, plain, metadata_types=parts.file.metadata_types, overwrite=overwrite)
        return target
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = workplace / "model"
        fresh.mkdir()  # and not the folder around it, which nobody else may enter
        _write_folder(parts, tensors, fresh)
        _take_place(fresh, target)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return target


def _write_folder(parts: Parts, tensors: dict[str, Weight | HostArray], folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", tensors, dict(parts.file.metadata) or {"format": "pt"})
    text = json.dumps(dict(parts.fields), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for path in _companions(parts.path):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(parts.path / path, folder / path)


def _companions(folder: Path) -> Iterator[Path]:
    """The other files of a model, relative to its folder."""
    for path in [*folder.iterdir(), *folder.glob(f"{STEPS}/config.json")]:
        papers = path.name.startswith(PAPERS)
        if path.is_file() and (papers or _belongs(path.name)) and path != folder / "config.json":
            yield path.relative_to(folder)


def _belongs(name: str) -> bool:
    """Whether a file of that name describes the model, other than by its weights."""
    return name.endswith(COMPANIONS) and not name.endswith(".index.json")


def _take_place(fresh: Path, target: Path) -> None:
    """Rename a finished folder to its name; what stood there goes only once the new one stands."""
    if not os.path.lexists(target):
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "model"
    try:
        target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            old.rename(target)
            raise
    except OSError:
        with suppress(OSError):  # not empty where not even the old one could go back
            old.parent.rmdir()
        raise
    if old.is_dir() and not old.is_symlink():
        _carry_over(old, target)
    shutil.rmtree(old.parent, ignore_errors=True)


def _carry_over(old: Path, fresh: Path) -> None:
    """Keep what a replaced folder held beside its model, such as .git."""
    for path in old.iterdir():
        models = _belongs(path.name) or path.name.endswith((".safetensors", ".index.json")) or path.match(STEPS)
        if not models and not (fresh / path.name).exists():
            path.rename(fresh / path.name)
