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

from lepton_ref.files.mapped import sync_folder

COMPANIONS = (".jinja", ".json", ".model", ".txt")
"""How the files end that belong to a model beside its config and weights: tokenizer, templates, poolings, limits."""

PAPERS = ("LICENSE", "NOTICE", "README")
"""How the files begin that go with a model wherever it goes."""

MODEL = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json",
    "quantize_config.json", "quant_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "chat_template.jinja", "preprocessor_config.json",
    "processor_config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
"""The files that are surely a model's, and go when it is replaced. A file of any other name may be anybody's."""

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


def require_place(target: Path, /, *, overwrite: bool) -> None:
    """A model's folder may be written there: nothing is, or what may be replaced: a model's folder or an empty one.

    Raises:
        FileExistsError: something is there and `overwrite` is False, or it is no folder, or one without a model.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite it: overwrite=True, --overwrite")
    if not target.is_dir():
        raise FileExistsError(f"{target} is no folder, and only a folder is replaced by one; remove it yourself")
    if not (target / "config.json").is_file() and any(target.iterdir()):
        told = "has no config.json, and only a model's folder is replaced"
        raise FileExistsError(f"{target} {told}; give another path, or remove it yourself")


@contextmanager
def replacing_folder(target: Path, /, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the place of `target` when the block ends well, and leaves no trace otherwise.

    It is flushed to the disk before. What stood there goes only once the new one stands, and of that only the files of
    `MODEL`, and the folders of steps that hold nothing else; all others stay, but where the new one has that name.

    Raises:
        FileExistsError: see `require_place`, which is asked before and once more when the place is taken.
        OSError: what the system says; all is then as it was.
    """
    require_place(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = workplace / "model"
        fresh.mkdir()  # and not the folder around it, which nobody else may enter
        yield fresh
        _sync(fresh)
        _take_place(fresh, target, overwrite=overwrite)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush a folder's files and folders to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # some systems flush only what is open for writing
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def _take_place(fresh: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a finished folder to its name; what stood there goes only once the new one stands."""
    require_place(target, overwrite=overwrite)
    if not os.path.lexists(target):
        fresh.rename(target)  # which fails where a file or a folder that is not empty has come since
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
        kept = fresh / path.name
        if not os.path.lexists(kept):
            if not _is_models(path):
                path.rename(kept)
        elif kept.is_dir() and path.is_dir() and not path.is_symlink():
            _carry_over(path, kept)


def _is_models(path: Path) -> bool:
    """Whether it is surely a part of a model, and nothing else: a file by its name, a step by all that it holds."""
    if not path.is_dir():
        return any(path.match(name) for name in MODEL)
    held = [] if path.is_symlink() or not path.match(STEPS) else list(path.iterdir())
    return any(each.name == "config.json" for each in held) and not any(
        each.is_dir() or not _is_models(each) for each in held
    )
