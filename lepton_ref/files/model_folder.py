"""Folders of whole models: which files belong to one, and one that takes its place in a single step.

A folder is written beside its name and then renamed: a reader sees the old one or the new one, never a part, and maps
of the old one's files stay valid.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COMPANIONS = (".jinja", ".json", ".model", ".txt")
"""How the files end that belong to a model beside its config and weights: tokenizer, templates, poolings, limits."""

PAPERS = ("LICENSE", "NOTICE", "README")
"""How the files begin that go with a model wherever it goes."""

STEPS = "[0-9]_*"
"""Folders of the steps that sentence-transformers puts behind a model, such as 1_Pooling."""


def copy_companions(source: Path, fresh: Path, *, but: Collection[str] = ("config.json",)) -> None:
    """Copy a model's other files, links followed: not its weights, nor those of these names."""
    for path in _companions(source):
        if str(path) not in but:
            (fresh / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / path, fresh / path)


def _companions(folder: Path) -> Iterator[Path]:
    """The other files of a model, relative to its folder."""
    for path in [*folder.iterdir(), *folder.glob(f"{STEPS}/config.json")]:
        if path.is_file() and (path.name.startswith(PAPERS) or _belongs(path.name)):
            yield path.relative_to(folder)


def _belongs(name: str) -> bool:
    """Whether a file of that name describes the model, other than by its weights."""
    return name.endswith(COMPANIONS) and not name.endswith(".index.json")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` when the block ends well, and leaves no trace otherwise.

    What stood there goes only once the new one stands; files of a replaced folder that belong to no model stay.

    Raises:
        OSError: what the system says; all is then as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = workplace / "model"
        fresh.mkdir()  # and not the folder around it, which nobody else may enter
        yield fresh
        _take_place(fresh, target)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


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
